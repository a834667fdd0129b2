"""Progress of an export as lines of text: one for each change, not one for each poll."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.polled_job import BUSY_GAP, Unclear

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.export_protocol import ExportAnswer
    from airflow_provider_d1.cloudflare.models import SkippedObject
    from airflow_provider_d1.cloudflare.polled_job import Sent, State

#: seconds between two lines about parts
PARTS_GAP = 15.0


class ProgressReporter:
    """Reports on one export.

    :param name: the database's name, which begins each line.
    :param report: called with a line; None for no reports.
    """

    def __init__(self, name: str, report: Callable[[str], None] | None) -> None:
        self.name = name
        self._report = report
        self._busy_reported = False
        self._queued_at: float | None = None
        self._queue_reported = False
        self._parts = 0
        self._parts_at = 0.0

    def queued(self, now: float) -> None:
        """The export waits for the rate limiter; reported once, after a few seconds."""
        if self._queued_at is None:
            self._queued_at = now
        if not self._queue_reported and now - self._queued_at > BUSY_GAP:
            self._queue_reported = True
            self._say("queued: waiting for rate-limit capacity")

    def skipped(self, objects: Sequence[SkippedObject]) -> None:
        """Tables that the export leaves out."""
        for item in objects:
            self._say(f"skipped {item.name}: {item.reason}")

    def busy(self) -> None:
        """Another export of the database is running."""
        if not self._busy_reported:
            self._busy_reported = True
            self._say("another export of this database is running; waiting for it to end")

    def unchecked(self, reason: str) -> None:
        """The schema was not checked after the export."""
        self._say(f"could not check whether a table was dropped during the export: {reason}")

    def stepped(self, before: State, after: State, answer: ExportAnswer, sent: Sent, now: float) -> None:
        """One request was answered."""
        if after.busy:
            self.busy()
        elif after.excused > before.excused:
            self._queued_at, self._queue_reported = None, False
            self._say(
                f"D1 lost the export while the rate limit blocked the token, queueing again (restart {after.restarts})"
            )
        elif after.restarts > before.restarts:
            self._say(f"D1 lost the export, starting again (restart {after.restarts})")
        elif isinstance(answer, Unclear) and not before.unclear:
            self._say(f"{answer.error}; retrying")
        elif before.bookmark is None and after.bookmark is not None:
            self._parts, self._parts_at = 0, now
            self._say("export started")
        elif len(after.parts) > self._parts and now - self._parts_at >= PARTS_GAP:
            self._parts, self._parts_at = len(after.parts), now
            self._say(f"parts uploaded: {self._parts}, after {sent.age:.0f} s")

    def _say(self, text: str) -> None:
        if self._report is not None:
            self._report(f"{self.name}: {text}")
