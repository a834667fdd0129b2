"""A database whose names most warehouses can't hold, and what must be in the warehouse after a load."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

#: ordinary, the same but for case, too long, with forbidden characters, the loader's own
TABLES = ("users", "Été", "été", "t" * 300, "a.b/c d", "_d1_loads", 'odd "name" `x` \\', "😀")
#: the same for columns, and what warehouses reserve; the first one is the key
COLUMNS = ("ctid", "id", "Id_É", "Id_é", "c" * 300, "a.b", 'say "hi" `x` \\', "a b ", "DB_ROW_ID", "_PARTITIONDATE", "")


def database(
    ids: Iterable[int], mark: str = "", tables: Sequence[str] = TABLES, columns: Sequence[str] = COLUMNS
) -> dict[str, pa.Table]:
    """Every value differs from every other one, so that no column and no table can be taken for another.

    :param mark: part of the values that are not in the key.
    """
    ids = list(ids)
    return {
        table: pa.table(
            [
                pa.array([f"{number}-{row}" if place == 0 else f"{number}-{place}-{row}{mark}" for row in ids])
                for place, _ in enumerate(columns)
            ],
            names=list(columns),
        )
        for number, table in enumerate(tables)
    }


def keys(tables: Sequence[str] = TABLES, columns: Sequence[str] = COLUMNS) -> dict[str, list[str]]:
    """The primary keys."""
    return {table: [columns[0]] for table in tables}


def named(result: Mapping[str, Any]) -> dict[str, str]:
    """Name in the manifest → name in the warehouse, from a task's return value."""
    return {entry.get("source_name", name): name for name, entry in result["tables"].items()}


def rows_of(*tables: pa.Table) -> list[tuple[Any, ...]]:
    """The rows that the warehouse must hold."""
    rows = [row for table in tables for row in zip(*(column.to_pylist() for column in table.columns), strict=True)]
    return sorted(rows, key=repr)
