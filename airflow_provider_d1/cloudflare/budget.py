"""How many calls one token may still make, shared by everything in this process that uses it.

Past Cloudflare's limit (1,200 calls in five minutes for a token) every call fails for five minutes, and each export
that was running then is lost. So an export waits its turn *before* it starts, while its database is still free, and
from then on its polls go first: the budget admits an export only if all running ones and the new one can be polled
every five seconds without ever reaching the limit. The arithmetic is in :meth:`RequestBudget.admit`.

Nothing here sleeps or awaits: each question is answered at once, with the seconds after which to ask again. That is
what lets one budget serve every thread and every event loop of the process.
"""

from __future__ import annotations

import math
import re
import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.failures import is_overloaded, retry_after

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.credentials import Credentials
    from airflow_provider_d1.cloudflare.messages import Answer

#: seconds that ``requests_per_5_minutes`` counts over
WINDOW = 300.0
#: longest gap between two polls of one export, in seconds: what a running export costs
POLL_GAP = 5.0
#: calls of an export besides one poll every POLL_GAP: look-ups, start, and the closer polls of its first seconds
EXPORT_CALLS = 14
_FIRST_SECONDS = 20.0
#: parts of every limit that are kept free, for what this process knows nothing of: by exports more than by single calls
_EXPORT_RESERVE = 0.1
_CALL_RESERVE = 0.05
#: seconds after which an export or a waiter that was not heard of must have died with its event loop
_FORGOTTEN = 60.0
_LONGEST_WAIT = 5.0
_NEXT_TRY = 0.2
# a number of thousands of digits is one that Python refuses to read
_POLICY = re.compile(r"\bq=(\d{1,9})\b.*?\bw=(\d{1,9})\b|^\s*(\d{1,9})\s*;\s*w=(\d{1,9})\b")
_STANDING = re.compile(r"\b(?:r|remaining)=(\d{1,9})\b.*?\b(?:t|reset)=(\d{1,9})\b")
_NUMBER = re.compile(r"\d{1,9}")


@dataclass(slots=True, eq=False)
class Ticket:
    """An export's place in the line, then its right to run: ``gap`` seconds between its polls."""

    gap: float
    seen_at: float
    admitted_at: float = -math.inf


@dataclass(frozen=True, slots=True)
class _Limit:
    calls: int
    seconds: float

    def usable(self, reserve: float) -> int:
        return self.calls - math.ceil(self.calls * reserve)


class RequestBudget:
    """Counts the calls of one token and says who may call now.

    :param limit: calls in five minutes.
    :param clock: whose ``monotonic`` counts.
    """

    def __init__(self, limit: int, clock: Clock = SYSTEM_CLOCK) -> None:
        self._own = _Limit(limit, WINDOW)
        self._server: _Limit | None = None  # the limit that the server itself told
        self._left: _Limit | None = None  # the calls that it has left, until the moment ``seconds``
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: list[float] = []  # when each was made, in order
        self._running: set[Ticket] = set()
        self._queue: list[Ticket] = []  # in order of arrival
        self._blocked_until = -math.inf
        self._swept_at = -math.inf

    def take(self, *, priority: bool = False) -> float:
        """Ask for one call: 0.0 means go (it is counted), else seconds after which to ask again.

        :param priority: for the calls of an admitted export, which were set aside when it was admitted: held back only
            while the server refuses everything.
        """
        with self._lock:
            now = self._now()
            wait = self._closed_for(now)
            if wait <= 0 and not priority and not self._fits(now, 1, self._running, _CALL_RESERVE):
                wait = _NEXT_TRY
            if wait > 0:
                return max(wait, _NEXT_TRY)
            self._calls.append(now)
            if self._left is not None:
                self._left = _Limit(self._left.calls - 1, self._left.seconds)
            return 0.0

    def learn(self, answer: Answer) -> None:
        """Take in what an answer's header fields say about the limit, and a refusal."""
        told, left = _told_limit(answer), _told_left(answer)
        refused = answer.status == 429 and not is_overloaded(answer.body[:2000].decode("latin-1"))
        wait = retry_after(answer) if refused else None
        with self._lock:
            now = self._clock.monotonic()
            if told is not None:
                self._server = told
            if left is not None:
                self._left = _Limit(left.calls, now + left.seconds)
            if wait is not None:
                self._blocked_until = max(self._blocked_until, now + wait)

    def queue(self, gap: float = POLL_GAP) -> Ticket:
        """Line up for an export that polls every ``gap`` seconds at most; returns the ticket to :meth:`admit` with."""
        with self._lock:
            ticket = Ticket(gap, self._clock.monotonic())
            self._queue.append(ticket)
            return ticket

    def admit(self, ticket: Ticket) -> float:
        """Ask to start an export: 0.0 means go, else seconds after which to ask again. First come, first served.

        At every moment of the coming window these must stay below the limit together: the calls made until now that
        still count then, the polls of every running export, and what the new export needs. An export
        that would run alone needs room only for its first calls: it could not become fewer.
        """
        with self._lock:
            now = self._now()
            ticket.seen_at = now
            if ticket not in self._queue:  # it was thought dead
                self._queue.append(ticket)
            place = self._queue.index(ticket)
            wait = self._closed_for(now)
            if place == 0 and wait <= 0 and self._has_room(now, ticket):
                del self._queue[0]
                self._running.add(ticket)
                ticket.admitted_at = now
                return 0.0
            return min(_LONGEST_WAIT, max(wait, _NEXT_TRY * (place + 1)))

    def keep(self, ticket: Ticket) -> None:
        """Say that an admitted export is still alive."""
        with self._lock:
            ticket.seen_at = self._clock.monotonic()
            self._running.add(ticket)

    def leave(self, ticket: Ticket) -> None:
        """Give up a place in the line, or end an admitted export."""
        with self._lock:
            if ticket in self._queue:
                self._queue.remove(ticket)
            self._running.discard(ticket)

    @property
    def tight(self) -> bool:
        """True when calls are wanted by others: then exports poll every five seconds from the beginning."""
        return bool(self._queue) or self._part_used() > 0.5

    @property
    def scarce(self) -> bool:
        """True when few calls are left: then no export polls more often than every five seconds."""
        return self._part_used() > 0.75

    def _part_used(self) -> float:
        with self._lock:
            now = self._now()
            return max(self._used(now, limit) / limit.calls for limit in self._limits())

    # Below, the lock is held.

    def _now(self) -> float:
        """The time; what no longer counts at it is forgotten."""
        now = self._clock.monotonic()
        longest = max(limit.seconds for limit in self._limits())
        del self._calls[: bisect_right(self._calls, now - longest)]
        if self._left is not None and self._left.seconds <= now:
            self._left = None
        if self._swept_at < now - _LONGEST_WAIT:
            self._swept_at = now
            self._queue = [ticket for ticket in self._queue if ticket.seen_at >= now - _FORGOTTEN]
            self._running = {ticket for ticket in self._running if ticket.seen_at >= now - _FORGOTTEN}
        return now

    def _limits(self) -> list[_Limit]:
        return [self._own] if self._server is None else [self._own, self._server]

    def _closed_for(self, now: float) -> float:
        """Seconds for which the server will refuse every call."""
        used_up = self._left.seconds if self._left is not None and self._left.calls <= 0 else -math.inf
        return max(used_up, self._blocked_until) - now

    def _used(self, now: float, limit: _Limit) -> int:
        return len(self._calls) - bisect_right(self._calls, now - limit.seconds)

    def _kept(self, reserve: float) -> int:
        """Calls of the server's count that are left to others."""
        limit = self._server or self._own
        return limit.calls - limit.usable(reserve)

    def _has_room(self, now: float, ticket: Ticket) -> bool:
        if self._running:
            return self._fits(now, EXPORT_CALLS, {*self._running, ticket}, _EXPORT_RESERVE)
        least = min(EXPORT_CALLS + self._kept(_EXPORT_RESERVE), (self._server or self._own).calls - 1)
        if self._left is not None and self._left.calls < least:
            return False
        return all(
            (used := self._used(now, limit)) == 0 or used + EXPORT_CALLS <= limit.usable(_EXPORT_RESERVE)
            for limit in self._limits()
        )

    def _fits(self, now: float, calls: int, exports: set[Ticket], reserve: float) -> bool:
        """Whether ``calls`` now, and the polls of ``exports`` from now on, keep within every limit at every moment."""
        young = sum(max(0.0, 1 - (now - ticket.admitted_at) / _FIRST_SECONDS) for ticket in exports)
        soon = calls + young * EXPORT_CALLS + len(exports)  # to come at once
        rate = sum(1 / ticket.gap for ticket in exports)  # and each second
        left = self._left
        if left is not None and soon + rate * (left.seconds - now) > left.calls - self._kept(reserve):
            return False
        for limit in self._limits():
            most = limit.usable(reserve) - soon
            old = self._calls[len(self._calls) - self._used(now, limit) :]
            # Polls add up steadily while old calls drop out one by one: the sum peaks just before each drops out.
            drops = enumerate(old if rate else old[:1])
            if any(len(old) - gone + rate * (call + limit.seconds - now) > most for gone, call in drops):
                return False
            if rate * limit.seconds > most:
                return False
        return True


def _told_limit(answer: Answer) -> _Limit | None:
    found = _POLICY.search(answer.headers.get("ratelimit-policy", ""))
    if found is None:
        return None
    calls, seconds = (int(text) for text in found.groups() if text is not None)
    return _Limit(calls, float(seconds)) if calls > 0 and seconds > 0 else None


def _told_left(answer: Answer) -> _Limit | None:
    found = _STANDING.search(answer.headers.get("ratelimit", ""))
    if found is not None:
        return _Limit(int(found[1]), float(found[2]))
    left, reset = answer.headers.get("x-ratelimit-remaining", ""), answer.headers.get("x-ratelimit-reset", "")
    # Some services put an epoch into this older field; only a span makes sense here.
    readable = _NUMBER.fullmatch(left) and _NUMBER.fullmatch(reset)
    return _Limit(int(left), float(reset)) if readable and int(reset) <= 86400 else None


_budgets: dict[tuple[str, int], RequestBudget] = {}
_budgets_lock = threading.Lock()


def budget_for(credentials: Credentials) -> RequestBudget:
    """The process's one budget for a token (and a limit)."""
    limit = credentials.requests_per_5_minutes
    with _budgets_lock:
        return _budgets.setdefault((credentials.fingerprint(), limit), RequestBudget(limit))
