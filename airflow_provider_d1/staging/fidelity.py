"""What D1's exporter may have altered, and what did not fit its declared type, in words for a data engineer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.column_types import ColumnStats, has_type_conflict

if TYPE_CHECKING:
    from airflow_provider_d1.dump.schema import Column, TableSchema

_LOSSES = (
    ("unsafe_integers", "integer", "beyond 2^53; D1's export rounds them"),
    ("infinities", "infinite number", "which most warehouses and all JSON refuse or change"),
    ("ambiguous_newlines", "text", "in which D1's export makes a literal \\n or \\r a line break"),
    ("replacement_characters", "text", "with U+FFFD, which D1's export writes for bytes that are not UTF-8"),
)


def lossy_lines(table: TableSchema, stats: Iterable[ColumnStats]) -> list[str]:
    """One line for each kind of loss in each column, such as ``orders.id: 17 integers beyond 2^53; …``."""
    return [
        f"{table.name}.{column.name}: {_counted(seen.lossy[kind], noun)} {reason}"
        for column, seen in zip(table.columns, stats, strict=True)
        for kind, noun, reason in _LOSSES
        if seen.lossy[kind]
    ]


def conflict_lines(table: TableSchema, stats: Iterable[ColumnStats], types: Iterable[str]) -> list[str]:
    """One line for each column with values that its declared type does not promise.

    :param types: what the columns are staged as.
    """
    return [
        f"{table.name}.{column.name}: {_declared(column)}, but holds {_holdings(seen)}; staged as {staged}"
        for column, seen, staged in zip(table.columns, stats, types, strict=True)
        if has_type_conflict(column.affinity, seen)
    ]


def _declared(column: Column) -> str:
    return f"declared {column.declared_type}" if column.declared_type else "without a declared type"


def _holdings(seen: ColumnStats) -> str:
    nouns = {"integer": "integer", "real": "real number", "text": "text", "blob": "blob"}
    found = [_counted(seen.storage[kind], noun) for kind, noun in nouns.items() if seen.storage[kind]]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
