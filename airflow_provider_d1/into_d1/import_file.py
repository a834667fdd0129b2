"""The file of an import, written to disk because D1 needs its MD5 before its content."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Self

from airflow_provider_d1.cloudflare.import_models import MAX_FILE_BYTES
from airflow_provider_d1.cloudflare.sql_calls import MAX_STATEMENT_BYTES
from airflow_provider_d1.exceptions import D1ImportFileError

_BUFFER = 1 << 20


class ImportFile:
    """Collects statements; ``bytes``, ``md5`` and ``statements`` describe what was written so far.

    :param path: the file; an existing one is replaced.
    :param max_bytes: D1's limit.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_FILE_BYTES) -> None:
        self.path = path
        self.bytes = 0
        self.statements = 0
        self._max_bytes = max_bytes
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._file = path.open("wb", buffering=_BUFFER)

    @property
    def md5(self) -> str:
        """The MD5 in hex, which is D1's etag."""
        return self._md5.hexdigest()

    def add(self, statement: bytes) -> None:
        """Write one statement, which ends in a semicolon.

        :raises D1ImportFileError: when it is longer, or the file becomes larger, than D1 allows.
        """
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
        self._md5.update(piece)
        self._file.write(piece)

    def close(self) -> None:
        """Write the rest of the buffer."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
