"""Run one import of an uploaded file, from *ingest* to the end.

:func:`run_import` only sends, waits and keeps the deadline; what to send next is decided by the pure state machine in
:mod:`~airflow_provider_d1.cloudflare.import_protocol`. The process that has the file announces it
(:func:`announce`) and uploads it; this driver runs where the import is polled, in the trigger or in the worker.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare import import_protocol
from airflow_provider_d1.cloudflare.export import POLL_TIMEOUT
from airflow_provider_d1.cloudflare.import_protocol import ImportAnswer, ImportFinished, UploadRequired, next_step
from airflow_provider_d1.cloudflare.polled_job import (
    BUSY_GAP,
    Busy,
    Failed,
    Running,
    Send,
    Sent,
    State,
    Unclear,
    from_error,
)
from airflow_provider_d1.cloudflare.rate_limit import POLL_GAP
from airflow_provider_d1.exceptions import D1ApiError, D1ImportTimeoutError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import AsyncD1Client, D1Client
    from airflow_provider_d1.cloudflare.import_models import ImportRequest, ImportResult


def announce(
    client: D1Client, database_id: str, etag: str, *, deadline: float
) -> UploadRequired | Running | ImportFinished:
    """Announce a file by its MD5. If D1 already has it from an earlier attempt, the import begins.

    :param deadline: the latest end of the wait for a busy database, in epoch seconds.
    :return: where to upload the file, or the state of its import.
    :raises D1ApiError: when the API refuses, and a retry cannot help.
    :raises D1ImportError: when D1 refuses the file.
    """
    request = import_protocol.init(client.credentials.account_id, database_id, etag)
    while True:
        try:
            answer: ImportAnswer = client.call(request, import_protocol.read_import, deadline=deadline)
        except D1ApiError as error:
            answer = from_error(error)
        match answer:
            case UploadRequired() | Running() | ImportFinished():
                return answer
            case Failed():
                raise answer.error
            case _:
                if client.clock.time() + BUSY_GAP > deadline:
                    raise _late(answer)
                client.clock.sleep(BUSY_GAP)


async def run_import(
    client: AsyncD1Client,
    request: ImportRequest,
    *,
    deadline: float,
    on_progress: Callable[[str], None] | None = None,
) -> ImportResult:
    """Start an import, poll it, and restart it when D1 has lost it.

    :param client: an open client; its clock, rate limiter and credentials are used.
    :param request: the uploaded file.
    :param deadline: the latest end, in epoch seconds.
    :param on_progress: called with progress messages; they contain no secrets.
    :raises D1ImportError: the import was not applied: D1 refused the file, or lost the import too often.
    :raises D1ImportTimeoutError: the deadline has passed; the import may still be applied.
    :raises D1ApiError: the API refused, and a retry cannot help.
    """
    run = _ImportRun(client, request, deadline, on_progress)
    try:
        return await run.run()
    finally:
        run.release()


class _ImportRun:
    """One import into one database."""

    def __init__(
        self,
        client: AsyncD1Client,
        request: ImportRequest,
        deadline: float,
        on_progress: Callable[[str], None] | None,
    ) -> None:
        self._client = client
        self._clock = client.clock
        self._limiter = client.limiter
        self._request = request
        self._end = deadline
        self._on_progress = on_progress
        self._slot = self._limiter.enqueue(request.poll_interval or POLL_GAP)

    async def run(self) -> ImportResult:
        clock, limiter = self._clock, self._limiter
        await self._wait_for_admission()
        running_since = answered_at = clock.monotonic()
        state, send = State(bookmark=self._request.bookmark), Send(self._request.bookmark, 0.0)
        while True:
            await self._pause(send, state)
            if send.bookmark is None and (send.readmit or limiter.blocked_until > clock.monotonic()):
                limiter.requeue(self._slot)
                await self._wait_for_admission()
            sent_at = clock.monotonic()
            if send.bookmark is None:
                running_since = answered_at = sent_at
            else:
                state = replace(state, polls=state.polls + 1)
            answer = await self._send(send.bookmark)
            sent = Sent(
                took=clock.monotonic() - sent_at,
                age=sent_at - running_since,
                under_pressure=limiter.under_pressure,
                nearly_exhausted=limiter.nearly_exhausted,
                blocked=limiter.blocked_until > answered_at,
            )
            if isinstance(answer, Running):
                answered_at = clock.monotonic()
            after, outcome = next_step(state, answer, sent, self._request)
            if not isinstance(outcome, Send):
                return outcome
            self._report(state, after, answer)
            state, send = after, outcome

    def release(self) -> None:
        """Give the rate limiter's slot back."""
        self._limiter.release(self._slot)

    async def _wait_for_admission(self) -> None:
        """Wait as an export does: an import is polled, and lost when the rate limit blocks the token."""
        while (wait := self._limiter.admit(self._slot)) > 0:
            await self._pause(Send(None, wait), State())
        while (wait := self._limiter.confirm(self._slot)) > 0:
            await self._pause(Send(None, wait), State())
            # the response shows the rate limiter how many calls other processes make
            await self._client.get_database(self._request.database_id, deadline=self._end, priority=True)

    async def _pause(self, send: Send, state: State) -> None:
        """Sleep until the next request is due; raise an error when the deadline is earlier."""
        left = self._end - self._clock.time()
        if send.bookmark is None and send.delay >= left:
            raise _late(Busy() if state.busy else None, self._request.database_name)
        if left <= 0 or (send.refused and send.delay >= left):
            raise _late(None, self._request.database_name)
        self._limiter.renew(self._slot, send.delay)
        await self._clock.sleep_async(min(send.delay, left))

    async def _send(self, bookmark: str | None) -> ImportAnswer:
        """Start or poll once."""
        client, request = self._client, self._request
        account = client.credentials.account_id
        self._limiter.renew(self._slot)
        if bookmark is None:
            total, message = client.credentials.timeout, import_protocol.begin(account, request)
        else:
            total = min(POLL_TIMEOUT, client.credentials.timeout)
            message = import_protocol.poll(account, request.database_id, bookmark)
        try:
            answer = await client.send(message, deadline=self._end, priority=True, total=total)
        except D1ApiError as error:
            return from_error(error)
        return import_protocol.read_import(answer)

    def _report(self, before: State, after: State, answer: ImportAnswer) -> None:
        if after.busy and not before.busy:
            self._say("the database is busy with another import or export; waiting for it to end")
        elif after.restarts > before.restarts:
            self._say(f"D1 lost the import, starting again (restart {after.restarts})")
        elif isinstance(answer, Unclear) and not before.unclear:
            self._say(f"{answer.error}; retrying")
        elif before.bookmark is None and after.bookmark is not None:
            self._say("import started")

    def _say(self, text: str) -> None:
        if self._on_progress is not None:
            self._on_progress(f"{self._request.database_name}: {text}")


def _late(answer: ImportAnswer | None, database: str | None = None) -> D1ImportTimeoutError:
    place = "the import" if database is None else f"the import into {database!r}"
    if isinstance(answer, Busy):
        return D1ImportTimeoutError(f"{place} did not begin: another import or export was running until the deadline")
    if isinstance(answer, Unclear):
        return D1ImportTimeoutError(f"{place} did not finish in time: {answer.error}")
    return D1ImportTimeoutError(f"{place} did not finish in time")
