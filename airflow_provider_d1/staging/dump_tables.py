"""The tables that a dump creates, found while it is passed on unread."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_d1.staging.streams import Readable

#: as SQLite stores the beginning of every CREATE TABLE, and ``sqlite3 .dump`` writes it
_CREATE = b"\nCREATE TABLE "
_NAME = re.compile(
    rb'(?:IF NOT EXISTS )?("(?:[^"]|"")*"|`(?:[^`]|``)*`|\'(?:[^\']|\'\')*\'|\[[^\]]*\]|[^\s("`\'\[]+)(?=[\s(])'
)
#: a name that is cut by the end of a piece is read with the next one; longer names are not found
_LONGEST = 4096


class TableNameReader:
    """Passes a dump on and collects the names of the tables that it creates.

    Only the beginnings of statements are read. A text that holds such a line adds a name, which does no harm: the names
    tell which tables are missing.

    :param source: the uncompressed dump.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._tail = b"\n"
        self.names: set[str] = set()

    def read(self, size: int, /) -> bytes:
        """Read from the source."""
        data = self._source.read(size)
        text = self._tail + (data or b"\n")
        place = text.find(_CREATE)
        while place >= 0:
            if found := _NAME.match(text, place + len(_CREATE)):
                self.names.add(_unquoted(found[1]).decode(errors="replace"))
            place = text.find(_CREATE, place + 1)
        self._tail = text[-_LONGEST:]
        return data


def _unquoted(name: bytes) -> bytes:
    quote, inner = name[:1], name[1:-1]
    if quote == b"[":
        return inner
    return inner.replace(quote * 2, quote) if quote in (b'"', b"`", b"'") else name
