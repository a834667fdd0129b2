"""Arrow batches as the ``VALUES`` lists of MySQL's multi-row ``INSERT``, made column by column.

``LOAD DATA LOCAL INFILE`` would need a setting on the server that MySQL 8 has off, and reads text in which NULL and a
text have to be told apart by escapes. Here each value is a literal; Arrow's element-wise functions write the literals
of a column and join the columns of a row, so no Python code runs for a single value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.plan import Table

#: an Arrow array of binary values can hold less than 2 GiB, and a blob's literal is twice as long as the blob
_MAX_BYTES = 64 << 20


def value_lists(batch: pa.RecordBatch, largest: int) -> Iterator[bytes]:
    r"""The batch's rows as ``(…),(…)``, each list at most ``largest`` bytes long unless a single row is longer.

    The literals are for a session whose ``sql_mode`` lets a backslash escape and whose character set is utf8mb4.
    """
    import numpy as np

    for piece in _pieces(batch):
        data, ends = _rows(piece)
        start = 0
        while start < len(ends):
            begin = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, begin + largest, side="right")))
            yield bytes(data[begin : int(ends[stop - 1]) - 1])  # without the comma after the last row
            start = stop


def refuse_non_finite(batch: pa.RecordBatch, table: Table) -> None:
    """MySQL's DOUBLE holds neither infinities nor NaN.

    :raises D1WarehouseError: for a column that has one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for field, values in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_floating(field.type):
            count = pc.sum(pc.invert(pc.is_finite(values))).as_py()
            if count:
                raise D1WarehouseError(
                    f"Table {table.name!r}: column {field.name!r} has {count} infinite values, and MySQL's DOUBLE "
                    "holds finite numbers only; correct them in D1, or leave the table out with tables=[…]"
                )


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if batch.num_rows <= 1 or batch.nbytes <= _MAX_BYTES:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from _pieces(batch.slice(0, half))
    yield from _pieces(batch.slice(half))


def _rows(batch: pa.RecordBatch) -> tuple[memoryview, pa.Array]:
    """All rows, each with a comma after it, and where each of them ends."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    literals = [pc.fill_null(_literals(column), b"NULL") for column in batch.columns]
    inner = pc.binary_join_element_wise(*literals, pa.scalar(b",", pa.binary())) if len(literals) > 1 else literals[0]
    rows = pc.binary_join_element_wise(
        pa.scalar(b"(", pa.binary()), inner, pa.scalar(b"),", pa.binary()), pa.scalar(b"", pa.binary())
    )
    _, offsets, data = rows.buffers()
    ends = np.frombuffer(offsets, np.int32)[rows.offset : rows.offset + len(rows) + 1]
    return memoryview(data)[int(ends[0]) :], ends[1:] - ends[0]


def _literals(column: pa.Array) -> pa.Array:
    """One literal for each value, NULL where the value is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind):
        text = column
        for character, escaped in (("\\", "\\\\"), ("'", "\\'"), ("\0", "\\0")):
            text = pc.replace_substring(text, character, escaped)
        return _between(b"'", text.cast(pa.binary()), b"'")
    if pa.types.is_binary(kind):
        return _between(b"X'", _hex(column), b"'")
    if pa.types.is_float64(kind):
        # without an exponent MySQL reads a number as DECIMAL, which has 30 digits after the point at most
        text = column.cast(pa.string())
        exponent = pc.match_substring(text, "e")
        return pc.if_else(exponent, text, pc.binary_join_element_wise(text, "e0", "")).cast(pa.binary())
    if pa.types.is_int64(kind):
        return column.cast(pa.string()).cast(pa.binary())
    if pa.types.is_timestamp(kind) or pa.types.is_date32(kind):
        return _between(b"'", column.cast(pa.string()).cast(pa.binary()), b"'")
    raise TypeError(f"no literal for {kind}")


def _between(before: bytes, values: pa.Array, after: bytes) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    empty = pa.scalar(b"", pa.binary())
    return pc.binary_join_element_wise(pa.scalar(before, pa.binary()), values, pa.scalar(after, pa.binary()), empty)


def _hex(column: pa.Array) -> pa.Array:
    """Binary values in hexadecimal: two digits for each byte, looked up for all values at once."""
    import numpy as np
    import pyarrow as pa

    digits = np.array([list(b"%02X" % byte) for byte in range(256)], np.uint8)
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    content = np.frombuffer(data or b"", np.uint8)[int(ends[0]) : int(ends[-1])]
    doubled = np.ascontiguousarray((ends - ends[0]) * 2, np.int32)
    values = pa.Array.from_buffers(
        pa.binary(), len(column), [None, pa.py_buffer(doubled), pa.py_buffer(digits[content].reshape(-1))]
    )
    if not column.null_count:
        return values
    import pyarrow.compute as pc

    return pc.if_else(column.is_valid(), values, pa.scalar(None, pa.binary()))
