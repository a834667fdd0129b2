"""Snowflake: ``PUT`` to a temporary stage, or an external one, and ``COPY INTO`` with an explicit list of files."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.base import is_permanent_sqlstate
from airflow_provider_d1.warehouses.batches import check_parquet
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.helper_tables import (
    Steps,
    insert_from_helper,
    needs_parquet,
    planned,
    run_load,
)
from airflow_provider_d1.warehouses.store import split_s3

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Column, LoadedTable, LoadPlan, Part, Table
    from airflow_provider_d1.warehouses.store import StagedFiles

log = logging.getLogger(__name__)

DIALECT = Dialect(
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
)

_NOW = "SYSDATE()"
#: COPY INTO takes no more names at once
_MAX_FILES = 1000


# statements: pure functions of the plan


def prepare(plan: LoadPlan) -> list[str]:
    """Schema and ``_d1_loads``."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}",
        loads.create_statement(plan, "TIMESTAMP_NTZ(6)"),
    ]


def create_stage(plan: LoadPlan, table: Table) -> str:
    """Make a stage for the table's parts that ends with the session."""
    return f"CREATE OR REPLACE TEMPORARY STAGE {_internal_stage(plan, table)}"


def put(plan: LoadPlan, table: Table, file_uri: str) -> str:
    """Upload a part as it is."""
    return (
        f"PUT {plan.dialect.literal(file_uri)} @{_internal_stage(plan, table)} "
        "AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = NONE OVERWRITE = TRUE"
    )


def copies(plan: LoadPlan, table: Table) -> list[str]:
    """Load exactly the listed files, columns by name; any error fails the whole statement."""
    source, literal = _stage(plan, table), plan.dialect.literal
    names = _names_in_stage(plan, table)
    return [
        f"COPY INTO {plan.path(table.helper)} FROM @{source} "
        f"FILES = ({', '.join(literal(name) for name in names[start : start + _MAX_FILES])}) "
        "FILE_FORMAT = (TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE) "
        "MATCH_BY_COLUMN_NAME = CASE_SENSITIVE ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
        for start in range(0, len(names), _MAX_FILES)
    ]


def _stage(plan: LoadPlan, table: Table) -> str:
    return _internal_stage(plan, table) if plan.options.stage is None else plan.options.stage


def _names_in_stage(plan: LoadPlan, table: Table) -> list[str]:
    if plan.options.stage is None:
        return [staged_name(number) for number in range(len(table.parts))]
    return [split_s3(part.uri)[1] for part in table.parts]


def staged_name(number: int) -> str:
    """What a part is called in the temporary stage: short, and without anything to be escaped."""
    return f"part-{number:05d}.parquet"


def columns(plan: LoadPlan, table: str) -> str:
    """A table's columns."""
    literal = plan.dialect.literal
    return (
        "SELECT column_name, data_type || CASE WHEN data_type = 'NUMBER' "
        "THEN '(' || numeric_precision || ',' || numeric_scale || ')' ELSE '' END FROM information_schema.columns "
        f"WHERE table_schema = {literal(plan.options.schema)} AND table_name = {literal(table)} "
        "ORDER BY ordinal_position"
    )


def helpers(plan: LoadPlan) -> str:
    """The schema's helper tables."""
    schema = plan.dialect.literal(plan.options.schema)
    return (
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema} "
        "AND table_name LIKE '_d1_new_%'"
    )


def swap(plan: LoadPlan, table: Table, existing: bool) -> list[str]:
    """Put the helper table's contents in the place of the old table in one statement; who could read it still can."""
    if existing:
        return [
            f"CREATE OR REPLACE TABLE {plan.path(table.name)} COPY GRANTS AS SELECT * FROM {plan.path(table.helper)}"
        ]
    return [f"ALTER TABLE {plan.path(table.helper)} RENAME TO {plan.path(table.name)}"]


def overwrite(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Replace the table's rows in one statement; the table and all that is attached to it stay."""
    return [insert_from_helper(plan, table, targets, _widened, "INSERT OVERWRITE INTO")]


def append(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Add the helper table's rows to the table."""
    return [insert_from_helper(plan, table, targets, _widened)]


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """How a person widens a column: Snowflake's ALTER does not change the kind of a type."""
    path, name = plan.path(table), plan.dialect.identifier(column)
    wider = plan.dialect.identifier(f"{column}_wider")
    return (
        f"ALTER TABLE {path} ADD COLUMN {wider} {plan.dialect.types[new]}; "
        f"UPDATE {path} SET {wider} = {_widened(name, old, new)}; "
        f"ALTER TABLE {path} DROP COLUMN {name}; ALTER TABLE {path} RENAME COLUMN {wider} TO {name}"
    )


def drop_helper(plan: LoadPlan, name: str) -> str:
    """Remove a helper table."""
    return f"DROP TABLE IF EXISTS {plan.path(name)}"


def statements(plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without asking the server."""
    needs_parquet(plan)

    def fill(plan: LoadPlan, table: Table) -> list[str]:
        if plan.options.stage is not None:
            return copies(plan, table)
        return [create_stage(plan, table), *(put(plan, table, part.uri) for part in table.parts), *copies(plan, table)]

    return planned(plan, _STEPS(fill=lambda plan, table: 0), fill)  # noqa: ARG005 - it is only planned


def _internal_stage(plan: LoadPlan, table: Table) -> str:
    return plan.path(f"{table.helper}_STAGE".upper())


def _widened(name: str, old: str, new: str) -> str:
    if (old, new) == ("float64", "string"):
        return f"REGEXP_REPLACE({name}::VARCHAR, '^(-?[0-9]+)$', '\\\\1.0')"
    if (old, new) == ("binary", "string"):
        return f"HEX_ENCODE({name})"
    return f"{name}::{DIALECT.types[new]}"


def _record(plan: LoadPlan, table: Table) -> str:
    return loads.insert_statement(plan, [table], _NOW)


_STEPS = partial(
    Steps,
    statement="COPY INTO",
    prepare=prepare,
    columns=columns,
    helpers=helpers,
    swap=swap,
    overwrite=overwrite,
    append=append,
    record=_record,
    add_column=add_column,
    alter_column=alter_column,
    alterable=lambda old, new: False,  # noqa: ARG005
    drop_helper=drop_helper,
    begin="BEGIN",
    transactional_ddl=False,
)


# the load itself

#: wrong syntax, missing objects and rights (which have other SQLSTATEs too), wrong or disabled credentials
_PERMANENT_ERRORS = frozenset(
    (904, 1003, 2003, 2043, 3001, 390100, 390101, 390102, 390144, 390186, 390189, 390201, 390303, 390422)
)


def is_permanent(error: Exception) -> bool:
    """Whether the driver's error comes again until somebody changes something."""
    return is_permanent_sqlstate(getattr(error, "sqlstate", None)) or getattr(error, "errno", -1) in _PERMANENT_ERRORS


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:  # noqa: ARG001
    """Load the plan's tables through the connection ``conn_id``; each of them whole or not at all.

    :raises D1WarehouseError: with Snowflake's own words when it refuses something.
    """
    needs_parquet(plan)
    try:
        from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook
        from snowflake.connector.errors import Error
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into Snowflake needs its provider: pip install 'airflow-provider-d1[snowflake]' ({error})"
        ) from error
    try:
        connection = SnowflakeHook(snowflake_conn_id=conn_id, login_timeout=45).get_conn()
    except Error as error:
        raise D1WarehouseError(
            f"No connection to Snowflake through {conn_id!r}: {error}", retryable=not is_permanent(error)
        ) from error
    with closing(connection):
        session = _Cursor(connection)
        try:
            return run_load(plan, session, _STEPS(fill=partial(_fill, session, files)))
        except Error as error:
            raise D1WarehouseError(f"Snowflake refused the load: {error}", retryable=not is_permanent(error)) from error


def _fill(session: _Cursor, files: StagedFiles, plan: LoadPlan, table: Table) -> int:
    if plan.options.stage is None:
        session.rows(create_stage(plan, table))
        with tempfile.TemporaryDirectory(prefix="d1-load-") as folder:
            for number, (opened, path) in enumerate(files.opened(table)):
                _check(table, opened, path)
                # PUT takes the name in the stage from the path, and patterns for names
                link = Path(folder) / staged_name(number)
                link.symlink_to(path)
                statement = put(plan, table, f"file://{link}")
                log.info("%s", statement)
                session.rows(statement)
    else:
        files.check_contents(table)
    names = _names_in_stage(plan, table)
    rows = 0
    for statement in copies(plan, table):
        log.info("%s", statement)
        for file, _status, _parsed, loaded, *_ in (row for row in session.rows(statement) if len(row) > 3):
            part = next((p for p, name in zip(table.parts, names, strict=True) if str(file).endswith(name)), None)
            if part is None:
                raise D1WarehouseError(f"table {table.name!r}: Snowflake loaded {file}, which is none of its parts")
            if int(loaded) != part.rows:
                raise D1ManifestError(
                    f"table {table.name!r}: its part {part.uri} has {loaded} rows, the manifest says {part.rows}"
                )
            rows += int(loaded)
    return rows


def _check(table: Table, part: Part, path: Path) -> None:
    try:
        rows = check_parquet(path, table.columns)
    except (ValueError, OSError) as error:
        raise D1ManifestError(f"table {table.name!r}: its part {part.uri} can't be read: {error}") from error
    if rows != part.rows:
        raise D1ManifestError(
            f"table {table.name!r}: its part {part.uri} has {rows} rows, the manifest says {part.rows}"
        )


class _Cursor:
    """A Snowflake cursor as a session."""

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        self._cursor.execute(statement)
        return [tuple(row) for row in self._cursor.fetchall()]
