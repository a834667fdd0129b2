"""How a table in the warehouse has to change before an append: columns that are new, columns that became wider."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.plan import Column, Table

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect

#: (column in the warehouse, staged type of what it holds now, staged type that it needs) → the ALTER statements
AlterStatements = Callable[[str, str, str], list[str]]


@dataclass(frozen=True, slots=True)
class Alteration:
    """A column whose type has to become wider."""

    column: str
    old: str
    new: str
    statements: tuple[str, ...]

    @property
    def statement(self) -> str:
        """As a person is shown them."""
        return "; ".join(self.statements)


@dataclass(frozen=True, slots=True)
class Drift:
    """What to do before an append, and what the staged columns become by it.

    :param added: staged columns that the warehouse's table does not have.
    :param altered: columns of the warehouse's table that have to become wider.
    :param targets: the table's columns that the staged ones go into, in staged order: name in the warehouse and type
        after the alterations. A column of the table that is in none of these stays as it is, NULL in new rows.
    """

    added: tuple[Column, ...]
    altered: tuple[Alteration, ...]
    targets: tuple[Column, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.altered)


def no_drift(columns: tuple[Column, ...]) -> Drift:
    """The table's columns are as they have to be.

    :param columns: those that the staged ones go into, in staged order.
    """
    return Drift((), (), columns)


def wider(one: str, other: str) -> str:
    """The narrowest type that holds every value of both; integers in ``float64`` only as far as they are exact."""
    if one == other:
        return one
    pair = {one, other}
    if pair == {"int64", "float64"}:
        return "float64"
    if pair == {"date32", "timestamp[us]"}:
        return "timestamp[us]"
    return "string"


def _decided_by_values(held: str | None, staged: str) -> bool:
    """Whether the values decide if a column keeps its type.

    :param held: the staged type that holds the same values as the column; None for any other type.
    """
    return held is None or (held in ("date32", "timestamp[us]") and staged == "string")


def columns_as_staged(dialect: Dialect, table: Table, existing: Mapping[str, str]) -> tuple[Column, ...] | None:
    """The warehouse's columns in staged order if they are the staged ones; else None.

    They have the staged types, or others that may hold the values (``native``).

    :param existing: the warehouse's columns, with their types as its catalogue gives them.
    """
    by_fold = {dialect.fold(name): name for name in existing}
    if len(existing) != len(table.columns):
        return None
    columns = []
    for column in table.columns:
        name = by_fold.get(dialect.fold(column.name))
        if name is None:
            return None
        held = dialect.known_types.get(existing[name].lower())
        if held != column.type and not _decided_by_values(held, column.type):
            return None
        native = "" if held == column.type else existing[name]
        columns.append(Column(name, column.type, native=native, hint=column.hint))
    return tuple(columns)


def find_drift(
    dialect: Dialect,
    table: Table,
    existing: Mapping[str, str],
    alter: AlterStatements,
    alterable: Callable[[str, str], bool],
) -> Drift:
    """Compare a staged table with the one in the warehouse.

    A column of a type that is not staged, and one of dates where texts are staged, keeps its type (``native``) for the
    time being: the values decide, when they are in the warehouse.

    :param existing: the warehouse's columns in order, with their types as its catalogue gives them.
    :param alter: writes the statements that would widen a column.
    :param alterable: whether the warehouse can run such a statement for these two staged types.
    :raises D1WarehouseError: for a column that has to be widened and can't be; the statement is in the text.
    """
    by_fold = {dialect.fold(name): name for name in existing}
    added, altered, targets, refused = [], [], [], []
    for column in table.columns:
        name = by_fold.get(dialect.fold(column.name))
        if name is None:
            added.append(column)
            targets.append(column)
            continue
        declared = existing[name]
        held = dialect.known_types.get(declared.lower())
        if held is None or _decided_by_values(held, column.type):
            targets.append(Column(name, column.type, native=declared, hint=column.hint))
            continue
        wanted = wider(held, column.type)
        targets.append(Column(name, wanted))
        if wanted != held:
            change = Alteration(name, held, wanted, tuple(alter(name, held, wanted)))
            if alterable(held, wanted):
                altered.append(change)
            else:
                refused.append(f"column {name!r} is {declared} and has to become wider: {change.statement}")
    if refused:
        raise D1WarehouseError(f"table {table.name!r} is unchanged: {'; '.join(refused)}")
    return Drift(tuple(added), tuple(altered), tuple(targets))
