"""The imports of one database as a state machine, without clock, threads or HTTP."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.faults import Faults

IMPORT_LOST = "Not currently importing anything."
IMPORT_BUSY = "Currently processing a long-running import."


class ImportJob(Protocol):
    """A running script; its changes are undone when it fails or is cancelled."""

    @property
    def finished(self) -> bool:
        """Whether it has ended."""
        ...

    @property
    def error(self) -> str | None:
        """The error of a failed script."""
        ...

    @property
    def statistics(self) -> ImportStatistics:
        """Its statistics; only once it is finished."""
        ...

    def cancel(self) -> None:
        """Stop and undo its changes."""
        ...


@dataclass(frozen=True, slots=True)
class ImportStatistics:
    """A script's statistics; ``final_bookmark`` is the database's bookmark after it."""

    statements: int
    changes: int
    last_row_id: int
    milliseconds: float
    size: int
    final_bookmark: str


@dataclass(frozen=True, slots=True)
class ImportActive:
    """The import is running."""

    bookmark: str
    messages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ImportComplete:
    """The import is complete."""

    bookmark: str
    messages: tuple[str, ...]
    statistics: ImportStatistics


@dataclass(frozen=True, slots=True)
class ImportFailed:
    """Refused, lost or failed. With a bookmark it becomes ``status: "error"``, without one an inner failure."""

    error: str
    bookmark: str | None = None


ImportAnswer = ImportActive | ImportComplete | ImportFailed


@dataclass(slots=True)
class _Import:
    bookmark: str
    filename: str
    started: float
    touched: float
    job: ImportJob


class ImportSession:
    """Handles the ingest and poll calls of one database.

    :param run: starts to run the uploaded file of that name.
    :param current_bookmark: the database's.
    :param faults: the failures to simulate.
    :param cancel_after: seconds without a poll after which D1 cancels an import.
    """

    def __init__(
        self,
        run: Callable[[str], ImportJob],
        current_bookmark: Callable[[], str],
        faults: Faults,
        cancel_after: float = 15.0,
    ) -> None:
        self._run = run
        self._current_bookmark = current_bookmark
        self._faults = faults
        self._cancel_after = cancel_after
        self._import: _Import | None = None

    def unavailable(self, now: float) -> bool:
        """Whether an import blocks the database now."""
        self._cancel_unpolled(now)
        return self._import is not None and not self._ready(self._import, now)

    def ingest(self, filename: str, now: float) -> ImportAnswer:
        """Start to import an uploaded file."""
        self._cancel_unpolled(now)
        if self._import is not None:
            return ImportFailed(IMPORT_BUSY)
        bookmark = self._current_bookmark()
        self._import = _Import(bookmark, filename, now, now, self._run(filename))
        return ImportActive(bookmark, (f"Processing {filename}",))

    def poll(self, bookmark: str, now: float) -> ImportAnswer:
        """Answer a poll. The result is returned once; afterwards the bookmark is unknown."""
        self._cancel_unpolled(now)
        current = self._import
        if current is None or current.bookmark != bookmark:
            return ImportFailed(IMPORT_LOST)
        current.touched = now
        if current.job.error is None and not self._ready(current, now):
            return ImportActive(bookmark, ())
        self._import = None
        if current.job.error is not None:
            return ImportFailed(current.job.error, bookmark)
        if self._faults.take("lost_imports"):
            return ImportFailed(IMPORT_LOST)
        return ImportComplete(bookmark, (f"Finished importing {current.filename}",), current.job.statistics)

    def _ready(self, current: _Import, now: float) -> bool:
        return current.job.finished and now - current.started >= self._faults.import_seconds

    def _cancel_unpolled(self, now: float) -> None:
        current = self._import
        if current is not None and now - current.touched > self._cancel_after:
            current.job.cancel()
            self._import = None
