"""Snowflake: ``PUT`` to a temporary stage, or an external one, and ``COPY INTO`` with an explicit list of files."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ManifestError, D1WarehouseError
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import check_parquet
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.session import Connections, CursorSession, Run, is_permanent_sqlstate
from airflow_provider_d1.warehouses.snowflake_stage import described_url, names_in_stage
from airflow_provider_d1.warehouses.table_load import TableLoad, WarehouseOption

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan, Part, Table
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

#: COPY INTO accepts no more names at once
_MAX_FILES = 1000
#: wrong syntax, missing objects and permissions (which have other SQLSTATEs too), wrong or disabled credentials
_PERMANENT_ERRORS = frozenset(
    (904, 1003, 2003, 2043, 3001, 390100, 390101, 390102, 390144, 390186, 390189, 390201, 390303, 390422)
)


class SnowflakeSession(CursorSession):
    """A Snowflake cursor; it describes a result even where there are no columns."""

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        self.cursor.execute(statement)
        return [tuple(row) for row in self.cursor.fetchall()]


class Snowflake(Warehouse[SnowflakeSession]):
    """Snowflake."""

    dialect = Dialect(
        name="Snowflake",
        types={
            "int64": "NUMBER(38, 0)",
            "float64": "FLOAT",
            "string": "VARCHAR",
            "binary": "BINARY",
            "timestamp[us]": "TIMESTAMP_NTZ(6)",
            "date32": "DATE",
        },
        known_types={
            "number(38,0)": "int64",
            "float": "float64",
            "text": "string",
            "binary": "binary",
            "timestamp_ntz": "timestamp[us]",
            "date": "date32",
        },
        max_length=255,
        length_in="characters",
        backslash=True,
        native={
            "boolean": "BOOLEAN",
            "date": "DATE",
            "timestamp": "TIMESTAMP_NTZ(6)",
            "decimal": "NUMBER({precision},{scale})",
        },
        no_native={"json": "a VARIANT changes the text"},
        text_length="LENGTH({value})",
        try_cast="TRY_CAST({value}::VARCHAR AS {type})",  # it takes nothing else
    )
    extra = "snowflake"
    modules = ("airflow.providers.snowflake.hooks.snowflake", "snowflake.connector.errors")
    statement = "COPY INTO"
    options = (
        WarehouseOption(
            "stage",
            "Snowflake: an external stage (``DB.SCHEMA.STAGE``) whose URL is the bucket or a folder in it; None "
            "uploads the files from the worker to an internal one.",
            "ops.public.d1_stage",
        ),
    )
    timestamp_type = "TIMESTAMP_NTZ(6)"
    now = "SYSDATE()"
    reads_text_formats = False

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from snowflake.connector.errors import Error

        return (Error,)

    def is_permanent(self, error: Exception) -> bool:
        state, number = getattr(error, "sqlstate", None), getattr(error, "errno", -1)
        return is_permanent_sqlstate(state) or number in _PERMANENT_ERRORS

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> SnowflakeSession:
        from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

        connection: Any = SnowflakeHook(snowflake_conn_id=connections.conn_id, login_timeout=45).get_conn()
        connection.autocommit(True)  # an account or a user may have AUTOCOMMIT = FALSE; BEGIN and COMMIT are statements
        return SnowflakeSession(connection)

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        literal = plan.dialect.literal
        return (
            "SELECT column_name, data_type || CASE WHEN data_type = 'NUMBER' "
            "THEN '(' || numeric_precision || ',' || numeric_scale || ')' "
            "WHEN data_type IN ('TEXT', 'BINARY') AND character_maximum_length < 8388608 "
            "THEN '(' || character_maximum_length || ')' "
            "WHEN data_type LIKE 'TIMESTAMP%' AND datetime_precision < 6 THEN '(' || datetime_precision || ')' "
            "ELSE '' END FROM information_schema.columns "
            f"WHERE table_schema = {literal(plan.options.schema)} AND table_name = {literal(table)} "
            "ORDER BY ordinal_position"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return f"REGEXP_REPLACE({name}::VARCHAR, '^(-?[0-9]+)$', '\\\\1.0')"
        if (old, new) == ("binary", "string"):
            return f"HEX_ENCODE({name})"
        if (old, new) == ("timestamp[us]", "string"):  # ::VARCHAR has the session's format
            text = f"TO_VARCHAR({name}, 'YYYY-MM-DD HH24:MI:SS.FF6')"
            return f"RTRIM(RTRIM({text}, '0'), '.')"
        if (old, new) == ("date32", "string"):
            return f"TO_VARCHAR({name}, 'YYYY-MM-DD')"
        return f"{name}::{self.dialect.types[new]}"

    def overwrite(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [self.insert_from_helper(plan, work, "INSERT OVERWRITE INTO")]

    def swap(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        # in one statement, and who could read the table still can
        path, helper = plan.path(work.table.name), plan.path(work.into)
        grants = "COPY GRANTS " if work.keeps_grants else ""
        return [f"CREATE OR REPLACE TABLE {path} {grants}AS SELECT * FROM {helper}"]

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        name = plan.dialect.literal(plan.path(table))
        return (
            "SELECT policy_kind || ' ' || policy_name FROM TABLE(information_schema.policy_references("
            f"ref_entity_name => {name}, ref_entity_domain => 'table'))"
        )

    def rename_helper(self, plan: LoadPlan, work: TableLoad) -> str:
        return f"ALTER TABLE {plan.path(work.into)} RENAME TO {plan.path(work.table.name)}"

    def create_helper(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        create = self.create_table(plan, work.into, work.columns)
        if work.action == "create" and plan.options.mode == "replace":
            return [create]  # it becomes the table itself, which would stay transient
        # it is dropped at the end: no Time Travel and no Fail-safe, whose storage is paid for
        create = create.replace("CREATE TABLE ", "CREATE TRANSIENT TABLE ", 1)
        return [f"{create} DATA_RETENTION_TIME_IN_DAYS = 0"]

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        copies = self._copies(plan, work, self._names_in_stage(plan, work, None))
        if plan.options.engine.get("stage") is not None:
            return copies
        uploads = [self._put(plan, work, part.uri) for part in work.table.parts]
        return [self._create_stage(plan, work), *uploads, *copies]

    def fill(self, run: Run[SnowflakeSession], work: TableLoad) -> int:
        stage, url = run.plan.options.engine.get("stage"), None
        if stage is None:
            self._upload(run, work)
        else:
            url = described_url(stage, run.session.rows(f"DESC STAGE {stage}"))
            run.files.check_contents(work.table)
        table, names = work.table, self._names_in_stage(run.plan, work, url)
        rows = 0
        for statement in self._copies(run.plan, work, names):
            for file, _status, _parsed, loaded, *_ in (row for row in run.execute(statement) if len(row) > 3):
                part = next((p for p, name in zip(table.parts, names, strict=True) if str(file).endswith(name)), None)
                if part is None:
                    raise D1WarehouseError(f"table {table.name!r}: Snowflake loaded {file}, which is not a part of it")
                if int(loaded) != part.rows:
                    raise D1ManifestError(
                        f"table {table.name!r}: its part {part.uri} has {loaded} rows, the manifest says {part.rows}"
                    )
                rows += int(loaded)
        return rows

    def _upload(self, run: Run[SnowflakeSession], work: TableLoad) -> None:
        run.execute(self._create_stage(run.plan, work))
        with tempfile.TemporaryDirectory(prefix="d1-load-") as folder:
            for number, (part, path) in enumerate(run.files.opened(work.table)):
                _check(work.table, part, path)
                # PUT derives the name in the stage from the path, and reads patterns in it
                link = Path(folder) / _staged_name(number)
                link.symlink_to(path)
                run.execute(self._put(run.plan, work, f"file://{link}"))

    def _create_stage(self, plan: LoadPlan, work: TableLoad) -> str:
        return f"CREATE OR REPLACE TEMPORARY STAGE {self._internal_stage(plan, work)}"

    def _put(self, plan: LoadPlan, work: TableLoad, file_uri: str) -> str:
        return (
            f"PUT {plan.dialect.literal(file_uri)} @{self._internal_stage(plan, work)} "
            "AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
        )

    def _copies(self, plan: LoadPlan, work: TableLoad, names: list[str]) -> list[str]:
        """Load exactly the listed files, columns by name; any error fails the whole statement."""
        literal = plan.dialect.literal
        source = plan.options.engine.get("stage") or self._internal_stage(plan, work)
        into, matched = f"{plan.path(work.into)} FROM @{source}", "MATCH_BY_COLUMN_NAME = CASE_SENSITIVE "
        if any(column.source is not None for column in work.table.columns):
            into, matched = self._renaming(plan, work, source), ""
        return [
            f"COPY INTO {into} FILES = ({', '.join(literal(name) for name in names[start : start + _MAX_FILES])}) "
            "FILE_FORMAT = (TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE) "
            f"{matched}ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
            for start in range(0, len(names), _MAX_FILES)
        ]

    def _renaming(self, plan: LoadPlan, work: TableLoad, source: str) -> str:
        """Target and source of a COPY INTO whose columns have other names in the files than in the table."""
        identifier, literal, types = plan.dialect.identifier, plan.dialect.literal, plan.dialect.types
        columns = work.table.columns
        names = ", ".join(identifier(column.name) for column in columns)
        values = ", ".join(f"$1[{literal(column.source_name)}]::{types[column.type]}" for column in columns)
        return f"{plan.path(work.into)} ({names}) FROM (SELECT {values} FROM @{source})"

    def _names_in_stage(self, plan: LoadPlan, work: TableLoad, url: str | None) -> list[str]:
        stage = plan.options.engine.get("stage")
        if stage is None:
            return [_staged_name(number) for number in range(len(work.table.parts))]
        return names_in_stage(stage, url, [part.uri for part in work.table.parts])

    def _internal_stage(self, plan: LoadPlan, work: TableLoad) -> str:
        return plan.path(f"{work.into}_STAGE".upper())


def _staged_name(number: int) -> str:
    """What a part is called in the temporary stage: short, and without anything to be escaped."""
    return f"part-{number:05d}.parquet"


def _check(table: Table, part: Part, path: Path) -> None:
    try:
        rows = check_parquet(path, table.columns)
    except (ValueError, OSError) as error:
        raise D1ManifestError(f"table {table.name!r}: its part {part.uri} can't be read: {error}") from error
    if rows != part.rows:
        raise D1ManifestError(
            f"table {table.name!r}: its part {part.uri} has {rows} rows, the manifest says {part.rows}"
        )
