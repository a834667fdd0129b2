"""DuckDB: ``read_parquet`` from disk and S3, all of a manifest in one transaction.

A transaction sees what it began with, so no helper table is needed: until the commit, readers have the old tables.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1Error, D1ManifestError, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.base import Column, LoadedTable, LoadPlan, Table
from airflow_provider_d1.warehouses.batches import schema_of, staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect, ascii_lower
from airflow_provider_d1.warehouses.drift import Drift, columns_as_staged, find_drift
from airflow_provider_d1.warehouses.fitting import fitted
from airflow_provider_d1.warehouses.s3_access import S3Access, s3_access
from airflow_provider_d1.warehouses.store import S3Store, StagedFiles, split_s3

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

STATEMENT_NEW = "CREATE TABLE AS"
STATEMENT_APPEND = "INSERT"

DIALECT = Dialect(
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
    max_length=4096,  # it has no limit of its own
    fold=ascii_lower,
)

_NOW = "make_timestamp(epoch_us(now()))"  # UTC, without the ICU extension
#: the name under which Python's batches are known to SQL
_BATCHES = "_d1_batches"
_SECRET = "_d1_staging"  # noqa: S105 - a name


# statements: pure functions of the plan


def create_schema(plan: LoadPlan) -> str:
    """Create the target schema."""
    return f"CREATE SCHEMA IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}"


def create_loads(plan: LoadPlan) -> str:
    """Create the loader's own table; its times are UTC."""
    return loads.create_statement(plan, "TIMESTAMP")


def parquet_source(plan: LoadPlan, paths: Sequence[str]) -> str:
    """The table function that reads Parquet files, each name taken literally."""
    # a folder called ds=2026-11-22 would become a column, a [ in a name a pattern
    literals = ", ".join(plan.dialect.literal(_not_a_pattern(path)) for path in paths)
    return f"read_parquet([{literals}], hive_partitioning = false, union_by_name = false)"


def create_table_as(plan: LoadPlan, table: Table, source: str) -> str:
    """Replace a table by what the source holds; its columns have the staged types already."""
    return f"CREATE OR REPLACE TABLE {plan.path(table.name)} AS SELECT {_names(plan, table.columns)} FROM {source}"


def delete(plan: LoadPlan, table: Table) -> str:
    """Take all rows out; the table and all that is attached to it stay."""
    return f"DELETE FROM {plan.path(table.name)}"


def insert(plan: LoadPlan, table: Table, targets: Sequence[Column], source: str) -> str:
    """Add what the source holds."""
    listed = _names(plan, targets)
    staged = listed if source == _BATCHES else _names(plan, table.columns)
    return f"INSERT INTO {plan.path(table.name)} ({listed}) SELECT {staged} FROM {source}"


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """Widen a column; numbers become text in SQLite's layout, blobs hexadecimal, as staging does it."""
    name, type_name = plan.dialect.identifier(column), plan.dialect.types[new]
    using = {
        (
            "float64",
            "string",
        ): f"CASE WHEN {name} = trunc({name}) AND abs({name}) < 1e17 THEN {name}::BIGINT::VARCHAR || '.0' "
        f"ELSE replace(regexp_replace({name}::VARCHAR, '^(-?[0-9]+)(e.*)$', '\\1.0\\2'), 'inf', 'Inf') END",
        ("binary", "string"): f"hex({name})",
    }.get((old, new), f"{name}::{type_name}")
    return f"ALTER TABLE {plan.path(table)} ALTER COLUMN {name} TYPE {type_name} USING {using}"


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def create_secret(access: S3Access) -> str:
    """Give DuckDB the credentials for the staging bucket, in memory and for that bucket only. Never to be shown."""
    options = {
        "TYPE": "s3",
        "PROVIDER": "config",
        "KEY_ID": access.access_key,
        "SECRET": access.secret_key,
        "SESSION_TOKEN": access.session_token,
        "REGION": access.region,
        "ENDPOINT": access.endpoint_host,
        "URL_STYLE": "path" if access.endpoint_host else None,
        "USE_SSL": None if access.use_ssl else "false",
        "SCOPE": f"s3://{access.bucket}",
    }
    listed = ", ".join(f"{key} {DIALECT.literal(value)}" for key, value in options.items() if value is not None)
    return f"CREATE OR REPLACE TEMPORARY SECRET {_SECRET} ({listed})"


def statements(plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without opening the database."""
    result = ["BEGIN TRANSACTION", create_schema(plan), create_loads(plan)]
    for table in plan.tables:
        source = parquet_source(plan, [part.uri for part in table.parts]) if plan.file_format == "parquet" else _BATCHES
        if plan.options.mode == "append":
            columns = ", ".join(
                f"{plan.dialect.identifier(c.name)} {plan.dialect.types[c.type]}" for c in table.columns
            )
            result.append(f"CREATE TABLE IF NOT EXISTS {plan.path(table.name)} ({columns})")
            result.append(insert(plan, table, table.columns, source))
        else:
            result += [delete(plan, table), insert(plan, table, table.columns, source)]
    return [*result, loads.insert_statement(plan, plan.tables, _NOW), "COMMIT"]


def _names(plan: LoadPlan, columns: Sequence[Column]) -> str:
    return ", ".join(plan.dialect.identifier(column.name) for column in columns)


def _not_a_pattern(path: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in path)


# the load itself


def is_permanent(error: Exception) -> bool:
    """Whether DuckDB's error comes again until somebody changes something."""
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


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:  # noqa: ARG001
    """Load the plan's tables into the DuckDB database behind ``conn_id``; all of them or none. It is closed at the end.

    :raises D1WarehouseError: with DuckDB's own words when it refuses something.
    :raises D1ManifestError: when a staged file is not what the manifest says.
    """
    try:
        from airflow.providers.duckdb.hooks.duckdb import DuckDBHook
        from duckdb import Error
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into DuckDB needs its provider: pip install 'airflow-provider-d1[duckdb]' ({error})"
        ) from error
    try:
        connection = DuckDBHook(duckdb_conn_id=conn_id).get_conn()
    except Error as error:
        # another process may have it open
        raise D1WarehouseError(
            f"The DuckDB database behind {conn_id!r} can't be opened: {error}", retryable=True
        ) from error
    with closing(connection):
        try:
            return _Transaction(connection, plan, files).run()
        except Error as error:
            raise D1WarehouseError(
                f"DuckDB refused the load, every table is as it was: {error}", retryable=not is_permanent(error)
            ) from error


class _Transaction:
    """One load in one transaction."""

    def __init__(self, connection: Any, plan: LoadPlan, files: StagedFiles) -> None:
        self.connection = connection
        self.plan = plan
        self.files = files
        self.broken: D1Error | None = None

    def run(self) -> list[LoadedTable]:
        with self._s3() as reads_s3:
            self._run("BEGIN TRANSACTION")
            try:
                results = self._load(reads_s3=reads_s3)
                self._run("COMMIT")
            except BaseException:
                self.connection.rollback()
                if self.broken is not None:  # DuckDB only passes on the text of what its Python source raised
                    raise self.broken from None
                raise
        return results

    def _load(self, *, reads_s3: bool) -> list[LoadedTable]:
        plan = self.plan
        self._run(create_schema(plan))
        self._run(create_loads(plan))
        append = plan.options.mode == "append"
        loaded = loads.already_loaded(self._rows(loads.history_query(plan))) if append else {}
        results = []
        self._refuse_twins()
        for table in plan.tables:
            columns = self._columns(table.name)
            if append and columns and loaded.get(table.name):
                log.info("%s: this export is loaded already; skipped", plan.path(table.name))
                results.append(LoadedTable(table.name, plan.path(table.name), STATEMENT_APPEND, 0, skipped=True))
            else:
                results.append(self._load_table(table, columns, reads_s3=reads_s3))
        done = {result.name for result in results if not result.skipped}
        if done:
            self._run(loads.insert_statement(plan, [table for table in plan.tables if table.name in done], _NOW))
        return results

    def _refuse_twins(self) -> None:
        """Another table, whose name DuckDB takes for the same one, is neither replaced nor appended to."""
        schema = self.plan.dialect.literal(ascii_lower(self.plan.options.schema))
        standing = {
            ascii_lower(name): name
            for (name,) in self._rows(
                "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
                f"AND lower(schema_name) = {schema}"
            )
        }
        views = {
            ascii_lower(name)
            for (name,) in self._rows(
                "SELECT view_name FROM duckdb_views() WHERE database_name = current_database() "
                f"AND lower(schema_name) = {schema}"
            )
        }
        for table in self.plan.tables:
            if ascii_lower(table.name) in views:
                raise D1WarehouseError(
                    f"table {table.name!r} is not loaded: {self.plan.path(table.name)} is a view; rename it, or leave "
                    "the table out with tables=[…]"
                )
            twin = standing.get(ascii_lower(table.name), table.name)
            if twin != table.name:
                raise D1WarehouseError(
                    f"table {table.name!r} can't stand beside {twin!r} in schema {self.plan.options.schema!r}: DuckDB "
                    "takes the two for one name"
                )

    def _load_table(self, table: Table, existing: dict[str, str], *, reads_s3: bool) -> LoadedTable:
        plan = self.plan
        if plan.options.mode == "append":
            targets = self._drifted(table, existing) if existing else table.columns
            kept = bool(existing)
        else:
            same = columns_as_staged(plan.dialect, table, existing) if existing else None
            targets, kept = same or table.columns, same is not None
        as_staged = [column.type for column in targets] == [column.type for column in table.columns]
        paths = self._readable_paths(table, reads_s3=reads_s3) if as_staged else None
        if paths is None:
            self.connection.register(_BATCHES, self._reader(table, targets))
            source = _BATCHES
        else:
            source = parquet_source(plan, paths)
            self._check_parts(table, paths)
        before = self._count(table) if kept and plan.options.mode == "append" else 0
        if kept and plan.options.mode == "replace":
            self._run(delete(plan, table))
        if kept:
            statement, kind = insert(plan, table, targets, source), STATEMENT_APPEND
        else:
            statement, kind = create_table_as(plan, table, source), STATEMENT_NEW
        try:
            log.info("%s", statement)
            self.connection.execute(statement)
        finally:
            if paths is None:
                self.connection.unregister(_BATCHES)
        rows = self._count(table) - before
        if rows != table.rows:
            raise D1WarehouseError(f"table {table.name!r}: {rows} rows arrived of the manifest's {table.rows}")
        return LoadedTable(table.name, plan.path(table.name), kind, rows)

    def _count(self, table: Table) -> int:
        ((count,),) = self._rows(f"SELECT count(*) FROM {self.plan.path(table.name)}")
        return int(count)

    def _drifted(self, table: Table, existing: dict[str, str]) -> tuple[Column, ...]:
        plan = self.plan

        def alter(column: str, old: str, new: str) -> str:
            return alter_column(plan, table.name, column, old, new)

        drift = find_drift(plan.dialect, table, existing, alter, lambda old, new: True)  # noqa: ARG005
        self._check_exact(table, drift)
        for column in drift.added:
            self._run(add_column(plan, table.name, column))
        for alteration in drift.altered:
            self._run(alteration.statement)
        return drift.targets

    def _check_exact(self, table: Table, drift: Drift) -> None:
        for change in drift.altered:
            if (change.old, change.new) == ("int64", "float64"):
                name, path = self.plan.dialect.identifier(change.column), self.plan.path(table.name)
                ((count,),) = self._rows(f"SELECT count(*) FROM {path} WHERE {name} NOT BETWEEN -{2**53} AND {2**53}")
                if count:
                    raise D1WarehouseError(
                        f"table {table.name!r} is as it was: column {change.column!r} would have to become DOUBLE, and "
                        f"{count} of its integers would be rounded by {change.statement}"
                    )

    def _readable_paths(self, table: Table, *, reads_s3: bool) -> list[str] | None:
        """The parts as DuckDB reads them by itself, None when they have to be read here."""
        if self.plan.file_format != "parquet" or not table.parts:
            return None
        if reads_s3:
            if any(set("*?[") & set(part.uri) for part in table.parts):
                return None  # in a URL there is no way to take these literally
            self.files.check_contents(table)
            return [part.uri for part in table.parts]
        local = [self.files.local(part.uri) for part in table.parts]
        if any(path is None for path in local):
            return None
        self.files.check_contents(table)
        return [str(path) for path in local]

    def _check_parts(self, table: Table, paths: Sequence[str]) -> None:
        """Each part's rows and columns, from its footer, before DuckDB reads it."""
        from duckdb import Error as DuckDBError

        listed = ", ".join(self.plan.dialect.literal(_not_a_pattern(path)) for path in paths)
        expected = [(column.name, DIALECT.types[column.type]) for column in table.columns]
        try:
            counts = dict(self._rows(f"SELECT file_name, num_rows FROM parquet_file_metadata([{listed}])"))
            fields = self._rows(
                f"SELECT file_name, name, duckdb_type FROM parquet_schema([{listed}]) WHERE num_children IS NULL "
                "ORDER BY file_name, column_id"
            )
        except DuckDBError as error:
            raise D1ManifestError(
                f"table {table.name!r}: a part can't be read as Parquet: {error}", retryable=not is_permanent(error)
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

    def _reader(self, table: Table, targets: Sequence[Column]) -> pa.RecordBatchReader:
        import pyarrow as pa

        return pa.RecordBatchReader.from_batches(schema_of(tuple(targets)), self._batches(table, targets))

    def _batches(self, table: Table, targets: Sequence[Column]) -> Iterator[pa.RecordBatch]:
        try:
            yield from fitted(staged_batches(self.files, table, self.plan.file_format), table, targets)
        except D1Error as error:
            self.broken = error
            raise

    def _columns(self, table: str) -> dict[str, str]:
        """Name → type of a table's columns, empty when there is no such table."""
        literal, fold = self.plan.dialect.literal, ascii_lower
        return dict(
            self._rows(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE database_name = current_database() "
                f"AND lower(schema_name) = {literal(fold(self.plan.options.schema))} "
                f"AND lower(table_name) = {literal(fold(table))} ORDER BY column_index"
            )
        )

    @contextmanager
    def _s3(self) -> Iterator[bool]:
        """Let DuckDB read the staging bucket while the block runs, where it has its httpfs; say whether it can."""
        from duckdb import Error as DuckDBError

        store = self.files.store
        parts = [part for table in self.plan.tables for part in table.parts]
        if not isinstance(store, S3Store) or self.plan.file_format != "parquet" or not parts or not self._load_httpfs():
            yield False
            return
        access = s3_access(store.hook, split_s3(parts[0].uri)[0])
        if access is None:
            yield False
            return
        try:
            self.connection.execute(create_secret(access))
        except DuckDBError as error:
            raise D1WarehouseError(
                f"DuckDB took no secret for s3://{access.bucket} ({type(error).__name__})",
                retryable=not is_permanent(error),
            ) from None
        try:
            yield True
        finally:
            self.connection.execute(f"DROP SECRET IF EXISTS {_SECRET}")

    def _load_httpfs(self) -> bool:
        """Load the extension: installed, or from the wheel ``duckdb-extension-httpfs``; nothing is downloaded."""
        candidates = ["httpfs"]
        wheel = importlib.util.find_spec("duckdb_extension_httpfs")
        if wheel is not None and wheel.origin is not None:
            ((version,),) = self._rows("SELECT library_version FROM pragma_version()")
            file = Path(wheel.origin).parent / "extensions" / version / "httpfs.duckdb_extension"
            candidates.append(DIALECT.literal(str(file)))
        for candidate in candidates:
            try:
                self.connection.execute(f"LOAD {candidate}")
            except Exception as error:  # noqa: BLE001 - whatever it is, there is another way
                log.debug("DuckDB could not load %s: %s", candidate, error)
            else:
                return True
        log.info("DuckDB has no httpfs extension: the staged files are read here and streamed into it")
        return False

    def _run(self, statement: str) -> None:
        log.info("%s", statement)
        self.connection.execute(statement)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return list(self.connection.execute(query).fetchall())
