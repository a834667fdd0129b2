"""The way that the cloud warehouses share: load into helper tables, check, then move or swap them in.

What differs (statements, and how rows get into a helper table) is the warehouse's :class:`Steps`; here is only the
order in which things happen, so that all of them skip, check, record and clean up alike.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.base import Column, LoadedTable, LoadPlan, Table, leftover_helpers
from airflow_provider_d1.warehouses.drift import Drift, columns_as_staged, find_drift

log = logging.getLogger(__name__)


class Session(Protocol):
    """Runs statements in a warehouse."""

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows, none for one that has no result."""


@dataclass(frozen=True, slots=True)
class Steps:
    """One warehouse's part.

    :param statement: the kind of statement that loads, for the task's return value.
    :param prepare: statements before all tables: schema, ``_d1_loads``.
    :param columns: query for a table's columns in order: name, type; no rows when there is no such table.
    :param helpers: query for the names of the schema's helper tables, those of other loads too; more names do no harm.
    :param fill: loads the staged files into the helper table and returns the rows that the warehouse counted.
    :param swap: puts the helper table in the place of the old one; the flag says that there is an old one.
    :param overwrite: replaces the rows of the table by the helper table's; gets its columns with their types there.
    :param append: adds the helper table's rows to the table; gets its columns with their types there.
    :param record: records tables in ``_d1_loads``.
    :param add_column: adds a column, NULL in the rows that are there.
    :param alter_column: widens a column (name, old and new staged type), or says how a person would.
    :param alterable: whether the warehouse can do that.
    :param drop_helper: removes the helper table.
    :param begin: opens a transaction, if a table's last steps can be one.
    :param transactional_ddl: everything is one transaction, rolled back on failure.
    :param table_suffix: what stands after the columns when a table is created.
    """

    statement: str
    prepare: Callable[[LoadPlan], list[str]]
    columns: Callable[[LoadPlan, str], str]
    helpers: Callable[[LoadPlan], str]
    fill: Callable[[LoadPlan, Table], int]
    swap: Callable[[LoadPlan, Table, bool], list[str]]
    overwrite: Callable[[LoadPlan, Table, Sequence[Column]], list[str]]
    append: Callable[[LoadPlan, Table, Sequence[Column]], list[str]]
    record: Callable[[LoadPlan, Table], str]
    add_column: Callable[[LoadPlan, str, Column], str]
    alter_column: Callable[[LoadPlan, str, str, str, str], str]
    alterable: Callable[[str, str], bool]
    drop_helper: Callable[[LoadPlan, str], str]
    begin: str
    transactional_ddl: bool
    table_suffix: str = ""

    def create_helper(self, plan: LoadPlan, table: Table) -> str:
        """Make the empty helper table."""
        return _create_table(f"CREATE TABLE {plan.path(table.helper)}", plan, table, self.table_suffix)

    def create_missing(self, plan: LoadPlan, table: Table) -> str:
        """Make the table itself, empty, unless another load has made it meanwhile."""
        return _create_table(f"CREATE TABLE IF NOT EXISTS {plan.path(table.name)}", plan, table, self.table_suffix)


def needs_parquet(plan: LoadPlan) -> None:
    """Refuse text formats where the warehouse's own reader can't keep NULL and ``''`` apart, or bytes from hexadecimal.

    :raises D1ConfigurationError: saying what to do.
    """
    if plan.file_format != "parquet":
        raise D1ConfigurationError(
            f"{plan.dialect.name} is loaded from Parquet, and {plan.origin.manifest} lists {plan.file_format}: "
            "stage with file_format='parquet'"
        )


def run_load(plan: LoadPlan, session: Session, steps: Steps) -> list[LoadedTable]:
    """Load the plan's tables, all helper tables first.

    :raises D1WarehouseError: when rows are missing, or a column can't be widened.
    """
    run = _Run(plan, session, steps)
    if steps.transactional_ddl:
        run.execute(steps.begin)
        try:
            results = run.tables()
        except BaseException:
            session.rows("ROLLBACK")
            raise
        run.execute("COMMIT")
        return results
    try:
        results = run.tables()
    except BaseException:
        with suppress(Exception):  # what went wrong first is what counts
            run.drop_helpers()
        raise
    run.drop_helpers()
    return results


class _Run:
    def __init__(self, plan: LoadPlan, session: Session, steps: Steps) -> None:
        self.plan = plan
        self.session = session
        self.steps = steps

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        log.info("%s", statement)
        return self.session.rows(statement)

    def tables(self) -> list[LoadedTable]:
        plan, steps = self.plan, self.steps
        for statement in steps.prepare(plan):
            self.execute(statement)
        self._drop_leftovers()
        append = plan.options.mode == "append"
        loaded = loads.already_loaded(self.session.rows(loads.history_query(plan))) if append else {}
        results: list[LoadedTable] = []
        publications: list[_Publication] = []
        for table in plan.tables:
            existing = self._columns(table.name)
            path = plan.path(table.name)
            if append and existing and loaded.get(table.name):
                log.info("%s: this export is loaded already; skipped", path)
                results.append(LoadedTable(table.name, path, steps.statement, 0, skipped=True))
                continue
            drift = self._drift(table, existing) if append and existing else None
            self._fill(table)
            publications.append(self._publication(table, existing, drift))
            results.append(LoadedTable(table.name, path, steps.statement, table.rows))
        for publication in publications:
            self._publish(publication)
        return results

    def drop_helpers(self) -> None:
        for table in self.plan.tables:
            self.execute(self.steps.drop_helper(self.plan, table.helper))

    def _drop_leftovers(self) -> None:
        """Helper tables of loads that were killed; where DDL is transactional there can be none."""
        if self.steps.transactional_ddl:
            return
        names = [str(name) for (name, *_) in self.session.rows(self.steps.helpers(self.plan))]
        for name in leftover_helpers(names):
            self.execute(self.steps.drop_helper(self.plan, name))

    def _columns(self, table: str) -> Mapping[str, str]:
        return {
            str(name): str(type_name) for name, type_name in self.session.rows(self.steps.columns(self.plan, table))
        }

    def _fill(self, table: Table) -> None:
        self.execute(self.steps.create_helper(self.plan, table))
        rows = self.steps.fill(self.plan, table) if table.rows else 0
        if rows != table.rows:
            raise D1WarehouseError(f"table {table.name!r}: {rows} rows arrived of the manifest's {table.rows}")

    def _drift(self, table: Table, existing: Mapping[str, str]) -> Drift:
        plan, steps = self.plan, self.steps

        def alter(column: str, old: str, new: str) -> str:
            return steps.alter_column(plan, table.name, column, old, new)

        drift = find_drift(plan.dialect, table, existing, alter, steps.alterable)
        for change in drift.altered:
            if (change.old, change.new) == ("int64", "float64"):
                name, path = plan.dialect.identifier(change.column), plan.path(table.name)
                ((count,),) = self.session.rows(
                    f"SELECT COUNT(*) FROM {path} WHERE {name} NOT BETWEEN -{2**53} AND {2**53}"
                )
                if count:
                    raise D1WarehouseError(
                        f"table {table.name!r} is as it was: {count} integers in column {change.column!r} would be "
                        f"rounded by {change.statement}"
                    )
        return drift

    def _publication(self, table: Table, existing: Mapping[str, str], drift: Drift | None) -> _Publication:
        plan, steps = self.plan, self.steps
        if drift is not None:
            changes = [steps.add_column(plan, table.name, column) for column in drift.added]
            changes += [change.statement for change in drift.altered]
            return _Publication(table, changes, steps.append(plan, table, drift.targets))
        if plan.options.mode == "append":
            return _Publication(table, [steps.create_missing(plan, table)], steps.append(plan, table, table.columns))
        columns = columns_as_staged(plan.dialect, table, existing) if existing else None
        if columns is not None:
            return _Publication(table, [], steps.overwrite(plan, table, columns))
        return _Publication(table, steps.swap(plan, table, bool(existing)), [])

    def _publish(self, publication: _Publication) -> None:
        """The last steps of one table and its record; in one transaction where that is possible."""
        plan, steps, table = self.plan, self.steps, publication.table
        for statement in publication.ddl:
            self.execute(statement)
        whole = bool(publication.dml) and bool(steps.begin) and not steps.transactional_ddl
        if whole:
            self.execute(steps.begin)
        try:
            before = self._count(table) if plan.options.mode == "append" else 0
            for statement in publication.dml:
                self.execute(statement)
            self._check_published(table, before)
            self.execute(steps.record(plan, table))
        except BaseException:
            if whole:
                with suppress(Exception):  # what went wrong first is what counts
                    self.session.rows("ROLLBACK")
            raise
        if whole:
            self.execute("COMMIT")

    def _check_published(self, table: Table, before: int) -> None:
        """Count the rows where they are now. Another load may append at the same time, where it need not wait."""
        rows = self._count(table) - before
        if rows == table.rows or (rows > table.rows and self.plan.options.mode == "append"):
            return
        raise D1WarehouseError(
            f"table {table.name!r} has {rows} new rows after the load, {table.rows} were expected: was it changed by "
            "something else at the same time?",
            retryable=True,
        )

    def _count(self, table: Table) -> int:
        ((count,),) = self.session.rows(f"SELECT COUNT(*) FROM {self.plan.path(table.name)}")
        return int(count)


@dataclass(frozen=True, slots=True)
class _Publication:
    """How a table's rows become visible: DDL, which commits by itself in most warehouses, then statements on rows."""

    table: Table
    ddl: list[str]
    dml: list[str]


def _create_table(head: str, plan: LoadPlan, table: Table, suffix: str) -> str:
    """Without keys or constraints: a staging table takes what comes."""
    listed = ", ".join(f"{plan.dialect.identifier(c.name)} {plan.dialect.types[c.type]}" for c in table.columns)
    return f"{head} ({listed}){suffix}"


def insert_from_helper(
    plan: LoadPlan,
    table: Table,
    targets: Sequence[Column],
    widened: Callable[[str, str, str], str],
    verb: str = "INSERT INTO",
) -> str:
    """Append the helper table's rows, each column in the type that it has in the table.

    :param widened: (quoted name, staged type, wider type) → expression.
    :param verb: what the statement begins with.
    """
    dialect = plan.dialect
    names = ", ".join(dialect.identifier(target.name) for target in targets)
    values = ", ".join(
        dialect.identifier(staged.name)
        if staged.type == target.type
        else widened(dialect.identifier(staged.name), staged.type, target.type)
        for staged, target in zip(table.columns, targets, strict=True)
    )
    return f"{verb} {plan.path(table.name)} ({names}) SELECT {values} FROM {plan.path(table.helper)}"


def planned(plan: LoadPlan, steps: Steps, fill: Callable[[LoadPlan, Table], list[str]]) -> list[str]:
    """Every statement of a load as far as it is known without asking the warehouse.

    :param fill: the statements that load a helper table, secrets left out.
    """
    result = [steps.begin] if steps.transactional_ddl else []
    result += steps.prepare(plan)
    for table in plan.tables:
        result += [steps.create_helper(plan, table), *fill(plan, table)]
    for table in plan.tables:
        if plan.options.mode == "append":
            result += [steps.create_missing(plan, table), *steps.append(plan, table, table.columns)]
        else:
            result += steps.overwrite(plan, table, table.columns)
        result.append(steps.record(plan, table))
        if not steps.transactional_ddl:
            result.append(steps.drop_helper(plan, table.helper))
    return [*result, "COMMIT"] if steps.transactional_ddl else result
