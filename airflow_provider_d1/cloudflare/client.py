"""Two thin clients over :mod:`~airflow_provider_d1.cloudflare.protocol`: one for event loops, one for threads.

Both wait for the token's rate limiter, send, read, and retry by one policy. Neither imports httpx before its first
request, so that importing this module costs a DAG parser and a triggerer next to nothing.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from airflow_provider_d1.cloudflare import change_detection, connection_check, lookup, sql_calls, time_travel
from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.rate_limit import RateLimiter
from airflow_provider_d1.cloudflare.retry import DEFAULT_TIMEOUT, async_retrying, retrying
from airflow_provider_d1.cloudflare.sql_parameters import bind
from airflow_provider_d1.exceptions import D1Error, D1RateLimitError

if TYPE_CHECKING:
    from datetime import datetime

    from airflow_provider_d1.cloudflare.change_detection import Change, StagedState
    from airflow_provider_d1.cloudflare.credentials import Credentials
    from airflow_provider_d1.cloudflare.messages import Request, Response
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.cloudflare.sql_calls import StatementResult
    from airflow_provider_d1.cloudflare.sql_parameters import Parameters, Statement
    from airflow_provider_d1.cloudflare.time_travel import Restored
    from airflow_provider_d1.cloudflare.transport import AsyncTransport, SyncTransport

T = TypeVar("T")


class AsyncD1Client:
    """The D1 API from an event loop. Use as ``async with``, or call :meth:`aclose`.

    :param credentials: account, token and API base.
    :param clock: measures waits and deadlines.
    :param transport_options: passed to httpx's client (``transport=`` in tests).
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        clock: Clock = SYSTEM_CLOCK,
        limiter: RateLimiter | None = None,
        **transport_options: Any,
    ) -> None:
        self.credentials = credentials
        self.clock = clock
        self.limiter = limiter or limiter_for(credentials)
        self._options = transport_options
        self._opening: asyncio.Task[AsyncTransport] | None = None

    async def list_databases(self, name: str | None = None) -> list[Database]:
        """Every database of the account, or those that Cloudflare's search for ``name`` finds."""
        return await self._run_plan(lookup.all_databases(self.credentials.account_id, name))

    async def get_database(
        self, name_or_uuid: str, *, deadline: float | None = None, priority: bool = False
    ) -> Database:
        """The database of exactly this name or UUID.

        :raises D1DatabaseNotFoundError: when there is none; the message suggests near names.
        """
        plan = lookup.one_database(self.credentials.account_id, name_or_uuid)
        return await self._run_plan(plan, deadline=deadline, priority=priority)

    async def query(self, database_id: str, sql: str, params: Parameters | None = None) -> list[dict[str, Any]]:
        """Run SQL; a dict for each row of the last statement.

        :param sql: one statement, or several that run in order and in one transaction.
        :param params: a mapping for ``:name``, a sequence for ``?``; see
            :func:`~airflow_provider_d1.cloudflare.sql_parameters.bind`.
        """
        return (await self.execute(database_id, bind(sql, params)))[-1].as_dicts()

    async def execute(self, database_id: str, statements: Sequence[Statement]) -> list[StatementResult]:
        """Run statements in order and in one transaction; a result for each.

        Only the values of the last one are exact; see :func:`~airflow_provider_d1.cloudflare.sql_calls.run`.
        """
        return await self._run_plan(sql_calls.run(self.credentials.account_id, database_id, statements))

    async def get_bookmark(self, database_id: str, timestamp: datetime | None = None) -> str:
        """The Time Travel bookmark of a database, of now or of a moment with a time zone."""
        request = time_travel.bookmark_request(self.credentials.account_id, database_id, timestamp)
        return await self.call(request, time_travel.read_bookmark)

    async def restore(
        self, database_id: str, *, bookmark: str | None = None, timestamp: datetime | None = None
    ) -> Restored:
        """Bring a database back to a bookmark or a moment; what was written since is discarded."""
        request = time_travel.restore_request(
            self.credentials.account_id, database_id, bookmark=bookmark, timestamp=timestamp
        )
        return await self.call(request, time_travel.read_restored)

    async def detect_change(self, database_id: str, staged: StagedState) -> Change:
        """Whether a database has changed since it was staged; see :func:`change_detection.detect_change`."""
        return await self._run_plan(change_detection.detect_change(self.credentials.account_id, database_id, staged))

    async def verify_access(self, database: str | None = None) -> connection_check.Access:
        """Check token, account, D1 permission and database; see :func:`connection_check.verify`."""
        account = self.credentials.account_id
        plan = connection_check.verify(account, database, global_key=self.credentials.email is not None)
        return await self._run_plan(plan, deadline=self.clock.time() + self.credentials.timeout)

    async def call(
        self,
        request: Request,
        read: Callable[[Response], T],
        *,
        deadline: float | None = None,
        priority: bool = False,
    ) -> T:
        """Send a request and read its response, with retries by the shared policy.

        :param deadline: no attempt starts after it; in epoch seconds, by default ten minutes from now.
        :param priority: send before other calls; used by admitted exports.
        """
        end = self.clock.time() + DEFAULT_TIMEOUT if deadline is None else deadline

        async def attempt() -> T:
            return read(await self.send(request, deadline=end, priority=priority))

        policy = async_retrying(self.clock, deadline=end, idempotent=request.idempotent)
        result: T = await policy(attempt)
        return result

    async def send(
        self, request: Request, *, deadline: float, priority: bool = False, total: float | None = None
    ) -> Response:
        """Send a request once, when the rate limiter allows it.

        :param total: seconds that the exchange may take as a whole.
        :raises D1ConnectionError: when no whole answer came.
        :raises D1RateLimitError: when the rate limiter allows no call before ``deadline``.
        """
        transport = await self._transport()
        while (wait := self.limiter.take(priority=priority)) > 0:
            if self.clock.time() + wait > deadline:
                raise _rate_limited(wait)
            await self.clock.sleep_async(wait)
        whole = min(_whole(self.credentials, deadline - self.clock.time()), total or math.inf)
        answer = await transport.send(request, min(self.credentials.timeout, whole), whole)
        self.limiter.observe(answer)
        return answer

    async def aclose(self) -> None:
        """Close the connections."""
        if self._opening is not None:
            await (await self._opening).aclose()
            self._opening = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _run_plan(self, plan: lookup.Plan[T], *, deadline: float | None = None, priority: bool = False) -> T:
        try:
            step = next(plan)
            while True:
                try:
                    result = await self.call(step.request, step.read, deadline=deadline, priority=priority)
                except D1Error as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(result)
        except StopIteration as end:
            return cast("T", end.value)

    async def _transport(self) -> AsyncTransport:
        if self._opening is None:
            # In a thread: importing httpx and reading the certificate authorities would block the event loop.
            self._opening = asyncio.create_task(asyncio.to_thread(_open_async, self.credentials, self._options))
        return await asyncio.shield(self._opening)


class D1Client:
    """The D1 API from a thread, as :class:`AsyncD1Client`. Use as ``with``, or call :meth:`close`."""

    def __init__(
        self,
        credentials: Credentials,
        *,
        clock: Clock = SYSTEM_CLOCK,
        limiter: RateLimiter | None = None,
        **transport_options: Any,
    ) -> None:
        self.credentials = credentials
        self.clock = clock
        self.limiter = limiter or limiter_for(credentials)
        self._options = transport_options
        self._open: SyncTransport | None = None

    def list_databases(self, name: str | None = None) -> list[Database]:
        """As :meth:`AsyncD1Client.list_databases`."""
        return self._run_plan(lookup.all_databases(self.credentials.account_id, name))

    def get_database(self, name_or_uuid: str) -> Database:
        """As :meth:`AsyncD1Client.get_database`."""
        return self._run_plan(lookup.one_database(self.credentials.account_id, name_or_uuid))

    def query(self, database_id: str, sql: str, params: Parameters | None = None) -> list[dict[str, Any]]:
        """As :meth:`AsyncD1Client.query`."""
        return self.execute(database_id, bind(sql, params))[-1].as_dicts()

    def execute(self, database_id: str, statements: Sequence[Statement]) -> list[StatementResult]:
        """As :meth:`AsyncD1Client.execute`."""
        return self._run_plan(sql_calls.run(self.credentials.account_id, database_id, statements))

    def get_bookmark(self, database_id: str, timestamp: datetime | None = None) -> str:
        """As :meth:`AsyncD1Client.get_bookmark`."""
        request = time_travel.bookmark_request(self.credentials.account_id, database_id, timestamp)
        return self.call(request, time_travel.read_bookmark)

    def restore(self, database_id: str, *, bookmark: str | None = None, timestamp: datetime | None = None) -> Restored:
        """As :meth:`AsyncD1Client.restore`."""
        request = time_travel.restore_request(
            self.credentials.account_id, database_id, bookmark=bookmark, timestamp=timestamp
        )
        return self.call(request, time_travel.read_restored)

    def detect_change(self, database_id: str, staged: StagedState) -> Change:
        """As :meth:`AsyncD1Client.detect_change`."""
        return self._run_plan(change_detection.detect_change(self.credentials.account_id, database_id, staged))

    def verify_access(self, database: str | None = None) -> connection_check.Access:
        """As :meth:`AsyncD1Client.verify_access`."""
        account = self.credentials.account_id
        plan = connection_check.verify(account, database, global_key=self.credentials.email is not None)
        return self._run_plan(plan, deadline=self.clock.time() + self.credentials.timeout)

    def call(self, request: Request, read: Callable[[Response], T], *, deadline: float | None = None) -> T:
        """As :meth:`AsyncD1Client.call`."""
        end = self.clock.time() + DEFAULT_TIMEOUT if deadline is None else deadline
        policy = retrying(self.clock, deadline=end, idempotent=request.idempotent)
        result: T = policy(lambda: read(self._send(request, end)))
        return result

    def close(self) -> None:
        """Close the connections."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, request: Request, deadline: float) -> Response:
        if self._open is None:
            from airflow_provider_d1.cloudflare.transport import SyncTransport

            self._open = SyncTransport(self.credentials, **self._options)
        while (wait := self.limiter.take()) > 0:
            if self.clock.time() + wait > deadline:
                raise _rate_limited(wait)
            self.clock.sleep(wait)
        whole = _whole(self.credentials, deadline - self.clock.time())
        answer = self._open.send(request, min(self.credentials.timeout, whole), whole)
        self.limiter.observe(answer)
        return answer

    def _run_plan(self, plan: lookup.Plan[T], *, deadline: float | None = None) -> T:
        try:
            step = next(plan)
            while True:
                try:
                    result = self.call(step.request, step.read, deadline=deadline)
                except D1Error as error:
                    step = plan.throw(error)
                else:
                    step = plan.send(result)
        except StopIteration as end:
            return cast("T", end.value)


def _open_async(credentials: Credentials, options: dict[str, Any]) -> AsyncTransport:
    from airflow_provider_d1.cloudflare.transport import AsyncTransport

    return AsyncTransport(credentials, **options)


def _whole(credentials: Credentials, left: float) -> float:
    """Seconds that one exchange may take as a whole, so that a response that arrives slowly ends."""
    return min(4 * credentials.timeout, max(1.0, left))


def _rate_limited(wait: float) -> D1RateLimitError:
    return D1RateLimitError(
        "rate limit exhausted: the token has no call left before the deadline",
        status=None,
        retry_after=wait,
    )


_limiters: dict[str, RateLimiter] = {}
_limiters_lock = threading.Lock()


def limiter_for(credentials: Credentials) -> RateLimiter:
    """The process's one limiter for a token, shared by all connections with it.

    Connections may differ in ``requests_per_5_minutes``: the lowest that was used within the last hour counts.
    """
    limit = credentials.requests_per_5_minutes
    with _limiters_lock:
        limiter = _limiters.setdefault(credentials.fingerprint(), RateLimiter(limit))
    limiter.use_limit(limit)
    return limiter
