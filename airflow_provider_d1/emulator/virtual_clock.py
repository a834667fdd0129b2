"""The emulator's time, which can run faster than real time, so that a test need not wait for a five-minute block."""

from __future__ import annotations

import time


class VirtualClock:
    """Counts the seconds since the emulator started.

    :param speed: emulator seconds in one real second.
    """

    def __init__(self, speed: float = 1.0) -> None:
        if speed <= 0:
            raise ValueError(f"speed must be above 0, not {speed}")
        self.speed = speed
        self._began = time.monotonic()

    def now(self) -> float:
        """Emulator seconds since the start."""
        return (time.monotonic() - self._began) * self.speed

    def real(self, seconds: float) -> float:
        """The real seconds for some emulator seconds."""
        return seconds / self.speed
