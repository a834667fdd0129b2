"""How many calls one token may still make, shared by everything in this process that uses it.

Past Cloudflare's limit (1,200 calls in five minutes for a token) every call fails for five minutes, and each export that was
running then is lost. So an export waits its turn *before* it starts, while its database is still free, and from then on its
polls go first: the budget admits an export only if all running ones and the new one can be polled every five seconds without
ever reaching the limit. The arithmetic is in :meth:`RequestBudget.admit`.

Nothing here sleeps or awaits: each question is answered at once, with the seconds after which to ask again. That is what lets one
budget serve every thread and every event loop of the process.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections import deque
from dataclasses import dataclass

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.credentials import Credentials
from airflow_provider_d1.cloudflare.protocol import Answer, is_overloaded, retry_after

#: seconds that ``requests_per_5_minutes`` counts over
WINDOW = 300.0
#: longest gap between two polls of one export, in seconds: what a running export costs
POLL_GAP = 5.0
#: calls of an export besides one poll every POLL_GAP: look up, preflight, start, and the closer polls of its first seconds
EXPORT_CALLS = 14
_BURST_SECONDS = 20.0
#: part of every limit that is kept free for calls that this process knows nothing of
_RESERVE = 0.1
#: an export or a waiter that has not been heard of for so long died with its event loop
_FORGOTTEN = 60.0
_POLICY = re.compile(r"\bq=(\d+).*?\bw=(\d+)|^\s*(\d+)\s*;\s*w=(\d+)")
_STANDING = re.compile(r"\b(?:r|remaining)=(\d+).*?\b(?:t|reset)=(\d+)")


@dataclass(slots=True)
class _Export:
    admitted_at: float
    seen_at: float


class RequestBudget:
    """Counts the calls of one token and says who may call now.

    :param limit: calls in five minutes.
    :param clock: whose ``monotonic`` counts.
    """

    def __init__(self, limit: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._calls: deque[float] = deque()
        self._running: dict[int, _Export] = {}
        self._queue: dict[int, float] = {}  # ticket → when it last asked; in order of arrival
        self._blocked_until = -math.inf
        self._policy: tuple[int, float] | None = None  # the server's own limit: calls, seconds
        self._standing: tuple[int, float] | None = None  # the server's count: calls left, until when

    # --- single calls -------------------------------------------------------------------------------------------------

    def take(self, *, priority: bool = False) -> float:
        """Ask for one call: 0.0 means go (it is counted), else seconds after which to ask again.

        :param priority: for the calls of an admitted export, which has its calls set aside: held back only while the server
            refuses everything.
        """
        with self._lock:
            now = self._now()
            wait = self._closed_for(now)
            if wait <= 0 and not priority and not self._fits(now, extra=1):
                wait = 0.5
            if wait > 0:
                return wait
            self._calls.append(now)
            if self._standing is not None:
                self._standing = (self._standing[0] - 1, self._standing[1])
            return 0.0

    def learn(self, answer: Answer) -> None:
        """Take in what an answer's header fields say about the limit, and a refusal."""
        policy, standing = _server_policy(answer), _server_standing(answer)
        refusal = (
            retry_after(answer)
            if answer.status == 429 and not is_overloaded(answer.body[:2000].decode("latin-1"))
            else None
        )
        with self._lock:
            now = self._clock.monotonic()
            if policy is not None:
                self._policy = policy
            if standing is not None:
                self._standing = (standing[0], now + standing[1])
            if refusal is not None:
                self._blocked_until = max(self._blocked_until, now + refusal)

    # --- exports ------------------------------------------------------------------------------------------------------

    def queue(self) -> int:
        """Line up for an export; returns the ticket to :meth:`admit` with."""
        with self._lock:
            ticket = next(self._ids)
            self._queue[ticket] = self._clock.monotonic()
            return ticket

    def admit(self, ticket: int) -> float:
        """Ask to start an export: 0.0 means go, else seconds after which to ask again. First come, first served.

        For every moment of the coming window the calls that still count then, one poll of every running export each five seconds,
        and the new export's calls must stay below the limit. A lone export is always admitted: it could not become fewer.
        """
        with self._lock:
            now = self._now()
            self._queue[ticket] = now
            place = list(self._queue).index(ticket)
            wait = self._closed_for(now)
            if place == 0 and wait <= 0 and (not self._running or self._fits(now, extra=EXPORT_CALLS, exports=1)):
                del self._queue[ticket]
                self._running[ticket] = _Export(now, now)
                return 0.0
            return max(wait, min(2.0, 0.1 * (place + 1)))

    def keep(self, ticket: int) -> None:
        """Say that an admitted export is still alive."""
        with self._lock:
            export = self._running.get(ticket)
            if export is None:
                export = self._running[ticket] = _Export(self._clock.monotonic(), 0.0)
            export.seen_at = self._clock.monotonic()

    def leave(self, ticket: int) -> None:
        """Give up a place in the line, or end an admitted export."""
        with self._lock:
            self._queue.pop(ticket, None)
            self._running.pop(ticket, None)

    @property
    def tight(self) -> bool:
        """True when calls are scarce: then exports poll every five seconds from the beginning."""
        with self._lock:
            now = self._now()
            return bool(self._queue) or any(self._used(now, window) > limit / 2 for limit, window in self._limits())

    # --- arithmetic, under the lock -----------------------------------------------------------------------------------

    def _now(self) -> float:
        now = self._clock.monotonic()
        longest = max(window for _, window in self._limits())
        while self._calls and self._calls[0] <= now - longest:
            self._calls.popleft()
        if self._standing is not None and self._standing[1] <= now:
            self._standing = None
        for ticket in [t for t, seen in self._queue.items() if seen < now - _FORGOTTEN]:
            del self._queue[ticket]
        for ticket in [t for t, export in self._running.items() if export.seen_at < now - _FORGOTTEN]:
            del self._running[ticket]
        return now

    def _limits(self) -> list[tuple[float, float]]:
        limits = [(float(self._limit), WINDOW)]
        if self._policy is not None:
            limits.append((float(self._policy[0]), self._policy[1]))
        return [(limit - math.ceil(limit * _RESERVE), window) for limit, window in limits]

    def _closed_for(self, now: float) -> float:
        if self._standing is not None and self._standing[0] <= 0:
            return max(self._standing[1], self._blocked_until) - now
        return self._blocked_until - now

    def _used(self, now: float, window: float) -> int:
        return sum(1 for call in self._calls if call > now - window)

    def _polls(self, now: float, ahead: float, exports: int) -> float:
        """Calls that running exports, and ``exports`` new ones, make in the next ``ahead`` seconds at most."""
        young = sum(max(0.0, 1 - (now - e.admitted_at) / _BURST_SECONDS) for e in self._running.values())
        return (len(self._running) + exports) * (1 + ahead / POLL_GAP) + young * EXPORT_CALLS

    def _fits(self, now: float, *, extra: int, exports: int = 0) -> bool:
        if self._standing is not None:
            left, until = self._standing
            reserve = math.ceil((self._policy[0] if self._policy else self._limit) * _RESERVE)
            if self._polls(now, until - now, exports) + extra > left - reserve:
                return False
        for limit, window in self._limits():
            calls = [call for call in self._calls if call > now - window]
            # The sum rises between two moments at which an old call stops counting, so its peaks are just before those.
            for index, call in enumerate(calls):
                if len(calls) - index + self._polls(now, call + window - now, exports) + extra > limit:
                    return False
            if self._polls(now, window, exports) + extra > limit:
                return False
        return True


def _server_policy(answer: Answer) -> tuple[int, float] | None:
    found = _POLICY.search(answer.headers.get("ratelimit-policy", ""))
    if found is None:
        return None
    quota, window = (int(text) for text in found.groups() if text is not None)
    return (quota, float(window)) if quota > 0 and window > 0 else None


def _server_standing(answer: Answer) -> tuple[int, float] | None:
    found = _STANDING.search(answer.headers.get("ratelimit", ""))
    if found is not None:
        return int(found[1]), float(found[2])
    left, reset = answer.headers.get("x-ratelimit-remaining", ""), answer.headers.get("x-ratelimit-reset", "")
    # An epoch in this older field would be read as decades; only a span makes sense here.
    return (int(left), float(reset)) if left.isdecimal() and reset.isdecimal() and int(reset) <= 86400 else None


_budgets: dict[str, RequestBudget] = {}
_budgets_lock = threading.Lock()


def budget_for(credentials: Credentials) -> RequestBudget:
    """The process's one budget for a token."""
    with _budgets_lock:
        key = f"{credentials.fingerprint()}:{credentials.requests_per_5_minutes}"
        return _budgets.setdefault(key, RequestBudget(credentials.requests_per_5_minutes))
