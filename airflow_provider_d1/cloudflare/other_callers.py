"""Estimate how many calls other processes make with the token, from the server's count.

Processes that share a token have no other connection than the number of remaining calls in each response: calls that
were used beyond this process's own ones were used by others.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

#: seconds that the estimate covers, as the rate limit does
WINDOW = 300.0
#: calls in five minutes from which others matter: half of what one long export makes
SIGNIFICANT = 30
#: seconds after which an observation is too old
_FRESH = 10.0
#: seconds of one entry of the history, and of the history that a rise is measured over: at least and at most
_SPAN = 5.0
_SHORT = 4.0
_RECENT = 20.0
#: a rise within a shorter time, in seconds, is taken as spread over this time: an export begins with several calls
_SHORTEST = 5.0
#: others' count falls by so much at once only when the server starts a new window
_RESET = 60


@dataclass(slots=True)
class _Span:
    """The lowest and the highest count within some seconds."""

    started_at: float
    lowest: int
    highest: int


class OtherCallers:
    """Observes others' calls; see the module."""

    def __init__(self) -> None:
        self._history: deque[_Span] = deque()
        self._observed_at = float("-inf")
        self._latest = 0
        self._before_reset = (0, float("-inf"))

    def observe(self, now: float, count: int) -> None:
        """Note that others have made ``count`` of the calls that the server counts now.

        Own calls that have no response yet make the count too low, by a few; so the highest count of some seconds is
        used.
        """
        count = max(count, 0)
        if self._latest - count > max(_RESET, self._latest // 2) and now - self._observed_at <= _FRESH:
            # A server that counts in fixed windows begins again at zero, but the others go on as before.
            self._before_reset = (self._latest, now + WINDOW)
            self._history.clear()
        self._observed_at, self._latest = now, count
        while self._history and self._history[0].started_at < now - _RECENT - _SPAN:
            self._history.popleft()
        if self._history and now - self._history[-1].started_at < _SPAN:
            span = self._history[-1]
            span.lowest, span.highest = min(span.lowest, count), max(span.highest, count)
        else:
            self._history.append(_Span(now, count, count))

    def fresh(self, now: float) -> bool:
        """Whether the last observation is recent enough."""
        return now - self._observed_at <= _FRESH

    def measured(self, now: float) -> bool:
        """Whether a rise can be measured, which takes two observations."""
        return self.fresh(now) and any(now - _RECENT <= span.started_at <= now - _SHORT for span in self._history)

    def level(self, now: float) -> int:
        """How many calls of others the server counted last."""
        return self._latest if now - self._observed_at <= WINDOW else 0

    def calls(self, now: float) -> int:
        """How many calls the others will make in five minutes.

        The larger of two measures. The level: calls leave a server's sliding window as new ones arrive, so at a steady
        rate the level is the rate. The rise: the level does not include others that have just begun.
        """
        if now - self._observed_at > WINDOW:
            return 0
        level, until = self._before_reset
        level = max(self.level(now), level if now < until else 0)
        recent = [span for span in self._history if span.started_at >= now - _RECENT]
        if not recent:
            return level
        rise = recent[-1].highest - recent[0].lowest
        seconds = max(now - recent[0].started_at, _SHORTEST)
        return max(level, int(rise * WINDOW / seconds))

    def significant(self, now: float) -> bool:
        """Whether the others make enough calls to matter."""
        return self.calls(now) >= SIGNIFICANT
