"""Messages about values that D1's export may have altered, and about values that do not fit a declared type."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.column_types import ColumnStats, has_type_conflict

if TYPE_CHECKING:
    from airflow_provider_d1.dump.schema import DeclaredColumn, TableSchema

#: kind → noun, and what D1's export may have changed
_SUSPICIONS = {
    "unsafe_integers": ("integer", "of 2^53 and beyond, which D1's export rounds"),
    "infinities": ("infinite number", "which most warehouses and all JSON refuse or change"),
    "ambiguous_newlines": ("text", "of several lines, in which a line break may have been a literal \\n or \\r"),
    "replacement_characters": ("text", "with U+FFFD, which D1's export writes for bytes that are not UTF-8"),
}
#: ignored by ``on_lossy="fail"``: a text of three lines is counted although nothing was lost
_HARMLESS_UNTIL_CHECKED = "ambiguous_newlines"


def lossy_line(table: TableSchema, stats: Iterable[ColumnStats]) -> str | None:
    """One line about the values of a table that D1's export may have altered; None when there are none."""
    found = [
        f"{column.name}: {', '.join(_suspicions(seen, _SUSPICIONS))}"
        for column, seen in zip(table.columns, stats, strict=True)
        if any(seen.lossy.values())
    ]
    return f"Table {table.name!r}: D1's export may have altered values. {'; '.join(found)}" if found else None


def certain_losses(table: TableSchema, stats: Iterable[ColumnStats]) -> list[str]:
    """One entry for each column that ``on_lossy="fail"`` fails for, such as ``orders.id: 17 integers of 2^53 …``."""
    kinds = [kind for kind in _SUSPICIONS if kind != _HARMLESS_UNTIL_CHECKED]
    return [
        f"{table.name}.{column.name}: {', '.join(found)}"
        for column, seen in zip(table.columns, stats, strict=True)
        if (found := _suspicions(seen, kinds))
    ]


def _suspicions(seen: ColumnStats, kinds: Iterable[str]) -> list[str]:
    return [
        f"{_counted(seen.lossy[kind], _SUSPICIONS[kind][0])} {_SUSPICIONS[kind][1]}"
        for kind in kinds
        if seen.lossy[kind]
    ]


def conflict_lines(table: TableSchema, stats: Iterable[ColumnStats], types: Iterable[str]) -> list[str]:
    """One line for each column with values that do not fit its declared type.

    :param types: what the columns are staged as.
    """
    return [
        f"{table.name}.{column.name}: {_declared(column)}, but holds {_holdings(seen)}; staged as {staged}"
        for column, seen, staged in zip(table.columns, stats, types, strict=True)
        if has_type_conflict(column.affinity, seen)
    ]


def _declared(column: DeclaredColumn) -> str:
    return f"declared {column.declared_type}" if column.declared_type else "without a declared type"


def _holdings(seen: ColumnStats) -> str:
    nouns = {"integer": "integer", "real": "real number", "text": "text", "blob": "blob"}
    found = [_counted(seen.storage[kind], noun) for kind, noun in nouns.items() if seen.storage[kind]]
    return found[0] if len(found) == 1 else f"{', '.join(found[:-1])} and {found[-1]}"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
