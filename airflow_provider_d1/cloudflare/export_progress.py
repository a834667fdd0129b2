"""What a person wants to read while an export runs: one line for each turn of events, not for each poll."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.export_protocol import ExportAnswer, Unclear

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.export_steps import Sent, State
    from airflow_provider_d1.cloudflare.models import SkippedObject

#: seconds between two lines about parts
PARTS_GAP = 15.0


class Narrator:
    """Tells of one export.

    :param name: the database's name, which begins each line.
    :param tell: takes a line.
    """

    def __init__(self, name: str, tell: Callable[[str], None]) -> None:
        self._name = name
        self._tell = tell
        self._busy_told = False
        self._parts_told = 0
        self._parts_told_at = 0.0

    def skipped(self, objects: Sequence[SkippedObject]) -> None:
        """Tables that the export leaves out."""
        for item in objects:
            self._say(f"leaving out {item.name}: {item.reason}")

    def busy(self) -> None:
        """Another export of the database is running."""
        if not self._busy_told:
            self._busy_told = True
            self._say("another export of this database is running, waiting for its end")

    def unchecked(self, reason: str) -> None:
        """There was no look at the schema after the export."""
        self._say(f"could not check whether a table vanished during the export: {reason}")

    def stepped(self, before: State, after: State, answer: ExportAnswer, sent: Sent, now: float) -> None:
        """One request was answered."""
        if after.busy:
            self.busy()
        elif after.restarts > before.restarts:
            self._say(f"D1 lost the export, starting again (restart {after.restarts})")
        elif isinstance(answer, Unclear) and not before.unclear:
            self._say(f"{answer.error}; trying again")
        elif before.bookmark is None and after.bookmark is not None:
            self._parts_told, self._parts_told_at = 0, now
            self._say("export started")
        elif len(after.parts) > self._parts_told and now - self._parts_told_at >= PARTS_GAP:
            self._parts_told, self._parts_told_at = len(after.parts), now
            self._say(f"parts uploaded: {self._parts_told}, after {sent.age:.0f} s")

    def _say(self, text: str) -> None:
        self._tell(f"{self._name}: {text}")
