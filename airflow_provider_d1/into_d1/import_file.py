"""The file of an import, written to disk because D1 needs its MD5 before its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

from airflow_provider_d1.cloudflare.import_models import MAX_FILE_BYTES
from airflow_provider_d1.cloudflare.sql_calls import MAX_STATEMENT_BYTES
from airflow_provider_d1.exceptions import D1ImportFileError
from airflow_provider_d1.into_d1.long_values import CREATE_HELPER, DROP_HELPER, split_insert

_BUFFER = 1 << 20
#: a NUL inside a text literal, where SQLite would stop reading
_NUL = b"'||char(0)||'"


class ImportFile:
    """Collects statements; ``bytes``, ``md5`` and ``statements`` describe what was written so far.

    ``with_nul`` and ``split`` count the INSERTs that were rewritten.

    :param path: the file; an existing one is replaced.
    :param max_bytes: D1's limit.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self.bytes = 0
        self.statements = 0
        self.with_nul = 0
        self.split = 0
        self._max_bytes = max_bytes
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._first: list[bytes] = []
        self._file = path.open("wb", buffering=_BUFFER)

    @property
    def md5(self) -> str:
        """The MD5 in hex, which is D1's etag."""
        return self._md5.hexdigest()

    def add(self, statement: bytes) -> None:
        """Write one statement, which ends in a semicolon.

        :raises D1ImportFileError: when it is longer, or the file becomes larger, than D1 allows.
        """
        piece = self._checked(statement)
        self._md5.update(piece)
        self._file.write(piece)

    def add_first(self, statement: bytes) -> None:
        """Put a statement in front of all that :meth:`add` writes.

        :raises D1ImportFileError: as :meth:`add`.
        """
        self._first.append(self._checked(statement))

    def _checked(self, statement: bytes) -> bytes:
        if len(statement) > MAX_STATEMENT_BYTES:
            raise D1ImportFileError(
                f"a statement of {len(statement):,} bytes; D1 runs statements of at most {MAX_STATEMENT_BYTES:,} bytes."
                " Split it into several statements"
            )
        piece = statement + b"\n"
        self.bytes += len(piece)
        self.statements += 1
        if self.bytes > self._max_bytes:
            raise D1ImportFileError(
                f"the file is larger than {self._max_bytes:,} bytes, the most that D1 imports. Split it into"
                " several imports, for example by table"
            )
        return piece

    def add_insert(self, statement: bytes) -> None:
        """Write an INSERT, in several statements when it is too long, and so that SQLite reads a NUL in its texts.

        :raises D1ImportFileError: as :meth:`add`.
        """
        short = statement.replace(b"\0", _NUL)
        self.with_nul += b"\0" in statement
        parts = split_insert(statement) if len(short) > MAX_STATEMENT_BYTES else None
        if parts is None:
            self.add(short)
            return
        for part in parts if self.split else (CREATE_HELPER, *parts):
            self.add(part)
        self.split += 1

    def finish(self) -> None:
        """Write the last statements and close the file."""
        if self.split:
            self.add(DROP_HELPER)
        if self._first:
            self._put_first()
        self.close()

    def _put_first(self) -> None:
        """Write the file anew, with the statements that come first."""
        rest = self.path.with_name(f"{self.path.name}.rest")
        self._file.close()
        self.path.rename(rest)
        self._md5 = hashlib.md5(usedforsecurity=False)
        with rest.open("rb") as source, self.path.open("wb") as target:
            for piece in (*self._first, *iter(lambda: source.read(_BUFFER), b"")):
                self._md5.update(piece)
                target.write(piece)
        rest.unlink()

    def close(self) -> None:
        """Close the file without the statements that :meth:`finish` adds."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
