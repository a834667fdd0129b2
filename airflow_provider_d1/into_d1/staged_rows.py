"""Read the rows of a staged table with the values that they had in D1."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.dump.affinity import Affinity, affinity_of
from airflow_provider_d1.exceptions import D1ImportFileError

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.staging.manifest_tables import ColumnEntry, TableEntry


def source_columns(table: TableEntry) -> list[str]:
    """The names that the staged columns have in D1, without those that staging has added.

    :raises D1ImportFileError: for a column whose original values cannot be read from the files.
    """
    columns = [column for column in table.columns if not column.audit]
    for column in columns:
        kinds = {kind for kind, rows in column.storage.to_dict().items() if rows and kind != "null"}
        if column.type == "string" and kinds - {"text"}:
            raise D1ImportFileError(
                f"table {table.name!r}, column {column.name!r}: it has values of several types, which are staged as"
                " text. Back up with file_format='sql' or keep_dump=True, and restore that with D1ImportOperator"
            )
        if column.type == "timestamp[us]":
            raise D1ImportFileError(
                f"table {table.name!r}, column {column.name!r}: its texts were staged as timestamps, so their original"
                " form is unknown. Stage with parse_temporal=False"
            )
    return [column.source_name or column.name for column in columns]


def source_rows(table: TableEntry, batches: Iterable[pa.RecordBatch]) -> Iterator[Sequence[Any]]:
    """The values of the columns of :func:`source_columns`, row by row."""
    numbers = [number for number, column in enumerate(table.columns) if not column.audit]
    converters = [_converter(table.columns[number]) for number in numbers]
    for batch in batches:
        values = [
            list(map(convert, batch.column(number).to_pylist())) if convert else batch.column(number).to_pylist()
            for number, convert in zip(numbers, converters, strict=True)
        ]
        yield from zip(*values, strict=True)


def _converter(column: ColumnEntry) -> Callable[[Any], Any] | None:
    """The conversion of a staged value to D1's: in a column with INTEGERs and REALs, a whole number was an INTEGER."""
    if (
        column.type != "float64"
        or not column.storage.integer
        or affinity_of(column.declared_type, strict=False) is Affinity.REAL
    ):
        return None
    return _whole_as_integer


def _whole_as_integer(value: float | None) -> float | None:
    return int(value) if value is not None and value.is_integer() and abs(value) < 2**63 else value
