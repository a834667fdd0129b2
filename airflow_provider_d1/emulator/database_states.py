"""Time Travel for one database: its bookmarks, and copies of their states.

A state begins with a write and ends with the next one. It is copied just before it ends, so a database that is only
read is never copied.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import apsw

#: a larger database is not copied, as that would take too long in a test
MAX_COPIED_BYTES = 16 << 20
#: older copies are removed
MAX_COPIES = 50


class RestoreError(Exception):
    """The database cannot be restored to that state."""


@dataclass(frozen=True, slots=True)
class _State:
    """``content`` is the same for bookmarks between which nothing was written."""

    bookmark: str
    since: datetime
    content: int


class TimeTravel:
    """The history of one database file. The caller must hold the database's lock.

    :param path: the database's file; copies go beside it.
    :param now: gives the current time, with a zone.
    """

    def __init__(self, path: Path, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._path = path
        self._now = now
        self._numbers = itertools.count(1)
        self._copies: dict[int, Path] = {}
        self._states: list[_State] = []
        self._begin(content=0)

    def bookmark(self, *, moving: bool = False) -> str:
        """The present bookmark.

        :param moving: return a new one, although nothing was written.
        """
        if moving:
            self._begin(content=self._states[-1].content)
        return self._states[-1].bookmark

    def bookmark_at(self, timestamp: datetime) -> str:
        """The bookmark of a time in the past; the oldest one for a time before the database was created."""
        before = [state for state in self._states if state.since <= timestamp]
        return (before or self._states)[-1 if before else 0].bookmark

    def before_write(self) -> None:
        """Copy the present state, once, before a write changes it."""
        content = self._states[-1].content
        if content in self._copies or self._path.stat().st_size > MAX_COPIED_BYTES:
            return
        copy = self._path.with_suffix(f".{content}.copy")
        source = apsw.Connection(str(self._path), flags=apsw.SQLITE_OPEN_READONLY)
        target = apsw.Connection(str(copy))
        try:
            _copy(source, target)
        finally:
            target.close()
            source.close()
        self._copies[content] = copy
        if len(self._copies) > MAX_COPIES:
            oldest = min(self._copies)
            self._copies.pop(oldest).unlink(missing_ok=True)

    def after_write(self) -> None:
        """Begin a new state."""
        self._begin(content=next(self._numbers))

    def restore(self, bookmark: str, connection: apsw.Connection) -> str:
        """Restore a bookmark's state; return the bookmark of the state before the restore.

        :raises RestoreError: when the bookmark is unknown, or its state was not kept.
        """
        previous = self._states[-1]
        content = next((state.content for state in self._states if state.bookmark == bookmark), None)
        if content is None:
            raise RestoreError(f"Invalid bookmark: {bookmark}")
        if content != previous.content:
            if content not in self._copies:
                raise RestoreError(f"the emulator kept no copy of the state at bookmark {bookmark}")
            self.before_write()
            source = apsw.Connection(str(self._copies[content]), flags=apsw.SQLITE_OPEN_READONLY)
            try:
                _copy(source, connection)
            finally:
                source.close()
        self._begin(content=content)
        return previous.bookmark

    def _begin(self, content: int) -> None:
        bookmark = f"{len(self._states):08x}-00000000-{secrets.token_hex(4)}-{secrets.token_hex(16)}"
        self._states.append(_State(bookmark, self._now(), content))


def _copy(source: apsw.Connection, target: apsw.Connection) -> None:
    with target.backup("main", source, "main") as backup:
        backup.step()
