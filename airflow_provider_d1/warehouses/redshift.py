"""Redshift: ``COPY`` of Parquet from S3 through a COPY manifest, all of a load in one transaction."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.plan import LOADS_TABLE, leftover_helpers
from airflow_provider_d1.warehouses.s3_access import S3Access, s3_access
from airflow_provider_d1.warehouses.session import (
    Connections,
    CursorSession,
    Run,
    is_permanent_sqlstate,
    limit_connect_time,
)
from airflow_provider_d1.warehouses.staged_files import split_s3
from airflow_provider_d1.warehouses.table_load import TableLoad, WarehouseOption

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

_HIDDEN = "ACCESS_KEY_ID '***' SECRET_ACCESS_KEY '***'"


class RedshiftSession(CursorSession):
    """A Redshift cursor, and what COPY reads the bucket with.

    :param s3: boto3 client that writes the COPY manifests.
    :param access: the keys for COPY; None where it uses a role.
    """

    def __init__(self, connection: Any, s3: Any, access: S3Access | None) -> None:
        connection.autocommit = True  # BEGIN and COMMIT are statements here
        connection._usock.settimeout(None)  # noqa: SLF001 - the limit is for connecting; a COPY may be silent for long
        super().__init__(connection)
        self.s3 = s3
        self.access = access

    def without_secrets(self, text: str) -> str:
        """The text of a driver's error without the keys."""
        return text if self.access is None else self.access.hidden_in(text)


class Redshift(Warehouse[RedshiftSession]):
    """Amazon Redshift."""

    dialect = Dialect(
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
        reserved_columns=frozenset(
            {"oid", "tableoid", "xmin", "cmin", "xmax", "cmax", "ctid", "deletexid", "insertxid"}
        ),
    )
    extra = "redshift"
    modules = ("airflow.providers.amazon.aws.hooks.redshift_sql", "redshift_connector")
    statement = "COPY"
    options = (
        WarehouseOption(
            "iam_role",
            "Redshift: ARN of the role that reads the bucket; None passes the keys of ``aws_conn_id`` to COPY.",
            "arn:aws:iam::123456789012:role/reader",
        ),
    )
    timestamp_type = "timestamp"
    now = "GETDATE()"  # SYSDATE would be when the transaction began, and loads wait for each other
    transaction = "load"
    #: a transaction sees what was committed before its first statement, so nothing may come before the lock
    locks_first = True
    reads_text_formats = False

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from redshift_connector.error import Error

        return (Error,)

    def is_permanent(self, error: Exception) -> bool:
        fields = error.args[0] if error.args else None
        state = fields.get("C") if isinstance(fields, dict) else None
        return is_permanent_sqlstate(state) or type(error).__name__ in ("NotSupportedError", "DataError")

    def check(self, plan: LoadPlan, files: StagedFiles) -> None:
        if files.s3_hook is None:
            raise D1ConfigurationError(f"Redshift loads from S3, and the manifest is {plan.origin.manifest}")

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> RedshiftSession:
        from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook

        access = None
        if plan.options.engine.get("iam_role") is None:
            access = s3_access(files.s3_hook, split_s3(plan.origin.manifest)[0])
            if access is None:
                raise D1ConfigurationError(
                    f"Redshift can't read the bucket: pass iam_role, or keys in {connections.aws_conn_id!r}"
                )
        hook = RedshiftSQLHook(redshift_conn_id=connections.conn_id, aws_conn_id=connections.aws_conn_id)
        limit_connect_time(hook.conn, "timeout", 8)  # the hook tries five times
        s3 = files.s3_hook.get_conn() if files.s3_hook else None
        _delete_leftover_manifests(s3, plan)
        return RedshiftSession(hook.get_conn(), s3, access)

    def schema_query(self, plan: LoadPlan) -> str:
        schema = plan.dialect.literal(plan.dialect.fold(plan.options.schema))
        return f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {schema}"

    def lock(self, plan: LoadPlan) -> list[str]:
        return [f"LOCK {plan.path(LOADS_TABLE)}"]

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        literal, fold = plan.dialect.literal, plan.dialect.fold
        return (
            "SELECT column_name, data_type || CASE WHEN data_type IN ('character varying', 'binary varying') "
            "THEN '(' || character_maximum_length || ')' ELSE '' END FROM svv_columns "
            f"WHERE table_schema = {literal(fold(plan.options.schema))} AND table_name = {literal(fold(table))} "
            "ORDER BY ordinal_position"
        )

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        literal, fold = plan.dialect.literal, plan.dialect.fold
        return (
            "SELECT 'constraint ' || constraint_name FROM information_schema.table_constraints "
            f"WHERE table_schema = {literal(fold(plan.options.schema))} AND table_name = {literal(fold(table))}"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return f"REGEXP_REPLACE({name}::varchar, '^(-?[0-9]+)$', '$1.0')"
        if (old, new) == ("binary", "string"):
            return f"UPPER(TO_HEX({name}))"
        return f"{name}::{self.dialect.types[new]}"

    def exactly(self, value: str, type_name: str) -> str:
        # = ignores spaces at the end of a text
        return f"{value} || '.'" if type_name == "string" else value

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [self.copy(plan, work, self.authorization(plan, None))]

    def fill(self, run: Run[RedshiftSession], work: TableLoad) -> int:
        plan, s3 = run.plan, run.session.s3
        run.files.check_contents(work.table)
        bucket, key = split_s3(_copy_manifest_uri(plan, work))
        s3.put_object(Bucket=bucket, Key=key, Body=json.dumps(copy_manifest(work)).encode())
        try:
            statement = self.copy(plan, work, self.authorization(plan, run.session.access))
            run.execute(statement, shown=self.copy(plan, work, self.authorization(plan, None)))
        finally:
            s3.delete_object(Bucket=bucket, Key=key)
        return run.count(work.into)

    def copy(self, plan: LoadPlan, work: TableLoad, authorization: str) -> str:
        """Load the parts; Parquet goes by the columns' order.

        :param authorization: ``IAM_ROLE '…'``, or keys, which are never to be shown.
        """
        source = plan.dialect.literal(_copy_manifest_uri(plan, work))
        return f"COPY {plan.path(work.into)} FROM {source} {authorization} FORMAT AS PARQUET MANIFEST"

    def authorization(self, plan: LoadPlan, access: S3Access | None) -> str:
        """A role where there is one, else the keys; hidden ones without ``access``."""
        literal, role = plan.dialect.literal, plan.options.engine.get("iam_role")
        if role is not None:
            return f"IAM_ROLE {literal(role)}"
        if access is None:
            return _HIDDEN
        token = f" SESSION_TOKEN {literal(access.session_token)}" if access.session_token else ""
        return f"ACCESS_KEY_ID {literal(access.access_key)} SECRET_ACCESS_KEY {literal(access.secret_key)}{token}"


def copy_manifest(work: TableLoad) -> dict[str, Any]:
    """What COPY reads: every part, none of them optional, with its length (which Parquet needs)."""
    return {
        "entries": [
            {"url": part.uri, "mandatory": True, "meta": {"content_length": part.bytes}} for part in work.table.parts
        ]
    }


def _copy_manifest_uri(plan: LoadPlan, work: TableLoad) -> str:
    """Where the COPY manifest is put while the load runs: beside the staged one."""
    return f"{plan.origin.manifest.rpartition('/')[0]}/_copy_{work.into}.json"


def _delete_leftover_manifests(s3: Any, plan: LoadPlan) -> None:
    """Remove COPY manifests of loads that were killed, where this is allowed."""
    bucket, start = split_s3(f"{plan.origin.manifest.rpartition('/')[0]}/_copy_")
    with suppress(Exception):
        listed = s3.list_objects_v2(Bucket=bucket, Prefix=f"{start}_d1_new_").get("Contents", [])
        keys = {entry["Key"].removeprefix(start).removesuffix(".json"): entry["Key"] for entry in listed}
        for helper in leftover_helpers(keys):
            s3.delete_object(Bucket=bucket, Key=keys[helper])
