"""DuckDB: ``read_parquet`` from disk and S3, all of a manifest in one transaction.

Readers have what was there when they began until the commit, so no helper table is needed.
"""

from __future__ import annotations

import string
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1Error, D1ManifestError, D1WarehouseError
from airflow_provider_d1.validation import fold_case
from airflow_provider_d1.warehouses import merge
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import schema_of, staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.duckdb_session import DuckDBSession
from airflow_provider_d1.warehouses.fitting import fitted
from airflow_provider_d1.warehouses.native_types import converted
from airflow_provider_d1.warehouses.plan import LOADS_TABLE
from airflow_provider_d1.warehouses.s3_access import s3_access
from airflow_provider_d1.warehouses.staged_files import split_s3
from airflow_provider_d1.warehouses.table_load import Publication, TableLoad

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_d1.warehouses.plan import Column, LoadPlan, Table
    from airflow_provider_d1.warehouses.session import Connections, Run
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

#: the name under which Python's batches are known to SQL
_BATCHES = "_d1_batches"


class DuckDB(Warehouse[DuckDBSession]):
    """DuckDB."""

    dialect = Dialect(
        name="DuckDB",
        types={
            "int64": "BIGINT",
            "float64": "DOUBLE",
            "string": "VARCHAR",
            "binary": "BLOB",
            "timestamp[us]": "TIMESTAMP",
            "date32": "DATE",
        },
        known_types={
            "bigint": "int64",
            "double": "float64",
            "varchar": "string",
            "blob": "binary",
            "timestamp": "timestamp[us]",
            "date": "date32",
        },
        native={
            "boolean": "BOOLEAN",
            "date": "DATE",
            "timestamp": "TIMESTAMP",
            "decimal": "DECIMAL({precision},{scale})",
            "json": "JSON",  # a checked text
        },
        largest_decimal=(38, 38, 38),
        max_length=4096,  # it has no limit of its own
        fold=fold_case,
    )
    extra = "duckdb"
    modules = ("airflow.providers.duckdb.hooks.duckdb", "duckdb")
    statement = "INSERT"
    timestamp_type = "TIMESTAMP"
    now = "make_timestamp(epoch_us(now()))"  # UTC, without the ICU extension
    transaction = "load"
    begin = "BEGIN TRANSACTION"
    fits_values_here = True

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from duckdb import Error

        return (Error,)

    def is_permanent(self, error: Exception) -> bool:
        from duckdb import (
            DataError,
            DependencyException,
            HTTPException,
            IntegrityError,
            NotSupportedError,
            PermissionException,
            ProgrammingError,
        )

        if isinstance(error, HTTPException):
            return getattr(error, "status_code", None) in (401, 403)
        permanent = (DataError, DependencyException, IntegrityError, NotSupportedError, PermissionException)
        # what is wrong in a Parquet file's own headers has no class of its own
        return isinstance(error, (ProgrammingError, *permanent)) or "TProtocolException" in str(error)

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> DuckDBSession:
        from airflow.providers.duckdb.hooks.duckdb import DuckDBHook

        session = DuckDBSession(DuckDBHook(duckdb_conn_id=connections.conn_id).get_conn())
        parts = [part for table in plan.tables for part in table.parts]
        hook = files.s3_hook
        if hook is not None and plan.file_format == "parquet" and parts:
            try:
                session.read_s3_itself(lambda: s3_access(hook, split_s3(parts[0].uri)[0]), plan.dialect)
            except BaseException:
                session.close()
                raise
        return session

    def schema_query(self, plan: LoadPlan) -> str:
        return (
            "SELECT 1 FROM duckdb_schemas() WHERE database_name = current_database() "
            f"AND {_is('schema_name', plan.options.schema)}"
        )

    def tables_query(self, plan: LoadPlan) -> str:
        return (
            "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
            f"AND {_is('schema_name', plan.options.schema)}"
        )

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
            f"AND {_is('schema_name', plan.options.schema)} "
            f"AND {_is('table_name', table)} ORDER BY column_index"
        )

    def check_targets(self, run: Run[DuckDBSession]) -> None:
        """Refuse views, and tables whose names differ only in case: they are neither replaced nor appended to."""
        plan = run.plan
        rest = (
            f"WHERE database_name = current_database() AND NOT internal AND {_is('schema_name', plan.options.schema)}"
        )
        views = {fold_case(name) for (name,) in run.session.rows(f"SELECT view_name FROM duckdb_views() {rest}")}
        tables = {
            fold_case(name): name for (name,) in run.session.rows(f"SELECT table_name FROM duckdb_tables() {rest}")
        }
        for table in plan.tables:
            if fold_case(table.name) in views:
                raise self.not_a_table(plan, table.name, "is a view")
            other = tables.get(fold_case(table.name), table.name)
            if other != table.name:
                raise D1WarehouseError(
                    f"table {table.name!r} conflicts with existing table {other!r} in schema {plan.options.schema!r}: "
                    "DuckDB names are case-insensitive"
                )

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        of = (
            f"database_name = current_database() AND {_is('schema_name', plan.options.schema)} "
            f"AND {_is('table_name', table)}"
        )
        return (
            f"SELECT 'index ' || index_name FROM duckdb_indexes() WHERE {of} "
            f"UNION ALL SELECT 'constraint ' || constraint_text FROM duckdb_constraints() WHERE {of} "
            f"UNION ALL SELECT 'a comment' FROM duckdb_tables() WHERE {of} AND comment IS NOT NULL "
            "UNION ALL SELECT 'settings of column ' || column_name FROM duckdb_columns() "
            f"WHERE {of} AND (column_default IS NOT NULL OR comment IS NOT NULL)"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return (
                f"CASE WHEN {name} = trunc({name}) AND abs({name}) < 1e17 THEN {name}::BIGINT::VARCHAR || '.0' "
                f"ELSE replace(regexp_replace({name}::VARCHAR, '^(-?[0-9]+)(e.*)$', '\\1.0\\2'), 'inf', 'Inf') END"
            )
        if (old, new) == ("binary", "string"):
            return f"hex({name})"
        return f"{name}::{self.dialect.types[new]}"

    def alterable(self, old: str, new: str) -> bool:
        return True

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        name = plan.dialect.identifier(column)
        alter = f"ALTER TABLE {plan.path(table)} ALTER COLUMN {name}"
        return [f"{alter} TYPE {plan.dialect.types[new]} USING {converted(self, name, old, new)}"]

    def loads_into(self, plan: LoadPlan, work: TableLoad) -> str:
        return work.table.helper if work.action == "merge" or work.checked else work.table.name

    def publication(self, plan: LoadPlan, work: TableLoad) -> Publication:
        return Publication() if work.into == work.table.name else super().publication(plan, work)

    def merge(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        # it has MERGE since version 1.4 only
        return merge.update_and_insert(self.match(plan, work))

    def record(self, run: Run[DuckDBSession], tables: Sequence[Table], mode: str = "") -> None:
        # two loads in one process do not see each other's rows. A table that both alter makes the second one fail, and
        # the next attempt sees what the first one did. An UPDATE needs a row, and one to the same value is no conflict
        run.execute(f"COMMENT ON TABLE {run.plan.path(LOADS_TABLE)} IS 'Loads of airflow-provider-d1'")
        super().record(run, tables, mode)

    def statement_for(self, work: TableLoad) -> str:
        return "CREATE TABLE AS" if work.action in ("create", "swap") else self.statement

    def load_rows(self, run: Run[DuckDBSession], work: TableLoad) -> None:
        straight = work.into == work.table.name
        if straight and work.action == "append":
            for statement in self.alterations(run.plan, work):
                run.execute(statement)
        elif straight and work.action == "overwrite":
            run.execute(self._delete(run.plan, work))
        super().load_rows(run, work)

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        parquet = plan.file_format == "parquet"
        source = _parquet_source(plan, work, [part.uri for part in work.table.parts]) if parquet else _BATCHES
        straight = work.into == work.table.name
        delete = [self._delete(plan, work)] if straight and work.action == "overwrite" else []
        return [*delete, self._load_from(plan, work, source)]

    def fill(self, run: Run[DuckDBSession], work: TableLoad) -> int:
        from duckdb import Error

        session, paths = run.session, self._readable_paths(run, work)
        if paths is None:
            session.connection.register(_BATCHES, _reader(run, work))
            source = _BATCHES
        else:
            self._check_parts(run, work, paths)
            source = _parquet_source(run.plan, work, paths)
        try:
            run.execute(self._load_from(run.plan, work, source))
        except Error:
            if session.broken is not None:
                raise session.broken from None
            raise
        finally:
            if paths is None:
                session.connection.unregister(_BATCHES)
        return run.count(work.into) - work.rows_before

    def _delete(self, plan: LoadPlan, work: TableLoad) -> str:
        """Take all rows out; the table and all that is attached to it stay."""
        return f"DELETE FROM {plan.path(work.into)}"

    def _load_from(self, plan: LoadPlan, work: TableLoad, source: str) -> str:
        """Make the table from what the source holds, or add that to it."""
        targets = _names(plan, work.columns)
        staged = targets if source == _BATCHES else _names(plan, work.table.columns)
        if work.into == work.table.name and work.action in ("create", "swap"):
            create = "CREATE OR REPLACE TABLE" if work.action == "swap" else "CREATE TABLE"
            return f"{create} {plan.path(work.into)} AS SELECT {staged} FROM {source}"
        return f"INSERT INTO {plan.path(work.into)} ({targets}) SELECT {staged} FROM {source}"

    def _readable_paths(self, run: Run[DuckDBSession], work: TableLoad) -> list[str] | None:
        """The parts as DuckDB reads them itself, None when the worker has to read them."""
        table = work.table
        as_staged = [column.type for column in work.columns] == [column.type for column in table.columns]
        if run.plan.file_format != "parquet" or not table.parts or not as_staged:
            return None
        if run.session.reads_s3:
            if any(set("*?[") & set(part.uri) for part in table.parts):
                return None  # in a URL there is no way to take these literally
            run.files.check_contents(table)
            return [part.uri for part in table.parts]
        local = [run.files.local(part.uri) for part in table.parts]
        if any(path is None for path in local):
            return None
        run.files.check_contents(table)
        return [str(path) for path in local]

    def _check_parts(self, run: Run[DuckDBSession], work: TableLoad, paths: Sequence[str]) -> None:
        """Each part's rows and columns, from its footer, before DuckDB reads it."""
        from duckdb import Error

        table = work.table
        listed = ", ".join(run.plan.dialect.literal(_not_a_pattern(path)) for path in paths)
        expected = [(column.source_name, self.dialect.types[column.type]) for column in table.columns]
        try:
            counts = dict(run.session.rows(f"SELECT file_name, num_rows FROM parquet_file_metadata([{listed}])"))
            fields = run.session.rows(
                f"SELECT file_name, name, duckdb_type FROM parquet_schema([{listed}]) WHERE num_children IS NULL "
                "ORDER BY file_name, column_id"
            )
        except Error as error:
            raise D1ManifestError(
                f"table {table.name!r}: a part can't be read as Parquet: {error}",
                retryable=not self.is_permanent(error),
            ) from error
        for part, path in zip(table.parts, paths, strict=True):
            if counts[path] != part.rows:
                raise D1ManifestError(
                    f"table {table.name!r}: its part {part.uri} has {counts[path]} rows, the manifest says {part.rows}"
                )
            found = [(name, type_name) for file, name, type_name in fields if file == path]
            if found != expected:
                raise D1ManifestError(
                    f"table {table.name!r}: its part {part.uri} has the columns {found}, not {expected}"
                )


def _parquet_source(plan: LoadPlan, work: TableLoad, paths: Sequence[str]) -> str:
    """The table function that reads Parquet files, each name taken literally; their columns have the table's names."""
    # a folder called ds=2026-11-22 would become a column, a [ in a name a pattern
    literals = ", ".join(plan.dialect.literal(_not_a_pattern(path)) for path in paths)
    source = f"read_parquet([{literals}], hive_partitioning = false, union_by_name = false)"
    if all(column.source is None for column in work.table.columns):
        return source
    # by position: names that differ only in case are one name to DuckDB, and it changes the second one
    return f"{source} AS d1_staged({_names(plan, work.table.columns)})"


def _not_a_pattern(path: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


def _names(plan: LoadPlan, columns: Sequence[Column]) -> str:
    return ", ".join(plan.dialect.identifier(column.name) for column in columns)


def _is(column: str, name: str) -> str:
    """The condition for a name in the catalogue; ``lower()`` would take É for é, which DuckDB does not."""
    folded = f"translate({column}, '{string.ascii_uppercase}', '{string.ascii_lowercase}')"
    return f"{folded} = {DuckDB.dialect.literal(fold_case(name))}"


def _reader(run: Run[DuckDBSession], work: TableLoad) -> pa.RecordBatchReader:
    import pyarrow as pa

    return pa.RecordBatchReader.from_batches(schema_of(work.columns), _batches(run, work))


def _batches(run: Run[DuckDBSession], work: TableLoad) -> Iterator[pa.RecordBatch]:
    try:
        yield from fitted(staged_batches(run.files, work.table, run.plan.file_format), work.table, work.columns)
    except D1Error as error:
        run.session.broken = error
        raise
