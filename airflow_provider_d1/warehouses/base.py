"""What an engine has to say so that it can be loaded: values, and methods with defaults in plain SQL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, ClassVar, Generic, Literal

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import load_history, merge, native_types
from airflow_provider_d1.warehouses.merge import KeyColumn, Match
from airflow_provider_d1.warehouses.session import Connections, Run, S
from airflow_provider_d1.warehouses.table_load import Publication, TableLoad, WarehouseOption

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect
    from airflow_provider_d1.warehouses.plan import Column, LoadPlan, Table
    from airflow_provider_d1.warehouses.staged_files import StagedFiles


class Warehouse(ABC, Generic[S]):
    """One engine. It has no state: what belongs to a load is in its :class:`Run` and session.

    The attributes are values, the methods have defaults in plain SQL; an engine overrides what differs.
    """

    dialect: ClassVar[Dialect]
    #: the extra that brings its provider
    extra: ClassVar[str]
    #: what can be imported when it is installed: the provider's hook, the driver
    modules: ClassVar[tuple[str, ...]]
    #: the statement that loads, for the task's return value
    statement: ClassVar[str]
    options: ClassVar[tuple[WarehouseOption, ...]] = ()
    #: type of ``loaded_at``, and the expression for the present time in UTC
    timestamp_type: ClassVar[str]
    now: ClassVar[str]
    #: what is one transaction: the whole load, the publication of a table with its record, or a statement
    transaction: ClassVar[Literal["load", "table", "statement"]] = "table"
    begin: ClassVar[str] = "BEGIN"
    #: how many tables are published in one transaction, where that is not the whole load's
    tables_at_once: ClassVar[int] = 1
    #: True where :meth:`rename_helper` leaves no helper table, False where it copies it
    renames: ClassVar[bool] = True
    #: True where rows are replaced in a table with other columns too, which are added and altered in place
    alters_to_replace: ClassVar[bool] = False
    #: False where the engine's own reader can't keep NULL and '' apart in text formats, or bytes from hexadecimal
    reads_text_formats: ClassVar[bool] = True
    #: True where values are fitted to the table's types before they are sent, False where the warehouse casts them
    fits_values_here: ClassVar[bool] = False
    #: what follows the columns of a new table, and of ``_d1_loads``
    table_suffix: ClassVar[str] = ""
    loads_suffix: ClassVar[str] = ""

    # what every engine must have

    @abstractmethod
    def driver_errors(self) -> tuple[type[Exception], ...]:
        """The exceptions of the driver; :attr:`modules` are imported."""

    @abstractmethod
    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> S:
        """Open a session."""

    @abstractmethod
    def fill(self, run: Run[S], work: TableLoad) -> int:
        """Load a table's staged files into ``work.into`` and return the rows that the warehouse counted."""

    @abstractmethod
    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """The statements of :meth:`fill`, without secrets."""

    @abstractmethod
    def columns_query(self, plan: LoadPlan, table: str) -> str:
        """The query for a table's columns in order: name, type; no rows when there is no such table."""

    @abstractmethod
    def cast(self, name: str, old: str, new: str) -> str:
        """An expression that gives the quoted column ``name`` of the staged type ``old`` the wider type ``new``."""

    @abstractmethod
    def is_permanent(self, error: Exception) -> bool:
        """Whether a driver's error is permanent; the task's ``retries`` apply to all others."""

    # defaults

    def remedy(self, text: str) -> str:
        """What to do about a driver's error, added to its text; empty where that is not known."""
        return ""

    def check(self, plan: LoadPlan, files: StagedFiles) -> None:
        """Refuse a load that this engine can't do, before anything is connected.

        :raises D1ConfigurationError: saying what to do.
        """

    def check_targets(self, run: Run[S]) -> None:
        """Refuse what is in the schema already and can't be loaded into, before anything is loaded.

        :raises D1WarehouseError: naming it.
        """

    def not_a_table(self, plan: LoadPlan, table: str, what: str) -> D1WarehouseError:
        """The error for something that has a table's name and can't be loaded; ``what`` it is, as in "is a view"."""
        remedy = "rename it, or leave the table out with tables=[…]"
        return D1WarehouseError(f"table {table!r} is not loaded: {plan.path(table)} {what}; {remedy}")

    def schema_query(self, plan: LoadPlan) -> str:
        """The query for the target schema; no rows when there is none."""
        schema = plan.dialect.literal(plan.dialect.stored(plan.options.schema))
        return f"SELECT 1 FROM {plan.information_schema}.schemata WHERE schema_name = {schema}"

    def create_schema(self, plan: LoadPlan) -> str:
        """Make the target schema."""
        return f"CREATE SCHEMA IF NOT EXISTS {plan.schema_path}"

    def create_loads(self, plan: LoadPlan) -> str:
        """Make the loader's own table."""
        return load_history.create_statement(plan, self.timestamp_type, self.loads_suffix)

    def lock(self, plan: LoadPlan) -> list[str]:
        """Let loads into one schema follow each other, where a lock can do that."""
        return []

    #: True where the session has a lock for its whole time, so that no other load into the schema runs
    locks_schema: ClassVar[bool] = False
    #: True where the locks have to be the first statements of the transaction
    locks_first: ClassVar[bool] = False

    def tables_query(self, plan: LoadPlan) -> str:
        """The query for the names of all tables in the schema."""
        schema = plan.dialect.literal(plan.dialect.stored(plan.options.schema))
        return f"SELECT table_name FROM {plan.information_schema}.tables WHERE table_schema = {schema}"

    def statement_for(self, work: TableLoad) -> str:
        """The statement that loads a table, for the task's return value."""
        return self.statement

    def loads_into(self, plan: LoadPlan, work: TableLoad) -> str:
        """The table that the staged files are loaded into."""
        return work.table.helper

    def create_helper(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Make the empty helper table. No keys or constraints: it takes what comes."""
        return [self.create_table(plan, work.into, work.columns)]

    def create_table(self, plan: LoadPlan, name: str, columns: Sequence[Column], clause: str = "") -> str:
        """Make a table; ``clause`` may be ``IF NOT EXISTS``."""
        listed = ", ".join(
            f"{plan.dialect.identifier(c.name)} {plan.dialect.type_of(c.type, c.native)}" for c in columns
        )
        return f"CREATE TABLE {clause}{plan.path(name)} ({listed}){self.table_suffix}"

    def drop_helper(self, plan: LoadPlan, name: str) -> str:
        """Remove a helper table."""
        return f"DROP TABLE IF EXISTS {plan.path(name)}"

    def add_column(self, plan: LoadPlan, table: str, column: Column) -> str:
        """Add a column, NULL in the rows that are there."""
        name = plan.dialect.identifier(column.name)
        return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {plan.dialect.type_of(column.type, column.native)}"

    def add_columns(self, plan: LoadPlan, table: str, columns: Sequence[Column]) -> list[str]:
        """Add columns to a table that is there."""
        return [self.add_column(plan, table, column) for column in columns]

    def drop_columns(self, plan: LoadPlan, table: str, names: Sequence[str]) -> list[str]:
        """Drop columns; shown to a person only."""
        return [f"ALTER TABLE {plan.path(table)} DROP COLUMN {plan.dialect.identifier(name)}" for name in names]

    def alterable(self, old: str, new: str) -> bool:
        """Whether :meth:`alter_column` may be run; else a person is shown it."""
        return False

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        """Widen a column. By default through a second one: most warehouses have no ALTER that changes a type's kind."""
        path, name = plan.path(table), plan.dialect.identifier(column)
        wider = plan.dialect.identifier(f"{column}_wider")
        return [
            f"ALTER TABLE {path} ADD COLUMN {wider} {plan.dialect.types[new]}",
            f"UPDATE {path} SET {wider} = {native_types.converted(self, name, old, new)}",
            f"ALTER TABLE {path} DROP COLUMN {name}",
            f"ALTER TABLE {path} RENAME COLUMN {wider} TO {name}",
        ]

    def insert_from_helper(
        self, plan: LoadPlan, work: TableLoad, verb: str = "INSERT INTO", into: str | None = None
    ) -> str:
        """Bring the helper table's rows into the table, or into another one, in the types of the table's columns."""
        values = self.staged_values(plan, work)
        names = ", ".join(plan.dialect.identifier(name) for name in values)
        return (
            f"{verb} {plan.path(into or work.table.name)} ({names}) SELECT {', '.join(values.values())} "
            f"FROM {plan.path(work.into)}"
        )

    def staged_values(self, plan: LoadPlan, work: TableLoad, row: str = "") -> dict[str, str]:
        """The table's column → the helper table's value for it, in the column's type.

        :param row: what stands before the helper table's columns.
        """
        values = {}
        for held, target in zip(work.columns, work.drift.targets, strict=True):
            value = f"{row}{plan.dialect.identifier(held.name)}"
            if target.native and not held.native:
                kind = native_types.kind_in(target, target.native)
                value = self.fit(plan, work, row, held, target.native, kind).value
            elif held.type != target.type:
                value = self.cast(value, held.type, target.type)
            values[target.name] = value
        return values

    def fit(
        self, plan: LoadPlan, work: TableLoad, row: str, held: Column, native: str, kind: str = ""
    ) -> native_types.Fit:
        """How the helper table's value gets into a type that is not a staged one.

        :param kind: what the type is used as; by default what it is.
        """
        return native_types.fit(self, f"{row}{plan.dialect.identifier(held.name)}", held.type, native, kind)

    #: True where :meth:`fit` adds columns to the helper table
    fits_widen_helper: ClassVar[bool] = False

    def retype(self, run: Run[S], work: TableLoad, *, new_table: bool) -> list[str]:
        """Make and fill a helper table with the types of the table's columns, where it becomes the table."""
        targets = work.drift.targets
        if not new_table or not (self.fits_widen_helper or any(column.native for column in targets)):
            return []
        create = self.create_table(run.plan, work.table.typed, targets)
        return [create, self.insert_from_helper(run.plan, work, into=work.table.typed)]

    @contextmanager
    def savepoint(self, run: Run[S]) -> Iterator[None]:
        """A place to which a transaction of the whole load goes back after an error, where the engine has such."""
        yield

    def table_value(self, plan: LoadPlan, work: TableLoad, name: str) -> str:
        """The value of one of the table's columns, beside a row of the helper table."""
        return f"{plan.dialect.identifier(work.table.name)}.{plan.dialect.identifier(name)}"

    def match(self, plan: LoadPlan, work: TableLoad) -> Match:
        """How the table's rows and the helper table's rows are matched by key."""
        values, types = self.staged_values(plan, work, "d1_new."), {c.name: c.type for c in work.drift.targets}
        key = []
        for name in work.key:
            old, new = self.table_value(plan, work, name), values[name]
            key.append(KeyColumn(name, old, new, *(self.exactly(value, types[name]) for value in (old, new))))
        table, paths = work.table, (plan.path(work.table.name), plan.path(work.into))
        deletes, identifier = work.delete_missing, plan.dialect.identifier
        return Match(table.source_name, *paths, table.rows, tuple(key), values, deletes, identifier)

    def exactly(self, value: str, type_name: str) -> str:
        """A value of a staged type in a form in which ``=`` and GROUP BY distinguish all values."""
        return value

    #: True where MERGE deletes too, so that it is one statement
    merge_deletes: ClassVar[bool] = False

    def merge(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Change the table's rows that are in the helper table by their keys, and add the others."""
        return merge.merge(self.match(plan, work), deletes=self.merge_deletes)

    def overwrite(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Replace the table's rows; the table and all that is attached to it stay."""
        return [f"DELETE FROM {plan.path(work.table.name)}", self.insert_from_helper(plan, work)]

    def swap(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Put the helper table in the place of the table, which has other columns."""
        return [f"DROP TABLE {plan.path(work.table.name)}", self.rename_helper(plan, work)]

    def attached_query(self, plan: LoadPlan, table: str) -> str | None:
        """The query for what a swap would lose, in words: policies above all, as grants would show what they hide."""
        return None

    def attached(self, run: Run[S], table: str) -> list[str]:
        """What is attached to a table, in words."""
        query = self.attached_query(run.plan, table)
        return [] if query is None else [str(what) for (what,) in run.session.rows(query)]

    def drop_table(self, run: Run[S], table: str) -> None:
        """Drop a table that D1 no longer has."""
        run.execute(f"DROP TABLE {run.plan.path(table)}")

    def rename_helper(self, plan: LoadPlan, work: TableLoad) -> str:
        """Make the helper table the table, where there is none yet."""
        return f"ALTER TABLE {plan.path(work.into)} RENAME TO {plan.dialect.identifier(work.table.name)}"

    def alterations(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Add and widen the table's columns, as an append needs it."""
        table, drift = work.table.name, work.drift
        return [
            *self.add_columns(plan, table, drift.added),
            *(statement for change in drift.altered for statement in change.statements),
        ]

    def publication(self, plan: LoadPlan, work: TableLoad) -> Publication:
        """How the rows of a helper table become visible."""
        if work.action == "overwrite":
            return Publication(dml=self.overwrite(plan, work))
        if work.action == "swap":
            swap = self.swap(plan, work)
            return Publication(ddl=swap, renames=self.renames and self.rename_helper(plan, work) in swap)
        if work.action == "append":
            return Publication(self.alterations(plan, work), [self.insert_from_helper(plan, work)])
        if work.action == "merge":
            return Publication(self.alterations(plan, work), self.merge(plan, work))
        if plan.options.mode == "replace":
            return Publication(ddl=[self.rename_helper(plan, work)], renames=self.renames)
        # another load may have made the table since the plan
        create = self.create_table(plan, work.table.name, work.columns, "IF NOT EXISTS ")
        return Publication([create], self.merge(plan, work) if work.key else [self.insert_from_helper(plan, work)])

    def load_rows(self, run: Run[S], work: TableLoad) -> None:
        """Load a table's files to where they are published from, and count them there.

        :raises D1WarehouseError: when rows are missing.
        """
        if work.into == work.table.helper:
            run.helpers.append(work.into)
            for statement in self.create_helper(run.plan, work):
                run.execute(statement)
        # an empty table has nothing to copy; where the worker sends the rows, sending none costs nothing
        rows = self.fill(run, work) if work.table.rows or self.fits_values_here else 0
        self.check_filled(work, rows)
        if work.checked:
            run.settle_types(work)
        if work.key:
            in_table = work.action == "merge" and self.transaction == "statement"  # else it is seen before the commit
            merge.check_keys(self.match(run.plan, work), run.session.rows, in_table=in_table)

    def check_filled(self, work: TableLoad, rows: int) -> None:
        """Compare the rows that were loaded with the manifest's.

        :raises D1WarehouseError: when they differ.
        """
        if rows != work.table.rows:
            raise D1WarehouseError(f"table {work.table.name!r}: loaded {rows} rows, expected {work.table.rows}")

    def publish_all(self, run: Run[S], works: Sequence[TableLoad]) -> None:
        """Make the rows of all tables visible."""
        for start in range(0, len(works), self.tables_at_once):
            self.publish(run, works[start : start + self.tables_at_once])

    def publish(self, run: Run[S], works: Sequence[TableLoad]) -> None:
        """Make tables' rows visible, count them there, and record them; all at once where the engine can."""
        publications = [(work, self.publication(run.plan, work)) for work in works]
        for _, publication in publications:
            run.helpers += publication.makes
            for statement in publication.ddl:
                run.execute(statement)
        with run.transaction(self.begin) if self.transaction == "table" else nullcontext():
            for work, publication in publications:
                before = work.rows_before
                if work.into != work.table.name and run.plan.options.mode == "append" and not publication.renames:
                    before = run.count(work.table.name)
                self.change_rows(run, work, publication.dml)
                if publication.renames:
                    run.helpers.remove(work.into)
                self.check_published(run, work, before)
            if self.transaction != "load":
                self.record(run, [work.table for work in works])

    def change_rows(self, run: Run[S], work: TableLoad, statements: Sequence[str]) -> None:
        """Run the statements that make a table's rows visible."""
        for statement in statements:
            run.execute(statement)

    def record(self, run: Run[S], tables: Sequence[Table], mode: str = "") -> None:
        """Record in ``_d1_loads`` that tables were loaded, where the lock or the transaction is that of their rows."""
        if run.last_record is None or not self.locks_schema:
            ((last,),) = run.session.rows(load_history.last_query(run.plan))
            run.last_record = int(last or 0)
        run.last_record += 1
        run.execute(load_history.insert_statement(run.plan, tables, self.now, run.last_record, mode))

    def check_published(self, run: Run[S], work: TableLoad, before: int) -> None:
        """Count the rows in the table itself. Other loads may append at the same time, where they need not wait.

        :param before: the rows that the table had, where they stay.
        :raises D1WarehouseError: when they are not as many as they should be.
        """
        expected = work.table.rows
        exact = run.plan.options.mode == "replace" or work.delete_missing
        if work.key and not exact and work.into in run.helpers:
            rows = merge.count_merged(self.match(run.plan, work), run.session.rows)
        else:
            rows = run.count(work.table.name) - before
        if rows < expected or (rows > expected and exact):
            raise D1WarehouseError(
                f"table {work.table.name!r} has {rows} new rows after the load, expected {expected}: something else "
                "changed it at the same time",
                retryable=True,
            )
