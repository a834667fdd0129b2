"""The exports of one database as a state machine, without clock, threads or HTTP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_provider_d1.emulator.dump_writer import VIRTUAL_TABLE_ERROR

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import ExportOptions
    from airflow_provider_d1.emulator.faults import Faults

LOST = "Not currently exporting anything."
BUSY = "Currently processing a long-running export."
BUSY_START = f"{BUSY} Cannot start a new export until that completes or times out."


class DumpJob(Protocol):
    """A dump being written."""

    @property
    def finished(self) -> bool:
        """Whether the dump is whole, or failed."""
        ...

    @property
    def error(self) -> str | None:
        """Why it failed."""
        ...

    def cancel(self) -> None:
        """Stop writing and discard the dump."""
        ...


@dataclass(frozen=True, slots=True)
class ExportActive:
    """The export is running."""

    bookmark: str
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ExportComplete:
    """The export is complete; the dump is stored under ``filename``."""

    bookmark: str
    messages: tuple[str, ...]
    filename: str


@dataclass(frozen=True, slots=True)
class ExportFailed:
    """Refused, lost or failed. With a bookmark it becomes ``status: "error"``, without one an inner failure."""

    error: str
    bookmark: str | None = None


ExportAnswer = ExportActive | ExportComplete | ExportFailed


@dataclass(slots=True)
class _Export:
    bookmark: str
    filename: str
    started: float
    touched: float
    seconds: float
    parts: int
    job: DumpJob
    polls: int = 0
    reported: int = 0

    def ready(self, now: float) -> bool:
        return self.job.finished and now - self.started >= self.seconds

    def news(self, now: float) -> tuple[str, ...]:
        """The log lines since the last response; parts are uploaded in parallel, so their numbers are not in order."""
        order = [
            part + 1 if part % 2 and part < self.parts else part - 1 + part % 2 for part in range(1, self.parts + 1)
        ]
        share = 1.0 if self.ready(now) else min(1.0, (now - self.started) / self.seconds) if self.seconds else 0.0
        reached = int(share * self.parts)
        lines = tuple(f"Uploaded part {part}" for part in order[self.reported : reached])
        self.reported = max(self.reported, reached)
        return lines


class ExportSession:
    """Handles the starts and polls of one database.

    :param write: starts to write a dump with the given options and file name.
    :param name: of the dumps' files, without the suffix.
    :param new_bookmark: returns the database's current bookmark.
    :param faults: the failures to simulate.
    :param cancel_after: seconds without a poll after which D1 cancels an export.
    """

    def __init__(
        self,
        write: Callable[[ExportOptions, str], DumpJob],
        name: str,
        new_bookmark: Callable[[], str],
        faults: Faults,
        cancel_after: float = 15.0,
    ) -> None:
        self._write = write
        self._name = name
        self._new_bookmark = new_bookmark
        self._faults = faults
        self._cancel_after = cancel_after
        self._export: _Export | None = None
        self._named: Counter[str] = Counter()
        self._locked_at: float | None = None

    def unavailable(self, now: float) -> bool:
        """Whether queries are refused now."""
        self._cancel_unpolled(now)
        if self._export is not None and self._export.job.error is None and self._export.ready(now):
            return self._held_by_others(now)
        return self._export is not None or self._held_by_others(now)

    def start(self, options: ExportOptions, now: float) -> ExportAnswer:
        """Start an export."""
        self._cancel_unpolled(now)
        if self._export is not None or self._held_by_others(now):
            return ExportFailed(BUSY_START)
        if self._faults.start_error and self._fails_now():
            return ExportFailed(self._faults.start_error)
        bookmark = self._new_bookmark()
        # two exports of an unchanged database have the same bookmark, but can have different options
        self._named[bookmark] += 1
        again = f"-{self._named[bookmark]}" if self._named[bookmark] > 1 else ""
        filename = f"{self._name}-{bookmark}{again}.sql"
        self._export = _Export(
            bookmark,
            filename,
            now,
            now,
            self._faults.export_seconds,
            max(1, self._faults.export_parts),
            self._write(options, filename),
        )
        return ExportActive(bookmark, (f"Generating {filename}",))

    def poll(self, bookmark: str, now: float) -> ExportAnswer:
        """Answer a poll. ``complete`` is returned once; afterwards the bookmark is unknown."""
        self._cancel_unpolled(now)
        export = self._export
        if export is None or export.bookmark != bookmark:
            return ExportFailed(LOST)
        if export.polls >= self._faults.lost_after_polls and self._faults.take("lost_exports"):
            self._forget(now)
            return ExportFailed(LOST)
        export.polls += 1
        export.touched = now
        if export.job.error is None and not export.ready(now):
            return ExportActive(bookmark, export.news(now))
        return self._complete(export, now)

    def _complete(self, export: _Export, now: float) -> ExportAnswer:
        if export.job.error is not None:
            self._forget(now)
            return ExportFailed(export.job.error)
        if self._faults.export_error and self._fails_now():
            self._forget(now)
            return ExportFailed(self._faults.export_error)
        if self._faults.export_status_error and self._fails_now():
            self._forget(now)
            return ExportFailed(self._faults.export_status_error, export.bookmark)
        messages = (*export.news(now), f"Finished uploading {export.filename} in {export.parts} parts.")
        self._export = None
        return ExportComplete(export.bookmark, messages, export.filename)

    def _fails_now(self) -> bool:
        return self._faults.export_error_times < 0 or self._faults.take("export_error_times")

    def _held_by_others(self, now: float) -> bool:
        lock = self._faults.virtual_table_lock_seconds
        if self._locked_at is not None and 0 <= lock <= now - self._locked_at:
            self._locked_at = None
        return self._locked_at is not None or self._faults.lasts("busy_seconds") > 0

    def _cancel_unpolled(self, now: float) -> None:
        if self._export is not None and now - self._export.touched > self._cancel_after:
            self._forget(now)

    def _forget(self, now: float) -> None:
        if self._export is not None:
            self._export.job.cancel()
            if self._export.job.error == VIRTUAL_TABLE_ERROR:
                self._locked_at = now
            self._export = None
