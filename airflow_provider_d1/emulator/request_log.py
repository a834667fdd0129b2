"""The log of requests: one entry for each API call and each download."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

KINDS = (
    "list",
    "get",
    "query",
    "raw",
    "export_start",
    "export_poll",
    "import_init",
    "import_ingest",
    "import_poll",
    "bookmark",
    "restore",
    "verify",
    "unknown",
)


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """One API call.

    ``kind`` is one of ``KINDS``; ``path`` has no query and no ``/client/v4``; ``body`` is the JSON that was sent;
    ``time`` is in emulator seconds, at the arrival of the call; ``status`` is 0 when the connection was broken.
    """

    kind: str
    method: str
    path: str
    query: dict[str, str]
    body: object
    time: float
    status: int


@dataclass(frozen=True, slots=True)
class RecordedDownload:
    """One request for a signed URL.

    ``path`` is without its query; ``authorization`` is whether a credential was sent, which would be wrong;
    ``sent`` counts the bytes of the body that were sent.
    """

    path: str
    range: str | None
    authorization: bool
    time: float
    status: int
    sent: int


T = TypeVar("T", RecordedCall, RecordedDownload)


class Log(Sequence[T], Generic[T]):
    """A list that the server's thread appends to and other threads read; each read is of one state."""

    def __init__(self) -> None:
        self._entries: list[T] = []
        self._lock = threading.Lock()

    def add(self, entry: T) -> None:
        """Append an entry."""
        with self._lock:
            self._entries.append(entry)

    def clear(self) -> None:
        """Remove all entries."""
        with self._lock:
            self._entries.clear()

    def _snapshot(self) -> list[T]:
        with self._lock:
            return list(self._entries)

    def __len__(self) -> int:
        return len(self._snapshot())

    def __iter__(self) -> Iterator[T]:
        return iter(self._snapshot())

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self._snapshot()[index]

    def __repr__(self) -> str:
        return repr(self._snapshot())


class CallLog(Log[RecordedCall]):
    """The API calls, in the order of their responses."""

    def of(self, *kinds: str) -> list[RecordedCall]:
        """The calls of these kinds."""
        return [call for call in self if call.kind in kinds]
