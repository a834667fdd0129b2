"""Time as the retry policy, the rate limiter and the export driver see it, so that tests can bring their own."""

from __future__ import annotations

import asyncio
import time


class Clock:
    """The machine's clock."""

    def time(self) -> float:
        """Seconds since the epoch: for deadlines, which must mean the same in every process."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since some moment: for gaps, which no clock adjustment may stretch."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Block this thread."""
        time.sleep(seconds)

    async def sleep_async(self, seconds: float) -> None:
        """Suspend this coroutine."""
        await asyncio.sleep(seconds)


SYSTEM_CLOCK = Clock()
