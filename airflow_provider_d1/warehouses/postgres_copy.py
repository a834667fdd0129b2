r"""Arrow batches as Postgres's binary COPY format, made column by column.

Binary has no quoting, so no text can end the data early (a line with only ``\.`` does in CSV before Postgres 18), no
NULL looks like an empty text, and the server parses no numbers. Each value becomes its length and its bytes; Arrow's
own element-wise join puts the columns of a row together, so no Python code runs for a single value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.warehouses.fitting import pieces

if TYPE_CHECKING:
    import pyarrow as pa

HEADER = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
TRAILER = b"\xff\xff"

_NULL = b"\xff\xff\xff\xff"
#: Postgres counts time from 2000-01-01
_EPOCH_DAYS = 10957
_EPOCH_MICROSECONDS = _EPOCH_DAYS * 86_400_000_000
#: an Arrow array of binary values can hold less than 2 GiB; the join's result stays far below
_MAX_BYTES = 64 << 20


def encoded(batch: pa.RecordBatch) -> Iterator[bytes | memoryview]:
    """The batch's rows as COPY data, to stand between :data:`HEADER` and :data:`TRAILER`.

    The columns' types must be the table's: int64 for ``bigint``, float64 for ``double precision``, string for
    ``text``, binary for ``bytea``, timestamp[us] for ``timestamp``, date32 for ``date``.
    """
    for piece in pieces(batch, _MAX_BYTES):
        yield _rows(piece)


def _rows(batch: pa.RecordBatch) -> memoryview:
    import pyarrow as pa
    import pyarrow.compute as pc

    count = pa.scalar(batch.num_columns.to_bytes(2, "big"), pa.binary())
    values = [part for column in batch.columns for part in _values(column)]
    joined = pc.binary_join_element_wise(pa.repeat(count, batch.num_rows), *values, pa.scalar(b"", pa.binary()))
    _, offsets, data = joined.buffers()
    if data is None:
        return memoryview(b"")
    ends = memoryview(offsets).cast("i")
    return memoryview(data)[ends[joined.offset] : ends[joined.offset + len(joined)]]


def _values(column: pa.Array) -> list[pa.Array]:
    """One or two binary arrays that, joined, are the column's values with their lengths before them."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        lengths = pc.fill_null(pc.binary_length(column), -1).to_numpy(zero_copy_only=False)
        return [_fixed(lengths.astype(">i4"), 4), pc.fill_null(column.cast(pa.binary()), b"")]
    if pa.types.is_float64(column.type):
        numbers = pc.fill_null(column, 0.0).to_numpy(zero_copy_only=False).astype(">f8").view("V8")
    elif pa.types.is_int64(column.type):
        numbers = _integers(column).astype(">i8").view("V8")
    elif pa.types.is_timestamp(column.type):
        numbers = (_integers(column.cast(pa.int64())) - _EPOCH_MICROSECONDS).astype(">i8").view("V8")
    elif pa.types.is_date32(column.type):
        days = _integers(column.cast(pa.int32()))
        numbers = (days - _EPOCH_DAYS).astype(">i4").view("V4")
    else:
        raise TypeError(f"no binary form for {column.type}")
    width = numbers.dtype.itemsize
    rows = np.empty(len(column), np.dtype([("length", ">i4"), ("value", f"V{width}")]))
    rows["length"] = width
    rows["value"] = numbers
    values = _fixed(rows, 4 + width)
    if column.null_count:
        values = pc.if_else(pc.is_valid(column), values, pa.scalar(_NULL, pa.binary()))
    return [values]


def _integers(column: pa.Array) -> Any:
    import pyarrow.compute as pc

    return pc.fill_null(column, 0).to_numpy(zero_copy_only=False)


def _fixed(rows: Any, width: int) -> pa.Array:
    """A NumPy array of items ``width`` bytes wide as Arrow binary values."""
    import numpy as np
    import pyarrow as pa

    offsets = np.arange(0, (len(rows) + 1) * width, width, dtype=np.int32)
    return pa.Array.from_buffers(
        pa.binary(), len(rows), [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(rows))]
    )


def send(cursor: Any, statement: str, chunks: Iterator[bytes | memoryview]) -> int:
    """Run a COPY with either driver and return how many rows the server counted."""
    if hasattr(cursor, "copy"):
        with cursor.copy(statement) as channel:
            for chunk in chunks:
                channel.write(chunk)
    else:
        cursor.copy_expert(statement, _Readable(chunks), size=1 << 18)
    return int(cursor.rowcount)


class _Readable:
    """An iterator of bytes as the file that psycopg2 reads from."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk).cast("B")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken.tobytes()
