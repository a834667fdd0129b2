"""BigQuery: Parquet load jobs, from Cloud Storage by URI and from anywhere else by upload."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import write_renamed
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.session import Connections, Run, Session

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import LoadPlan, Table
    from airflow_provider_d1.warehouses.staged_files import StagedFiles
    from airflow_provider_d1.warehouses.table_load import TableLoad

_CONNECT_TIMEOUT = 30
_TRANSIENT_REASONS = frozenset(
    (
        "aborted",
        "backendError",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "quotaExceeded",
        "rateLimitExceeded",
        "resourcesExceeded",
        "stopped",
        "tableUnavailable",
        "timeout",
    )
)


class BigQuerySession(Session):
    """A BigQuery client and one BigQuery session, so that a transaction can span several statements."""

    def __init__(self, client: Any) -> None:
        from google.cloud.bigquery import ConnectionProperty, QueryJobConfig
        from google.cloud.bigquery.retry import DEFAULT_RETRY

        self.client = client
        # the client's own deadline is ten minutes and more, also with a server that is not there
        limits = {"retry": DEFAULT_RETRY.with_timeout(_CONNECT_TIMEOUT), "job_retry": None, "timeout": 20}
        opened = client.query("SELECT 1", job_config=QueryJobConfig(create_session=True), **limits)
        opened.result()
        properties = [ConnectionProperty("session_id", opened.session_info.session_id)]
        self._configuration = QueryJobConfig(connection_properties=properties)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        job = self.client.query(statement, job_config=self._configuration)
        return [tuple(row.values()) for row in job.result()]

    def close(self) -> None:
        """End the connection."""
        self.client.close()


class BigQuery(Warehouse[BigQuerySession]):
    """Google BigQuery."""

    dialect = Dialect(
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
        quote_escape="backslash",
        backslash=True,
        apostrophe_escape="backslash",
        forbidden_table=re.compile(r"[^\w\- ]"),
        forbidden_column=re.compile(
            r"[!\"$()*,./;?@\[\\\]^`{}~]|^(?i:_TABLE_|_FILE_|_PARTITION|_ROW_TIMESTAMP|__ROOT__|_COLIDENTIFIER)"
        ),
    )
    extra = "bigquery"
    modules = ("airflow.providers.google.cloud.hooks.bigquery",)
    statement = "LOAD"
    timestamp_type = "TIMESTAMP"
    now = "CURRENT_TIMESTAMP()"
    begin = "BEGIN TRANSACTION"
    renames = False
    merge_deletes = True
    reads_text_formats = False

    def driver_errors(self) -> tuple[type[Exception], ...]:
        from google.api_core.exceptions import GoogleAPIError
        from google.auth.exceptions import GoogleAuthError

        return (GoogleAPIError, GoogleAuthError)

    def is_permanent(self, error: Exception) -> bool:
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError, TransportError

        if isinstance(error, GoogleAuthError):
            return not (isinstance(error, TransportError) or error.retryable)
        if not isinstance(error, GoogleAPICallError) or "due to concurrent update" in str(error):
            return False
        if any(entry.get("reason") in _TRANSIENT_REASONS for entry in error.errors if isinstance(entry, dict)):
            return False
        return error.code in (400, 401, 403, 404, 405, 412, 501)

    def connect(self, plan: LoadPlan, files: StagedFiles, connections: Connections) -> BigQuerySession:
        from airflow.providers.google.cloud.hooks.bigquery import BigQueryHook

        hook = BigQueryHook(gcp_conn_id=connections.conn_id, use_legacy_sql=False)
        client: Any = hook.get_client(project_id=hook.project_id, location=hook.location)
        try:
            return BigQuerySession(client)
        except BaseException:
            client.close()
            raise

    def schema_query(self, plan: LoadPlan) -> str:
        schema = plan.dialect.literal(plan.options.schema)
        return f"SELECT 1 FROM INFORMATION_SCHEMA.SCHEMATA WHERE schema_name = {schema}"

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        dataset = plan.dialect.identifier(plan.options.schema)
        return (
            f"SELECT column_name, data_type FROM {dataset}.INFORMATION_SCHEMA.COLUMNS "
            f"WHERE table_name = {plan.dialect.literal(table)} ORDER BY ordinal_position"
        )

    def helpers_query(self, plan: LoadPlan) -> str:
        dataset = plan.dialect.identifier(plan.options.schema)
        return f"SELECT table_name FROM {dataset}.INFORMATION_SCHEMA.TABLES WHERE table_name LIKE '_d1_new_%'"

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT CONCAT('partitions or clusters by ', column_name) "
            f"FROM {plan.dialect.identifier(plan.options.schema)}.INFORMATION_SCHEMA.COLUMNS "
            f"WHERE table_name = {plan.dialect.literal(table)} "
            "AND (is_partitioning_column = 'YES' OR clustering_ordinal_position IS NOT NULL)"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return f"REGEXP_REPLACE(CAST({name} AS STRING), r'^(-?[0-9]+)$', r'\\1.0')"
        if (old, new) == ("binary", "string"):
            return f"UPPER(TO_HEX({name}))"
        return f"CAST({name} AS {self.dialect.types[new]})"

    def alterable(self, old: str, new: str) -> bool:
        return (old, new) == ("int64", "float64")

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        path, name = plan.path(table), plan.dialect.identifier(column)
        if self.alterable(old, new):
            return [f"ALTER TABLE {path} ALTER COLUMN {name} SET DATA TYPE {plan.dialect.types[new]}"]
        changed = f"SELECT * REPLACE ({self.cast(name, old, new)} AS {name}) FROM {path}"
        return [f"CREATE OR REPLACE TABLE {path} AS {changed}"]

    def overwrite(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        # TRUNCATE is refused where a policy hides rows from the loader; DELETE would leave those
        return [f"TRUNCATE TABLE {plan.path(work.table.name)}", self.insert_from_helper(plan, work)]

    def swap(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        return [self.rename_helper(plan, work)]

    def rename_helper(self, plan: LoadPlan, work: TableLoad) -> str:
        # a copy, at once and without a scan: a table that was loaded a moment ago can't be renamed
        return f"CREATE OR REPLACE TABLE {plan.path(work.table.name)} COPY {plan.path(work.into)}"

    def fill_statements(self, plan: LoadPlan, work: TableLoad) -> list[str]:
        uris = ", ".join(plan.dialect.literal(part.uri) for part in work.table.parts)
        return [f"LOAD DATA INTO {plan.path(work.into)} FROM FILES (format = 'PARQUET', uris = [{uris}])"]

    def fill(self, run: Run[BigQuerySession], work: TableLoad) -> int:
        from google.cloud.bigquery import LoadJobConfig

        client, table = run.session.client, work.table
        destination = f"{client.project}.{run.plan.options.schema}.{work.into}"
        renamed = any(column.source is not None for column in table.columns)
        if run.plan.origin.manifest.startswith("gs://") and not renamed:
            run.files.check_contents(table)
            uris = [f"gs://{part.uri.removeprefix('gs://').rpartition('@')[2]}" for part in table.parts]
            configuration = LoadJobConfig.from_api_repr(self.load_configuration(run.plan, work, client.project))
            return int(client.load_table_from_uri(uris, destination, job_config=configuration).result().output_rows)
        rows = 0
        for part, path in run.files.opened(table):
            configuration = LoadJobConfig.from_api_repr(self.load_configuration(run.plan, work, client.project))
            with _as_named(path, table, renamed=renamed) as file:
                size = file.seek(0, os.SEEK_END)
                job = client.load_table_from_file(file, destination, rewind=True, job_config=configuration, size=size)
            loaded = int(job.result().output_rows)
            if loaded != part.rows:
                raise D1ManifestError(
                    f"table {table.name!r}: its part {part.uri} has {loaded} rows, the manifest says {part.rows}"
                )
            rows += loaded
        return rows

    def load_configuration(
        self, plan: LoadPlan, work: TableLoad, project: str, uris: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The configuration of the job that loads Parquet into the helper table, as the jobs API takes it.

        :param uris: ``gs://`` objects; empty when the file is uploaded with the job.
        """
        load: dict[str, Any] = {
            "destinationTable": {"projectId": project, "datasetId": plan.options.schema, "tableId": work.into},
            "schema": {
                "fields": [
                    {"name": column.name, "type": self.dialect.types[column.type], "mode": "NULLABLE"}
                    for column in work.columns
                ]
            },
            "sourceFormat": "PARQUET",
            "createDisposition": "CREATE_NEVER",
            "writeDisposition": "WRITE_APPEND",
        }
        if uris:
            load["sourceUris"] = list(uris)
        return {"load": load}


@contextmanager
def _as_named(path: Path, table: Table, *, renamed: bool) -> Iterator[BinaryIO]:
    """A part, whose columns a load job finds by their names in the table."""
    if not renamed:
        with path.open("rb") as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="d1-load-") as folder:
        copy = Path(folder) / "part.parquet"
        try:
            write_renamed(path, table, copy)
        except (ValueError, OSError) as error:
            raise D1ManifestError(f"table {table.name!r}: {path.name} can't be read: {error}") from error
        with copy.open("rb") as file:
            yield file
