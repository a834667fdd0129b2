"""Arrow batches as the ``VALUES`` lists of a multi-row ``INSERT``, made column by column, for every warehouse.

Each value is a literal; Arrow's element-wise functions write the literals of a column and join the columns of a row, so
no Python code runs for a single value.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.fitting import pieces

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.dialect import Dialect
    from airflow_provider_d1.warehouses.plan import Table

#: an Arrow array of binary values can hold less than 2 GiB, and a blob's literal is twice as long as the blob
_MAX_BYTES = 64 << 20


def value_lists(batch: pa.RecordBatch, dialect: Dialect, largest: int) -> Iterator[bytes]:
    """The batch's rows as ``(…),(…)`` in UTF-8, each list at most ``largest`` bytes long unless one row is longer."""
    import numpy as np

    for piece in pieces(batch, _MAX_BYTES):
        data, ends = _rows(piece, dialect)
        start = 0
        while start < len(ends):
            begin = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, begin + largest, side="right")))
            yield bytes(data[begin : int(ends[stop - 1]) - 1])  # without the comma after the last row
            start = stop


def refuse_non_finite(batch: pa.RecordBatch, table: Table, warehouse: str) -> None:
    """For a warehouse whose doubles are neither infinities nor NaN.

    :param warehouse: its name.
    :raises D1WarehouseError: for a column that has one.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    for field, values in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_floating(field.type):
            count = pc.sum(pc.invert(pc.is_finite(values))).as_py()
            if count:
                raise D1WarehouseError(
                    f"Table {table.name!r}: column {field.name!r} has {count} infinite values, and {warehouse} "
                    "holds finite numbers only; correct them in D1, or leave the table out with tables=[…]"
                )


def _rows(batch: pa.RecordBatch, dialect: Dialect) -> tuple[memoryview, pa.Array]:
    """All rows, each with a comma after it, and where each of them ends."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    literals = [pc.fill_null(_literals(column, dialect), b"NULL") for column in batch.columns]
    inner = pc.binary_join_element_wise(*literals, pa.scalar(b",", pa.binary())) if len(literals) > 1 else literals[0]
    rows = pc.binary_join_element_wise(
        pa.scalar(b"(", pa.binary()), inner, pa.scalar(b"),", pa.binary()), pa.scalar(b"", pa.binary())
    )
    _, offsets, data = rows.buffers()
    ends = np.frombuffer(offsets, np.int32)[rows.offset : rows.offset + len(rows) + 1]
    return memoryview(data)[int(ends[0]) :], ends[1:] - ends[0]


def _literals(column: pa.Array, dialect: Dialect) -> pa.Array:
    """One literal for each value, NULL where the value is."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    if pa.types.is_string(kind):
        text = column
        if dialect.backslash:
            for character, escaped in (("\\", "\\\\"), ("\0", "\\0")):
                text = pc.replace_substring(text, character, escaped)
        text = pc.replace_substring(text, "'", "''" if dialect.apostrophe_escape == "double" else "\\'")
        return _between(b"'", text.cast(pa.binary()), b"'")
    if pa.types.is_binary(kind):
        from airflow_provider_d1.dump.hex_codec import encode_hex

        return _between(b"X'", encode_hex(column).cast(pa.binary()), b"'")
    if pa.types.is_float64(kind):
        # without an exponent many read a number as DECIMAL, in MySQL with 30 digits after the point at most
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
