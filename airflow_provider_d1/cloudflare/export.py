"""Run one export from the first look at the database to the sealed URL of its dump.

The state machine is pure: :func:`first_step` and :func:`step` say what to send next and after how long, given what was answered; the
driver :func:`run_export` only sends, waits and keeps the deadline. The trigger, the operator without deferral and the hook all run
this one driver.

What shapes it: D1 cancels an export that was not polled for 15 seconds, tells of its end perhaps only once, forgets exports, and
runs one at a time for each database.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from airflow_provider_d1.cloudflare import export_protocol, preflight, protocol
from airflow_provider_d1.cloudflare.budget import POLL_GAP
from airflow_provider_d1.cloudflare.client import AsyncD1Client
from airflow_provider_d1.cloudflare.export_protocol import (
    Busy,
    Complete,
    ExportAnswer,
    Failed,
    Lost,
    Running,
    Unclear,
)
from airflow_provider_d1.cloudflare.models import D1Export, Database, ExportOptions, OnVirtualTable, SkippedObject
from airflow_provider_d1.cloudflare.protocol import Request
from airflow_provider_d1.cloudflare.seal import seal, url_expiry
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1ConfigurationError,
    D1ConnectionError,
    D1Error,
    D1ExportBusyError,
    D1ExportError,
    D1ExportLostError,
    D1ExportTimeoutError,
    D1RateLimitError,
)

Progress = Callable[[str], None]

#: longest constant poll_interval, in seconds: beyond it one slow answer could cost the export
MAX_POLL_INTERVAL = 10.0
#: shortest gap between two polls
MIN_GAP = 0.5
#: seconds one poll may take: with the gap before it, below the 15 s after which D1 cancels
POLL_TIMEOUT = 9.5
#: seconds before a start is sent again: after a lost export, after no or no clear answer (doubling), while D1 is busy
RESTART_GAP = 1.0
MAX_RESTART_GAP = 15.0
BUSY_GAP = 4.0
#: seconds between two progress lines
PROGRESS_GAP = 15.0


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export, and how patiently.

    :param database: name or UUID.
    :param tables: exact names, or None for the whole database.
    :param no_data: leave the rows out.
    :param no_schema: leave the CREATE statements out.
    :param on_virtual_table: ``"fail"`` before anything is started, or ``"skip"`` virtual tables and their shadow tables.
    :param poll_interval: constant gap between polls in seconds, at most 10; None adapts.
    :param deadline: when to give up, in epoch seconds.
    :param max_restarts: how often an export that D1 lost is started again.
    :raises D1ConfigurationError: for a value that cannot work.
    """

    database: str
    deadline: float
    tables: tuple[str, ...] | None = None
    no_data: bool = False
    no_schema: bool = False
    on_virtual_table: OnVirtualTable = "fail"
    poll_interval: float | None = None
    max_restarts: int = 3

    def __post_init__(self) -> None:
        if self.poll_interval is not None and not 0 < self.poll_interval <= MAX_POLL_INTERVAL:
            raise D1ConfigurationError(f"poll_interval must be above 0 and at most {MAX_POLL_INTERVAL:g} seconds")
        if self.max_restarts < 0:
            raise D1ConfigurationError("max_restarts must be 0 or more")
        if self.on_virtual_table not in ("fail", "skip"):
            raise D1ConfigurationError('on_virtual_table must be "fail" or "skip"')
        preflight.check_arguments(self.options)

    @property
    def options(self) -> ExportOptions:
        """The part of the request that D1 itself understands."""
        return ExportOptions(self.tables, self.no_data, self.no_schema)


# --- the state machine ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class State:
    """Where an export stands between two requests; ``bookmark`` is None while none is running."""

    bookmark: str | None = None
    polls: int = 0
    restarts: int = 0
    unclear: int = 0
    busy: bool = False
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Send:
    """Send the next request after ``delay`` seconds: a start when ``bookmark`` is None, else a poll of it."""

    bookmark: str | None
    delay: float
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """The request that was just answered: seconds it took, and the export's age when it was sent."""

    took: float
    age: float
    tight: bool = False


def first_step() -> tuple[State, Send]:
    """Begin with a start."""
    return State(), Send(None, 0.0)


def step(state: State, answer: ExportAnswer, sent: Sent, request: ExportRequest) -> tuple[State, Send | Complete]:
    """What an answer leads to.

    :param state: where the export stood when the request was sent.
    :param answer: what came back.
    :param sent: circumstances of the request.
    :param request: the rules: poll_interval and max_restarts.
    :return: the new state, and what to send next or the finished export.
    :raises D1ExportError: when it is over without a dump.
    :raises D1ApiError: when the API refuses for good.
    """
    if isinstance(answer, Failed):
        raise answer.error
    if isinstance(answer, Complete):
        return replace(state, parts=state.parts | answer.parts, bookmark=answer.bookmark or state.bookmark), answer
    return _after_start(state, answer) if state.bookmark is None else _after_poll(state, answer, sent, request)


def _after_start(state: State, answer: Running | Busy | Lost | Unclear) -> tuple[State, Send]:
    match answer:
        case Running(bookmark) if bookmark is not None:
            return replace(state, bookmark=bookmark, unclear=0, busy=False, parts=answer.parts), Send(bookmark, 0.0)
        case Busy():
            # Somebody's export, or the orphan of a start whose answer was lost: the one ends, the other times out.
            return replace(state, busy=True, unclear=0), Send(None, BUSY_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            return replace(state, busy=False), Send(None, max(seconds, RESTART_GAP), refused=True)
        case _:
            gap = min(2.0 * RESTART_GAP * 2**state.unclear, MAX_RESTART_GAP)
            return replace(state, unclear=state.unclear + 1, busy=False), Send(None, gap)


def _after_poll(
    state: State, answer: Running | Busy | Lost | Unclear, sent: Sent, request: ExportRequest
) -> tuple[State, Send]:
    match answer:
        case Lost():
            if state.restarts >= request.max_restarts:
                raise D1ExportLostError(
                    f"D1 lost the export {state.restarts + 1} times (max_restarts={request.max_restarts}): it was cancelled,"
                    " or its end was told in an answer that did not arrive"
                )
            return State(polls=state.polls, restarts=state.restarts + 1), Send(None, RESTART_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            return state, Send(state.bookmark, max(seconds, MIN_GAP), refused=True)
        case Unclear():
            gap = min(MIN_GAP * 2**state.unclear, POLL_GAP)
            return replace(state, unclear=state.unclear + 1), Send(state.bookmark, gap)
        case Running():
            state = replace(
                state, bookmark=answer.bookmark or state.bookmark, unclear=0, parts=state.parts | answer.parts
            )
        case Busy():
            pass  # if it is ours that runs, go on polling; if not, D1 will say that ours is lost
    return state, Send(state.bookmark, max(0.0, gap_after(sent, request.poll_interval) - sent.took))


def gap_after(sent: Sent, poll_interval: float | None) -> float:
    """Seconds between sending one poll and the next: constant, or a quarter of the age that the export will have then."""
    if poll_interval is not None:
        return poll_interval
    return POLL_GAP if sent.tight else min(max(MIN_GAP, sent.age / 3), POLL_GAP)


# --- the driver -------------------------------------------------------------------------------------------------------


async def run_export(client: AsyncD1Client, request: ExportRequest, *, on_progress: Progress | None = None) -> D1Export:
    """Export a database and return where its dump is.

    :param client: an open client; its clock, its budget and its credentials are used.
    :param request: what to export.
    :param on_progress: called with a line for a human now and then: waiting, restarted, parts uploaded; never with a secret.
    :raises D1DatabaseNotFoundError: no such database.
    :raises D1TableNotFoundError: a name in ``tables`` is not exactly that of a table.
    :raises D1VirtualTableError: a virtual table is in the way.
    :raises D1ExportBusyError: another export of the database ran until the deadline.
    :raises D1ExportLostError: D1 forgot the export more often than ``max_restarts``.
    :raises D1ExportTimeoutError: the deadline came first.
    :raises D1ApiError: the API refused for good.
    """
    run = _Run(client, request, on_progress or (lambda _: None))
    async with run.turn():
        try:
            database = await client.get_database(request.database, deadline=request.deadline, priority=True)
            schema = await run.look(database)
        except D1RateLimitError as error:
            raise D1ExportTimeoutError(f"the export could not start before its deadline: {error}") from None
        options, skipped = preflight.decide(request.options, schema, request.on_virtual_table)
        for item in skipped:
            run.tell(f"{database.name}: leaving out {item.name}, a {item.reason}")
        export = await run.converse(database, options)
        if options.tables is not None:
            await run.look_again(database, options)
        return replace(export, skipped=skipped)


@dataclass(slots=True)
class _Run:
    """One export under way: the client, the rules, and what was told last."""

    client: AsyncD1Client
    request: ExportRequest
    tell: Progress
    ticket: int = 0
    told_at: float = field(default=0.0)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait, before anything is started, until the token's budget has room for a whole export."""
        clock, budget = self.client.clock, self.client.budget
        self.ticket = budget.queue()
        queued_at, told = clock.monotonic(), False
        try:
            while (wait := budget.admit(self.ticket)) > 0:
                if clock.time() + wait >= self.request.deadline:
                    raise D1ExportTimeoutError(
                        "the export never started: the token's request budget had no room for it before the deadline"
                    )
                if not told and clock.monotonic() - queued_at > BUSY_GAP:
                    told = True
                    self.tell(f"{self.request.database}: waiting for room in the token's request budget")
                await clock.sleep_async(wait)
            yield
        finally:
            budget.leave(self.ticket)

    async def look(self, database: Database) -> preflight.Schema:
        """Read the database's schema, waiting out an export that runs already."""
        query = protocol.raw(self.client.credentials.account_id, database.uuid, preflight.SCHEMA_QUERY)
        while True:
            try:
                columns, rows = await self.client.call(
                    query, protocol.read_raw, deadline=self.request.deadline, priority=True
                )
            except D1ApiError as error:
                if not protocol.is_busy(str(error)):
                    raise
            else:
                return preflight.read_schema(dict(zip(columns, row, strict=False)) for row in rows)
            await self._wait(database, Send(None, BUSY_GAP), State(busy=True))

    async def look_again(self, database: Database, options: ExportOptions) -> None:
        """Refuse a dump from which a table of the explicit list may be missing."""
        try:
            schema = await self.look(database)
        except (D1ApiError, D1ExportBusyError):
            self.tell(f"{database.name}: could not check afterwards that no table vanished during the export")
        else:
            preflight.check_still_there(options, schema)

    async def converse(self, database: Database, options: ExportOptions) -> D1Export:
        """Start, poll and restart until D1 hands out the dump's URL."""
        clock = self.client.clock
        started_at: float | None = None
        running_since = clock.monotonic()
        state, action = first_step()
        while True:
            await self._wait(database, action, state)
            sent_at, sent_time = clock.monotonic(), clock.time()
            if action.bookmark is None:
                running_since = sent_at
            else:
                state = replace(state, polls=state.polls + 1)
            answer, skew = await self._send(database, options, action.bookmark)
            if action.bookmark is None and isinstance(answer, Running | Complete) and started_at is None:
                started_at = sent_time
            sent = Sent(clock.monotonic() - sent_at, sent_at - running_since, self.client.budget.tight)
            before = state
            state, outcome = step(state, answer, sent, self.request)
            if isinstance(outcome, Complete):
                return self._finished(database, options, state, outcome, started_at or sent_time, skew)
            self._report(database, before, state, answer, sent)
            action = outcome

    async def _wait(self, database: Database, action: Send, state: State) -> None:
        """Sleep until the next request is due; raise when the deadline comes first."""
        clock = self.client.clock
        left = self.request.deadline - clock.time()
        if action.refused and action.delay >= left:
            raise D1ExportTimeoutError(
                f"Cloudflare's request limit is used up for another {action.delay:.0f} s, which is past the export's deadline"
            )
        if left > 0:
            await clock.sleep_async(min(action.delay, left))
        # A last poll may still find the export complete; a start or another look has no time left to be of use.
        if left <= 0 or (action.bookmark is None and action.delay >= left):
            if state.busy:
                raise D1ExportBusyError(
                    f"another export of {database.name!r} was running until the deadline. Should there be none, a failed"
                    " export may have left the database locked"
                )
            raise D1ExportTimeoutError(
                f"the export of {database.name!r} did not finish in time"
                f" ({state.polls} polls, {state.restarts} restarts, {len(state.parts)} parts uploaded)"
            )

    async def _send(
        self, database: Database, options: ExportOptions, bookmark: str | None
    ) -> tuple[ExportAnswer, timedelta]:
        client = self.client
        client.budget.keep(self.ticket)
        message: Request = export_protocol.export(
            client.credentials.account_id, database.uuid, options, bookmark=bookmark
        )
        patience = client.credentials.timeout if bookmark is None else min(POLL_TIMEOUT, client.credentials.timeout)
        left = max(1.0, self.request.deadline - client.clock.time())
        try:
            answer = await client.send(
                message, deadline=self.request.deadline, priority=True, total=min(patience, left)
            )
        except D1ApiError as error:
            return Unclear(error) if error.retryable else Failed(error), timedelta(0)
        date = protocol.http_date(answer.headers.get("date", ""))
        ahead = 0.0 if date is None else date - client.clock.time()
        # The field counts whole seconds, and the answer travelled: only a clock that is really wrong matters.
        return export_protocol.read_export(answer), timedelta(seconds=ahead if abs(ahead) > 5 else 0.0)

    def _finished(
        self,
        database: Database,
        options: ExportOptions,
        state: State,
        end: Complete,
        started_at: float,
        skew: timedelta,
    ) -> D1Export:
        credentials = self.client.credentials
        completed_at = datetime.fromtimestamp(self.client.clock.time(), UTC)
        expires_at = url_expiry(end.url, completed_at + skew) - skew
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

    def _report(self, database: Database, before: State, state: State, answer: ExportAnswer, sent: Sent) -> None:
        now = self.client.clock.monotonic()
        name = database.name
        if state.restarts > before.restarts:
            self.tell(f"{name}: D1 lost the export, starting again ({state.restarts} of {self.request.max_restarts})")
        elif state.busy and not before.busy:
            self.tell(f"{name}: another export of this database is running, waiting for its end")
        elif isinstance(answer, Unclear) and state.unclear == 1:
            self.tell(f"{name}: {answer.error}; trying again")
        elif before.bookmark is None and state.bookmark is not None:
            self.tell(f"{name}: export started")
        elif len(state.parts) > len(before.parts) and now - self.told_at >= PROGRESS_GAP:
            self.tell(f"{name}: {len(state.parts)} parts uploaded after {sent.age:.0f} s")
        else:
            return
        self.told_at = now
