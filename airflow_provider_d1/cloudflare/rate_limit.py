"""Client-side rate limiter: one for each token in a process, shared by all threads and event loops.

Past Cloudflare's limit (1,200 calls in five minutes for a token) every call fails for five minutes, and every export
that is running then is lost. So an export is admitted *before* it starts, while its database still answers queries, and
from then on its polls have priority. Admission has two steps, because other processes use the same token, and only the
server's responses show their calls:

1. :meth:`RateLimiter.admit` lets an export look up its database. It checks this process's own calls and the known
   calls of others.
2. :meth:`RateLimiter.confirm` lets it start. It checks the server's count as of the look-up's response.

Nothing here sleeps or awaits: each method returns at once, with the seconds after which to call it again. So one
limiter can serve every thread and every event loop of the process.
"""

from __future__ import annotations

import math
import random
import threading
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.api_errors import is_overloaded, retry_after
from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.other_callers import SIGNIFICANT, WINDOW, OtherCallers
from airflow_provider_d1.cloudflare.rate_limit_headers import Limit, read_policy, read_remaining

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.messages import Response

#: longest gap between two polls of one export, in seconds: what a running export costs
POLL_GAP = 5.0
#: calls of an export besides one poll every POLL_GAP: look-ups, start, and the closer polls of its first seconds
EXPORT_CALLS = 14
_FIRST_SECONDS = 20.0
#: Cloudflare's limit for a token, where the server does not state one
_CLOUDFLARE = Limit(1200, WINDOW)
#: parts of every limit that are kept free, for calls of others that are not known yet
_EXPORT_RESERVE = 0.1
_CALL_RESERVE = 0.05
#: seconds after which a slot that was not renewed is released, as when its event loop has ended
_SLOT_TIMEOUT = 60.0
#: sums of floats that are equal on paper may differ by this much, in calls
_ROUNDING = 1e-6
_LONGEST_WAIT = 5.0
_NEXT_TRY = 0.2
#: seconds between two starts of this process while others are active: their first calls must show in the server's count
#: before the next decision. Random, so that two processes do not always decide at the same moment.
_PACE = (10.0, 20.0)
#: seconds between two readings of the server's count, to measure how fast it rises
_PROBE = (5.0, 10.0)
#: longest waits between the attempts of a process that has no export running, in seconds: the first, doubling
_FIRST_BACKOFF = 20.0
_LONGEST_BACKOFF = 120.0
#: shortest block after a refusal, in seconds: "retry-after: 0" must not make a busy loop
_SHORTEST_BLOCK = 1.0
#: seconds after a block over which the processes spread their starts
_AFTER_BLOCK = 30.0
#: after a block without rate-limit headers: for so long, in seconds, exports keep to this part of the calls that the
#: process had made in the five minutes before. If every process does so, the sum stays below the limit.
_SHARE_LASTS = 3600.0
_SHARE = 0.8
_LONGEST_SPREAD = 900.0
#: seconds for which a limit counts that some connection of the process has asked for
_LIMIT_LASTS = 3600.0


@dataclass(slots=True, eq=False)
class Slot:
    """An export's place in the queue, and after admission its share of the limit.

    ``gap`` is the number of seconds between its polls; ``confirmed`` says that it may start.
    """

    gap: float
    expires_at: float
    admitted_at: float = -math.inf
    confirmed: bool = False
    refusals: int = 0


class RateLimiter:
    """Counts the calls of one token and decides which call may be sent now.

    :param limit: calls in five minutes.
    :param clock: its ``monotonic`` counts.
    :param rng: spreads the starts of several processes.
    """

    def __init__(self, limit: int, clock: Clock = SYSTEM_CLOCK, rng: random.Random | None = None) -> None:
        self._clock = clock
        self._random = rng or random.Random()  # noqa: S311 - no secret depends on it
        self._lock = threading.Lock()
        self._wanted = {limit: clock.monotonic()}  # limit → when a connection asked for it last
        self._server: Limit | None = None  # the limit that the server itself states
        self._left: Limit | None = None  # the calls that it has left, until the moment ``seconds``
        self._counted: bool | None = None  # whether responses state the server's count; None before the first one
        self._others = OtherCallers()
        self._calls: list[float] = []  # when each was made, in order
        self._running: set[Slot] = set()
        self._queue: list[Slot] = []  # in order of arrival
        self._blocked_until = -math.inf
        self._held_until = -math.inf  # until when calls waited for a block, or for the end of the server's window
        self._share: tuple[int, float] | None = None  # calls for exports in WINDOW, and until when that holds
        self._next_start = -math.inf
        self._swept_at = -math.inf

    def use_limit(self, limit: int) -> None:
        """Register a connection's limit: the lowest one registered within the last hour applies."""
        with self._lock:
            now = self._clock.monotonic()
            self._wanted[limit] = now
            self._wanted = {calls: at for calls, at in self._wanted.items() if at > now - _LIMIT_LASTS}

    # --- single calls

    def take(self, *, priority: bool = False) -> float:
        """Request one call: 0.0 allows and counts it, otherwise the seconds after which to ask again.

        :param priority: for calls of an admitted export, which wait only while the server refuses all calls.
        """
        with self._lock:
            now = self._now()
            wait = self._closed_for(now)
            if wait > 0:
                self._held_until = max(self._held_until, now + wait)
            elif not priority and not self._fits(now, 1, self._running, None, self._others.level(now)):
                wait = _NEXT_TRY
            if wait > 0:
                return max(wait, _NEXT_TRY)
            self._calls.append(now)
            if self._left is not None:
                self._left = Limit(self._left.calls - 1, self._left.seconds)
            return 0.0

    def observe(self, response: Response) -> None:
        """Read the limit headers of a response, and whether it is a refusal."""
        policy, left = read_policy(response), read_remaining(response)
        refused = response.status == 429 and not is_overloaded(response.body[:2000].decode("latin-1"))
        wait = retry_after(response) if refused else None
        with self._lock:
            now = self._clock.monotonic()
            if policy is not None:
                self._server = policy
            if left is not None:
                self._left = Limit(left.calls, now + left.seconds)
                limit = self._server or _CLOUDFLARE
                self._others.observe(now, limit.calls - left.calls - self._used(now, limit))
            if not refused:
                self._counted = left is not None
            if wait is not None:
                self._block(now, max(wait, _SHORTEST_BLOCK))

    @property
    def blocked_until(self) -> float:
        """Until when calls last had to wait or were refused, in the clock's monotonic seconds."""
        return max(self._blocked_until, self._held_until)

    # --- exports

    def enqueue(self, gap: float = POLL_GAP) -> Slot:
        """Queue an export that polls at least every ``gap`` seconds; returns the slot to :meth:`admit`."""
        with self._lock:
            slot = Slot(gap, self._clock.monotonic() + _SLOT_TIMEOUT)
            self._queue.append(slot)
            return slot

    def admit(self, slot: Slot) -> float:
        """Request the look-up of an export's database: 0.0 allows it, otherwise the seconds after which to ask again.

        First come, first served. At every moment of the coming window these must stay below the limit together: the
        calls made until now that still count then, the polls of every running export, and what the new export needs. An
        export that would run alone needs capacity for its first calls only: waiting could not reduce the number of
        exports.
        """
        with self._lock:
            now = self._now()
            slot.expires_at = max(slot.expires_at, now + _SLOT_TIMEOUT)
            if slot not in self._queue:  # it had timed out
                self._queue.append(slot)
            place = self._queue.index(slot)
            wait = self._closed_for(now)
            if place == 0 and wait <= 0 and self._may_begin(now) and self._has_room(now, slot):
                del self._queue[0]
                self._running.add(slot)
                slot.admitted_at = now
                return 0.0
            return min(_LONGEST_WAIT, max(wait, _NEXT_TRY * (place + 1)))

    def confirm(self, slot: Slot) -> float:
        """Request the start of an admitted export: 0.0 allows it, otherwise the seconds after which to ask again.

        After a wait, send a call first: only a response shows the others' present calls.
        """
        with self._lock:
            now = self._now()
            self._renew(slot, now, 0.0)
            if (wait := self._closed_for(now)) > 0:
                return max(wait, _NEXT_TRY)
            if self._careful(now):
                if self._counted and not self._others.fresh(now):
                    return _NEXT_TRY
                if self._others.significant(now) and not self._others.measured(now):
                    return self._random.uniform(*_PROBE)
                if not self._has_room(now, slot, confirmed=True):
                    return self._back_off(slot)
                self._next_start = now + self._random.uniform(*_PACE)
            slot.confirmed, slot.refusals, slot.admitted_at = True, 0, now
            return 0.0

    def renew(self, slot: Slot, seconds: float = 0.0) -> None:
        """Keep a slot for ``seconds`` and one minute more."""
        with self._lock:
            self._renew(slot, self._clock.monotonic(), seconds)

    def requeue(self, slot: Slot) -> None:
        """Give an admitted export's slot back and queue again, before those that have not run yet."""
        with self._lock:
            self._running.discard(slot)
            slot.confirmed, slot.admitted_at = False, -math.inf
            if slot not in self._queue:
                slot.expires_at = self._clock.monotonic() + _SLOT_TIMEOUT
                self._queue.insert(0, slot)

    def release(self, slot: Slot) -> None:
        """Leave the queue, or end an admitted export."""
        with self._lock:
            if slot in self._queue:
                self._queue.remove(slot)
            self._running.discard(slot)
            slot.admitted_at = -math.inf

    @property
    def running(self) -> frozenset[Slot]:
        """The slots of the admitted exports."""
        with self._lock:
            return frozenset(self._running)

    @property
    def under_pressure(self) -> bool:
        """True when other callers are waiting or half of the limit is used: exports then poll every five seconds."""
        return bool(self._queue) or self._part_used() > 0.5

    @property
    def nearly_exhausted(self) -> bool:
        """True when few calls are left: no export then polls more often than every five seconds."""
        return self._part_used() > 0.75

    # Below, the lock is held.

    def _now(self) -> float:
        """The time, after dropping what no longer counts at it."""
        now = self._clock.monotonic()
        longest = max(limit.seconds for limit in self._limits())
        del self._calls[: bisect_right(self._calls, now - longest)]
        if self._left is not None and self._left.seconds <= now:
            self._left = None
        if self._share is not None and self._share[1] <= now:
            self._share = None
        # No slot is renewed during a block, but the exports still run.
        if self._swept_at < now - _LONGEST_WAIT and self.blocked_until + _SLOT_TIMEOUT <= now:
            self._swept_at = now
            self._queue = [slot for slot in self._queue if slot.expires_at >= now]
            self._running = {slot for slot in self._running if slot.expires_at >= now}
        return now

    def _renew(self, slot: Slot, now: float, seconds: float) -> None:
        slot.expires_at = max(slot.expires_at, now + seconds + _SLOT_TIMEOUT)
        if slot.admitted_at > -math.inf:
            self._running.add(slot)

    def _limits(self) -> list[Limit]:
        own = Limit(min(self._wanted), WINDOW)
        return [own] if self._server is None else [own, self._server]

    def _closed_for(self, now: float) -> float:
        """Seconds for which the server refuses every call; 0 or less when it does not."""
        used_up = self._left.seconds if self._left is not None and self._left.calls <= 0 else -math.inf
        return max(used_up, self._blocked_until) - now

    def _block(self, now: float, seconds: float) -> None:
        """The server refuses every call: all exports that run are lost, in every process, and begin again."""
        begins = self._blocked_until <= now
        self._blocked_until = max(self._blocked_until, now + seconds)
        if not begins:
            return
        spread = _AFTER_BLOCK
        if self._counted is False:
            # No header states the others' calls, but the block shows that the sum reached the limit, and this process
            # made a known part of it. A part too small for one export allows one start after a longer time.
            share = max(1, int(_SHARE * self._used(now, _CLOUDFLARE)))
            self._share = (share, self._blocked_until + _SHARE_LASTS)
            needed = EXPORT_CALLS + int(WINDOW / POLL_GAP)
            spread = min(max(spread, WINDOW * needed / share), _LONGEST_SPREAD)
        self._next_start = self._blocked_until + self._random.uniform(0.0, spread)

    def _careful(self, now: float) -> bool:
        """Whether others may be starting exports at this moment."""
        if self._counted is None or now < self._blocked_until + WINDOW:
            return True
        return self._counted and (not self._others.fresh(now) or self._others.significant(now))

    def _back_off(self, slot: Slot) -> float:
        """Seconds until a refused export asks again."""
        if any(each.confirmed for each in self._running):
            return self._random.uniform(*_PROBE)  # polls keep this process informed
        # Probes are calls too: the more processes wait, the longer each one has to.
        slot.refusals += 1
        return self._random.uniform(_PROBE[0], min(_FIRST_BACKOFF * 2.0**slot.refusals, _LONGEST_BACKOFF))

    def _may_begin(self, now: float) -> bool:
        if now < self._next_start:
            return False
        return not self._careful(now) or all(slot.confirmed for slot in self._running)

    def _used(self, now: float, limit: Limit) -> int:
        return len(self._calls) - bisect_right(self._calls, now - limit.seconds)

    def _kept(self, reserve: float) -> int:
        """Calls of the server's count that are left to others."""
        limit = self._server or Limit(min(*self._wanted, _CLOUDFLARE.calls), WINDOW)
        return limit.calls - limit.without(reserve)

    def _has_room(self, now: float, slot: Slot, *, confirmed: bool = False) -> bool:
        """Whether one more export fits.

        :param confirmed: count only the exports that have started, not those that are being looked up.
        """
        others = self._others.calls(now) if self._others.fresh(now) else 0
        exports = {each for each in self._running if each.confirmed or not confirmed} | {slot}
        limits = self._limits()
        if len(exports) > 1:
            if self._share is not None:
                limits.append(Limit(self._share[0], WINDOW))
            return self._fits(now, EXPORT_CALLS, exports, limits, others)
        server = self._server or _CLOUDFLARE
        polls = max(self._used(now, server), int(server.seconds / slot.gap))
        if others >= SIGNIFICANT and others + polls + EXPORT_CALLS > server.without(_EXPORT_RESERVE):
            return False
        least = min(EXPORT_CALLS + self._kept(_EXPORT_RESERVE), (self._server or limits[0]).calls - 1)
        if self._left is not None and self._left.calls < least:
            return False
        # The own limit was checked at the admission; the look-ups since then have used some of it.
        return confirmed or all(
            (used := self._used(now, limit)) == 0 or used + EXPORT_CALLS <= limit.without(_EXPORT_RESERVE)
            for limit in limits
        )

    def _fits(self, now: float, calls: int, exports: set[Slot], limits: list[Limit] | None, others: int) -> bool:
        """Whether ``calls`` now, and the polls of ``exports`` from now on, keep within every limit at every moment.

        :param limits: those of exports; None for a single call.
        :param others: calls of other processes in any WINDOW to come; they count against the server's limit only.
        """
        reserve = _CALL_RESERVE if limits is None else _EXPORT_RESERVE
        # The server's remaining calls already exclude the others' past calls; they make more while an export runs.
        others_rate = 0.0 if limits is None else others / WINDOW
        # fsum, since the built-in sum of floats rounds differently before and since Python 3.12.
        young = math.fsum(max(0.0, 1 - (now - slot.admitted_at) / _FIRST_SECONDS) for slot in exports)
        soon = calls + young * EXPORT_CALLS + len(exports)  # to come at once
        rate = math.fsum(1 / slot.gap for slot in exports)  # and each second
        left = self._left
        if left is not None:
            until = left.seconds - now
            if soon + (rate + others_rate) * until > left.calls - self._kept(reserve) + _ROUNDING:
                return False
        checks = [(limit, 0) for limit in limits or self._limits()]
        if others:
            checks.append((self._server or _CLOUDFLARE, others))
        for limit, taken in checks:
            most = limit.without(reserve) - soon - taken + _ROUNDING
            old = self._calls[len(self._calls) - self._used(now, limit) :]
            # Polls add up steadily while old calls drop out one by one, so the sum peaks just before each drops out.
            # The i-th oldest call leaves the window at call + limit.seconds; until then i older ones have left, and
            # rate * (call + limit.seconds - now) polls have come. Without polls the sum is highest at once.
            drops = enumerate(old if rate else old[:1])
            if any(len(old) - gone + rate * (call + limit.seconds - now) > most for gone, call in drops):
                return False
            # After a whole window only polls are left in it.
            if rate * limit.seconds > most:
                return False
        return True

    def _part_used(self) -> float:
        with self._lock:
            now = self._now()
            server = self._server or _CLOUDFLARE
            together = (self._used(now, server) + self._others.calls(now)) / server.calls
            return max(together, *(self._used(now, limit) / limit.calls for limit in self._limits()))
