"""Postgres: ``COPY FROM STDIN``, all of a manifest in one transaction.

``replace`` keeps the table that is there: its rows are replaced, so that everything attached to it stays. Only a table
that has nothing attached is swapped for a new one, which writes each row once and leaves no dead ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1Error, D1WarehouseError
from airflow_provider_d1.warehouses import loads, postgres_catalog
from airflow_provider_d1.warehouses.ahead import ahead
from airflow_provider_d1.warehouses.airflow_connection import limit_connect_time
from airflow_provider_d1.warehouses.base import LOADS_TABLE, Column, LoadedTable, LoadPlan, Table
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.drift import Drift, find_drift
from airflow_provider_d1.warehouses.fitting import fitted, nul_free
from airflow_provider_d1.warehouses.postgres_copy import HEADER, TRAILER, encoded
from airflow_provider_d1.warehouses.postgres_errors import is_driver_error, refused, sqlstate
from airflow_provider_d1.warehouses.postgres_publish import Publication, Session, publish
from airflow_provider_d1.warehouses.postgres_statements import (
    DIALECT,
    NOW,
    add_column,
    alter_column,
    copy,
    create_loads,
    create_schema,
    create_table,
    drop_helper,
    move,
    only,
    replace_rows,
    replace_rows_by_key,
    statements,
    swap,
    truncate_and_insert,
)

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.postgres_catalog import Relation
    from airflow_provider_d1.warehouses.store import StagedFiles

__all__ = ["DIALECT", "load", "statements"]

log = logging.getLogger(__name__)

STATEMENT = "COPY"

_CONNECT_TIMEOUT = 20


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
            result = _Transaction(connection, plan, files).load()
            connection.commit()
        except D1Error:
            raise  # closing the connection rolls back
        except Exception as error:
            if sqlstate(error) is None and not is_driver_error(error):
                raise
            raise refused(error) from error
    return result


def _connect(hook: Any, conn_id: str) -> Any:
    try:
        connection = hook.get_conn()
    except Exception as error:
        if not is_driver_error(error):
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


class _Transaction(Session):
    """One load in one transaction; the caller commits, or closes the connection."""

    def __init__(self, connection: Any, plan: LoadPlan, files: StagedFiles) -> None:
        super().__init__(connection.cursor(), plan)
        self.files = files
        self._to_publish: list[Publication] = []

    def load(self) -> list[LoadedTable]:
        plan = self.plan
        self._prepare()
        loaded = self._already_loaded() if plan.options.mode == "append" else {}
        results = []
        for table in plan.tables:
            existing = self._existing(table)
            if plan.options.mode == "append" and existing and loaded.get(table.name):
                log.info("%s: this export is loaded already; skipped", plan.path(table.name))
                results.append(LoadedTable(table.name, plan.path(table.name), STATEMENT, 0, skipped=True))
            elif existing is None:
                results.append(self._load_new(table))
            elif plan.options.mode == "append":
                results.append(self._append(table, existing))
            else:
                results.append(self._replace(table, existing))
        done = {result.name for result in results if not result.skipped}
        if done:
            publish(self, self._to_publish)
            self.run(loads.insert_statement(plan, [table for table in plan.tables if table.name in done], NOW))
        return results

    def _prepare(self) -> None:
        plan = self.plan
        self.run("SET LOCAL standard_conforming_strings = on")
        self.run("SET LOCAL client_encoding = 'UTF8'")
        # a policy that applies to this role would hide rows from DELETE and from count(*); now it is an error
        self.run("SET LOCAL row_security = off")
        # loads into one schema go one after the other: else both might find that an export isn't loaded yet
        key = int.from_bytes(hashlib.sha256(f"d1:{plan.options.schema}".encode()).digest()[:8], "big", signed=True)
        self.run(f"SELECT pg_advisory_xact_lock({key})")
        schema = plan.dialect.literal(plan.options.schema)
        # IF NOT EXISTS alone asks for the right to create schemas even when there is nothing to create
        if not self.rows(f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {schema}"):
            self.run(create_schema(plan))
        if not self.relation(LOADS_TABLE):
            self.run(create_loads(plan))

    def _already_loaded(self) -> dict[str, bool]:
        return dict(loads.already_loaded(self.rows(loads.history_query(self.plan))))

    def _existing(self, table: Table) -> Relation | None:
        existing = self.relation(table.name)
        if existing is not None and (kind := existing.other_than_table) is not None:
            raise D1WarehouseError(
                f"Table {table.name!r} is not loaded: {self.plan.path(table.name)} is {kind}, not a table; rename it, "
                "or leave the table out with tables=[…]"
            )
        return existing

    def _load_new(self, table: Table) -> LoadedTable:
        self.run(create_table(self.plan, table.helper, table.columns))
        result = self._copy(table, table.helper, table.columns, new=True)
        self.run(f"ANALYZE {self.plan.path(table.helper)}")  # else it has no statistics until autovacuum comes by
        self._then(table, None, swap(self.plan, table)[1:])
        return result

    def _replace(self, table: Table, existing: Relation) -> LoadedTable:
        self.run(create_table(self.plan, table.helper, table.columns))
        attached = self.attached(table, existing)
        if attached:
            log.info("table=%s rows_replaced=true attached=%s", table.name, "; ".join(attached))
            self.run(drop_helper(self.plan, table))
            return self._load_for_rows(table, existing)
        result = self._copy(table, table.helper, table.columns, new=True)
        self.run(f"ANALYZE {self.plan.path(table.helper)}")
        self._then(table, existing, swap(self.plan, table), waits_for_readers=True, swapped=True)
        return result

    def _load_for_rows(self, table: Table, existing: Relation) -> LoadedTable:
        plan = self.plan
        # a type that somebody chose may stay as long as every value fits: for drift it is what is staged
        staged = {column.name for column in table.columns}
        chosen = {
            name: kind
            for name, kind in existing.columns.items()
            if name in staged and kind not in plan.dialect.known_types
        }
        drift = self._drift(table, {**existing.columns, **{name: _catalog_type(table, name) for name in chosen}})
        for change in drift.altered:
            self._check_alterable(table, existing, change.column, change.statement)
        self.run(create_table(plan, table.helper, drift.targets, kind="UNLOGGED TABLE"))
        result = self._copy(table, table.helper, drift.targets, new=True)
        self.run(f"ANALYZE {plan.path(table.helper)}")
        values = {column.name: f"new.{plan.dialect.identifier(column.name)}" for column in drift.targets}
        for name, kind in chosen.items():
            values[name] = self._checked_cast(table, name, kind)
        key = postgres_catalog.key_with_actions(self.rows, existing)
        if missing := [name for name in key if name not in values]:
            raise D1WarehouseError(
                f"Table {table.name!r} is unchanged: a foreign key with ON DELETE … refers to its column "
                f"{missing[0]!r}, which is not staged, so rows can't be matched; drop the foreign key or its action"
            )
        if key:
            replace = [replace_rows_by_key(plan, table, values, key, partitioned=existing.partitioned)]
        elif postgres_catalog.refuses_deletes(self.rows, existing):
            replace = truncate_and_insert(plan, table, values, partitioned=existing.partitioned)
        else:
            replace = [replace_rows(plan, table, values, partitioned=existing.partitioned)]
        changes = self._changes(table, drift)
        waits = bool(changes) or len(replace) > 1
        finish = [*changes, *replace, drop_helper(plan, table)]
        self._then(table, existing, finish, waits_for_readers=waits, rows_replaced=True)
        return result

    def _checked_cast(self, table: Table, column: str, kind: str) -> str:
        """The expression that turns a staged column into the type that somebody gave the target's column."""
        plan = self.plan
        name, staged = f"new.{plan.dialect.identifier(column)}", _catalog_type(table, column)
        cast = f"CAST({name} AS {kind})"
        problem = None
        try:
            ((count,),) = self.rows(
                f"SELECT count(*) FROM {plan.path(table.helper)} new "
                f"WHERE CAST({cast} AS {staged}) IS DISTINCT FROM {name}"
            )
        except Exception as error:
            if not is_driver_error(error) or refused(error).retryable:
                raise
            problem = str(error).strip().partition("\n")[0]
            cause: Exception | None = error
        else:
            problem, cause = f"{count} staged values would change in it" if count else None, None
        if problem is None:
            return cast
        statement = alter_column(plan, table.name, column, "string", plan.dialect.known_types[staged])
        raise D1WarehouseError(
            f"Table {table.name!r} is unchanged: its column {column!r} is {kind}, and {problem}; run {statement}"
        ) from cause

    def _check_alterable(self, table: Table, existing: Relation, column: str, statement: str) -> None:
        dependents = postgres_catalog.dependents_of_column(self.rows, existing, column, self.plan.dialect.literal)
        if dependents:
            raise D1WarehouseError(
                f"Table {table.name!r} is unchanged: its column {column!r} has to become wider, and Postgres does not "
                f"change the type of a column that these use: {'; '.join(dependents)}. Drop them, run {statement}, and "
                "create them again"
            )

    def _append(self, table: Table, existing: Relation) -> LoadedTable:
        plan = self.plan
        drift = self._drift(table, existing.columns)
        if not drift:
            return self._copy(table, table.name, drift.targets, new=False)
        self._check_exact(table, drift)
        # an ALTER TABLE locks readers out until the commit, so it comes after the rows are here
        self.run(create_table(plan, table.helper, drift.targets))
        result = self._copy(table, table.helper, drift.targets, new=True)
        finish = [*self._changes(table, drift), *move(plan, table, drift.targets)]
        self._then(table, existing, finish, waits_for_readers=True)
        return result

    def _then(self, table: Table, existing: Relation | None, statements: Sequence[str], **flags: bool) -> None:
        target = "" if existing is None else only(self.plan, table.name, partitioned=existing.partitioned)
        self._to_publish.append(Publication(table, existing, target, statements, **flags))

    def _drift(self, table: Table, columns: Mapping[str, str]) -> Drift:
        def alter(column: str, old: str, new: str) -> str:
            return alter_column(self.plan, table.name, column, old, new)

        return find_drift(self.plan.dialect, table, columns, alter, lambda old, new: True)  # noqa: ARG005

    def _changes(self, table: Table, drift: Drift) -> list[str]:
        added = [add_column(self.plan, table.name, column) for column in drift.added]
        return added + [alteration.statement for alteration in drift.altered]

    def _check_exact(self, table: Table, drift: Drift) -> None:
        for change in drift.altered:
            if (change.old, change.new) == ("int64", "float64"):
                name, path = self.plan.dialect.identifier(change.column), self.plan.path(table.name)
                ((count,),) = self.rows(f"SELECT count(*) FROM {path} WHERE {name} NOT BETWEEN -{2**53} AND {2**53}")
                if count:
                    raise D1WarehouseError(
                        f"table {table.name!r} is as it was: column {change.column!r} would have to become double "
                        f"precision, and {count} of its integers would be rounded by {change.statement}"
                    )

    def _copy(self, table: Table, name: str, columns: Sequence[Column], *, new: bool) -> LoadedTable:
        statement = copy(self.plan, name, columns, new=new)
        log.info("Running: %s", statement)
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


def _catalog_type(table: Table, column: str) -> str:
    """The type of a staged column as ``format_type`` writes it."""
    staged = next(c.type for c in table.columns if c.name == column)
    return next(name for name, held in DIALECT.known_types.items() if held == staged)


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
