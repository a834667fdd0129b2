"""Cloudflare's limit on API calls: a number of calls in a window for each credential, then a block with 429 for all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.faults import Faults


@dataclass(slots=True)
class _Window:
    began: float
    used: int = 0
    blocked_until: float = 0.0


@dataclass(frozen=True, slots=True)
class Allowance:
    """The result of one call: seconds until a block ends (0: allowed), calls left, seconds until the reset."""

    wait: float
    left: int
    reset: float


class ServerRateLimit:
    """Counts the calls of every credential.

    :param faults: contain the limit and the window's length.
    """

    def __init__(self, faults: Faults) -> None:
        self._faults = faults
        self._windows: dict[str, _Window] = {}

    def reset(self) -> None:
        """Remove all calls and blocks."""
        self._windows.clear()

    def spend(self, credential: str, now: float) -> Allowance:
        """Count one call.

        :param credential: whose call it is.
        :param now: emulator seconds.
        """
        length = self._faults.rate_window_seconds
        window = self._windows.setdefault(credential, _Window(now))
        if now >= window.began + length and now >= window.blocked_until:
            self._windows[credential] = window = _Window(now)
        wait = max(window.blocked_until - now, self._faults.lasts("blocked_seconds"))
        if wait <= 0 and window.used >= self._faults.rate_limit:
            window.blocked_until = now + length
            wait = length
        if wait > 0:
            return Allowance(wait, 0, wait)
        window.used += 1
        return Allowance(0.0, self._faults.rate_limit - window.used, max(0.0, window.began + length - now))

    def headers(self, allowance: Allowance, speed: float) -> dict[str, str]:
        """The headers of a response, in real seconds, as clients wait in real time.

        :param speed: emulator seconds in one real second.
        """
        reset = math.ceil(allowance.reset / speed)
        window = math.ceil(self._faults.rate_window_seconds / speed)
        headers = {
            "ratelimit": f'"default";r={allowance.left};t={reset}',
            "ratelimit-policy": f'"default";q={self._faults.rate_limit};w={window}',
        }
        if allowance.wait > 0:
            headers["retry-after"] = str(math.ceil(allowance.wait / speed))
        return headers
