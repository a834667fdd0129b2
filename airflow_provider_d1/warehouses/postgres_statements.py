"""Postgres: the statements that replace the rows of a table that stays, as functions of the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import Column, LoadPlan, Table


def copy(plan: LoadPlan, name: str, columns: Sequence[Column], *, new: bool) -> str:
    """Take rows from the client.

    :param new: the table was made in this transaction. Its rows are then frozen, so that a reader whose snapshot is
        older than the swap finds the new rows in it and not an empty table.
    """
    listed = ", ".join(plan.dialect.identifier(c.name) for c in columns)
    frozen = ", FREEZE true" if new else ""
    return f"COPY {plan.path(name)} ({listed}) FROM STDIN WITH (FORMAT binary{frozen})"


def only(plan: LoadPlan, table: str, *, partitioned: bool) -> str:
    """The table without the tables that inherit from it, whose rows are other people's; with its partitions, its own.

    :param partitioned: declared with ``PARTITION BY``.
    """
    return plan.path(table) if partitioned else f"ONLY {plan.path(table)}"


def replace_rows(plan: LoadPlan, table: Table, values: Mapping[str, str], *, partitioned: bool) -> str:
    """Put the helper table's rows in the place of the table's, whatever is attached to the table.

    ``DELETE``, not ``TRUNCATE``: TRUNCATE locks readers out until the commit, shows an empty table to those whose
    snapshot is older, runs no row triggers, and is refused when a foreign key points at the table. The price of
    DELETE are dead rows, which autovacuum removes. One statement, not two: a foreign key without an action is checked
    when the statement ends, and then the rows that others refer to are there again. The condition in the end makes
    the DELETE run first, else a unique index would still find the old rows.

    :param values: target column → expression over the helper table.
    """
    target = only(plan, table.name, partitioned=partitioned)
    return f"WITH deleted AS (DELETE FROM {target} RETURNING 1) " + _insert(plan, table, values, ["deleted"])


def truncate_and_insert(plan: LoadPlan, table: Table, values: Mapping[str, str], *, partitioned: bool) -> list[str]:
    """The same for a table whose rows Postgres refuses to delete; readers wait until the commit."""
    return [f"TRUNCATE {only(plan, table.name, partitioned=partitioned)}", _insert(plan, table, values, [])]


def merge_rows(
    plan: LoadPlan,
    table: Table,
    values: Mapping[str, str],
    key: Sequence[str],
    *,
    partitioned: bool,
    delete_missing: bool,
) -> str:
    """Change the rows that are in the helper table by their keys, and add the others; no unique index is needed.

    With ``delete_missing`` it replaces the rows of a table at which a foreign key with an action points, too
    (``ON DELETE CASCADE`` and its like): the action meets only what referred to rows that are gone.
    """
    identifier = plan.dialect.identifier
    target, helper = only(plan, table.name, partitioned=partitioned), plan.path(table.helper)
    same = " AND ".join(f"old.{identifier(name)} = {values[name]}" for name in key)
    others = [name for name in values if name not in key]
    parts, first = [], []
    if delete_missing:
        missing = f"NOT EXISTS (SELECT FROM {helper} new WHERE {same})"
        parts.append(f"deleted AS (DELETE FROM {target} AS old WHERE {missing} RETURNING 1)")
        first = ["deleted"]
    if others:
        after_delete = " AND (SELECT count(*) FROM deleted) >= 0" if first else ""
        assignments = ", ".join(f"{identifier(name)} = {values[name]}" for name in others)
        before = ", ".join(f"old.{identifier(name)}" for name in others)
        after = ", ".join(values[name] for name in others)
        # *<> compares bytes: with <> a text may equal another one under a collation that ignores case
        parts.append(
            f"updated AS (UPDATE {target} AS old SET {assignments} FROM {helper} new WHERE {same} "
            f"AND ROW({before})::record *<> ROW({after})::record{after_delete} RETURNING 1)"
        )
        first = ["updated"]
    insert = _insert(plan, table, values, first, f"NOT EXISTS (SELECT FROM {target} old WHERE {same})")
    return f"WITH {', '.join(parts)} {insert}" if parts else insert


def _insert(plan: LoadPlan, table: Table, values: Mapping[str, str], first: Sequence[str], condition: str = "") -> str:
    """INSERT … SELECT that runs after the parts of WITH that are named.

    ``OVERRIDING SYSTEM VALUE`` lets the staged values into an identity column, and changes nothing elsewhere.
    """
    listed = ", ".join(plan.dialect.identifier(name) for name in values)
    conditions = [condition] if condition else []
    conditions += [f"(SELECT count(*) FROM {name}) >= 0" for name in first]
    return (
        f"INSERT INTO {plan.path(table.name)} ({listed}) OVERRIDING SYSTEM VALUE "
        f"SELECT {', '.join(values.values())} FROM {plan.path(table.helper)} new"
        + (f" WHERE {' AND '.join(conditions)}" if conditions else "")
    )
