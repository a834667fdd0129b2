"""BigQuery's session: how it is opened, that all statements are in it, when a server that is not there is given up."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from airflow_provider_d1.exceptions import D1ConfigurationError, D1WarehouseError
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses import bigquery
from airflow_provider_d1.warehouses.bigquery import BigQuery
from airflow_provider_d1.warehouses.dry_run import planned_statements
from airflow_provider_d1.warehouses.loader import load
from airflow_provider_d1.warehouses.session import Connections, Run, abbreviated
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from airflow_provider_d1.warehouses.table_planning import plan_table
from tests.unit.warehouses.warehouse_plans import manifest, plan

CONNECTIONS = Connections("any", None)


class Client:
    """Answers every query, and keeps the configurations.

    :param datasets: name → location of those that there are.
    """

    project = "project"

    def __init__(self, **datasets: str) -> None:
        self.datasets = datasets
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.options: list[dict[str, Any]] = []
        self.closed = False

    def get_dataset(self, name: str, **limits: Any) -> Any:
        from google.api_core.exceptions import NotFound

        self.options.append(limits)
        project, _, dataset = name.rpartition(".")
        if dataset not in self.datasets or project != self.project:
            raise NotFound(name)
        return SimpleNamespace(location=self.datasets[dataset])

    def query(self, statement: str, job_config: Any, **options: Any) -> Any:
        self.asked.append((statement, job_config.to_api_repr()))
        self.options.append(options)
        row = SimpleNamespace(values=lambda: (1,))
        return SimpleNamespace(result=lambda: [row], session_info=SimpleNamespace(session_id="the session"))

    def close(self) -> None:
        self.closed = True


def connected(client: Client, monkeypatch: pytest.MonkeyPatch, of_connection: str | None = None, **options: Any) -> Any:
    from airflow.providers.google.cloud.hooks import bigquery as hooks

    hook = SimpleNamespace(project_id="project", location=of_connection, get_client=lambda **_: client)
    monkeypatch.setattr(hooks, "BigQueryHook", lambda **_: hook)
    made = plan(BigQuery(), manifest(), **options)
    return BigQuery().connect(made, StagedFiles(S3Storage(object(), "b", "d1"), verify_checksums=False), CONNECTIONS)


def test_all_statements_are_in_one_session() -> None:
    client = Client()
    session = bigquery.BigQuerySession(client, "EU")
    assert session.rows("SELECT 2") == [(1,)]
    assert session.rows("COMMIT") == [(1,)]
    (first, opening), *others = client.asked
    assert (first, opening["query"]["createSession"]) == ("SELECT 1", True)
    assert client.options[0]["job_retry"] is None
    for _, configuration in others:
        assert configuration["query"]["connectionProperties"] == [{"key": "session_id", "value": "the session"}]
    assert {options["location"] for options in client.options} == {"EU"}


def test_the_session_is_ended() -> None:
    """Else it lasts for 24 hours, and a transaction in it keeps its snapshot."""
    client = Client()
    session = bigquery.BigQuerySession(client, "EU")
    session.close()
    statement, configuration = client.asked[-1]
    assert statement == "CALL BQ.ABORT_SESSION()"
    assert configuration["query"]["connectionProperties"][0]["value"] == "the session"
    assert client.closed


def test_a_session_that_can_not_be_ended_fails_no_load() -> None:
    client = Client()
    session = bigquery.BigQuerySession(client, "EU")
    client.query = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    session.close()
    assert client.closed


@pytest.mark.parametrize(
    ("datasets", "of_connection", "options", "expected"),
    [
        ({"staging": "EU"}, None, {}, "EU"),
        ({"staging": "EU"}, "US", {}, "EU"),  # the connection's is a default for new ones
        ({"staging": "EU"}, None, {"location": "eu"}, "EU"),
        ({}, None, {"location": "europe-west3"}, "europe-west3"),
        ({}, "asia-east1", {}, "asia-east1"),
        ({}, "asia-east1", {"location": "EU"}, "EU"),
        ({"staging": "EU"}, None, {"schema": "project.staging"}, "EU"),
    ],
)
def test_the_session_runs_where_the_dataset_is(datasets, of_connection, options, expected, monkeypatch) -> None:
    client = Client(**datasets)
    assert connected(client, monkeypatch, of_connection, **options).location == expected
    assert client.options[-1]["location"] == expected
    assert client.options[0]["timeout"] == 20


@pytest.mark.parametrize(
    ("datasets", "options", "message"),
    [
        ({}, {}, r"no dataset 'project.staging', and the location of a new one is not known; pass location='EU'"),
        ({"staging": "EU"}, {"schema": "other.staging"}, r"no dataset 'other.staging'"),
        ({"staging": "EU"}, {"location": "US"}, r"location is 'US', and the dataset 'project.staging' is in 'EU'"),
    ],
)
def test_no_dataset_is_made_in_us_without_being_asked_for(datasets, options, message, monkeypatch) -> None:
    client = Client(**datasets)
    with pytest.raises(D1ConfigurationError, match=message):
        connected(client, monkeypatch, **options)
    assert client.asked == []
    assert client.closed


def test_a_new_dataset_is_made_in_its_location() -> None:
    made = plan(BigQuery(), manifest(), location="EU", schema="project-1.staging")
    expected = "CREATE SCHEMA IF NOT EXISTS `project-1`.`staging` OPTIONS (location = 'EU')"
    assert planned_statements(BigQuery(), made)[0] == expected


def test_a_dataset_of_another_project() -> None:
    """All statements and jobs name the project; the connection's own pays for them."""
    made = plan(BigQuery(), manifest(), schema="example.com:data.staging")
    statements = planned_statements(BigQuery(), made)
    paths = {path for statement in statements for path in re.findall(r"\S*`staging`", statement)}
    assert paths == {"`example.com:data`.`staging`"}
    destinations = [
        json.loads(s[13:].rpartition(" -- ")[0])["load"]["destinationTable"] for s in statements if s[0] == "-"
    ]
    assert {(each["projectId"], each["datasetId"]) for each in destinations} == {("example.com:data", "staging")}
    queries = [
        BigQuery().columns_query(made, "users"),
        BigQuery().tables_query(made),
        BigQuery().attached_query(made, "users"),
        BigQuery().schema_query(made),
    ]
    assert all("`example.com:data`." in query for query in queries)


class Uploads(Client):
    """Takes load jobs too."""

    def __init__(self, rows: int) -> None:
        super().__init__(staging="EU")
        self.rows = rows
        self.jobs: list[tuple[Any, str, dict[str, Any], str]] = []

    def load_table_from_uri(self, uris: Any, destination: str, *, job_config: Any, location: str) -> Any:
        self.jobs.append((uris, destination, job_config.to_api_repr(), location))
        return SimpleNamespace(result=lambda: SimpleNamespace(output_rows=self.rows))

    def load_table_from_file(self, file: Any, destination: str, *, rewind: bool, size: int, **options: Any) -> Any:
        assert rewind
        assert size == len(b"content")
        return self.load_table_from_uri(file, destination, **options)


def staged_in(scheme: str) -> Any:
    made = manifest({"users": {"a b": "int64"}})
    (table,) = made.tables
    files = tuple(replace(file, uri=file.uri.replace("s3://", f"{scheme}://")) for file in table.files)
    return replace(made, tables=(replace(table, files=files),))


def test_all_parts_on_cloud_storage_are_one_job(caplog: pytest.LogCaptureFixture) -> None:
    client = Uploads(3)
    uri = "gs://conn@bucket/d1/shop's/_manifest.json"
    made = replace(plan(BigQuery(), staged_in("gs")), origin=replace(plan(BigQuery(), manifest()).origin, manifest=uri))
    (table,) = made.tables
    work = plan_table(BigQuery(), made, table, {})
    files = SimpleNamespace(check_contents=lambda _: None)
    with caplog.at_level("INFO"):
        assert BigQuery().fill(Run(made, files, bigquery.BigQuerySession(client, "EU")), work) == 3  # type: ignore[arg-type]
    ((uris, destination, configuration, location),) = client.jobs
    assert uris == [f"gs://bucket/d1/shop's/t0/part-0000{number}.parquet" for number in range(2)]
    assert (destination, location) == (f"project.staging.{table.helper}", "EU")
    assert configuration["load"]["columnNameCharacterMap"] == "STRICT"
    (shown,) = BigQuery().fill_statements(made, work)
    assert json.loads(shown.removeprefix("-- Load job: "))["load"]["sourceUris"] == uris


def test_a_dry_run_shows_the_jobs_that_run(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    """From elsewhere the worker uploads the parts; BigQuery reads no s3:// URI."""
    client = Uploads(2)
    made = plan(BigQuery(), manifest({"users": {"a b": "int64"}}))
    (table,) = made.tables
    table = replace(table, parts=table.parts[:1], rows=2)
    work = plan_table(BigQuery(), made, table, {})
    (tmp_path / "part").write_bytes(b"content")
    files = SimpleNamespace(opened=lambda table: [(table.parts[0], tmp_path / "part")])
    with caplog.at_level("INFO"):
        BigQuery().fill(Run(made, files, bigquery.BigQuerySession(client, "EU")), work)  # type: ignore[arg-type]
    (shown,) = BigQuery().fill_statements(made, work)
    assert abbreviated(shown) in caplog.text
    assert shown.endswith("/t0/part-00000.parquet, uploaded")
    assert "sourceUris" not in shown
    assert len(client.jobs) == 1


@pytest.mark.parametrize("scheme", ["gs", "s3"])
def test_a_renamed_column_has_its_new_name_in_the_uploaded_file(tmp_path: Any, scheme: str) -> None:
    """A load job finds columns by name. The emulator takes them by position."""
    seen: list[tuple[Any, ...]] = []

    class Reader(Client):
        def load_table_from_file(self, file: Any, *_: Any, **__: Any) -> Any:
            part = pq.read_table(file)
            seen.append((part.column_names, part.to_pylist()))
            return SimpleNamespace(result=lambda: SimpleNamespace(output_rows=part.num_rows))

    uri = f"{scheme}://bucket/d1/shop's/_manifest.json"
    made = plan(BigQuery(), manifest({"users": {"_PARTITIONDATE": "int64", "id": "int64"}}))
    made = replace(made, origin=replace(made.origin, manifest=uri))
    (table,) = made.tables
    work = plan_table(BigQuery(), made, replace(table, parts=table.parts[:1], rows=2), {})
    pq.write_table(pa.table({"_PARTITIONDATE": [1, 3], "id": [2, 4]}), tmp_path / "part")
    files = SimpleNamespace(opened=lambda table: [(table.parts[0], tmp_path / "part")])
    client = Reader(staging="EU")
    assert BigQuery().fill(Run(made, files, bigquery.BigQuerySession(client, "EU")), work) == 2  # type: ignore[arg-type]
    name = table.columns[0].name
    assert name != "_PARTITIONDATE"
    assert seen == [([name, "id"], [{name: 1, "id": 2}, {name: 3, "id": 4}])]


def test_a_server_that_is_not_there_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """By itself the client would go on for more than ten minutes."""
    pem = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    key = rsa.generate_private_key(65537, 2048).private_bytes(*pem).decode()
    account = {
        "type": "service_account",
        "project_id": "project",
        "private_key": key,
        "client_email": "loader@project.example.com",
        "token_uri": "http://127.0.0.1:1/token",
    }
    connection = {"conn_type": "google_cloud_platform", "extra": {"keyfile_dict": json.dumps(account)}}
    monkeypatch.setenv("AIRFLOW_CONN_NOWHERE", json.dumps(connection))
    monkeypatch.setattr(bigquery, "_CONNECT_TIMEOUT", 0.1)
    files = StagedFiles(S3Storage(object(), "bucket", "d1"), verify_checksums=False)
    with pytest.raises(D1WarehouseError, match="No connection to BigQuery through 'nowhere'") as failure:
        load(BigQuery(), plan(BigQuery(), manifest()), files, Connections("nowhere", None))
    assert failure.value.retryable
    assert key.splitlines()[1] not in str(failure.value)
