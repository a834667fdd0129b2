"""BigQuery: Parquet load jobs, from Cloud Storage by URI and from anywhere else by upload."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1WarehouseError
from airflow_provider_d1.warehouses.base import Warehouse
from airflow_provider_d1.warehouses.batches import write_renamed
from airflow_provider_d1.warehouses.dialect import Dialect
from airflow_provider_d1.warehouses.native_types import Fit, converted, kind_of
from airflow_provider_d1.warehouses.session import Connections, Run, Session
from airflow_provider_d1.warehouses.table_load import TableLoad, WarehouseOption

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.plan import Column, LoadPlan, Table
    from airflow_provider_d1.warehouses.staged_files import StagedFiles

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

    def __init__(self, client: Any, location: str) -> None:
        from google.cloud.bigquery import ConnectionProperty, QueryJobConfig

        self.client = client
        self.location = location
        limits = {**_time_limits(), "job_retry": None}
        configuration = QueryJobConfig(create_session=True)
        opened = client.query("SELECT 1", job_config=configuration, location=location, **limits)
        opened.result()
        properties = [ConnectionProperty("session_id", opened.session_info.session_id)]
        self._configuration = QueryJobConfig(connection_properties=properties)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement and return its rows."""
        job = self.client.query(statement, job_config=self._configuration, location=self.location)
        return [tuple(row.values()) for row in job.result()]

    def close(self) -> None:
        """End the session, which would last for 24 hours, and the connection."""
        with suppress(Exception):  # the load is complete, or its own error is what counts
            self.rows("CALL BQ.ABORT_SESSION()")
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
        native={
            "boolean": "BOOL",
            "date": "DATE",
            "timestamp": "DATETIME",
            "decimal": "NUMERIC({precision}, {scale})",
        },
        no_native={"json": "BigQuery's JSON changes the text"},
        largest_decimal=(38, 9, 29),
        try_cast="SAFE_CAST({value} AS {type})",
        zoned=frozenset({"timestamp"}),
        zoned_in_utc=True,
        quote="`",
        quote_escape="backslash",
        backslash=True,
        apostrophe_escape="backslash",
        forbidden_table=re.compile(r"[^\w\- ]"),
        forbidden_column=re.compile(
            r"[!\"$()*,./;?@\[\\\]^`{}~]|^(?i:_TABLE_|_FILE_|_PARTITION|_ROW_TIMESTAMP|__ROOT__|_COLIDENTIFIER)"
        ),
        catalogs=True,
    )
    extra = "bigquery"
    modules = ("airflow.providers.google.cloud.hooks.bigquery",)
    statement = "LOAD"
    options = (
        WarehouseOption(
            "location",
            "BigQuery: the location of a new dataset, such as EU; it has to be given when there is no such dataset.",
            "EU",
        ),
    )
    timestamp_type = "TIMESTAMP"
    now = "CURRENT_TIMESTAMP()"
    begin = "BEGIN TRANSACTION"
    tables_at_once = 90  # a transaction changes at most 100 tables, _d1_loads among them
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
        client: Any = hook.get_client(project_id=hook.project_id)
        try:
            return BigQuerySession(client, self._location(plan, client, hook.location))
        except BaseException:
            client.close()
            raise

    def _location(self, plan: LoadPlan, client: Any, connection_location: str | None) -> str:
        """Where the session runs: a session without a location runs in US, and stays there."""
        from google.api_core.exceptions import NotFound

        dataset = f"{plan.catalog or client.project}.{plan.options.schema}"
        wanted = plan.options.engine.get("location")
        try:
            found = str(client.get_dataset(dataset, **_time_limits()).location)
        except NotFound:
            if location := wanted or connection_location:
                return location
            raise D1ConfigurationError(
                f"BigQuery has no dataset {dataset!r}, and the location of a new one is not known; pass location='EU', "
                "or the location that the data may be in, or create the dataset"
            ) from None
        if wanted and wanted.lower() != found.lower():
            raise D1ConfigurationError(
                f"location is {wanted!r}, and the dataset {dataset!r} is in {found!r}; pass the same location or none"
            )
        return found

    def schema_query(self, plan: LoadPlan) -> str:
        catalog = f"{plan.dialect.identifier(plan.catalog)}." if plan.catalog else ""
        schema = plan.dialect.literal(plan.options.schema)
        return f"SELECT 1 FROM {catalog}INFORMATION_SCHEMA.SCHEMATA WHERE schema_name = {schema}"

    def create_schema(self, plan: LoadPlan) -> str:
        location = plan.options.engine.get("location")
        options = f" OPTIONS (location = {plan.dialect.literal(location)})" if location else ""
        return f"{super().create_schema(plan)}{options}"

    def check_targets(self, run: Run[BigQuerySession]) -> None:
        """Refuse tables that can't be read as a whole: their rows could not be counted."""
        plan = run.plan
        found = run.session.rows(
            f"SELECT table_name FROM {plan.schema_path}.INFORMATION_SCHEMA.TABLE_OPTIONS "
            "WHERE option_name = 'require_partition_filter' AND option_value = 'true'"
        )
        filtered = {str(name) for (name,) in found}
        for table in plan.tables:
            if table.name in filtered:
                raise D1WarehouseError(
                    f"table {table.name!r} is unchanged: it requires a partition filter in every query, so its rows "
                    "can't be replaced, matched or counted; run "
                    f"ALTER TABLE {plan.path(table.name)} SET OPTIONS (require_partition_filter = false)"
                )

    def columns_query(self, plan: LoadPlan, table: str) -> str:
        # _PARTITIONTIME of a table that is partitioned by ingestion time is a hidden column
        return (
            f"SELECT column_name, data_type FROM {plan.schema_path}.INFORMATION_SCHEMA.COLUMNS "
            f"WHERE table_name = {plan.dialect.literal(table)} AND is_hidden = 'NO' ORDER BY ordinal_position"
        )

    def tables_query(self, plan: LoadPlan) -> str:
        return f"SELECT table_name FROM {plan.schema_path}.INFORMATION_SCHEMA.TABLES"

    def attached_query(self, plan: LoadPlan, table: str) -> str:
        return (
            "SELECT CONCAT('partitions or clusters by ', column_name) "
            f"FROM {plan.schema_path}.INFORMATION_SCHEMA.COLUMNS "
            f"WHERE table_name = {plan.dialect.literal(table)} "
            "AND (is_partitioning_column = 'YES' OR clustering_ordinal_position IS NOT NULL)"
        )

    def cast(self, name: str, old: str, new: str) -> str:
        if (old, new) == ("float64", "string"):
            return f"REGEXP_REPLACE(CAST({name} AS STRING), r'^(-?[0-9]+)$', r'\\1.0')"
        if (old, new) == ("binary", "string"):
            return f"UPPER(TO_HEX({name}))"
        if (old, new) == ("timestamp[us]", "string"):
            text = f"FORMAT_DATETIME('%Y-%m-%d %H:%M:%E6S', {name})"
            return f"RTRIM(RTRIM({text}, '0'), '.')"
        return f"CAST({name} AS {self.dialect.types[new]})"

    def fit(self, plan: LoadPlan, work: TableLoad, row: str, held: Column, native: str, kind: str = "") -> Fit:
        """Without the type's parameters, which CAST does not take: they become conditions."""
        name, _, listed = native.rstrip(")").partition("(")
        found, kind = super().fit(plan, work, row, held, name, kind), kind or kind_of(native)
        parameters = [int(number) for number in re.findall(r"\d+", listed)]
        if not parameters:
            return found
        if kind == "decimal":
            digits, scale = (*parameters, 0)[:2]
            largest = f"CAST('1e{digits - scale}' AS BIGNUMERIC)"
            unfit = f"ROUND({found.value}, {scale}) <> {found.value} OR ABS({found.value}) >= {largest}"
        else:
            unfit = f"LENGTH({found.value}) > {parameters[0]}"
        return replace(found, misfit=f"{found.misfit} OR {unfit}")

    def alterable(self, old: str, new: str) -> bool:
        return (old, new) == ("int64", "float64")

    def alter_column(self, plan: LoadPlan, table: str, column: str, old: str, new: str) -> list[str]:
        path, name = plan.path(table), plan.dialect.identifier(column)
        if self.alterable(old, new):
            return [f"ALTER TABLE {path} ALTER COLUMN {name} SET DATA TYPE {plan.dialect.types[new]}"]
        changed = f"SELECT * REPLACE ({converted(self, name, old, new)} AS {name}) FROM {path}"
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
        if _reads_bucket(plan, work.table):
            return [self._job(plan, work, self._bucket_uris(work))]
        return [f"{self._job(plan, work)} -- {part.uri}, uploaded" for part in work.table.parts]

    def _job(self, plan: LoadPlan, work: TableLoad, uris: Sequence[str] = ()) -> str:
        """A load job as it is shown."""
        return f"-- Load job: {json.dumps(self.load_configuration(plan, work, uris), ensure_ascii=False)}"

    def _bucket_uris(self, work: TableLoad) -> list[str]:
        return [f"gs://{part.uri.removeprefix('gs://').rpartition('@')[2]}" for part in work.table.parts]

    def fill(self, run: Run[BigQuerySession], work: TableLoad) -> int:
        from google.cloud.bigquery import LoadJobConfig

        plan, table, client = run.plan, work.table, run.session.client
        destination = f"{plan.catalog or client.project}.{plan.options.schema}.{work.into}"
        options: dict[str, Any] = {
            "job_config": LoadJobConfig.from_api_repr(self.load_configuration(plan, work)),
            "location": run.session.location,
        }
        shown = self.fill_statements(plan, work)
        if _reads_bucket(plan, table):
            run.files.check_contents(table)
            run.announce(shown[0])
            job = client.load_table_from_uri(self._bucket_uris(work), destination, **options)
            return int(job.result().output_rows)
        rows = 0
        for (part, path), statement in zip(run.files.opened(table), shown, strict=True):
            run.announce(statement)
            with _as_named(path, table) as file:
                size = file.seek(0, os.SEEK_END)
                job = client.load_table_from_file(file, destination, rewind=True, size=size, **options)
            loaded = int(job.result().output_rows)
            if loaded != part.rows:
                raise D1ManifestError(
                    f"table {table.name!r}: its part {part.uri} has {loaded} rows, the manifest says {part.rows}"
                )
            rows += loaded
        return rows

    def load_configuration(self, plan: LoadPlan, work: TableLoad, uris: Sequence[str] = ()) -> dict[str, Any]:
        """The configuration of the job that loads Parquet into the helper table, as the jobs API takes it.

        :param uris: ``gs://`` objects; empty when the file is uploaded with the job.
        """
        project = {"projectId": plan.catalog} if plan.catalog else {}
        load: dict[str, Any] = {
            "destinationTable": {**project, "datasetId": plan.options.schema, "tableId": work.into},
            "schema": {
                "fields": [
                    {"name": column.name, "type": self.dialect.types[column.type], "mode": "NULLABLE"}
                    for column in work.columns
                ]
            },
            "sourceFormat": "PARQUET",
            # a project may have another default, which turns "a b" into "a_b"
            "columnNameCharacterMap": "STRICT",
            "createDisposition": "CREATE_NEVER",
            "writeDisposition": "WRITE_APPEND",
        }
        if uris:
            load["sourceUris"] = list(uris)
        return {"load": load}


def _reads_bucket(plan: LoadPlan, table: Table) -> bool:
    """Whether BigQuery reads the parts itself; a load job finds columns by their names in the table."""
    return plan.origin.manifest.startswith("gs://") and not _is_renamed(table)


def _is_renamed(table: Table) -> bool:
    return any(column.source is not None for column in table.columns)


@contextmanager
def _as_named(path: Path, table: Table) -> Iterator[BinaryIO]:
    """A part with the names that its columns have in the table."""
    if not _is_renamed(table):
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


def _time_limits() -> dict[str, Any]:
    """The client's own deadline is ten minutes and more, also with a server that is not there."""
    from google.cloud.bigquery.retry import DEFAULT_RETRY

    return {"retry": DEFAULT_RETRY.with_timeout(_CONNECT_TIMEOUT), "timeout": 20}
