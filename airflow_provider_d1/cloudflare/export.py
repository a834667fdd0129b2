"""Run one export, from the look-up of the database to the sealed URL of its dump.

:func:`run_export` only sends, waits and keeps the deadline; what to send next is decided by the pure state machine in
:mod:`~airflow_provider_d1.cloudflare.export_protocol`. The trigger, the operator without deferral and the hook all run
this one driver.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare import api_errors, export_protocol, preflight, sql_calls
from airflow_provider_d1.cloudflare.export_progress import ProgressReporter
from airflow_provider_d1.cloudflare.export_protocol import Complete, ExportAnswer, first_step, step
from airflow_provider_d1.cloudflare.messages import MAX_ANSWER_BYTES
from airflow_provider_d1.cloudflare.models import D1Export, Database, ExportOptions, ExportRequest
from airflow_provider_d1.cloudflare.polled_job import BUSY_GAP, Running, Send, Sent, State, from_error
from airflow_provider_d1.cloudflare.rate_limit import POLL_GAP
from airflow_provider_d1.cloudflare.seal import URL_LIFETIME, seal, url_expiry
from airflow_provider_d1.cloudflare.sql_parameters import Statement
from airflow_provider_d1.exceptions import D1ApiError, D1ExportBusyError, D1ExportTimeoutError, D1RateLimitError
from airflow_provider_d1.validation import counted

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.messages import Response
    from airflow_provider_d1.cloudflare.sql_calls import StatementResult

#: seconds one poll may take, below the 15 s without a poll after which D1 cancels. Not much shorter: the abandoned
#: response may have been the only one to announce the end.
POLL_TIMEOUT = 9.5
#: seconds that reading the schema after an export may take
VERIFY_TIMEOUT = 30.0
#: a smaller difference between two clocks, in seconds, may be the time that the response took
_CLOCK_TOLERANCE = 5.0


async def run_export(
    client: AsyncD1Client,
    request: ExportRequest,
    *,
    deadline: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> D1Export:
    """Export a database and return where its dump is.

    :param client: an open client; its clock, rate limiter and credentials are used.
    :param request: what to export, ``database`` included.
    :param deadline: the latest end, in epoch seconds: for an export that was requested earlier, in another process; by
        default :meth:`ExportRequest.deadline`.
    :param on_progress: called with progress messages (waiting, restarted, parts uploaded); they contain no secrets.
    :raises D1DatabaseNotFoundError: no such database.
    :raises D1TableNotFoundError: a name in ``tables`` is not exactly that of a table.
    :raises D1VirtualTableError: the database has a virtual table, which ``on_virtual_table`` does not skip.
    :raises D1ExportBusyError: another export of the database ran until the deadline.
    :raises D1ExportLostError: D1 lost the export more often than ``max_restarts`` allows.
    :raises D1ExportTimeoutError: the deadline came first.
    :raises D1ApiError: the API refused, and a retry cannot help.
    """
    run = _ExportRun(client, request, deadline, on_progress)
    try:
        return await run.run()
    finally:
        run.release()


class _ExportRun:
    """One export of one database."""

    def __init__(
        self,
        client: AsyncD1Client,
        request: ExportRequest,
        deadline: float | None,
        on_progress: Callable[[str], None] | None,
    ) -> None:
        self._client = client
        self._clock = client.clock
        self._limiter = client.limiter
        self._request = request
        now = self._clock.time()
        self._deadline = request.deadline(now) if deadline is None else deadline
        self._queue_end = self._end = min(self._deadline, now + request.longest_wait)
        self._progress = ProgressReporter(request.database or "", on_progress)
        self._slot = self._limiter.enqueue(request.poll_interval or POLL_GAP)
        self._database = Database("", "")

    async def run(self) -> D1Export:
        """Do all waiting for other exports before the start, while the database still answers queries."""
        await self._wait_for_admission()
        try:
            self._database = await self._client.get_database(
                self._request.database or "", deadline=self._end, priority=True
            )
            schema = await self._wait_for_confirmation(await self._read_schema_when_free())
        except D1RateLimitError as error:
            raise D1ExportTimeoutError(f"the export could not start before its deadline: {error}") from None
        options, skipped = preflight.decide(self._request, schema)
        self._progress.skipped(skipped)
        export = await self._poll_until_complete(options)
        if options.tables is not None:
            await self._verify_schema(options)
        tables = schema.tables if options.tables is None else options.tables
        return replace(export, skipped=skipped, tables=None if options.no_schema else tables)

    def release(self) -> None:
        """Give the rate limiter's slot back."""
        self._limiter.release(self._slot)

    # --- admission by the rate limiter

    async def _wait_for_admission(self) -> None:
        while (wait := self._limiter.admit(self._slot)) > 0:
            await self._queue(wait)
        self._begin_timeout()

    async def _wait_for_confirmation(self, schema: preflight.Schema) -> preflight.Schema:
        """Wait until the export may start; returns the schema as it was read last."""
        while (wait := self._limiter.confirm(self._slot)) > 0:
            await self._queue(wait)
            self._begin_timeout()
            # The response also shows the rate limiter how many calls other processes make.
            schema = await self._read_schema_when_free()
        self._begin_timeout()
        return schema

    async def _wait_for_admission_again(self) -> None:
        """Wait for admission once more: after a block of the token all exports begin again."""
        self._queue_end = min(self._deadline, self._clock.time() + self._request.longest_wait)
        self._limiter.requeue(self._slot)
        await self._wait_for_admission()
        await self._wait_for_confirmation(await self._read_schema_when_free())

    async def _queue(self, wait: float) -> None:
        if self._clock.time() + wait >= self._queue_end:
            raise D1ExportTimeoutError(
                f"the export of {self._request.database!r} was not started: no rate-limit capacity before its deadline"
                f" (queue_timeout={self._request.longest_wait:g} s)"
            )
        self._progress.queued(self._clock.monotonic())
        await self._sleep(wait)

    def _begin_timeout(self) -> None:
        self._end = min(self._deadline, self._clock.time() + self._request.timeout)

    # --- look-ups

    async def _read_schema_when_free(self) -> preflight.Schema:
        """Read the database's schema, after the end of an export that is already running."""
        while (schema := await self._read_schema(self._end)) is None:
            self._progress.busy()
            await self._pause(Send(None, BUSY_GAP), State(busy=True))
        return schema

    async def _verify_schema(self, options: ExportOptions) -> None:
        """Refuse a dump from which a table of the explicit list may be missing.

        :raises D1TableNotFoundError: a table of the list is gone.
        """
        try:
            # The dump is finished and its URL will expire, so the check must not wait for long.
            schema = await self._read_schema(self._clock.time() + VERIFY_TIMEOUT)
        except D1ApiError as error:
            self._progress.unchecked(str(error))
            return
        if schema is None:
            self._progress.unchecked("another export is running already")
        else:
            preflight.check_still_there(options, schema)

    async def _read_schema(self, deadline: float) -> preflight.Schema | None:
        """The database's tables, None while it is busy."""
        schema = [Statement(preflight.SCHEMA_QUERY)]
        query = sql_calls.request(self._client.credentials.account_id, self._database.uuid, schema)
        # Names only, and they are parsed in the event loop: the bound is a control response's.
        query = replace(query, max_answer_bytes=MAX_ANSWER_BYTES)
        found = await self._client.call(query, _rows_or_busy, deadline=deadline, priority=True)
        if found is None:
            return None
        if found.rows and not {"name", "type", "sql"}.issubset(found.columns):
            raise D1ApiError("unexpected response to the schema query: missing columns name, type, sql", retryable=True)
        return preflight.read_schema(found.as_dicts())

    # --- the export

    async def _poll_until_complete(self, options: ExportOptions) -> D1Export:
        """Start, poll and restart until D1 returns the dump's URL."""
        clock, limiter = self._clock, self._limiter
        accepted_at: float | None = None
        running_since = answered_at = clock.monotonic()
        state, send = first_step()
        while True:
            await self._pause(send, state)
            if send.bookmark is None and (send.readmit or limiter.blocked_until > clock.monotonic()):
                await self._wait_for_admission_again()
            sent_at, sent_time = clock.monotonic(), clock.time()
            if send.bookmark is None:
                running_since = answered_at = sent_at
            else:
                state = replace(state, polls=state.polls + 1)
            answer, skew = await self._send(options, send.bookmark)
            if accepted_at is None and isinstance(answer, Running | Complete):
                accepted_at = sent_time
            sent = Sent(
                took=clock.monotonic() - sent_at,
                age=sent_at - running_since,
                under_pressure=limiter.under_pressure,
                nearly_exhausted=limiter.nearly_exhausted,
                blocked=limiter.blocked_until > answered_at,
            )
            if isinstance(answer, Running):
                answered_at = clock.monotonic()
            after, outcome = step(state, answer, sent, self._request)
            if isinstance(outcome, Complete):
                return self._finished(options, after, outcome, accepted_at or sent_time, skew)
            self._progress.stepped(state, after, answer, sent, clock.monotonic())
            state, send = after, outcome

    async def _pause(self, send: Send, state: State) -> None:
        """Sleep until the next request is due; raise an error when the deadline is earlier."""
        left = self._end - self._clock.time()
        if send.refused and send.delay >= left:
            raise D1ExportTimeoutError(
                f"Cloudflare's rate limit blocks calls for another {send.delay:.0f} s, past the export's deadline"
            )
        if left > 0:
            await self._sleep(min(send.delay, left))
        # A last poll may still find the export complete; a start at the deadline would only block the database.
        if left <= 0 or (send.bookmark is None and send.delay >= left):
            name = self._database.name
            if state.busy:
                raise D1ExportBusyError(
                    f"another export of {name!r} was running until the deadline. If no other export is running, a"
                    " previously failed export may have left the database locked"
                )
            raise D1ExportTimeoutError(
                f"the export of {name!r} did not finish in time ({counted(state.polls, 'poll')},"
                f" {counted(state.restarts, 'restart')}, {counted(len(state.parts), 'part')} uploaded)"
            )

    async def _sleep(self, seconds: float) -> None:
        self._limiter.renew(self._slot, seconds)
        await self._clock.sleep_async(seconds)

    async def _send(self, options: ExportOptions, bookmark: str | None) -> tuple[ExportAnswer, timedelta]:
        """Send a start or a poll once; returns its meaning, and how far Cloudflare's clock is ahead of ours."""
        client, credentials = self._client, self._client.credentials
        self._limiter.renew(self._slot)
        total = credentials.timeout if bookmark is None else min(POLL_TIMEOUT, credentials.timeout)
        message = export_protocol.export(credentials.account_id, self._database.uuid, options, bookmark=bookmark)
        try:
            answer = await client.send(message, deadline=self._end, priority=True, total=total)
        except D1ApiError as error:
            return from_error(error), timedelta(0)
        date = api_errors.http_date(answer.headers.get("date", ""))
        ahead = 0.0 if date is None else date - self._clock.time()
        return export_protocol.read_export(answer), timedelta(seconds=ahead if abs(ahead) > _CLOCK_TOLERANCE else 0.0)

    def _finished(
        self, options: ExportOptions, state: State, end: Complete, started_at: float, skew: timedelta
    ) -> D1Export:
        credentials, database = self._client.credentials, self._database
        completed_at = datetime.fromtimestamp(self._client.clock.time(), UTC)
        # The URL states times of Cloudflare's clock, and is later compared with ours.
        expires_at = url_expiry(end.url, completed_at + skew) - skew
        if expires_at <= completed_at:  # D1 returns no expired URL: it was signed by a clock that differs from both
            expires_at = completed_at + URL_LIFETIME
        return D1Export(
            database_id=database.uuid,
            database_name=database.name,
            account_id=credentials.account_id,
            bookmark=end.bookmark or state.bookmark or "",
            filename=end.filename or f"{database.name}.sql",
            sealed_url=seal(end.url, credentials.token, expires_at=expires_at),
            expires_at=expires_at,
            started_at=datetime.fromtimestamp(started_at, UTC),
            completed_at=completed_at,
            polls=state.polls,
            restarts=state.restarts,
            options=options,
        )


def _rows_or_busy(answer: Response) -> StatementResult | None:
    """None for a busy database: the export waits for it, not the retry policy."""
    try:
        return sql_calls.read_results(answer)[0]
    except D1ApiError as error:
        if api_errors.is_busy(str(error)):
            return None
        raise
