"""BigQuery: Parquet load jobs, from Cloud Storage by URI and from anywhere else by upload."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1WarehouseError
from airflow_provider_d1.warehouses import loads
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
    name="BigQuery",
    types={
        "int64": "INT64",
        "float64": "FLOAT64",
        "string": "STRING",
        "binary": "BYTES",
        "timestamp[us]": "DATETIME",
        "date32": "DATE",
    },
    known_types={
        "int64": "int64",
        "float64": "float64",
        "string": "string",
        "bytes": "binary",
        "datetime": "timestamp[us]",
        "date": "date32",
    },
    max_length=300,
    length_in="characters",
    fold=str.lower,  # columns always, tables as a dataset may ask for
    quote="`",
    doubled_quote=False,
    backslash=True,
    doubled_apostrophe=False,
    impossible_table=re.compile(r"[^\w\- ]"),
    impossible_column=re.compile(
        r"[!\"$()*,./;?@\[\\\]^`{}~]|^(?i:_TABLE_|_FILE_|_PARTITION|_ROW_TIMESTAMP|__ROOT__|_COLIDENTIFIER)"
    ),
)

_NOW = "CURRENT_TIMESTAMP()"
_CONNECT_TIMEOUT = 30


# statements and job configurations: pure functions of the plan


def load_configuration(plan: LoadPlan, table: Table, project: str, uris: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of the job that loads Parquet into the helper table, as the jobs API takes it.

    :param uris: ``gs://`` objects; empty when the file is uploaded with the job.
    """
    load: dict[str, Any] = {
        "destinationTable": {"projectId": project, "datasetId": plan.options.schema, "tableId": table.helper},
        "schema": {
            "fields": [
                {"name": column.name, "type": DIALECT.types[column.type], "mode": "NULLABLE"}
                for column in table.columns
            ]
        },
        "sourceFormat": "PARQUET",
        "createDisposition": "CREATE_NEVER",
        "writeDisposition": "WRITE_APPEND",
    }
    if uris:
        load["sourceUris"] = list(uris)
    return {"load": load}


def prepare(plan: LoadPlan) -> list[str]:
    """Dataset and ``_d1_loads``."""
    return [
        f"CREATE SCHEMA IF NOT EXISTS {plan.dialect.identifier(plan.options.schema)}",
        loads.create_statement(plan, "TIMESTAMP"),
    ]


def columns(plan: LoadPlan, table: str) -> str:
    """A table's columns."""
    dataset = plan.dialect.identifier(plan.options.schema)
    return (
        f"SELECT column_name, data_type FROM {dataset}.INFORMATION_SCHEMA.COLUMNS "
        f"WHERE table_name = {plan.dialect.literal(table)} ORDER BY ordinal_position"
    )


def helpers(plan: LoadPlan) -> str:
    """The dataset's helper tables."""
    dataset = plan.dialect.identifier(plan.options.schema)
    return f"SELECT table_name FROM {dataset}.INFORMATION_SCHEMA.TABLES WHERE table_name LIKE '_d1_new_%'"


def swap(plan: LoadPlan, table: Table, existing: bool) -> list[str]:  # noqa: ARG001 - one statement does both
    """Put the helper table's contents in the place of the old table, at once and without a scan."""
    return [f"CREATE OR REPLACE TABLE {plan.path(table.name)} COPY {plan.path(table.helper)}"]


def overwrite(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Replace the table's rows, in a transaction; the table and all that is attached to it stay.

    TRUNCATE is refused to who can't see all rows; DELETE would leave the others.
    """
    return [f"TRUNCATE TABLE {plan.path(table.name)}", insert_from_helper(plan, table, targets, _widened)]


def append(plan: LoadPlan, table: Table, targets: Sequence[Column]) -> list[str]:
    """Add the helper table's rows to the table."""
    return [insert_from_helper(plan, table, targets, _widened)]


def add_column(plan: LoadPlan, table: str, column: Column) -> str:
    """Add a column, NULL in the rows that are there."""
    name, type_name = plan.dialect.identifier(column.name), plan.dialect.types[column.type]
    return f"ALTER TABLE {plan.path(table)} ADD COLUMN {name} {type_name}"


def alter_column(plan: LoadPlan, table: str, column: str, old: str, new: str) -> str:
    """Widen a column: BigQuery's ALTER does it for integers that become doubles, a person by rewriting the table."""
    path, name = plan.path(table), plan.dialect.identifier(column)
    if alterable(old, new):
        return f"ALTER TABLE {path} ALTER COLUMN {name} SET DATA TYPE {plan.dialect.types[new]}"
    return f"CREATE OR REPLACE TABLE {path} AS SELECT * REPLACE ({_widened(name, old, new)} AS {name}) FROM {path}"


def alterable(old: str, new: str) -> bool:
    """Whether BigQuery's ALTER can widen a column so."""
    return (old, new) == ("int64", "float64")


def drop_helper(plan: LoadPlan, name: str) -> str:
    """Remove a helper table."""
    return f"DROP TABLE IF EXISTS {plan.path(name)}"


def statements(plan: LoadPlan) -> list[str]:
    """Every statement of a load as far as it is known without asking the server; load jobs as ``LOAD DATA``."""
    needs_parquet(plan)

    def fill(plan: LoadPlan, table: Table) -> list[str]:
        uris = ", ".join(plan.dialect.literal(part.uri) for part in table.parts)
        return [f"LOAD DATA INTO {plan.path(table.helper)} FROM FILES (format = 'PARQUET', uris = [{uris}])"]

    return planned(plan, _STEPS(fill=lambda plan, table: 0), fill)  # noqa: ARG005 - it is only planned


def _widened(name: str, old: str, new: str) -> str:
    if (old, new) == ("float64", "string"):
        return f"REGEXP_REPLACE(CAST({name} AS STRING), r'^(-?[0-9]+)$', r'\\1.0')"
    if (old, new) == ("binary", "string"):
        return f"UPPER(TO_HEX({name}))"
    return f"CAST({name} AS {DIALECT.types[new]})"


def _record(plan: LoadPlan, table: Table) -> str:
    return loads.insert_statement(plan, [table], _NOW)


_STEPS = partial(
    Steps,
    statement="LOAD",
    prepare=prepare,
    columns=columns,
    helpers=helpers,
    swap=swap,
    overwrite=overwrite,
    append=append,
    record=_record,
    add_column=add_column,
    alter_column=alter_column,
    alterable=alterable,
    drop_helper=drop_helper,
    begin="BEGIN TRANSACTION",
    transactional_ddl=False,
)


# the load itself

_TRANSIENT_REASONS = frozenset(
    (
        "backendError",
        "internalError",
        "rateLimitExceeded",
        "jobRateLimitExceeded",
        "quotaExceeded",
        "aborted",
        "resourcesExceeded",
        "stopped",
        "timeout",
        "jobBackendError",
        "jobInternalError",
        "tableUnavailable",
    )
)


def is_permanent(error: Exception) -> bool:
    """Whether the driver's error comes again until somebody changes something."""
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError, TransportError

    if isinstance(error, GoogleAuthError):
        return not (isinstance(error, TransportError) or error.retryable)
    if not isinstance(error, GoogleAPICallError) or "due to concurrent update" in str(error):
        return False
    if any(entry.get("reason") in _TRANSIENT_REASONS for entry in error.errors if isinstance(entry, dict)):
        return False
    return error.code in (400, 401, 403, 404, 405, 412, 501)


def load(plan: LoadPlan, files: StagedFiles, conn_id: str, aws_conn_id: str | None) -> list[LoadedTable]:  # noqa: ARG001
    """Load the plan's tables through the connection ``conn_id``; each of them whole or not at all.

    :raises D1WarehouseError: with BigQuery's own words when it refuses something.
    """
    needs_parquet(plan)
    try:
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError
    except ImportError as error:
        raise D1ConfigurationError(
            f"Loading into BigQuery needs its provider: pip install 'airflow-provider-d1[bigquery]' ({error})"
        ) from error
    hook = BigQueryHook(gcp_conn_id=conn_id, use_legacy_sql=False)
    with closing(hook.get_client(project_id=hook.project_id, location=hook.location)) as client:
        try:
            session = _Session(client)
        except (GoogleAPIError, GoogleAuthError) as error:
            raise D1WarehouseError(
                f"No connection to BigQuery through {conn_id!r}: {error}", retryable=not is_permanent(error)
            ) from error
        try:
            return run_load(plan, session, _STEPS(fill=partial(_fill, client, files)))
        except (GoogleAPIError, GoogleAuthError) as error:
            raise D1WarehouseError(f"BigQuery refused the load: {error}", retryable=not is_permanent(error)) from error


def _fill(client: Any, files: StagedFiles, plan: LoadPlan, table: Table) -> int:
    from google.cloud.bigquery import LoadJobConfig

    destination = f"{client.project}.{plan.options.schema}.{table.helper}"
    if plan.origin.manifest.startswith("gs://"):
        files.check_contents(table)
        uris = [f"gs://{part.uri.removeprefix('gs://').rpartition('@')[2]}" for part in table.parts]
        configuration = LoadJobConfig.from_api_repr(load_configuration(plan, table, client.project))
        return int(client.load_table_from_uri(uris, destination, job_config=configuration).result().output_rows)
    rows = 0
    for part, path in files.opened(table):
        configuration = LoadJobConfig.from_api_repr(load_configuration(plan, table, client.project))
        with path.open("rb") as file:
            job = client.load_table_from_file(file, destination, job_config=configuration, size=part.bytes)
        loaded = int(job.result().output_rows)
        if loaded != part.rows:
            raise D1ManifestError(
                f"table {table.name!r}: its part {part.uri} has {loaded} rows, the manifest says {part.rows}"
            )
        rows += loaded
    return rows


class _Session:
    """A BigQuery client as a session; one BigQuery session, so that a transaction can span several statements."""

    def __init__(self, client: Any) -> None:
        from google.cloud.bigquery import ConnectionProperty, QueryJobConfig
        from google.cloud.bigquery.retry import DEFAULT_RETRY

        self._client = client
        # the client's own patience is ten minutes and more, also with a server that is not there
        patience = {"retry": DEFAULT_RETRY.with_timeout(_CONNECT_TIMEOUT), "job_retry": None, "timeout": 20}
        opened = client.query("SELECT 1", job_config=QueryJobConfig(create_session=True), **patience)
        opened.result()
        properties = [ConnectionProperty("session_id", opened.session_info.session_id)]
        self._configuration = QueryJobConfig(connection_properties=properties)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        job = self._client.query(statement, job_config=self._configuration)
        return [tuple(row.values()) for row in job.result()]
