"""Redshift: ``COPY`` of Parquet from S3 through a COPY manifest, all of a load in one transaction."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.validation import fold_case
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.plan import LOADS_TABLE
from airflow_provider_d1.warehouses.redshift_copy import (
    copied_columns,
    copy_files,
    count_long_texts,
    delete_leftovers,
    long_texts,
    manifest_uri,
    moment,
)
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
#: the parameter may be on in a cluster or for a user, and would then decide which table a quoted name is
_FOLD_NAMES = "SET enable_case_sensitive_identifier TO false"
#: what COPY says of a text that is too long for its column, among other errors
_LENGTH = re.compile(r"length", re.IGNORECASE)


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
            "binary varying": "binary",  # where the catalogue gives no length
            "timestamp without time zone": "timestamp[us]",
            "date": "date32",
        },
        native={
            "boolean": "boolean",
            "date": "date",
            "timestamp": "timestamp without time zone",
            "decimal": "numeric({precision},{scale})",
        },
        no_native={"json": "a SUPER changes the text"},
        text_length="OCTET_LENGTH({value})",
        try_cast="TRY_CAST({value}::varchar(65535) AS {type})",
        max_length=127,
        stored=fold_case,
        fold=str.lower,  # quoted names too, as the session turns enable_case_sensitive_identifier off
        backslash=True,
        forbidden=re.compile(r"[\x00-\x1f\x7f-\x9f]"),
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
            "Redshift: ARN of the role that reads the bucket, ``default`` for the cluster's own default; None passes "
            "the keys of ``aws_conn_id`` to COPY.",
            "arn:aws:iam::123456789012:role/reader",
        ),
        WarehouseOption(
            "on_long_text",
            "Redshift: for texts of more than 65,535 bytes, ``fail`` (the default) or ``truncate``, which cuts them "
            "and returns their number.",
            "truncate",
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
        if (on_long_text := plan.options.engine.get("on_long_text")) not in (None, "fail", "truncate"):
            raise D1ConfigurationError(f"on_long_text is {on_long_text!r}: expected 'fail' or 'truncate'")

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
        delete_leftovers(s3, plan)
        session = RedshiftSession(hook.get_conn(), s3, access)
        session.rows(_FOLD_NAMES)
        return session

    def schema_query(self, plan: LoadPlan) -> str:
        schema = plan.dialect.literal(plan.dialect.stored(plan.options.schema))
        return f"SELECT 1 FROM pg_catalog.pg_namespace WHERE nspname = {schema}"

    def lock(self, plan: LoadPlan) -> list[str]:
        return [f"LOCK {plan.path(LOADS_TABLE)}"]

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT column_name, data_type || CASE WHEN data_type IN ('character varying', 'binary varying') "
            "THEN COALESCE('(' || character_maximum_length || ')', '') WHEN data_type = 'numeric' "
            "THEN '(' || numeric_precision || ',' || numeric_scale || ')' ELSE '' END FROM svv_columns "
            f"WHERE {_catalogued(plan, table)} ORDER BY ordinal_position"
        )

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT 'constraint ' || constraint_name FROM information_schema.table_constraints "
            f"WHERE {_catalogued(plan, table)}"
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
        before, after = self._conversion(plan, work)
        return [*before, self.copy(plan, work, self.authorization(plan, None)), *after]

    def fill(self, run: Run[RedshiftSession], work: TableLoad) -> int:
        plan, session = run.plan, run.session
        truncates = plan.options.engine.get("on_long_text") == "truncate"
        before, after = self._conversion(plan, work)
        for statement in before:
            run.execute(statement)
        with copy_files(session.s3, run.files, plan, work, truncates=truncates):
            statement = self.copy(plan, work, self.authorization(plan, session.access))
            try:
                run.execute(statement, shown=self.copy(plan, work, self.authorization(plan, None)))
            except self.driver_errors() as error:
                if _LENGTH.search(str(error)) and (counts := count_long_texts(run.files, work.table)):
                    raise long_texts(work.table, counts) from None
                raise
        for statement in after:
            run.execute(statement)
        return run.count(work.into)

    def _conversion(self, plan: LoadPlan, work: TableLoad) -> tuple[list[str], list[str]]:
        """What comes before and after COPY where its table is another one, as the columns have other types there."""
        columns = copied_columns(work.columns)
        if columns == work.columns:
            return [], []
        copied, identifier = plan.path(work.table.copied), plan.dialect.identifier
        values = [
            moment(identifier(column.name)) if column.type == "timestamp[us]" else identifier(column.name)
            for column in work.columns
        ]
        names = ", ".join(identifier(column.name) for column in work.columns)
        convert = f"INSERT INTO {plan.path(work.into)} ({names}) SELECT {', '.join(values)} FROM {copied}"
        return [self.create_table(plan, work.table.copied, columns)], [convert, f"DROP TABLE {copied}"]

    def copy(self, plan: LoadPlan, work: TableLoad, authorization: str) -> str:
        """Load the parts; Parquet goes by the columns' order.

        :param authorization: ``IAM_ROLE …``, or keys, which are never to be shown.
        """
        into = work.into if copied_columns(work.columns) == work.columns else work.table.copied
        source = plan.dialect.literal(manifest_uri(plan, work))
        return f"COPY {plan.path(into)} FROM {source} {authorization} FORMAT AS PARQUET MANIFEST"

    def authorization(self, plan: LoadPlan, access: S3Access | None) -> str:
        """A role where there is one, else the keys; hidden ones without ``access``."""
        literal, role = plan.dialect.literal, plan.options.engine.get("iam_role")
        if role is not None:
            return f"IAM_ROLE {'default' if role.lower() == 'default' else literal(role)}"
        if access is None:
            return _HIDDEN
        token = f" SESSION_TOKEN {literal(access.session_token)}" if access.session_token else ""
        return f"ACCESS_KEY_ID {literal(access.access_key)} SECRET_ACCESS_KEY {literal(access.secret_key)}{token}"


def _catalogued(plan: LoadPlan, table: str) -> str:
    """The condition for a table in the catalogue's views."""
    schema, name = (plan.dialect.literal(plan.dialect.stored(part)) for part in (plan.options.schema, table))
    return f"table_schema = {schema} AND table_name = {name}"
