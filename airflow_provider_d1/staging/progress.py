"""Progress of a staging run: snapshots for a callback, and a log line every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

LOG_EVERY_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Progress:
    """A snapshot of a staging run: bytes of the uncompressed dump read, rows staged, the present table."""

    bytes_read: int
    rows: int
    table: str | None
    seconds: float

    @property
    def megabytes_per_second(self) -> float:
        """Mean rate since the start, in 10^6 bytes of dump a second."""
        return self.bytes_read / 1e6 / self.seconds if self.seconds else 0.0

    def __str__(self) -> str:
        table = f", table {self.table}" if self.table else ""
        rows = f", {self.rows:,} row{'' if self.rows == 1 else 's'}" if self.rows else ""
        return f"{self.bytes_read / 1e6:,.1f} MB read, {self.megabytes_per_second:,.0f} MB/s{rows}{table}"


class ProgressMeter:
    """Collects progress; :meth:`add_bytes` also reports it, in the thread that reads the dump.

    :param on_progress: called with every piece of the dump.
    :param clock: monotonic seconds.
    """

    def __init__(
        self, on_progress: Callable[[Progress], None] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._on_progress = on_progress
        self._clock = clock
        self._started = clock()
        self._next_log = self._started + LOG_EVERY_SECONDS
        self._bytes = 0
        self._rows = 0
        self._table: str | None = None

    def add_bytes(self, length: int) -> None:
        """Count a piece of the dump; call the callback and log every few seconds."""
        self._bytes += length
        now = self._clock()
        if self._on_progress is not None:
            self._on_progress(self._snapshot(now))
        if now >= self._next_log:
            self._next_log = now + LOG_EVERY_SECONDS
            logger.info("Staging: %s", self._snapshot(now))

    def add_rows(self, table: str, rows: int) -> None:
        """Count staged rows; to be called from one thread only, not necessarily the reader's."""
        self._rows += rows
        self._table = table

    def finish(self) -> None:
        """Log the totals."""
        self._table = None
        logger.info("Staged: %s", self._snapshot(self._clock()))

    def _snapshot(self, now: float) -> Progress:
        return Progress(self._bytes, self._rows, self._table, now - self._started)
