"""Run one export from the first look at the database to the sealed URL of its dump.

:func:`run_export` only sends, waits and keeps the deadline; what to send next is decided by the pure steps in
:mod:`~airflow_provider_d1.cloudflare.export_steps`. The trigger, the operator without deferral and the hook all run
this one driver.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare import export_protocol, failures, preflight, sql_calls
from airflow_provider_d1.cloudflare.budget import POLL_GAP
from airflow_provider_d1.cloudflare.export_progress import Narrator
from airflow_provider_d1.cloudflare.export_protocol import Complete, ExportAnswer, Failed, Running, Unclear
from airflow_provider_d1.cloudflare.export_steps import BUSY_GAP, Rules, Send, Sent, State, first_step, step
from airflow_provider_d1.cloudflare.messages import MAX_ANSWER_BYTES
from airflow_provider_d1.cloudflare.models import D1Export, Database, ExportOptions, ExportRequest
from airflow_provider_d1.cloudflare.seal import URL_LIFETIME, seal, url_expiry
from airflow_provider_d1.cloudflare.sql_parameters import Statement
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1ExportBusyError,
    D1ExportTimeoutError,
    D1RateLimitError,
)

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.budget import Ticket
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.messages import Answer
    from airflow_provider_d1.cloudflare.sql_calls import StatementResult

#: seconds one poll may take, below the 15 s without a poll after which D1 cancels. Not much shorter: an answer that is
#: given up may have been the only one to tell of the end.
POLL_TIMEOUT = 9.5
#: seconds that the look at the tables after an export may take
LAST_LOOK = 30.0
#: a smaller difference between two clocks, in seconds, may be the answer's way
_CLOCK_TOLERANCE = 5.0


async def run_export(
    client: AsyncD1Client,
    request: ExportRequest,
    *,
    deadline: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> D1Export:
    """Export a database and return where its dump is.

    :param client: an open client; its clock, its budget and its credentials are used.
    :param request: what to export, ``database`` included.
    :param deadline: when to give up in any case, in epoch seconds: for an export that was asked for earlier, in another
        process; by default :meth:`ExportRequest.deadline`.
    :param on_progress: called with a line for a human now and then (waiting, started again, parts uploaded), which
        never holds a secret.
    :raises D1DatabaseNotFoundError: no such database.
    :raises D1TableNotFoundError: a name in ``tables`` is not exactly that of a table.
    :raises D1VirtualTableError: a virtual table is in the way.
    :raises D1ExportBusyError: another export of the database ran until the deadline.
    :raises D1ExportLostError: D1 forgot the export more often than ``max_restarts`` allows.
    :raises D1ExportTimeoutError: the deadline came first.
    :raises D1ApiError: the API refused for good.
    """
    last = request.deadline(client.clock.time()) if deadline is None else deadline
    async with _turn(client, request, last, on_progress or _silent) as ticket:
        end = min(last, client.clock.time() + request.timeout)
        try:
            database = await client.get_database(request.database or "", deadline=end, priority=True)
            run = _Run(client, request, end, database, ticket, Narrator(database.name, on_progress or _silent))
            schema = await run.look()
        except D1RateLimitError as error:
            raise D1ExportTimeoutError(f"the export could not start before its deadline: {error}") from None
        options, skipped = preflight.decide(request, schema)
        run.narrator.skipped(skipped)
        export = await run.converse(options)
        if options.tables is not None:
            await run.look_again(options)
        return replace(export, skipped=skipped)


@asynccontextmanager
async def _turn(
    client: AsyncD1Client, request: ExportRequest, deadline: float, on_progress: Callable[[str], None]
) -> AsyncIterator[Ticket]:
    """Wait until the token's budget has room for a whole export; nothing is started yet, so the database stays free."""
    clock, budget = client.clock, client.budget
    ticket = budget.queue(request.poll_interval or POLL_GAP)
    queued_at, told = clock.monotonic(), False
    latest = min(deadline, clock.time() + request.longest_wait)
    try:
        while (wait := budget.admit(ticket)) > 0:
            if clock.time() + wait >= latest:
                raise D1ExportTimeoutError(
                    "the export was not started: no rate-limit capacity before its deadline"
                    f" (queue_timeout={request.longest_wait:g} s)"
                )
            if not told and clock.monotonic() - queued_at > BUSY_GAP:
                told = True
                on_progress(f"{request.database}: waiting for room in the token's request budget")
            await clock.sleep_async(wait)
        yield ticket
    finally:
        budget.leave(ticket)


@dataclass(frozen=True, slots=True)
class _Run:
    """One admitted export of one database."""

    client: AsyncD1Client
    request: ExportRequest
    end: float
    database: Database
    ticket: Ticket
    narrator: Narrator

    async def look(self) -> preflight.Schema:
        """Read the database's schema, waiting out an export that runs already."""
        while (schema := await self._schema(self.end)) is None:
            self.narrator.busy()
            self.client.budget.keep(self.ticket)
            await self._wait(Send(None, BUSY_GAP), State(busy=True))
        return schema

    async def look_again(self, options: ExportOptions) -> None:
        """Refuse a dump from which a table of the explicit list may be missing.

        :raises D1TableNotFoundError: a table of the list is gone.
        """
        try:
            # The dump is there and its hour runs: no long wait is worth this.
            schema = await self._schema(self.client.clock.time() + LAST_LOOK)
        except D1ApiError as error:
            self.narrator.unchecked(str(error))
            return
        if schema is None:
            self.narrator.unchecked("another export is running already")
        else:
            preflight.check_still_there(options, schema)

    async def converse(self, options: ExportOptions) -> D1Export:
        """Start, poll and start again until D1 hands out the dump's URL."""
        clock = self.client.clock
        accepted_at: float | None = None
        running_since = clock.monotonic()
        state, send = first_step()
        while True:
            await self._wait(send, state)
            sent_at, sent_time = clock.monotonic(), clock.time()
            if send.bookmark is None:
                running_since = sent_at
            else:
                state = replace(state, polls=state.polls + 1)
            answer, skew = await self._send(options, send.bookmark)
            if accepted_at is None and isinstance(answer, Running | Complete):
                accepted_at = sent_time
            budget = self.client.budget
            sent = Sent(clock.monotonic() - sent_at, sent_at - running_since, budget.tight, budget.scarce)
            after, outcome = step(state, answer, sent, Rules(self.request.poll_interval, self.request.max_restarts))
            if isinstance(outcome, Complete):
                return self._finished(options, after, outcome, accepted_at or sent_time, skew)
            self.narrator.stepped(state, after, answer, sent, clock.monotonic())
            state, send = after, outcome

    async def _schema(self, deadline: float) -> preflight.Schema | None:
        """The database's tables, None while it is busy."""
        schema = [Statement(preflight.SCHEMA_QUERY)]
        query = sql_calls.request(self.client.credentials.account_id, self.database.uuid, schema)
        # Names only, and they are parsed in the event loop: the bound is a control answer's.
        query = replace(query, max_answer_bytes=MAX_ANSWER_BYTES)
        found = await self.client.call(query, _rows_or_busy, deadline=deadline, priority=True)
        if found is None:
            return None
        if found.rows and not {"name", "type", "sql"}.issubset(found.columns):
            raise D1ApiError("the D1 API answered another query than the one about the tables", retryable=True)
        return preflight.read_schema(found.as_dicts())

    async def _wait(self, send: Send, state: State) -> None:
        """Sleep until the next request is due; raise when the deadline comes first."""
        clock = self.client.clock
        left = self.end - clock.time()
        if send.refused and send.delay >= left:
            raise D1ExportTimeoutError(
                f"Cloudflare's request limit is used up for another {send.delay:.0f} s, past the export's deadline"
            )
        if left > 0:
            await clock.sleep_async(min(send.delay, left))
        # A last poll may still find the export complete; a start at the deadline would only block the database.
        if left <= 0 or (send.bookmark is None and send.delay >= left):
            if state.busy:
                raise D1ExportBusyError(
                    f"another export of {self.database.name!r} was running until the deadline. Should there be none, a"
                    " failed export may have left the database locked"
                )
            raise D1ExportTimeoutError(
                f"the export of {self.database.name!r} did not finish in time ({state.polls} polls,"
                f" {state.restarts} restarts, {len(state.parts)} parts uploaded)"
            )

    async def _send(self, options: ExportOptions, bookmark: str | None) -> tuple[ExportAnswer, timedelta]:
        """Send a start or a poll once; what it means, and how far Cloudflare's clock is ahead of ours."""
        client, credentials = self.client, self.client.credentials
        client.budget.keep(self.ticket)
        patience = credentials.timeout if bookmark is None else min(POLL_TIMEOUT, credentials.timeout)
        message = export_protocol.export(credentials.account_id, self.database.uuid, options, bookmark=bookmark)
        try:
            answer = await client.send(message, deadline=self.end, priority=True, total=patience)
        except D1ApiError as error:
            return Unclear(error) if error.retryable else Failed(error), timedelta(0)
        date = failures.http_date(answer.headers.get("date", ""))
        ahead = 0.0 if date is None else date - client.clock.time()
        return export_protocol.read_export(answer), timedelta(seconds=ahead if abs(ahead) > _CLOCK_TOLERANCE else 0.0)

    def _finished(
        self, options: ExportOptions, state: State, end: Complete, started_at: float, skew: timedelta
    ) -> D1Export:
        credentials = self.client.credentials
        completed_at = datetime.fromtimestamp(self.client.clock.time(), UTC)
        # The URL speaks in Cloudflare's time, and will be held against ours.
        expires_at = url_expiry(end.url, completed_at + skew) - skew
        if expires_at <= completed_at:  # nobody hands out a dead URL: it was signed by a clock that we cannot see
            expires_at = completed_at + URL_LIFETIME
        return D1Export(
            database_id=self.database.uuid,
            database_name=self.database.name,
            account_id=credentials.account_id,
            bookmark=end.bookmark or state.bookmark or "",
            filename=end.filename or f"{self.database.name}.sql",
            sealed_url=seal(end.url, credentials.token, expires_at=expires_at),
            expires_at=expires_at,
            started_at=datetime.fromtimestamp(started_at, UTC),
            completed_at=completed_at,
            polls=state.polls,
            restarts=state.restarts,
            options=options,
        )


def _rows_or_busy(answer: Answer) -> StatementResult | None:
    """None for a busy database: waiting is the export's business, not the retry policy's."""
    try:
        return sql_calls.read_results(answer)[0]
    except D1ApiError as error:
        if failures.is_busy(str(error)):
            return None
        raise


def _silent(_line: str) -> None:
    """Tell nobody."""
