"""Redshift: ``COPY`` of Parquet from S3 through a COPY manifest, all of a load in one transaction."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1Error, D1WarehouseError
from airflow_provider_d1.warehouses import loads
from airflow_provider_d1.warehouses.airflow_connection import limit_connect_time
from airflow_provider_d1.warehouses.base import is_permanent_sqlstate, leftover_helpers
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.helper_tables import (
    Steps,
    insert_from_helper,
    needs_parquet,
    planned,
    run_load,
)
from airflow_provider_d1.warehouses.s3_access import S3Access, s3_access
from airflow_provider_d1.warehouses.store import S3Store, split_s3

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.base import Column, LoadedTable, LoadPlan, Table
    from airflow_provider_d1.warehouses.store import StagedFiles

log = logging.getLogger(__name__)

DIALECT = Dialect(
    name="Redshift",
    types={
        "int64": "bigint",
        "float64": "double precision",
        "string": "varchar(65535)",  # a longer text fails the COPY; it is never cut
        "binary": "varbyte(16777216)",
        "timestamp[us]": "timestamp",
        "date32": "date",
    },
    known_types={
        "bigint": "int64",
        "double precision": "float64",
        "character varying(65535)": "string",
        "binary varying(16777216)": "binary",
        "timestamp without time zone": "timestamp[us]",
        "date": "date32",
    },
    max_length=127,
    fold=str.lower,  # quoted names too, unless enable_case_sensitive_identifier is on
    backslash=True,
    reserved_columns=frozenset({"oid", "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "deletexid", "insertxid"}),
)

_NOW = "GETDATE()"  # SYSDATE would be when the transaction began, and loads wait for each other
_HIDDEN = "ACCESS_KEY_ID '***' SECRET_ACCESS_KEY '***'"


# statements: pure functions of the plan


def copy_manifest(table: Table) -> dict[str, Any]:
    """What COPY is to read: every part, none of them optional, with its length (which Parquet wants)."""
    return {
        "entries": [
            {"url": part.uri, "mandatory": True, "meta": {"content_length": part.bytes}} for part in table.parts
        ]
    }


def copy_manifest_uri(plan: LoadPlan, table: Table) -> str:
    """Where the COPY manifest is put while the load runs: beside the staged one."""
    return f"{plan.origin.manifest.rpartition('/')[0]}/_copy_{table.helper}.json"


def copy(plan: LoadPlan, table: Table, authorization: str) -> str:
    """Load the parts into the helper table; Parquet goes by the columns' order.

    :param authorization: ``IAM_ROLE '…'``, or keys, which are never to be shown.
    """
    source = plan.dialect.literal(copy_manifest_uri(plan, table))
    return f"COPY {plan.path(table.helper)} FROM {source} {authorization} FORMAT AS PARQUET MANIFEST"


def authorization(plan: LoadPlan, access: S3Access | None) -> str:
    """A role where there is one, else the keys."""
    literal = plan.dialect.literal
    if plan.options.iam_role is not None:
        return f"IAM_ROLE {literal(plan.options.iam_role)}"
    if access is None:
        return _HIDDEN
    token = f" SESSION_TOKEN {literal(access.session_token)}" if access.session_token else ""
    return f"ACCESS_KEY_ID {literal(access.access_key)} SECRET_ACCESS_KEY {literal(access.secret_key)}{token}"


def prepare(plan: LoadPlan) -> list[str]:
    """Schema and ``_d1_loads``; the lock lets loads into one schema follow each other."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}",
        loads.create_statement(plan, "timestamp"),
        f"LOCK {plan.path('_d1_loads')}",
    ]


def columns(plan: LoadPlan, table: str) -> str:
    """A table's columns."""
    literal, fold = plan.dialect.literal, plan.dialect.fold
    return (
        "SELECT column_name, data_type || CASE WHEN data_type IN ('character varying', 'binary varying') "
        "THEN '(' || character_maximum_length || ')' ELSE '' END FROM svv_columns "
        f"WHERE table_schema = {literal(fold(plan.options.schema))} AND table_name = {literal(fold(table))} "
        "ORDER BY ordinal_position"
    )


def helpers(plan: LoadPlan) -> str:
    """The schema's helper tables."""
    schema = plan.dialect.literal(plan.dialect.fold(plan.options.schema))
    return f"SELECT table_name FROM svv_tables WHERE table_schema = {schema} AND table_name LIKE '_d1_new_%'"


def swap(plan: LoadPlan, table: Table, existing: bool) -> list[str]:  # noqa: ARG001 - IF EXISTS sees for itself
    """Put the helper table in the place of the old one."""
    return [
        f"DROP TABLE IF EXISTS {plan.path(table.name)}",
        f"ALTER TABLE {plan.path(table.helper)} RENAME TO {plan.dialect.identifier(table.name)}",
    ]


def overwrite(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Replace the table's rows; the table and all that is attached to it stay. TRUNCATE would commit."""
    return [f"DELETE FROM {plan.path(table.name)}", *append(plan, table, targets)]


def append(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Add the helper table's rows to the table."""
    return [insert_from_helper(plan, table, targets, _widened), drop_helper(plan, table.helper)]


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """How a person widens a column: Redshift has no ALTER for it."""
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
    return planned(plan, _STEPS(fill=_no_fill), lambda plan, table: [copy(plan, table, authorization(plan, None))])


def _widened(name: str, old: str, new: str) -> str:
    if (old, new) == ("float64", "string"):
        return f"REGEXP_REPLACE({name}::varchar, '^(-?[0-9]+)$', '$1.0')"
    if (old, new) == ("binary", "string"):
        return f"UPPER(TO_HEX({name}))"
    return f"{name}::{DIALECT.types[new]}"


def _record(plan: LoadPlan, table: Table) -> str:
    return loads.insert_statement(plan, [table], _NOW)


def _no_fill(plan: LoadPlan, table: Table) -> int:
    raise AssertionError(f"{table.name} of {plan.origin.manifest} is only planned")


_STEPS = partial(
    Steps,
    statement="COPY",
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
    transactional_ddl=True,
)


# the load itself


def is_permanent(error: Exception) -> bool:
    """Whether the driver's error comes again until somebody changes something."""
    fields = error.args[0] if error.args else None
    state = fields.get("C") if isinstance(fields, dict) else None
    return is_permanent_sqlstate(state) or type(error).__name__ in ("NotSupportedError", "DataError")


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:
    """Load the plan's tables through the connection ``conn_id``; all of them or none.

    :raises D1WarehouseError: with Redshift's own words when it refuses something.
    """
    needs_parquet(plan)
    if not isinstance(files.store, S3Store):
        raise D1ConfigurationError(f"Redshift loads from S3, and the manifest is {plan.origin.manifest}")
    try:
        from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook
        from redshift_connector.error import Error
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into Redshift needs its driver: pip install 'airflow-provider-d1[redshift]' ({error})"
        ) from error
    access = s3_access(files.store.hook, split_s3(plan.origin.manifest)[0]) if plan.options.iam_role is None else None
    if access is None and plan.options.iam_role is None:
        raise D1ConfigurationError(f"Redshift can't read the bucket: pass iam_role, or keys in {aws_conn_id!r}")
    hook = RedshiftSQLHook(redshift_conn_id=conn_id, aws_conn_id=aws_conn_id)
    limit_connect_time(hook.conn, "timeout", 8)  # the hook tries five times
    try:
        connection = hook.get_conn()
    except Error as error:
        raise D1WarehouseError(
            f"No connection to Redshift through {conn_id!r}: {error}", retryable=not is_permanent(error)
        ) from error
    connection._usock.settimeout(None)  # noqa: SLF001 - the limit is for connecting; a COPY may be silent for long
    with closing(connection):
        session = _Cursor(connection)
        _delete_leftover_manifests(files.store.hook.get_conn(), plan)
        fill = partial(_fill, session, files, access)
        try:
            return run_load(plan, session, _STEPS(fill=fill))
        except D1Error:
            raise
        except Error as error:
            words = str(error) if access is None else access.hidden_in(str(error))
            raise D1WarehouseError(
                f"Redshift refused the load, every table is as it was: {words}", retryable=not is_permanent(error)
            ) from None


def _delete_leftover_manifests(client: Any, plan: LoadPlan) -> None:
    """COPY manifests of loads that were killed. Who may not list or delete leaves them."""
    bucket, start = split_s3(f"{plan.origin.manifest.rpartition('/')[0]}/_copy_")
    with suppress(Exception):
        listed = client.list_objects_v2(Bucket=bucket, Prefix=f"{start}_d1_new_").get("Contents", [])
        keys = {entry["Key"].removeprefix(start).removesuffix(".json"): entry["Key"] for entry in listed}
        for helper in leftover_helpers(keys):
            client.delete_object(Bucket=bucket, Key=keys[helper])


def _fill(session: _Cursor, files: StagedFiles, access: S3Access | None, plan: LoadPlan, table: Table) -> int:
    files.check_contents(table)
    bucket, key = split_s3(copy_manifest_uri(plan, table))
    client = files.store.hook.get_conn()  # type: ignore[attr-defined]
    client.put_object(Bucket=bucket, Key=key, Body=json.dumps(copy_manifest(table)).encode())
    try:
        log.info("%s", copy(plan, table, authorization(plan, None)))
        session.rows(copy(plan, table, authorization(plan, access)))
    finally:
        client.delete_object(Bucket=bucket, Key=key)
    ((rows,),) = session.rows(f"SELECT COUNT(*) FROM {plan.path(table.helper)}")
    return int(rows)


class _Cursor:
    """A Redshift cursor as a session."""

    def __init__(self, connection: Any) -> None:
        connection.autocommit = True  # BEGIN and COMMIT are statements here
        self._cursor = connection.cursor()

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        self._cursor.execute(statement)
        return [tuple(row) for row in self._cursor.fetchall()] if self._cursor.description else []
