"""Staged batches fitted to a table in the warehouse: its types, its column names, its limits on text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.convert import nul_count, widened, without_nul

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.base import Column, OnNul, Table


def fitted(batches: Iterator[pa.RecordBatch], table: Table, targets: Sequence[Column]) -> Iterator[pa.RecordBatch]:
    """Widen each column to the type of the one that it goes into, and give it that one's name.

    :param targets: the columns in the warehouse, in staged order.
    :raises D1WarehouseError: for an integer that is not exact in a column of doubles.
    """
    if tuple(targets) == table.columns:
        yield from batches
        return
    import pyarrow as pa

    names = [column.name for column in targets]
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
