"""ClickHouse: ``s3()`` or Arrow over HTTP into helper tables, exchanged with the tables when all have been loaded.

There are no transactions: each table changes in one step, one table after the other.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.clickhouse_parts import SETTINGS, attach_of, partitions_of_helper
from airflow_provider_d1.warehouses.clickhouse_session import ClickHouseSession, arrow_stream, table_state
from airflow_provider_d1.warehouses.clickhouse_views import insert_of, insert_partition, views_to_feed
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.drift import no_drift
from airflow_provider_d1.warehouses.native_types import Fit, converted
from airflow_provider_d1.warehouses.s3_access import S3Access, s3_access
from airflow_provider_d1.warehouses.staged_files import split_s3
from airflow_provider_d1.warehouses.table_load import Publication, TableLoad

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import Column, LoadPlan
    from airflow_provider_d1.warehouses.session import Connections, Run
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

#: String holds text and bytes alike; a comment records which, for a later append
_COMMENT = " COMMENT 'binary'"
#: placeholders for the staging bucket's address and keys in the statement; the values are sent as parameters
_S3_PARAMETERS = ("d1_url", "d1_access_key", "d1_secret_key", "d1_session_token")
_CODE = re.compile(r"\bCode: (\d+)")
#: values and types that don't fit, unknown columns, functions, tables, databases and settings, wrong syntax, missing
#: permissions, wrong credentials. Not 57 (the table exists: another load may have made it) nor 499 (any error of S3).
_PERMANENT_CODES = frozenset(
    (6, 10, 16, 20, 27, 36, 38, 41, 42, 43, 44, 46, 47, 48, 50, 53, 60, 62, 69, 70, 72, 81)
) | frozenset((115, 117, 122, 164, 192, 193, 194, 291, 344, 349, 450, 497, 516, 636, 691))


#: what to do about MEMORY_LIMIT_EXCEEDED
_MEMORY = (
    ". Load fewer rows at a time, or allow more max_memory_usage: an append into a table that materialized views read "
    "needs about twice the size of a partition's new rows"
)


class ClickHouse(Warehouse[ClickHouseSession]):
    """ClickHouse."""

    dialect = Dialect(
        name="ClickHouse",
        types={
            "int64": "Nullable(Int64)",
            "float64": "Nullable(Float64)",
            "string": "Nullable(String)",
            "binary": f"Nullable(String){_COMMENT}",
            "timestamp[us]": "Nullable(DateTime64(6, 'UTC'))",
            "date32": "Nullable(Date32)",
        },
        known_types={
            "nullable(int64)": "int64",
            "nullable(float64)": "float64",
            "nullable(string)": "string",
            "nullable(string) comment 'binary'": "binary",
            "nullable(datetime64(6, 'utc'))": "timestamp[us]",
            "nullable(date32)": "date32",
        },
        native={
            "boolean": "Nullable(Bool)",
            "date": "Nullable(Date32)",
            "timestamp": "Nullable(DateTime64(6, 'UTC'))",
            "decimal": "Nullable(Decimal({precision}, {scale}))",
        },
        no_native={"json": "ClickHouse's JSON changes the text"},
        largest_decimal=(76, 76, 76),
        try_cast="accurateCastOrNull({value}, {literal})",
        zoned_in_utc=True,
        max_length=206,
        max_file_name=213,
        quote="`",
        quote_escape="backslash",
        backslash=True,
        apostrophe_escape="backslash",
    )
    extra = "clickhouse"
    modules = ("airflow.providers.clickhousedb.hooks.clickhouse", "clickhouse_connect.driver.exceptions")
    statement = "INSERT"
    timestamp_type = "DateTime64(6, 'UTC')"
    now = "now64(6, 'UTC')"
    transaction = "statement"
    fits_values_here = True
    table_suffix = " ENGINE = MergeTree ORDER BY tuple()"  # the order in which the rows come
    loads_suffix = " ENGINE = MergeTree ORDER BY `loaded_at`"

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        return (ClickHouseError,)

    def is_permanent(self, error: Exception) -> bool:
        code = _CODE.search(str(error))
        if code is not None:
            return int(code[1]) in _PERMANENT_CODES
        return type(error).__name__ in ("ProgrammingError", "DataError", "NotSupportedError")

    def remedy(self, text: str) -> str:
        code = _CODE.search(text)
        return _MEMORY if code is not None and code[1] == "241" else ""

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> ClickHouseSession:
        from airflow.providers.clickhousedb.hooks.clickhouse import ClickHouseHook

        # query parameters then are in the body of a request and not in its URL, which HTTP clients and proxies log
        options = {"form_encode_query_params": True}
        hook = ClickHouseHook(
            clickhouse_conn_id=connections.conn_id, client_kwargs=options, session_settings=dict(SETTINGS)
        )
        parts = [part for table in plan.tables for part in table.parts]
        access = None
        if files.s3_hook is not None and plan.file_format == "parquet" and parts:
            access = s3_access(files.s3_hook, split_s3(parts[0].uri)[0])
        return ClickHouseSession(hook.get_client(), access)

    def schema_query(self, plan: LoadPlan) -> str:
        return f"SELECT 1 FROM system.databases WHERE name = {plan.dialect.literal(plan.options.schema)}"

    def create_schema(self, plan: LoadPlan) -> str:
        return f"CREATE DATABASE IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}"

    def tables_query(self, plan: LoadPlan) -> str:
        schema = plan.dialect.literal(plan.options.schema)
        return f"SELECT name FROM system.tables WHERE database = {schema}"

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        literal = plan.dialect.literal
        return (
            f"SELECT name, if(comment = 'binary', concat(type, {literal(_COMMENT)}), type) FROM system.columns "
            f"WHERE database = {literal(plan.options.schema)} AND table = {literal(table)} ORDER BY position"
        )

    def check_targets(self, run: Run[ClickHouseSession]) -> None:
        """Refuse views, and tables whose rows are elsewhere (Distributed, Merge): a helper like it would hold none."""
        schema = run.plan.dialect.literal(run.plan.options.schema)
        query = f"SELECT name, engine FROM system.tables WHERE database = {schema} AND engine NOT LIKE '%MergeTree'"
        others = {str(name): str(engine) for name, engine in run.session.rows(query)}
        for table in run.plan.tables:
            if table.name in others:
                what = f"has the engine {others[table.name]}, not a MergeTree"
                raise self.not_a_table(run.plan, table.name, what)

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        """Views and grants go by the table's name; what defines the table itself would go with it."""
        literal = plan.dialect.literal
        schema, name = literal(plan.options.schema), literal(table)
        own, part = f"WHERE database = {schema} AND name = {name}", f"WHERE database = {schema} AND table = {name}"
        return (
            f"SELECT concat('engine ', engine) FROM system.tables {own} "
            "AND match(engine, '(Replacing|Summing|Aggregating|Collapsing|Graphite)') "
            "UNION ALL SELECT concat('keys ', partition_key, ' ', sorting_key, ' ', sampling_key) FROM system.tables "
            f"{own} AND concat(partition_key, sorting_key, sampling_key) != '' "
            f"UNION ALL SELECT 'TTL' FROM system.tables {own} AND position(engine_full, ' TTL ') > 0 "
            f"UNION ALL SELECT 'a comment' FROM system.tables {own} AND comment != '' "
            f"UNION ALL SELECT concat('index ', name) FROM system.data_skipping_indices {part} "
            f"UNION ALL SELECT concat('settings of column ', name) FROM system.columns {part} "
            "AND (default_kind != '' OR compression_codec != '' OR comment NOT IN ('', 'binary'))"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        literal = self.dialect.literal
        if (old, new) == ("float64", "string"):
            # 1e21 → 1.0e+21, 1e-7 → 1.0e-07, inf → Inf
            text = f"toString({name})"
            steps = (
                ("^(-?[0-9]+)(e.*)?$", r"\1.0\2"),
                ("e([0-9])", r"e+\1"),
                ("e([+-])([0-9])$", r"e\10\2"),
                ("inf", "Inf"),
            )
            for pattern, by in steps:
                text = f"replaceRegexpOne({text}, {literal(pattern)}, {literal(by)})"
            whole = f"concat(toString(toInt64({name})), '.0')"
            return f"if({name} = trunc({name}) AND abs({name}) < 1e17, {whole}, {text})"
        if (old, new) == ("timestamp[us]", "string"):
            text = f"replaceRegexpOne(toString({name}), '([.][0-9]*?)0+$', {literal(chr(92) + '1')})"
            return f"replaceRegexpOne({text}, '[.]$', '')"
        if (old, new) == ("binary", "string"):
            return f"hex({name})"
        return f"CAST({name}, {literal(self.dialect.types[new].removesuffix(_COMMENT))})"

    def alterable(self, old: str, new: str) -> bool:
        return True

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        """As a person would do it; the loader does it to the empty helper table and copies the old rows."""
        name = plan.dialect.identifier(column)
        no_longer_binary = " COMMENT ''" if old == "binary" else ""
        return [f"ALTER TABLE {plan.path(table)} MODIFY COLUMN {name} {plan.dialect.types[new]}{no_longer_binary}"]

    def create_helper(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """Where the table stays, with all that defines it: engine, keys, TTL, codecs, defaults, comments."""
        if work.action in ("create", "swap", "merge") or work.checked:
            return super().create_helper(plan, work)
        return self._create_alike(plan, work, work.into)

    def _create_alike(self, plan: LoadPlan, work: TableLoad, name: str) -> list[str]:
        return [
            f"CREATE TABLE {plan.path(name)} AS {plan.path(work.table.name)}",
            *(self.add_column(plan, name, column) for column in work.drift.added),
            *(s for c in work.drift.altered for s in self.alter_column(plan, name, c.column, c.old, c.new)),
        ]

    def fit(self, plan: LoadPlan, work: TableLoad, row: str, held: Column, native: str, kind: str = "") -> Fit:
        found = super().fit(plan, work, row, held, native, kind)
        misfit, value = found.misfit, f"{row}{plan.dialect.identifier(held.name)}"
        if "Nullable(" not in native:
            misfit += f" OR {value} IS NULL"
        decimal = re.search(r"Decimal\((\d+), (\d+)\)", native)
        if decimal is not None and held.type in ("int64", "float64"):  # it holds more digits than it has
            misfit += f" OR abs({value}) >= 1e{int(decimal[1]) - int(decimal[2])}"
        return replace(found, misfit=misfit)

    def retype(self, run: Run[ClickHouseSession], work: TableLoad, *, new_table: bool) -> list[str]:
        """Here it is a helper table like the table that becomes the table, unless there is nothing to keep."""
        plan, typed = run.plan, work.table.typed
        if work.action in ("create", "swap", "merge"):
            return super().retype(run, work, new_table=new_table)
        result = self._create_alike(plan, work, typed)
        if work.action == "append" and work.drift.altered:
            run.session.copied[typed] = table_state(run, work.table.name)
            result.append(self._copy_old(plan, work, typed))
        return [*result, self.insert_from_helper(plan, work, into=typed)]

    def drop_helper(self, plan: LoadPlan, name: str) -> str:
        return f"DROP TABLE IF EXISTS {plan.path(name)} SYNC"

    def rename_helper(self, plan: LoadPlan, work: TableLoad) -> str:
        return f"RENAME TABLE {plan.path(work.into)} TO {plan.path(work.table.name)}"

    def exchange(self, plan: LoadPlan, work: TableLoad) -> str:
        """Let the table and the one with its new rows change places."""
        return f"EXCHANGE TABLES {plan.path(_successor(work))} AND {plan.path(work.table.name)}"

    def publication(self, plan: LoadPlan, work: TableLoad) -> Publication:
        if work.action == "create":
            return Publication(ddl=[self.rename_helper(plan, work)], renames=True)
        if work.action == "merge":
            return Publication(self._build_merged(plan, work), [self.exchange(plan, work)], makes=[work.table.merged])
        if work.action != "append" or work.drift.altered:
            return Publication(dml=[self.exchange(plan, work)])
        statement_of = insert_of if work.views else attach_of
        return Publication(self.alterations(plan, work), [statement_of(plan, work, each) for each in work.partitions])

    def check_published(self, run: Run[ClickHouseSession], work: TableLoad, before: int) -> None:
        old = _successor(work)
        copied = run.session.copied.get(old)
        if copied is not None and table_state(run, old) != copied:
            # it is another table than the one that was copied, or it got rows that were not
            run.execute(self.exchange(run.plan, work))
            raise D1WarehouseError(
                f"table {work.table.name!r} is unchanged: something else changed it while its rows were copied",
                retryable=True,
            )
        work.drift = no_drift(work.drift.targets)
        super().check_published(run, work, before)

    def publish(self, run: Run[ClickHouseSession], works: Sequence[TableLoad]) -> None:
        for work in works:
            if work.action == "merge":
                run.session.copied[work.table.merged] = table_state(run, work.table.name)
        super().publish(run, works)

    def change_rows(self, run: Run[ClickHouseSession], work: TableLoad, statements: Sequence[str]) -> None:
        if work.views:
            for partition, statement in zip(work.partitions, statements, strict=True):
                insert_partition(run, work, partition, statement, self.driver_errors())
        else:
            super().change_rows(run, work, statements)

    def load_rows(self, run: Run[ClickHouseSession], work: TableLoad) -> None:
        schema, name = (run.plan.dialect.literal(name) for name in (run.plan.options.schema, work.table.name))
        columns = run.session.rows(
            f"SELECT name FROM system.columns WHERE database = {schema} AND table = {name} "
            "AND default_kind NOT IN ('MATERIALIZED', 'ALIAS', 'EPHEMERAL') ORDER BY position"
        )
        staged = {column.name for column in work.drift.targets}
        work.other_columns = [str(column) for (column,) in columns if column not in staged]
        super().load_rows(run, work)
        work.partitions = partitions_of_helper(run, work)
        work.views = views_to_feed(run, work)

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        if plan.file_format == "parquet" and plan.origin.manifest.startswith("s3://"):
            return [self._insert_from_s3(plan, work, session_token=False)] * len(work.table.parts)
        return [self._insert_from_client(plan, work)]

    def fill(self, run: Run[ClickHouseSession], work: TableLoad) -> int:
        table, session = work.table, run.session
        copied = 0
        if work.action == "append" and work.drift.altered and not work.checked:
            session.copied[work.into] = table_state(run, table.name)
            run.execute(self._copy_old(run.plan, work, work.into))
            copied = run.count(work.into)
        as_staged = [column.type for column in work.columns] == [column.type for column in table.columns]
        if session.s3 is not None and as_staged and not any(set("*?{}") & set(part.uri) for part in table.parts):
            self._fill_from_s3(run, work, session.s3)
        else:
            run.announce(self._insert_from_client(run.plan, work))
            names = [column.name for column in work.columns]
            session.client.raw_insert(run.plan.path(work.into), names, arrow_stream(run, work), fmt="ArrowStream")
        return run.count(work.into) - copied

    def _fill_from_s3(self, run: Run[ClickHouseSession], work: TableLoad, access: S3Access) -> None:
        table = work.table
        run.files.check_contents(table)
        statement = self._insert_from_s3(run.plan, work, session_token=access.session_token is not None)
        before = run.count(work.into)
        for part in table.parts:
            run.announce(f"{statement} -- {part.uri}")
            values = (access.url(split_s3(part.uri)[1]), access.access_key, access.secret_key, access.session_token)
            run.session.client.raw_query(statement, parameters=dict(zip(_S3_PARAMETERS, values, strict=True)))
            rows = run.count(work.into) - before
            if rows != part.rows:
                raise D1WarehouseError(
                    f"table {table.name!r}: its part {part.uri} has {rows} rows, the manifest says {part.rows}"
                )
            before += rows

    def _insert_from_s3(self, plan: LoadPlan, work: TableLoad, *, session_token: bool) -> str:
        """Let the server read one Parquet part; its address and keys are query parameters."""
        identifier, types = plan.dialect.identifier, plan.dialect.types
        keys = _S3_PARAMETERS if session_token else _S3_PARAMETERS[:3]
        arguments = ", ".join(f"{{{key}:String}}" for key in keys)
        structure = ", ".join(
            f"{identifier(c.source_name)} {types[c.type].removesuffix(_COMMENT)}" for c in work.table.columns
        )
        staged = ", ".join(identifier(column.source_name) for column in work.table.columns)
        return (
            f"INSERT INTO {plan.path(work.into)} ({_names(plan, work.columns)}) "
            f"SELECT {staged} FROM s3({arguments}, 'Parquet', {plan.dialect.literal(structure)})"
        )

    def _insert_from_client(self, plan: LoadPlan, work: TableLoad) -> str:
        return f"INSERT INTO {plan.path(work.into)} ({_names(plan, work.columns)}) FORMAT ArrowStream"

    def table_value(self, plan: LoadPlan, work: TableLoad, name: str) -> str:
        value = super().table_value(plan, work, name)
        change = next((change for change in work.drift.altered if change.column == name), None)
        return value if change is None else converted(self, value, change.old, change.new)

    def _copy_old(self, plan: LoadPlan, work: TableLoad, into: str) -> str:
        """Bring the old rows into a table with the new types: text in SQLite's layout, blobs hexadecimal."""
        columns = [column.name for column in work.drift.targets if column not in work.drift.added]
        columns += work.other_columns
        values = ", ".join(self.table_value(plan, work, name) for name in columns)
        names = ", ".join(map(plan.dialect.identifier, columns))
        return f"INSERT INTO {plan.path(into)} ({names}) SELECT {values} FROM {plan.path(work.table.name)}"

    def _build_merged(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        """A table like the old one with its rows whose keys are not staged, and the staged rows.

        Columns that are not staged keep their values where the key was there before, else they get their default.
        """
        match, insert = self.match(plan, work), f"INSERT INTO {plan.path(work.table.merged)}"
        staged = f"{insert} ({match.names}) SELECT {match.inserted} FROM {match.source}"
        result = self._create_alike(plan, work, work.table.merged)
        if not work.delete_missing:
            old = self._copy_old(plan, work, work.table.merged)
            result.append(f"{old} LEFT ANTI JOIN {match.source} ON {match.same_key}")
        if not work.other_columns:
            return [*result, staged]
        names = ", ".join(map(plan.dialect.identifier, work.other_columns))
        kept = ", ".join(self.table_value(plan, work, name) for name in work.other_columns)
        join = f"INNER JOIN {match.path} ON {match.same_key}"
        return [
            *result,
            f"{insert} ({match.names}, {names}) SELECT {match.inserted}, {kept} FROM {match.source} {join}",
            f"{staged} LEFT ANTI JOIN {match.path} ON {match.same_key}",
        ]


def _successor(work: TableLoad) -> str:
    """The table that is exchanged with the target."""
    return work.table.merged if work.action == "merge" else work.into


def _names(plan: LoadPlan, columns: Sequence[Column]) -> str:
    return ", ".join(plan.dialect.identifier(column.name) for column in columns)
