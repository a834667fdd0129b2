"""The statements and checks of ``mode="merge"``: a table's rows, and staged rows that have the same keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.drift import Drift
    from airflow_provider_d1.warehouses.plan import Table

#: runs a query and returns its rows
Rows = Callable[[str], list[tuple[Any, ...]]]

_TWICE_IN_TABLE = "staged values of it are in the warehouse's table more than once"


@dataclass(frozen=True, slots=True)
class KeyColumn:
    """A column of a key, as SQL.

    :param old: its value in a row of the table.
    :param new: its value in a row ``d1_new`` of the helper table, in the same type.
    :param exact_old: ``old`` in a form in which ``=`` and GROUP BY distinguish all values, and so ``exact_new``.
    """

    name: str
    old: str
    new: str
    exact_old: str
    exact_new: str


@dataclass(frozen=True, slots=True)
class Match:
    """A table, and a helper table with staged rows that are matched with its rows by key.

    The table goes by its own name: not every warehouse allows another one in DELETE and MERGE.

    :param table: its name in the manifest, for messages.
    :param path: the quoted table; ``helper``, the quoted helper table.
    :param rows: the staged rows.
    :param values: the table's column → its value in a row ``d1_new`` of the helper table.
    :param identifier: quotes a name.
    """

    table: str
    path: str
    helper: str
    rows: int
    key: tuple[KeyColumn, ...]
    values: Mapping[str, str]
    delete_missing: bool
    identifier: Callable[[str], str]

    @property
    def source(self) -> str:
        """The helper table and its name in the other expressions."""
        return f"{self.helper} AS d1_new"

    @property
    def same_key(self) -> str:
        """The condition under which two rows have the same key; an index can serve its first part."""
        conditions = []
        for column in self.key:
            conditions.append(f"{column.old} = {column.new}")
            if column.exact_old != column.old:
                conditions.append(f"{column.exact_old} = {column.exact_new}")
        return " AND ".join(conditions)

    @property
    def names(self) -> str:
        """The columns of an INSERT."""
        return ", ".join(map(self.identifier, self.values))

    @property
    def inserted(self) -> str:
        """The values of an INSERT."""
        return ", ".join(self.values.values())

    def assignments(self, row: str = "") -> str:
        """The SET clause for all columns but the key; empty where there are none.

        :param row: what stands before the table's columns.
        """
        key = {column.name for column in self.key}
        return ", ".join(f"{row}{self.identifier(n)} = {value}" for n, value in self.values.items() if n not in key)

    @property
    def delete(self) -> str:
        """Delete the table's rows whose keys are not in the helper table."""
        return f"DELETE FROM {self.path} WHERE NOT EXISTS (SELECT 1 FROM {self.source} WHERE {self.same_key})"


def target_key(table: Table, drift: Drift) -> tuple[str, ...]:
    """The names that the key's columns have in the warehouse; empty where rows are not matched.

    :raises D1WarehouseError: when the warehouse's table has no such column.
    """
    staged = [column.name for column in table.columns]
    key = tuple(drift.targets[staged.index(name)].name for name in table.key)
    if missing := [column.name for column in drift.added if column.name in key]:
        raise D1WarehouseError(
            f"table {table.name!r} is unchanged: its rows are matched by {', '.join(map(repr, key))}, and in the "
            f"warehouse it has no column {missing[0]!r}; load it once with mode='replace'"
        )
    return key


def merge(match: Match, *, deletes: bool) -> list[str]:
    """``MERGE``.

    :param deletes: whether the warehouse's MERGE deletes rows too; else a DELETE goes before it.
    """
    first = match.key[0]
    clauses = [
        f"MERGE INTO {match.path} USING {match.source} ON {match.same_key}",
        f"WHEN MATCHED THEN UPDATE SET {match.assignments() or f'{match.identifier(first.name)} = {first.new}'}",
        f"WHEN NOT MATCHED THEN INSERT ({match.names}) VALUES ({match.inserted})",
    ]
    if match.delete_missing and deletes:
        clauses.append("WHEN NOT MATCHED BY SOURCE THEN DELETE")
    return [*([match.delete] if match.delete_missing and not deletes else []), " ".join(clauses)]


def update_and_insert(match: Match) -> list[str]:
    """The same where there is no ``MERGE``, for one transaction."""
    result = [match.delete] if match.delete_missing else []
    if changed := match.assignments():
        result.append(f"UPDATE {match.path} SET {changed} FROM {match.source} WHERE {match.same_key}")
    result.append(
        f"INSERT INTO {match.path} ({match.names}) SELECT {match.inserted} FROM {match.source} "
        f"WHERE NOT EXISTS (SELECT 1 FROM {match.path} WHERE {match.same_key})"
    )
    return result


def check_keys(match: Match, rows: Rows, *, in_table: bool) -> None:
    """Refuse keys that do not identify the rows.

    :param in_table: look for the staged keys in the table too.
    :raises D1WarehouseError: naming the table and its key.
    """
    nulls = " OR ".join(f"{column.new} IS NULL" for column in match.key)
    twice = f"GROUP BY {', '.join(column.exact_new for column in match.key)} HAVING COUNT(*) > 1) d1_twice"
    both = f"{match.path} JOIN {match.source} ON {match.same_key}"
    questions = [
        (f"SELECT COUNT(*) FROM {match.source} WHERE {nulls}", "staged rows have NULL in it"),
        (f"SELECT COUNT(*) FROM (SELECT 1 AS n FROM {match.source} {twice}", "values of it are staged more than once"),
        (f"SELECT COUNT(*) FROM (SELECT 1 AS n FROM {both} {twice}", _TWICE_IN_TABLE),
    ]
    for question, problem in questions if in_table else questions[:2]:
        ((count,),) = rows(question)
        if count:
            raise _unfit_key(match, f"{count} {problem}")


def count_merged(match: Match, rows: Rows) -> int:
    """The rows of the table that have a staged key: as many as are staged.

    :raises D1WarehouseError: when they are more.
    """
    ((count,),) = rows(f"SELECT COUNT(*) FROM {match.path} JOIN {match.source} ON {match.same_key}")
    if count > match.rows:
        raise _unfit_key(match, f"{count - match.rows} {_TWICE_IN_TABLE}")
    return int(count)


def _unfit_key(match: Match, problem: str) -> D1WarehouseError:
    key = ", ".join(repr(column.name) for column in match.key)
    return D1WarehouseError(
        f"table {match.table!r} is unchanged: its rows are matched by {key}, and "
        f"{problem}. Name columns that identify a row with keys={{{match.table!r}: […]}}, or load the table with "
        "mode='replace'"
    )
