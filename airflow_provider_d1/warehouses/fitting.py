"""Staged batches fitted to a table in the warehouse: its types, its column names, its limits on text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.text_form import real_to_text
from airflow_provider_d1.exceptions import D1WarehouseError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.plan import Column, OnNul, Table


REPLACEMENT = "\ufffd"


def fitted(batches: Iterator[pa.RecordBatch], table: Table, targets: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """Widen each column to the type of the one that it goes into, and give it that one's name.

    :param targets: the columns in the warehouse, in staged order.
    :raises D1WarehouseError: for an integer that is not exact in a column of doubles.
    """
    names = [column.name for column in targets]
    as_staged = [column.source_name for column in table.columns] == names
    if as_staged and all(a.type == b.type for a, b in zip(targets, table.columns, strict=True)):
        yield from batches
        return
    import pyarrow as pa

    for batch in batches:
        arrays = []
        for values, staged, target in zip(batch.columns, table.columns, targets, strict=True):
            try:
                arrays.append(widened(values, staged.type, target.type))
            except pa.ArrowInvalid:
                raise D1WarehouseError(
                    f"table {table.name!r}: column {target.name!r} holds doubles in the warehouse, and the staged "
                    "integers are too large to be exact as such; load it with mode='replace'"
                ) from None
        yield pa.RecordBatch.from_arrays(arrays, names)


def pieces(batch: pa.RecordBatch, largest: int) -> Iterator[pa.RecordBatch]:
    """Slices of at most ``largest`` bytes, as far as whole rows allow; none for no rows."""
    if batch.num_rows <= 1 or batch.nbytes <= largest:
        if batch.num_rows:
            yield batch
        return
    half = batch.num_rows // 2
    yield from pieces(batch.slice(0, half), largest)
    yield from pieces(batch.slice(half), largest)


def nul_free(
    batches: Iterator[pa.RecordBatch], table: Table, on_nul: OnNul, replaced: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """Let no NUL character in a text through, for warehouses that can't hold one.

    :param on_nul: ``"fail"``, or ``"replace"`` by U+FFFD.
    :param replaced: takes, for each column, the number of values that were replaced.
    :raises D1WarehouseError: with ``"fail"``, when all batches have been looked through; names every column and count.
    """
    import pyarrow as pa

    for batch in batches:
        found = {
            number: count
            for number, field in enumerate(batch.schema)
            if pa.types.is_string(field.type) and (count := nul_count(batch.column(number)))
        }
        for number, count in found.items():
            replaced[batch.schema.names[number]] += count
        if on_nul == "replace":
            arrays = [without_nul(values) if i in found else values for i, values in enumerate(batch.columns)]
            yield pa.RecordBatch.from_arrays(arrays, batch.schema.names) if found else batch
        elif not replaced:
            yield batch
    if replaced and on_nul == "fail":
        columns = ", ".join(f"column {name!r}: {count}" for name, count in replaced.items())
        raise D1WarehouseError(
            f"table {table.name!r} has texts with a NUL character, which the warehouse can't hold ({columns} values); "
            "nothing was loaded. on_nul='replace' writes U+FFFD in their place"
        )


def widened(column: pa.Array, staged: str, wanted: str) -> pa.Array:
    """Give a column a wider type without losing a value; text is SQLite's ``CAST(x AS TEXT)``, a blob upper-case hex.

    :param column: values of the type ``staged``.
    :param wanted: the same type or a wider one.
    :raises ValueError: for an integer that is not exact as a double.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if staged == wanted:
        return column
    if wanted != "string":
        return pc.cast(column, {"float64": pa.float64(), "timestamp[us]": pa.timestamp("us")}[wanted])
    if staged == "float64":
        return pa.array([None if x is None else real_to_text(x) for x in column.to_pylist()], pa.string())
    if staged == "binary":
        return pa.array([None if x is None else x.hex().upper() for x in column.to_pylist()], pa.string())
    text = pc.cast(column, pa.string())
    if staged == "timestamp[us]":
        text = pc.replace_substring_regex(text, r"(\.\d*?)0+$", r"\1")
        text = pc.replace_substring_regex(text, r"\.$", "")
    return text


def nul_count(column: pa.StringArray) -> int:
    """In how many values of a text column there is a NUL character."""
    import pyarrow.compute as pc

    data = column.buffers()[2]
    if data is None or b"\x00" not in memoryview(data).tobytes():
        return 0
    return int(pc.sum(pc.match_substring(column, "\x00")).as_py() or 0)


def without_nul(column: pa.StringArray) -> pa.StringArray:
    """The column with U+FFFD for every NUL."""
    import pyarrow.compute as pc

    return pc.replace_substring(column, "\x00", REPLACEMENT)
