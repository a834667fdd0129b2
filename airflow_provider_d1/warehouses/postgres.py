"""Postgres: ``COPY FROM STDIN`` into new tables, all of a manifest in one transaction, swapped in by renaming."""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1Error, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.ahead import ahead
from airflow_provider_d1.warehouses.airflow_connection import limit_connect_time
from airflow_provider_d1.warehouses.base import LOADS_TABLE, Column, LoadedTable, LoadPlan, Table
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.drift import Drift, find_drift
from airflow_provider_d1.warehouses.fitting import fitted, nul_free
from airflow_provider_d1.warehouses.postgres_copy import HEADER, TRAILER, encoded

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.store import StagedFiles

log = logging.getLogger(__name__)

STATEMENT = "COPY"

DIALECT = Dialect(
    name="Postgres",
    types={
        "int64": "bigint",
        "float64": "double precision",
        "string": "text",
        "binary": "bytea",
        "timestamp[us]": "timestamp",
        "date32": "date",
    },
    known_types={
        "bigint": "int64",
        "double precision": "float64",
        "text": "string",
        "character varying": "string",
        "bytea": "binary",
        "timestamp without time zone": "timestamp[us]",
        "date": "date32",
    },
    max_length=63,
    reserved_columns=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
)

_NOW = "clock_timestamp()"
#: for how long the swap may wait for one lock before it lets the readers queued behind it go first, and how often
_LOCK_TIMEOUT = "2s"
_LOCK_ATTEMPTS = 200
_CONNECT_TIMEOUT = 20


# statements: pure functions of the plan


def create_schema(plan: LoadPlan) -> str:
    """Create the target schema."""
    return f"CREATE SCHEMA IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}"


def create_loads(plan: LoadPlan) -> str:
    """Create the loader's own table."""
    return loads.create_statement(plan, "timestamptz")


def create_table(plan: LoadPlan, name: str, columns: Sequence[Column]) -> str:
    """Create a table without keys or constraints: a staging table takes what comes."""
    listed = ", ".join(f"{plan.dialect.identifier(c.name)} {plan.dialect.types[c.type]}" for c in columns)
    return f"CREATE TABLE {plan.path(name)} ({listed})"


def copy(plan: LoadPlan, name: str, columns: Sequence[Column], *, new: bool) -> str:
    """Take rows from the client.

    :param new: the table was made in this transaction. Its rows are then frozen, so that a reader whose snapshot is
        older than the swap finds the new rows in it and not an empty table.
    """
    listed = ", ".join(plan.dialect.identifier(c.name) for c in columns)
    frozen = ", FREEZE true" if new else ""
    return f"COPY {plan.path(name)} ({listed}) FROM STDIN WITH (FORMAT binary{frozen})"


def swap(plan: LoadPlan, table: Table) -> list[str]:
    """Put the helper table in the place of the old one."""
    return [
        f"DROP TABLE IF EXISTS {plan.path(table.name)}",
        f"ALTER TABLE {plan.path(table.helper)} RENAME TO {plan.dialect.identifier(table.name)}",
    ]


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """Widen a column; numbers become text in SQLite's layout, blobs hexadecimal, as staging does it."""
    name = plan.dialect.identifier(column)
    using = {
        (
            "float64",
            "string",
        ): f"CASE WHEN {name} = trunc({name}) AND abs({name}) < 1e17 THEN {name}::bigint::text || '.0' "
        f"ELSE replace(regexp_replace({name}::text, '^(-?[0-9]+)(e.*)$', '\\1.0\\2'), 'Infinity', 'Inf') END",
        ("binary", "string"): f"upper(encode({name}, 'hex'))",
    }.get((old, new), f"{name}::{plan.dialect.types[new]}")
    return f"ALTER TABLE {plan.path(table)} ALTER COLUMN {name} TYPE {plan.dialect.types[new]} USING {using}"


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def move(plan: LoadPlan, table: Table, columns: Sequence[Column]) -> list[str]:
    """Append the helper table's rows to the table, and drop it."""
    listed = ", ".join(plan.dialect.identifier(c.name) for c in columns)
    return [
        f"INSERT INTO {plan.path(table.name)} ({listed}) SELECT {listed} FROM {plan.path(table.helper)}",
        f"DROP TABLE {plan.path(table.helper)}",
    ]


def statements(plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without asking the server."""
    result = ["BEGIN", create_schema(plan), create_loads(plan)]
    for table in plan.tables:
        name = table.helper if plan.options.mode == "replace" else table.name
        create = create_table(plan, name, table.columns)
        if plan.options.mode == "append":
            create = create.replace("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)
        result += [create, copy(plan, name, table.columns, new=plan.options.mode == "replace")]
    if plan.options.mode == "replace":
        result += [statement for table in plan.tables for statement in swap(plan, table)]
    return [*result, loads.insert_statement(plan, plan.tables, _NOW), "COMMIT"]


# the load itself


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:  # noqa: ARG001
    """Load the plan's tables through the connection ``conn_id``; all of them or none.

    :raises D1WarehouseError: with Postgres's own words when it refuses something.
    :raises D1ManifestError: when a staged file is not what the manifest says.
    """
    try:
        from airflow.providers.postgres.hooks.postgres import PostgresHook
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into Postgres needs its provider: pip install 'airflow-provider-d1[postgres]' ({error})"
        ) from error
    hook = PostgresHook(postgres_conn_id=conn_id)
    limit_connect_time(hook.connection, "connect_timeout", _CONNECT_TIMEOUT)
    with closing(_connect(hook, conn_id)) as connection:
        try:
            result = _Transaction(connection, plan, files).run()
            connection.commit()
        except D1Error:
            raise  # closing the connection rolls back
        except Exception as error:
            if _sqlstate(error) is None and not _is_driver_error(error):
                raise
            raise _refused(error) from error
    return result


def _connect(hook: Any, conn_id: str) -> Any:
    try:
        connection = hook.get_conn()
    except Exception as error:
        if not _is_driver_error(error):
            raise
        raise D1WarehouseError(f"No connection to Postgres through {conn_id!r}: {error}", retryable=True) from error
    if hasattr(
        connection, "row_factory"
    ):  # psycopg 3; psycopg2 has cursor_factory. The connection's extra may set either
        from psycopg.rows import tuple_row

        connection.row_factory = tuple_row
    else:
        connection.cursor_factory = None
    return connection


class _Transaction:
    """One load in one transaction; the caller commits, or closes the connection."""

    def __init__(self, connection: Any, plan: LoadPlan, files: StagedFiles) -> None:
        self.connection = connection
        self.cursor = connection.cursor()
        self.plan = plan
        self.files = files

    def run(self) -> list[LoadedTable]:
        plan = self.plan
        self._prepare()
        loaded = self._already_loaded() if plan.options.mode == "append" else {}
        results, finish = [], []
        for table in plan.tables:
            columns = self._columns(table.name)
            if plan.options.mode == "append" and columns and loaded.get(table.name):
                log.info("%s: this export is loaded already; skipped", plan.path(table.name))
                results.append(LoadedTable(table.name, plan.path(table.name), STATEMENT, 0, skipped=True))
            elif plan.options.mode == "append" and columns:
                result, last = self._append(table, columns)
                results.append(result)
                finish += last
            else:
                results.append(self._load_new(table, existing=bool(columns)))
                finish += swap(plan, table)
        done = {result.name for result in results if not result.skipped}
        if done:
            self._lock([table for table in plan.tables if table.name in done], finish)
            for statement in finish:
                self._run(statement)
            self._run(loads.insert_statement(plan, [table for table in plan.tables if table.name in done], _NOW))
        return results

    def _prepare(self) -> None:
        plan = self.plan
        self._run("SET LOCAL standard_conforming_strings = on")
        self._run("SET LOCAL client_encoding = 'UTF8'")
        # loads into one schema go one after the other: else both might find that an export isn't loaded yet
        key = int.from_bytes(hashlib.sha256(f"d1:{plan.options.schema}".encode()).digest()[:8], "big", signed=True)
        self._run(f"SELECT pg_advisory_xact_lock({key})")
        schema = plan.dialect.literal(plan.options.schema)
        # IF NOT EXISTS alone asks for the right to create schemas even when there is nothing to create
        if not self._rows(f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {schema}"):
            self._run(create_schema(plan))
        if not self._columns(LOADS_TABLE):
            self._run(create_loads(plan))

    def _already_loaded(self) -> dict[str, bool]:
        return dict(loads.already_loaded(self._rows(loads.history_query(self.plan))))

    def _load_new(self, table: Table, *, existing: bool) -> LoadedTable:
        self._run(create_table(self.plan, table.helper, table.columns))
        result = self._copy(table, table.helper, table.columns, new=True)
        if existing:
            self._keep_grants(table)
        self._run(f"ANALYZE {self.plan.path(table.helper)}")  # else it has no statistics until autovacuum comes by
        return result

    def _append(self, table: Table, columns: dict[str, str]) -> tuple[LoadedTable, list[str]]:
        plan = self.plan

        def alter(column: str, old: str, new: str) -> str:
            return alter_column(plan, table.name, column, old, new)

        drift = find_drift(plan.dialect, table, columns, alter, lambda old, new: True)  # noqa: ARG005
        if not drift:
            return self._copy(table, table.name, drift.targets, new=False), []
        self._check_exact(table, drift)
        # an ALTER TABLE locks readers out until the commit, so it comes after the rows are here
        self._run(create_table(plan, table.helper, drift.targets))
        result = self._copy(table, table.helper, drift.targets, new=True)
        changes = [add_column(plan, table.name, column) for column in drift.added]
        changes += [alteration.statement for alteration in drift.altered]
        return result, [*changes, *move(plan, table, drift.targets)]

    def _check_exact(self, table: Table, drift: Drift) -> None:
        for change in drift.altered:
            if (change.old, change.new) == ("int64", "float64"):
                name, path = self.plan.dialect.identifier(change.column), self.plan.path(table.name)
                ((count,),) = self._rows(f"SELECT count(*) FROM {path} WHERE {name} NOT BETWEEN -{2**53} AND {2**53}")
                if count:
                    raise D1WarehouseError(
                        f"table {table.name!r} is as it was: column {change.column!r} would have to become double "
                        f"precision, and {count} of its integers would be rounded by {change.statement}"
                    )

    def _copy(self, table: Table, name: str, columns: Sequence[Column], *, new: bool) -> LoadedTable:
        statement = copy(self.plan, name, columns, new=new)
        log.info("%s", statement)
        replaced: Counter[str] = Counter()
        with ahead(self._chunks(table, columns, replaced)) as chunks:
            rows = _send(self.cursor, statement, chunks)
        if rows != table.rows:
            raise D1WarehouseError(f"table {table.name!r}: {rows} rows arrived of the manifest's {table.rows}")
        for column, count in replaced.items():
            log.warning("%s: NUL replaced by U+FFFD in %d values of column %r", table.name, count, column)
        return LoadedTable(table.name, self.plan.path(table.name), STATEMENT, rows, nul_replaced=dict(replaced))

    def _chunks(self, table: Table, columns: Sequence[Column], replaced: Counter[str]) -> Iterator[bytes | memoryview]:
        batches = fitted(staged_batches(self.files, table, self.plan.file_format), table, columns)
        yield HEADER
        for batch in nul_free(batches, table, self.plan.options.on_nul, replaced):
            yield from encoded(batch)
        yield TRAILER

    def _keep_grants(self, table: Table) -> None:
        """Whoever could read the old table can read the new one."""
        grants = self._rows(
            "SELECT a.privilege_type, coalesce(quote_ident(r.rolname), 'PUBLIC'), a.is_grantable "
            "FROM pg_catalog.pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a "
            "LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.grantee "
            f"WHERE c.oid = {self._regclass(table.name)} AND a.grantee <> c.relowner"
        )
        for privilege, grantee, grantable in grants:
            option = " WITH GRANT OPTION" if grantable else ""
            self._run(f"GRANT {privilege} ON {self.plan.path(table.helper)} TO {grantee}{option}")

    def _lock(self, tables: Sequence[Table], statements: Sequence[str]) -> None:
        """Wait for the readers of the old tables without holding up those who come after them."""
        existing = sorted(self.plan.path(table.name) for table in tables if self._columns(table.name))
        if not existing or not statements:
            return
        statement = f"LOCK TABLE {', '.join(existing)} IN ACCESS EXCLUSIVE MODE"
        for attempt in range(_LOCK_ATTEMPTS):
            self._run("SAVEPOINT d1_swap")
            self._run(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")
            try:
                self._run(statement)
            except Exception as error:
                if _sqlstate(error) != "55P03":  # lock_not_available
                    raise
                self._run("ROLLBACK TO SAVEPOINT d1_swap")
                if attempt == 0:
                    log.info("A table is being read; the swap waits and tries again")
                time.sleep(0.5)
            else:
                self._run("RESET lock_timeout")
                return
        raise D1WarehouseError(
            f"The old tables are being read without a pause; nothing was swapped: {statement}", retryable=True
        )

    def _columns(self, table: str) -> dict[str, str]:
        """Name → type of a relation's columns, empty when there is no such relation."""
        return dict(
            self._rows(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute "
                f"WHERE attrelid = {self._regclass(table)} AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            )
        )

    def _regclass(self, table: str) -> str:
        return f"to_regclass({self.plan.dialect.literal(self.plan.path(table))})"

    def _run(self, statement: str) -> None:
        log.info("%s", statement)
        self.cursor.execute(statement)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        self.cursor.execute(query)
        return list(self.cursor.fetchall())


def _send(cursor: Any, statement: str, chunks: Iterator[bytes | memoryview]) -> int:
    """Run a COPY with either driver and return how many rows the server counted."""
    if hasattr(cursor, "copy"):
        with cursor.copy(statement) as channel:
            for chunk in chunks:
                channel.write(chunk)
    else:
        cursor.copy_expert(statement, _Readable(chunks), size=1 << 18)
    return int(cursor.rowcount)


class _Readable:
    """An iterator of bytes as the file that psycopg2 reads from."""

    def __init__(self, chunks: Iterator[bytes | memoryview]) -> None:
        self._chunks = chunks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        while not self._rest:
            chunk = next(self._chunks, None)
            if chunk is None:
                return b""
            self._rest = memoryview(chunk).cast("B")
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken.tobytes()


def _sqlstate(error: Exception) -> str | None:
    return getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)


def _is_driver_error(error: Exception) -> bool:
    return type(error).__module__.partition(".")[0] in ("psycopg", "psycopg2")


def _refused(error: Exception) -> D1WarehouseError:
    # connection lost, deadlock, serialization failure, lock, shutdown, out of resources: another time it may go
    state = _sqlstate(error) or "08"
    return D1WarehouseError(
        f"Postgres refused the load, every table is as it was: {str(error).strip()}",
        retryable=state[:2] in ("08", "40", "53", "55", "57", "58"),
    )
