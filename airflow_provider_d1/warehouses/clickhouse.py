"""ClickHouse: ``s3()`` or Arrow over HTTP into helper tables, exchanged with the old ones when all have arrived.

There are no transactions: each table changes at once and whole, but one after the other.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from typing import Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.base import Column, LoadedTable, LoadPlan, Table, leftover_helpers
from airflow_provider_d1.warehouses.batches import schema_of, staged_batches
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.drift import Drift, columns_as_staged, find_drift
from airflow_provider_d1.warehouses.fitting import fitted
from airflow_provider_d1.warehouses.s3_access import S3Access, s3_access
from airflow_provider_d1.warehouses.store import S3Store, StagedFiles, split_s3

log = logging.getLogger(__name__)

STATEMENT = "INSERT"

#: String holds text and bytes alike; a comment tells which, so that a later append knows
_BINARY = "Nullable(String) COMMENT 'binary'"

DIALECT = Dialect(
    name="ClickHouse",
    types={
        "int64": "Nullable(Int64)",
        "float64": "Nullable(Float64)",
        "string": "Nullable(String)",
        "binary": _BINARY,
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
    max_length=206,  # a table's name becomes a file's
    quote="`",
    doubled_quote=False,
    backslash=True,
    doubled_apostrophe=False,
)

_NOW = "now64(6, 'UTC')"
#: what stands for the staging bucket's address and keys in the statement; the values go beside it
_S3_PARAMETERS = ("d1_url", "d1_access_key", "d1_secret_key", "d1_session_token")


# statements: pure functions of the plan


def create_database(plan: LoadPlan) -> str:
    """Create the target database."""
    return f"CREATE DATABASE IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}"


def create_loads(plan: LoadPlan) -> str:
    """Create the loader's own table."""
    return loads.create_statement(plan, "DateTime64(6, 'UTC')", " ENGINE = MergeTree ORDER BY `loaded_at`")


def create_table(plan: LoadPlan, name: str, columns: Sequence[Column]) -> str:
    """Create a table in the order in which the rows come."""
    listed = ", ".join(f"{plan.dialect.identifier(c.name)} {plan.dialect.types[c.type]}" for c in columns)
    return f"CREATE TABLE {plan.path(name)} ({listed}) ENGINE = MergeTree ORDER BY tuple()"


def create_like(plan: LoadPlan, table: Table) -> str:
    """Create the helper table with all that makes up the table: engine, keys, TTL, codecs, defaults, comments."""
    return f"CREATE TABLE {plan.path(table.helper)} AS {plan.path(table.name)}"


def drop_helper(plan: LoadPlan, name: str) -> str:
    """Remove a helper table."""
    return f"DROP TABLE IF EXISTS {plan.path(name)} SYNC"


def insert_from_s3(plan: LoadPlan, table: Table, targets: Sequence[Column], *, session_token: bool) -> str:
    """Let the server read one Parquet part; its address and keys are query parameters."""
    keys = _S3_PARAMETERS if session_token else _S3_PARAMETERS[:3]
    arguments = ", ".join(f"{{{key}:String}}" for key in keys)
    structure = ", ".join(
        f"{plan.dialect.identifier(c.name)} {plan.dialect.types[c.type].removesuffix(_BINARY[16:])}"
        for c in table.columns
    )
    return (
        f"INSERT INTO {plan.path(table.helper)} ({_names(plan, targets)}) SELECT {_names(plan, table.columns)} "
        f"FROM s3({arguments}, 'Parquet', {plan.dialect.literal(structure)})"
    )


def insert_from_client(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> str:
    """Take rows from the client."""
    return f"INSERT INTO {plan.path(table.helper)} ({_names(plan, targets)}) FORMAT ArrowStream"


def copy_old(plan: LoadPlan, table: Table, drift: Drift) -> str:
    """Bring the old rows into the helper table, in the new types: text in SQLite's layout, blobs hexadecimal."""
    altered = {change.column: change for change in drift.altered}
    names, values = [], []
    for column in drift.targets:
        if column in drift.added:
            continue
        name = plan.dialect.identifier(column.name)
        names.append(name)
        change = altered.get(column.name)
        values.append(name if change is None else _widened(plan, name, change.old, change.new))
    return (
        f"INSERT INTO {plan.path(table.helper)} ({', '.join(names)}) "
        f"SELECT {', '.join(values)} FROM {plan.path(table.name)}"
    )


def swap(plan: LoadPlan, table: Table, *, existing: bool) -> str:
    """Put the helper table in the place of the old one, which becomes the helper."""
    if existing:
        return f"EXCHANGE TABLES {plan.path(table.helper)} AND {plan.path(table.name)}"
    return f"RENAME TABLE {plan.path(table.helper)} TO {plan.path(table.name)}"


def attach(plan: LoadPlan, table: Table, partition: str) -> str:
    """Append a partition of the helper table at once: its files are linked, not copied."""
    literal = plan.dialect.literal(partition)
    return f"ALTER TABLE {plan.path(table.name)} ATTACH PARTITION ID {literal} FROM {plan.path(table.helper)}"


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """Widen a column, as a person would do it; the loader does it to the empty helper table and copies the old rows."""
    name = plan.dialect.identifier(column)
    no_longer_binary = " COMMENT ''" if old == "binary" else ""
    return f"ALTER TABLE {plan.path(table)} MODIFY COLUMN {name} {plan.dialect.types[new]}{no_longer_binary}"


def statements(plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without asking the server."""
    result = [create_database(plan), create_loads(plan)]
    from_s3 = plan.file_format == "parquet" and plan.origin.manifest.startswith("s3://")
    for table in plan.tables:
        replace = plan.options.mode == "replace"
        result.append(create_like(plan, table) if replace else create_table(plan, table.helper, table.columns))
        if from_s3:
            result += [insert_from_s3(plan, table, table.columns, session_token=False)] * len(table.parts)
        else:
            result.append(insert_from_client(plan, table, table.columns))
    for table in plan.tables:
        if plan.options.mode == "replace":
            result += [swap(plan, table, existing=True)]
        else:
            result += [attach(plan, table, "all")]
        result += [drop_helper(plan, table.helper), loads.insert_statement(plan, [table], _NOW)]
    return result


def _names(plan: LoadPlan, columns: Sequence[Column]) -> str:
    return ", ".join(plan.dialect.identifier(column.name) for column in columns)


def _widened(plan: LoadPlan, name: str, old: str, new: str) -> str:
    literal = plan.dialect.literal
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
        text = f"replaceRegexpOne(toString({name}), '0{{1,6}}$', '')"
        return f"replaceRegexpOne({text}, '[.]$', '')"
    if (old, new) == ("binary", "string"):
        return f"hex({name})"
    return f"CAST({name}, {literal(plan.dialect.types[new])})"


# the load itself

_CODE = re.compile(r"\bCode: (\d+)")
#: values and types that don't fit, unknown columns, functions, tables, databases and settings, wrong syntax, missing
#: rights, wrong credentials. Not 57 (the table exists: another load may have made it) nor 499 (whatever S3 said).
_PERMANENT_CODES = frozenset(
    (
        6,
        10,
        16,
        20,
        27,
        36,
        38,
        41,
        42,
        43,
        44,
        46,
        47,
        48,
        50,
        53,
        60,
        62,
        69,
        70,
        72,
        81,
        115,
        117,
        122,
        164,
        192,
        193,
        194,
        291,
        344,
        349,
        450,
        497,
        516,
        636,
    )
)


def is_permanent(error: Exception) -> bool:
    """Whether the driver's error comes again until somebody changes something."""
    code = _CODE.search(str(error))
    if code is not None:
        return int(code[1]) in _PERMANENT_CODES
    return type(error).__name__ in ("ProgrammingError", "DataError", "NotSupportedError")


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:  # noqa: ARG001
    """Load the plan's tables through the connection ``conn_id``; each of them whole or not at all.

    :raises D1WarehouseError: with ClickHouse's own words when it refuses something.
    :raises D1ManifestError: when a staged file is not what the manifest says.
    """
    try:
        from airflow.providers.clickhousedb.hooks.clickhouse import ClickHouseHook
        from clickhouse_connect.driver.exceptions import ClickHouseError
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into ClickHouse needs its provider: pip install 'airflow-provider-d1[clickhouse]' ({error})"
        ) from error
    # query parameters then travel in the body of a request and not in its URL, which HTTP clients and proxies log
    hook = ClickHouseHook(clickhouse_conn_id=conn_id, client_kwargs={"form_encode_query_params": True})
    try:
        client = hook.get_client()
    except ClickHouseError as error:
        raise D1WarehouseError(
            f"No connection to ClickHouse through {conn_id!r}: {error}", retryable=not is_permanent(error)
        ) from error
    with closing(client):
        try:
            return _Load(client, plan, files).run()
        except ClickHouseError as error:
            raise D1WarehouseError(
                f"ClickHouse refused the load: {error}", retryable=not is_permanent(error)
            ) from error


class _Load:
    """One load: every table into its helper first, then one swap after the other."""

    def __init__(self, client: Any, plan: LoadPlan, files: StagedFiles) -> None:
        self.client = client
        self.plan = plan
        self.files = files
        self.s3 = self._s3()
        #: table → rows that were in it before and went into its helper table too
        self.copied: dict[str, int] = {}

    def run(self) -> list[LoadedTable]:
        plan = self.plan
        self._prepare()
        self._refuse_other_engines()
        append = plan.options.mode == "append"
        loaded = loads.already_loaded(self._rows(loads.history_query(plan))) if append else {}
        results = []
        finish: list[tuple[Table, list[str]]] = []
        try:
            for table in plan.tables:
                columns = self._columns(table.name)
                if append and columns and loaded.get(table.name):
                    log.info("%s: this export is loaded already; skipped", plan.path(table.name))
                    results.append(LoadedTable(table.name, plan.path(table.name), STATEMENT, 0, skipped=True))
                    continue
                finish.append(
                    (table, self._append(table, columns) if append and columns else self._new(table, columns))
                )
                results.append(LoadedTable(table.name, plan.path(table.name), STATEMENT, table.rows))
            for table, last in finish:
                self._publish(table, last)
        except BaseException:
            with suppress(Exception):  # what went wrong first is what counts
                self._drop_helpers()
            raise
        self._drop_helpers()
        return results

    def _publish(self, table: Table, statements: Sequence[str]) -> None:
        adds = any(" ATTACH PARTITION " in statement for statement in statements)
        before = self._count(table.name) if adds else 0
        for statement in statements:
            self._run(statement)
        rows = self._count(table.name) - before
        expected = table.rows + self.copied.get(table.name, 0)
        # another load may append at the same time
        if rows < expected or (rows > expected and not adds):
            raise D1WarehouseError(
                f"table {table.name!r} has {rows} new rows after the load, {expected} were expected: was it changed "
                "by something else at the same time?",
                retryable=True,
            )
        self._run(loads.insert_statement(self.plan, [table], _NOW))

    def _count(self, table: str) -> int:
        ((count,),) = self._rows(f"SELECT count() FROM {self.plan.path(table)}")
        return int(count)

    def _drop_helpers(self) -> None:
        for table in self.plan.tables:
            self._run(drop_helper(self.plan, table.helper))

    def _prepare(self) -> None:
        schema = self.plan.dialect.literal(self.plan.options.schema)
        if not self._rows(f"SELECT 1 FROM system.databases WHERE name = {schema}"):
            self._run(create_database(self.plan))
        self._run(create_loads(self.plan))
        query = f"SELECT name FROM system.tables WHERE database = {schema} AND name LIKE '_d1_new_%'"
        for name in leftover_helpers(name for (name,) in self._rows(query)):
            self._run(drop_helper(self.plan, name))

    def _refuse_other_engines(self) -> None:
        """A view, or a table whose rows are elsewhere (Distributed, Merge): a helper like it would hold none itself."""
        schema = self.plan.dialect.literal(self.plan.options.schema)
        query = f"SELECT name, engine FROM system.tables WHERE database = {schema} AND engine NOT LIKE '%MergeTree'"
        others = dict(self._rows(query))
        for table in self.plan.tables:
            if table.name in others:
                raise D1WarehouseError(
                    f"{self.plan.path(table.name)} has the engine {others[table.name]}, not a MergeTree; it is left as "
                    "it is. Load into another schema, or drop it first"
                )

    def _new(self, table: Table, existing: Mapping[str, str]) -> list[str]:
        columns = columns_as_staged(self.plan.dialect, table, existing) if existing else None
        if columns is None:
            self._run(create_table(self.plan, table.helper, table.columns))
        else:
            self._run(create_like(self.plan, table))
        self._fill(table, columns or table.columns, 0)
        return [swap(self.plan, table, existing=bool(existing))]

    def _append(self, table: Table, existing: Mapping[str, str]) -> list[str]:
        plan = self.plan

        def alter(column: str, old: str, new: str) -> str:
            return alter_column(plan, table.name, column, old, new)

        drift = find_drift(plan.dialect, table, existing, alter, lambda old, new: True)  # noqa: ARG005
        self._check_exact(table, drift)
        self._run(create_like(plan, table))
        changes = [add_column(plan, table.helper, column) for column in drift.added]
        changes += [alter_column(plan, table.helper, change.column, change.old, change.new) for change in drift.altered]
        for statement in changes:
            self._run(statement)
        if drift.altered:
            log.info("%s: a column becomes wider; the table is built anew", plan.path(table.name))
            self._run(copy_old(plan, table, drift))
            self.copied[table.name] = self._count(table.helper)
            self._fill(table, drift.targets, self.copied[table.name])
            return [swap(plan, table, existing=True)]
        self._fill(table, drift.targets, 0)
        schema, helper = plan.dialect.literal(plan.options.schema), plan.dialect.literal(table.helper)
        partitions = self._rows(
            f"SELECT DISTINCT partition_id FROM system.parts WHERE active AND database = {schema} AND table = {helper}"
        )
        added = [add_column(plan, table.name, column) for column in drift.added]
        return [*added, *(attach(plan, table, partition) for (partition,) in partitions)]

    def _check_exact(self, table: Table, drift: Drift) -> None:
        for change in drift.altered:
            if (change.old, change.new) == ("int64", "float64"):
                name, path = self.plan.dialect.identifier(change.column), self.plan.path(table.name)
                ((count,),) = self._rows(f"SELECT count() FROM {path} WHERE {name} NOT BETWEEN -{2**53} AND {2**53}")
                if count:
                    raise D1WarehouseError(
                        f"table {table.name!r} is as it was: column {change.column!r} would have to become Float64, "
                        f"and {count} of its integers would be rounded by {change.statement}"
                    )

    def _fill(self, table: Table, targets: Sequence[Column], before: int) -> None:
        """Bring the staged rows into the helper table, and count."""
        as_staged = [column.type for column in targets] == [column.type for column in table.columns]
        if self.s3 is not None and as_staged and not any(set("*?{}") & set(part.uri) for part in table.parts):
            self._fill_from_s3(table, targets, self.s3)
        else:
            statement = insert_from_client(self.plan, table, targets)
            log.info("%s", statement)
            names = [column.name for column in targets]
            path = self.plan.path(table.helper)
            self.client.raw_insert(path, names, self._stream(table, targets), fmt="ArrowStream")
        rows = self._count(table.helper)
        if rows != before + table.rows:
            raise D1WarehouseError(f"table {table.name!r}: {rows - before} rows arrived of the manifest's {table.rows}")

    def _fill_from_s3(self, table: Table, targets: Sequence[Column], access: S3Access) -> None:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        self.files.check_contents(table)
        before = self._count(table.helper)
        for part in table.parts:
            statement = insert_from_s3(self.plan, table, targets, session_token=access.session_token is not None)
            log.info("%s -- %s", statement, part.uri)
            values = (access.url(split_s3(part.uri)[1]), access.access_key, access.secret_key, access.session_token)
            try:
                self.client.raw_query(statement, parameters=dict(zip(_S3_PARAMETERS, values, strict=True)))
            except ClickHouseError as error:
                words = access.hidden_in(str(error))
                raise D1WarehouseError(
                    f"ClickHouse could not load {part.uri} of table {table.name!r}: {words}",
                    retryable=not is_permanent(error),
                ) from None
            after = self._count(table.helper)
            if after - before != part.rows:
                rows = after - before
                raise D1WarehouseError(
                    f"table {table.name!r}: its part {part.uri} has {rows} rows, the manifest says {part.rows}"
                )
            before = after

    def _stream(self, table: Table, targets: Sequence[Column]) -> Iterator[bytes]:
        """The staged rows as one Arrow stream."""
        import pyarrow as pa

        buffer = io.BytesIO()
        writer = pa.ipc.new_stream(buffer, schema_of(tuple(targets)))
        for batch in fitted(staged_batches(self.files, table, self.plan.file_format), table, targets):
            writer.write_batch(batch)
            yield buffer.getvalue()
            buffer.seek(0)
            buffer.truncate()
        writer.close()
        yield buffer.getvalue()

    def _s3(self) -> S3Access | None:
        """What the server needs to read the parts by itself; None where they are streamed to it from here."""
        store = self.files.store
        parts = [part for table in self.plan.tables for part in table.parts]
        if not isinstance(store, S3Store) or self.plan.file_format != "parquet" or not parts:
            return None
        return s3_access(store.hook, split_s3(parts[0].uri)[0])

    def _columns(self, table: str) -> dict[str, str]:
        """Name → type of a table's columns, empty when there is no such table."""
        literal = self.plan.dialect.literal
        rows = self._rows(
            f"SELECT name, type, comment FROM system.columns WHERE database = {literal(self.plan.options.schema)} "
            f"AND table = {literal(table)} ORDER BY position"
        )
        return {name: f"{kind} COMMENT 'binary'" if comment == "binary" else kind for name, kind, comment in rows}

    def _run(self, statement: str) -> None:
        log.info("%s", statement)
        self.client.command(statement)

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.client.query(query).result_rows]
