"""Postgres: ``COPY FROM STDIN``, all of a manifest in one transaction.

``replace`` keeps the table that is there: its rows are replaced, so that everything attached to it stays. Only a table
that has nothing attached is swapped for a new one, which writes each row once and leaves no dead ones.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.staging.workers import ahead
from airflow_provider_d1.warehouses import merge, postgres_catalog, postgres_errors
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.fitting import fitted, nul_free
from airflow_provider_d1.warehouses.native_types import converted
from airflow_provider_d1.warehouses.plan import Table
from airflow_provider_d1.warehouses.postgres_copy import HEADER, TRAILER, encoded, send
from airflow_provider_d1.warehouses.postgres_publish import Finish, PostgresSession, drop, publish
from airflow_provider_d1.warehouses.postgres_statements import (
    copy,
    merge_rows,
    only,
    replace_rows,
    truncate_and_insert,
)
from airflow_provider_d1.warehouses.session import Connections, Run, limit_connect_time
from airflow_provider_d1.warehouses.table_load import Publication, TableLoad
from airflow_provider_d1.warehouses.table_planning import drift_of

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan
    from airflow_provider_d1.warehouses.postgres_catalog import Relation
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

log = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 20


class Postgres(Warehouse[PostgresSession]):
    """PostgreSQL."""

    dialect = Dialect(
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
        native={
            "boolean": "boolean",
            "date": "date",
            "timestamp": "timestamp without time zone",
            "decimal": "numeric({precision},{scale})",
            "json": "json",  # jsonb would change the text
        },
        largest_decimal=(1000, 1000, 1000),
        try_cast="CAST({value} AS {type})",
        zoned_in_utc=True,
        max_length=63,
        reserved_columns=frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"}),
    )
    extra = "postgres"
    modules = ("airflow.providers.postgres.hooks.postgres",)
    statement = "COPY"
    timestamp_type = "timestamptz"
    now = "clock_timestamp()"
    transaction = "load"
    fits_values_here = True
    alters_to_replace = True

    def driver_errors(self) -> tuple[type[Exception], ...]:
        return postgres_errors.driver_errors()

    def is_permanent(self, error: Exception) -> bool:
        return postgres_errors.is_permanent(error)

    def remedy(self, text: str) -> str:
        return postgres_errors.remedy(text)

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> PostgresSession:
        from airflow.providers.postgres.hooks.postgres import PostgresHook

        hook = PostgresHook(postgres_conn_id=connections.conn_id)
        limit_connect_time(hook.connection, "connect_timeout", _CONNECT_TIMEOUT)
        connection: Any = hook.get_conn()
        connection.autocommit = True  # BEGIN and COMMIT are statements here
        if hasattr(connection, "row_factory"):
            # psycopg 3; psycopg2 has cursor_factory. The connection's extra may set either
            from psycopg.rows import tuple_row

            connection.row_factory = tuple_row
        else:
            connection.cursor_factory = None
        return PostgresSession(connection, plan)

    def lock(self, plan: LoadPlan) -> list[str]:
        key = int.from_bytes(hashlib.sha256(f"d1:{plan.options.schema}".encode()).digest()[:8], "big", signed=True)
        return [
            "SET LOCAL standard_conforming_strings = on",
            "SET LOCAL client_encoding = 'UTF8'",
            # timestamps are in UTC, also where they get into a column with a time zone
            "SET LOCAL timezone = 'UTC'",
            # a policy that applies to this role would hide rows from DELETE and from count(*); now it is an error
            "SET LOCAL row_security = off",
            # loads into one schema go one after the other: else both might find that an export isn't loaded yet
            f"SELECT pg_advisory_xact_lock({key})",
        ]

    def schema_query(self, plan: LoadPlan) -> str:
        return f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {plan.dialect.literal(plan.options.schema)}"

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_catalog.pg_attribute "
            f"WHERE attrelid = to_regclass({plan.dialect.literal(plan.path(table))}) "
            "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )

    def check_targets(self, run: Run[PostgresSession]) -> None:
        """Refuse views, foreign tables and the like."""
        for table in run.plan.tables:
            existing = run.session.relation(table.name)
            if existing is not None and (kind := existing.other_than_table) is not None:
                raise self.not_a_table(run.plan, table.name, f"is {kind}, not a table")

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return (
                f"CASE WHEN {name} = trunc({name}) AND abs({name}) < 1e17 THEN {name}::bigint::text || '.0' "
                f"ELSE replace(regexp_replace({name}::text, '^(-?[0-9]+)(e.*)$', '\\1.0\\2'), 'Infinity', 'Inf') END"
            )
        if (old, new) == ("binary", "string"):
            return f"upper(encode({name}, 'hex'))"
        return f"{name}::{self.dialect.types[new]}"

    def alterable(self, old: str, new: str) -> bool:
        return True

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        name = plan.dialect.identifier(column)
        alter = f"ALTER TABLE {plan.path(table)} ALTER COLUMN {name}"
        return [f"{alter} TYPE {plan.dialect.types[new]} USING {converted(self, name, old, new)}"]

    def loads_into(self, plan: LoadPlan, work: TableLoad) -> str:
        # an ALTER TABLE locks readers out until the commit, so it comes after the rows are in a helper table
        straight = work.action == "append" and not work.drift and not work.checked
        return work.table.name if straight else work.table.helper

    @contextmanager
    def savepoint(self, run: Run[PostgresSession]) -> Iterator[None]:
        run.session.rows("SAVEPOINT d1_types")
        try:
            yield
        except self.driver_errors():
            run.session.rows("ROLLBACK TO SAVEPOINT d1_types")
            raise

    def publication(self, plan: LoadPlan, work: TableLoad) -> Publication:
        """What is likely: a table of ``replace`` that has something attached gets its rows replaced instead."""
        if work.action in ("append", "merge"):
            return super().publication(plan, work)
        if work.action == "overwrite" and plan.options.replace_strategy == "rows":
            values = self.staged_values(plan, work, "new.")
            return Publication(dml=[replace_rows(plan, work.table, values, partitioned=False)])
        drop = [] if work.action == "create" else [f"DROP TABLE IF EXISTS {plan.path(work.table.name)}"]
        return Publication(ddl=[*drop, self.rename_helper(plan, work)], renames=True)

    def attached(self, run: Run[PostgresSession], table: str) -> list[str]:
        existing, helper = run.session.relation(table), Table(table, (), 0, (), run.plan.tables[0].token).helper
        if existing is None or existing.other_than_table:
            return ["a relation that is no table"]
        run.execute(self.create_table(run.plan, helper, ()))
        found = run.session.attached(helper, existing)
        run.execute(self.drop_helper(run.plan, helper))
        return found

    def drop_table(self, run: Run[PostgresSession], table: str) -> None:
        drop(run.session, table)

    def merge(self, plan: LoadPlan, work: TableLoad, *, partitioned: bool = False) -> list[str]:
        values = self.staged_values(plan, work, "new.")
        deletes = work.delete_missing
        return [merge_rows(plan, work.table, values, work.key, partitioned=partitioned, delete_missing=deletes)]

    def publish_all(self, run: Run[PostgresSession], works: Sequence[TableLoad]) -> None:
        publish(run.session, run.session.pending)

    def load_rows(self, run: Run[PostgresSession], work: TableLoad) -> None:
        session, table = run.session, work.table
        if work.into == table.name:
            self._copy(run, work)
            return
        existing = session.relation(table.name)
        if work.action == "merge" and existing is not None:
            self._load_for_merge(run, work, existing)
            return
        run.execute(self.create_table(run.plan, work.into, work.columns))
        if work.action in ("overwrite", "swap") and existing is not None:
            attached = session.attached(table.helper, existing)
            if attached or run.plan.options.replace_strategy == "rows":
                log.info("table=%s rows_replaced=true attached=%s", table.name, "; ".join(attached) or None)
                run.execute(self.drop_helper(run.plan, work.into))
                self._load_for_rows(run, work, existing)
                return
        self._copy(run, work)
        if work.checked:
            run.settle_types(work, new_table=work.action in ("create", "overwrite", "swap"))
        if work.key:
            merge.check_keys(self.match(run.plan, work), session.rows, in_table=False)
        run.execute(f"ANALYZE {run.plan.path(work.into)}")  # else it has no statistics until autovacuum comes by
        publication = self.publication(run.plan, work)
        finish = [*publication.ddl, *publication.dml]
        if work.action == "append":
            finish.append(self.drop_helper(run.plan, work.into))
        waits = existing is not None
        self._finish_with(run, table, existing, finish, waits_for_readers=waits, swapped=waits and publication.renames)

    def _finish_with(
        self,
        run: Run[PostgresSession],
        table: Table,
        existing: Relation | None,
        statements: Sequence[str],
        **more: Any,
    ) -> None:
        target = "" if existing is None else only(run.plan, table.name, partitioned=existing.partitioned)
        run.session.pending.append(Finish(table, existing, target, statements, **more))

    def _load_for_rows(self, run: Run[PostgresSession], work: TableLoad, existing: Relation) -> None:
        plan, session, table = run.plan, run.session, work.table
        # a type that a user chose stays while every value fits
        work.drift = drift_of(self, plan, table, existing.columns)
        work.columns = tuple(column.as_staged() for column in work.drift.targets)
        self._fill_helper(run, work, existing)
        values = self.staged_values(plan, work, "new.")
        key = postgres_catalog.key_with_actions(session.rows, existing)
        if missing := [name for name in key if name not in values]:
            raise D1WarehouseError(
                f"table {table.name!r} is unchanged: a foreign key with ON DELETE … refers to its column "
                f"{missing[0]!r}, which is not staged, so rows can't be matched; drop the foreign key or its action"
            )
        if key:
            partitioned = existing.partitioned
            replace = [merge_rows(plan, table, values, key, partitioned=partitioned, delete_missing=True)]
        elif postgres_catalog.refuses_deletes(session.rows, existing):
            replace = truncate_and_insert(plan, table, values, partitioned=existing.partitioned)
        else:
            replace = [replace_rows(plan, table, values, partitioned=existing.partitioned)]
        self._finish_kept(run, work, existing, replace)

    def _load_for_merge(self, run: Run[PostgresSession], work: TableLoad, existing: Relation) -> None:
        self._fill_helper(run, work, existing)
        merge.check_keys(self.match(run.plan, work), run.session.rows, in_table=False)
        self._finish_kept(run, work, existing, self.merge(run.plan, work, partitioned=existing.partitioned))

    def _fill_helper(self, run: Run[PostgresSession], work: TableLoad, existing: Relation) -> None:
        create = self.create_table(run.plan, work.into, work.columns)
        run.execute(create.replace("CREATE TABLE", "CREATE UNLOGGED TABLE", 1))
        self._copy(run, work)
        if work.checked or any(column.native for column in work.drift.targets):
            run.settle_types(work, new_table=False)
        for change in work.drift.altered:
            self._check_alterable(run, work.table, existing, change.column, change.statement)
        run.execute(f"ANALYZE {run.plan.path(work.into)}")

    def _finish_kept(
        self, run: Run[PostgresSession], work: TableLoad, existing: Relation, statements: Sequence[str]
    ) -> None:
        """Publish into the table that is there, and count the rows in it before the helper table goes."""
        plan, name, expected = run.plan, work.table.name, work.table.rows

        def check() -> None:
            if work.key and not work.delete_missing:
                count = merge.count_merged(self.match(plan, work), run.session.rows)
            else:
                target = only(plan, name, partitioned=existing.partitioned)
                ((count,),) = run.session.rows(f"SELECT count(*) FROM {target}")
            if count != expected:
                raise D1WarehouseError(
                    f"Table {name!r} is unchanged: it held {count} of the manifest's rows after they were put into it, "
                    f"expected {expected}; a trigger or rule on it keeps rows in or out, disable it for loads"
                )

        changes = self.alterations(plan, work)
        waits = bool(changes) or len(statements) > 1
        cleanup = [self.drop_helper(plan, work.into)]
        finish = [*changes, *statements]
        self._finish_with(run, work.table, existing, finish, check=check, cleanup=cleanup, waits_for_readers=waits)

    def _check_alterable(
        self, run: Run[PostgresSession], table: Table, existing: Relation, column: str, statement: str
    ) -> None:
        literal = run.plan.dialect.literal
        dependents = postgres_catalog.dependents_of_column(run.session.rows, existing, column, literal)
        if dependents:
            raise D1WarehouseError(
                f"table {table.name!r} is unchanged: its column {column!r} has to become wider, and Postgres does not "
                f"change the type of a column that these use: {'; '.join(dependents)}. Drop them, run {statement}, and "
                "create them again"
            )

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [copy(plan, work.into, work.columns, new=work.into == work.table.helper)]

    def _copy(self, run: Run[PostgresSession], work: TableLoad) -> None:
        self.check_filled(work, self.fill(run, work))

    def fill(self, run: Run[PostgresSession], work: TableLoad) -> int:
        (statement,) = self.fill_statements(run.plan, work)
        run.announce(statement)
        replaced: Counter[str] = Counter()
        with ahead(_chunks(run, work, replaced)) as chunks:
            rows = send(run.session.cursor, statement, chunks)
        work.nul_replaced = dict(replaced)
        for column, count in replaced.items():
            log.warning("%s: NUL replaced by U+FFFD in %d values of column %r", work.table.name, count, column)
        return rows


def _chunks(run: Run[PostgresSession], work: TableLoad, replaced: Counter[str]) -> Iterator[bytes | memoryview]:
    batches = fitted(staged_batches(run.files, work.table, run.plan.file_format), work.table, work.columns)
    yield HEADER
    for batch in nul_free(batches, work.table, run.plan.options.on_nul, replaced):
        yield from encoded(batch)
    yield TRAILER
