"""Databricks: ``COPY INTO`` Delta tables from the bucket, with an explicit list of files."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.base import is_permanent_sqlstate
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.helper_tables import (
    Steps,
    insert_from_helper,
    needs_parquet,
    planned,
    run_load,
)

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Column, LoadedTable, LoadPlan, Table
    from airflow_provider_d1.warehouses.store import StagedFiles

log = logging.getLogger(__name__)

DIALECT = Dialect(
    name="Databricks",
    types={
        "int64": "BIGINT",
        "float64": "DOUBLE",
        "string": "STRING",
        "binary": "BINARY",
        "timestamp[us]": "TIMESTAMP_NTZ",
        "date32": "DATE",
    },
    known_types={
        "bigint": "int64",
        "long": "int64",
        "double": "float64",
        "string": "string",
        "binary": "binary",
        "timestamp_ntz": "timestamp[us]",
        "date": "date32",
    },
    max_length=255,
    length_in="characters",
    fold=str.lower,
    quote="`",
    backslash=True,
    doubled_apostrophe=False,
    # Unity Catalog's rule for schemas and tables; columns may have them, by column mapping
    impossible=re.compile(r"[\x00-\x1f\x7f]"),
    impossible_table=re.compile(r"[./ ]"),
)

_NOW = "current_timestamp()"
#: names with spaces and the like need it; without constraints or keys
_PROPERTIES = " USING DELTA TBLPROPERTIES ('delta.columnMapping.mode' = 'name')"
_MAX_FILES = 1000


# statements: pure functions of the plan


def prepare(plan: LoadPlan) -> list[str]:
    """Schema and ``_d1_loads``."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}",
        loads.create_statement(plan, "TIMESTAMP", " USING DELTA"),
    ]


def copies(plan: LoadPlan, table: Table) -> list[str]:
    """Load exactly the listed files; FORCE, as the helper table of an earlier try may have had them."""
    literal = plan.dialect.literal
    by_folder: dict[str, list[str]] = {}
    for part in table.parts:
        folder, _, name = part.uri.rpartition("/")
        by_folder.setdefault(folder, []).append(name)
    credential = plan.options.storage_credential
    access = "" if credential is None else f" WITH (CREDENTIAL {plan.dialect.identifier(credential)})"
    return [
        f"COPY INTO {plan.path(table.helper)} FROM {literal(folder + '/')}{access} FILEFORMAT = PARQUET "
        f"FILES = ({', '.join(literal(name) for name in names[start : start + _MAX_FILES])}) "
        "COPY_OPTIONS ('force' = 'true', 'mergeSchema' = 'false')"
        for folder, names in by_folder.items()
        for start in range(0, len(names), _MAX_FILES)
    ]


def columns(plan: LoadPlan, table: str) -> str:
    """A table's columns."""
    literal, fold = plan.dialect.literal, plan.dialect.fold
    return (
        "SELECT column_name, full_data_type FROM information_schema.columns "
        f"WHERE table_schema = {literal(fold(plan.options.schema))} AND table_name = {literal(fold(table))} "
        "ORDER BY ordinal_position"
    )


def helpers(plan: LoadPlan) -> str:
    """The schema's helper tables."""
    schema = plan.dialect.literal(plan.dialect.fold(plan.options.schema))
    return (
        f"SELECT table_name FROM information_schema.tables WHERE table_schema = {schema} "
        "AND table_name LIKE '_d1_new_%'"
    )


def swap(plan: LoadPlan, table: Table, existing: bool) -> list[str]:  # noqa: ARG001 - one statement does both
    """Put the helper table's contents in the place of the old table in one commit; its grants stay."""
    # a clone is a deep one unless it says otherwise: it needs no file of the helper table
    return [f"CREATE OR REPLACE TABLE {plan.path(table.name)} CLONE {plan.path(table.helper)}"]


def overwrite(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Replace the table's rows in one commit; the table and all that is attached to it stay."""
    return [insert_from_helper(plan, table, targets, _widened, "INSERT OVERWRITE TABLE")]


def append(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Add the helper table's rows to the table, in one commit."""
    return [insert_from_helper(plan, table, targets, _widened)]


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """How a person widens a column: Delta rewrites the table for it."""
    path, name = plan.path(table), plan.dialect.identifier(column)
    return (
        f"CREATE OR REPLACE TABLE {path}{_PROPERTIES} AS "
        f"SELECT * EXCEPT ({name}), {_widened(name, old, new)} AS {name} FROM {path}"
    )


def drop_helper(plan: LoadPlan, name: str) -> str:
    """Remove a helper table."""
    return f"DROP TABLE IF EXISTS {plan.path(name)}"


def statements(plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without asking the server."""
    needs_parquet(plan)
    return planned(plan, _STEPS(fill=lambda plan, table: 0), copies)  # noqa: ARG005 - it is only planned


def _widened(name: str, old: str, new: str) -> str:
    if (old, new) == ("float64", "string"):
        return f"REPLACE(CAST({name} AS STRING), 'Infinity', 'Inf')"  # it writes 1.0 as 1.0 by itself
    if (old, new) == ("binary", "string"):
        return f"HEX({name})"
    return f"CAST({name} AS {DIALECT.types[new]})"


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
    begin="",
    transactional_ddl=False,
    table_suffix=_PROPERTIES,
)


# the load itself

_SQLSTATE = re.compile(r"SQLSTATE: (\w{5})")
#: of older runtimes, which give no SQLSTATE
_PERMANENT_CLASSES = re.compile(
    r"\[(PARSE_SYNTAX_ERROR|TABLE_OR_VIEW_NOT_FOUND|SCHEMA_NOT_FOUND|UNRESOLVED_COLUMN|INSUFFICIENT_PERMISSIONS|CAST_)"
)


def is_permanent(error: Exception) -> bool:
    """Whether the driver's error comes again until somebody changes something."""
    if getattr(error, "context", {}).get("http-code") in (400, 401, 403, 404):
        return True
    state = _SQLSTATE.search(str(error))
    return is_permanent_sqlstate(state[1]) if state else _PERMANENT_CLASSES.search(str(error)) is not None


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:  # noqa: ARG001
    """Load the plan's tables through the connection ``conn_id``; each of them whole or not at all.

    :raises D1WarehouseError: with Databricks' own words when it refuses something.
    """
    needs_parquet(plan)
    if files.local(plan.origin.manifest) is not None:
        raise D1ConfigurationError(f"Databricks loads from object storage, and the manifest is {plan.origin.manifest}")
    try:
        from airflow.providers.databricks.hooks.databricks_sql import DatabricksSqlHook
        from databricks.sql.exc import Error
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into Databricks needs its provider: pip install 'airflow-provider-d1[databricks]' ({error})"
        ) from error
    # the driver tries for a quarter of an hour: so long can a stopped SQL warehouse take to start
    hook = DatabricksSqlHook(databricks_conn_id=conn_id)
    try:
        connection = hook.get_conn()
    except Error as error:
        raise D1WarehouseError(
            f"No connection to Databricks through {conn_id!r}: {error}", retryable=not is_permanent(error)
        ) from error
    with closing(connection):
        session = _Cursor(connection)
        try:
            return run_load(plan, session, _STEPS(fill=partial(_fill, session, files)))
        except Error as error:
            raise D1WarehouseError(
                f"Databricks refused the load: {error}", retryable=not is_permanent(error)
            ) from error


def _fill(session: _Cursor, files: StagedFiles, plan: LoadPlan, table: Table) -> int:
    files.check_contents(table)
    for statement in copies(plan, table):
        log.info("%s", statement)
        session.rows(statement)
    ((rows,),) = session.rows(f"SELECT COUNT(*) FROM {plan.path(table.helper)}")
    return int(rows)


class _Cursor:
    """A Databricks cursor as a session."""

    def __init__(self, connection: Any) -> None:
        self._cursor = connection.cursor()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        self._cursor.execute(statement)
        return [tuple(row) for row in self._cursor.fetchall()] if self._cursor.description else []
