"""Shared by CSV and JSONL: compressed text files of bounded size, and text forms of values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.staging.streams import CompressedFile

#: Arrow data of one piece that is converted to text and compressed, in bytes
BATCH_BYTES = 4 << 20


class TextPart:
    """One compressed text file.

    :param path: None writes into memory.
    :param encode: converts rows to text, in whole lines.
    :param header: the first bytes of the file.
    """

    def __init__(
        self, path: Path | None, codec: str | None, encode: Callable[[pa.Table], pa.Buffer], header: bytes
    ) -> None:
        self._encode = encode
        self._file = CompressedFile(path, codec)
        self._file.write(header)

    def add(self, rows: pa.Table, limit: int | None) -> bool:
        """Write lines; compression may not help, so the plain length is what counts against the limit."""
        text = self._encode(rows)
        if limit is not None and self._file.size_bound(text.size) > limit:
            return False
        self._file.write(text)
        return True

    def close(self) -> Path | bytes:
        """Finish the compressed stream."""
        return self._file.close()


def number_text(column: pa.Array) -> pa.Array:
    """Numbers, dates and timestamps as text; floats in the shortest form that reads back to the same bits.

    Infinities are ``Infinity`` and ``-Infinity``, since no two readers agree on another form.
    """
    text = pc.cast(column, pa.string())
    if pa.types.is_floating(column.type) and has_infinity(column):
        infinite = pc.is_inf(column)
        named = pc.if_else(pc.greater(column, 0.0), "Infinity", "-Infinity")
        text = pc.if_else(infinite, named, text)
    return text


def has_infinity(column: pa.Array) -> bool:
    """Tell whether a float column holds an infinity, by its extremes."""
    extremes = pc.min_max(column)
    return any(abs(extremes[end].as_py() or 0.0) == float("inf") for end in ("min", "max"))
