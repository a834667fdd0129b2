"""Every example runs unchanged, against a local D1 API and a real S3 server."""

from __future__ import annotations

import io
import json
import re
import runpy
import sqlite3
import sys
import textwrap
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow.parquet as pq
import pytest
import zstandard

from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator
from tests.integration.dag_runs import BUCKET, REPOSITORY, run_dag

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.server import Emulator
    from harness.postgres import PostgresServer
    from harness.seaweed import S3Server

pytestmark = pytest.mark.usefixtures("airflow_db")
USERS = [{"id": 1, "name": "Ada", "credit": 12.5}, {"id": 2, "name": "Grace", "credit": None}]


def stored(s3: S3Server, uri: str) -> bytes:
    bucket, key = uri.removeprefix("s3://").split("/", 1)
    assert bucket == BUCKET
    return s3.client().get_object(Bucket=bucket, Key=key)["Body"].read()


def staged_rows(s3: S3Server, table: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for uri in table["uris"] for row in pq.read_table(io.BytesIO(stored(s3, uri))).to_pylist()]


def test_to_s3(emulator: Emulator, s3: S3Server) -> None:
    run = run_dag("d1_to_s3")
    assert run.state == "success"
    result = run.results["stage", -1]
    assert set(result) == {"manifest", "latest", "run", "database_id", "bookmark", "rows", "bytes", "tables"}
    assert result["database_id"] == emulator.database_id("shop")
    assert result["rows"] == 5
    assert {name: table["rows"] for name, table in result["tables"].items()} == {"users": 3, "orders": 2}
    assert staged_rows(s3, result["tables"]["users"])[:2] == USERS

    manifest = json.loads(stored(s3, result["manifest"]))
    source = manifest["source"]
    assert (source["bookmark"], source["restarts"], source["skipped"]) == (result["bookmark"], 0, [])
    assert source["unavailable_seconds"] > 0
    sizes = [file["bytes"] for table in manifest["tables"] for file in table["files"]]
    assert result["bytes"] == sum(sizes)


def test_export_and_stage_as_two_tasks(emulator: Emulator, s3: S3Server) -> None:
    run = run_dag("d1_export_and_stage")
    assert run.state == "success"
    starts = [call for call in emulator.calls if call.kind == "export_start"]
    assert len(starts) == 1

    export, tables, backup = (run.results[task, -1] for task in ("export", "stage_tables", "keep_dump"))
    assert tables["bookmark"] == backup["bookmark"] == export["bookmark"]
    assert staged_rows(s3, tables["tables"]["users"])[:2] == USERS
    assert backup["tables"] == {}
    (file,) = json.loads(stored(s3, backup["manifest"]))["files"]
    assert file["uri"].endswith(".sql.zst")
    database = sqlite3.connect(":memory:")
    database.executescript(zstandard.ZstdDecompressor().decompressobj().decompress(stored(s3, file["uri"])).decode())
    assert database.execute("SELECT count(*) FROM users").fetchone() == (3,)


def test_many_databases(emulator: Emulator, s3: S3Server) -> None:
    run = run_dag("d1_many_databases")
    assert run.state == "success"
    manifests = {run.results["stage", index]["latest"] for index in range(3)}
    assert manifests == {f"s3://{BUCKET}/d1/{name}/_manifest.json" for name in ("shop", "blog", "crm")}
    for uri in manifests:
        name = uri.split("/")[-2]
        assert json.loads(stored(s3, uri))["source"]["database_name"] == name


def test_an_asset_event_names_the_run_that_its_consumer_loads(emulator: Emulator, s3: S3Server) -> None:
    """What the scheduler does with the event is in tests/system/test_assets.py."""
    from airflow.models.asset import AssetEvent
    from airflow.sdk.api.datamodels._generated import AssetEventDagRunReference
    from airflow.sdk.execution_time.comms import AssetEventDagRunReferenceResult
    from airflow.sdk.execution_time.context import TriggeringAssetEventsAccessor
    from airflow.utils.session import create_session
    from sqlalchemy import select

    staged = [run_dag("d1_asset").results["stage", -1] for _ in range(2)]
    with create_session() as session:
        events = session.scalars(select(AssetEvent).where(AssetEvent.source_dag_id == "d1_asset")).all()
        assert [event.extra["manifest"] for event in events] == [result["manifest"] for result in staged]
        for name in ("run", "bookmark", "rows", "bytes", "database_id", "latest"):
            assert events[-1].extra[name] == staged[-1][name]
        references = [AssetEventDagRunReference.model_validate(event, from_attributes=True) for event in events]
    triggering = TriggeringAssetEventsAccessor.build(
        map(AssetEventDagRunReferenceResult.from_asset_event_dag_run_reference, references)
    )
    (load,) = runpy.run_path(str(REPOSITORY / "example_dags" / "d1_asset.py"))["load_dag"].tasks
    load.render_template_fields({"triggering_asset_events": triggering, "params": {"warehouse": "w", "schema": "s"}})
    assert load.manifest == staged[-1]["manifest"]


@pytest.mark.usefixtures("restored_is_empty")
def test_a_backup_is_restored_and_compared(emulator: Emulator, s3: S3Server) -> None:
    backup = run_dag("d1_backup")
    assert backup.state == "success"
    restored = run_dag("d1_restore")
    assert restored.state == "success"
    assert restored.results["restore", -1]["manifest"] == backup.results["back_up", -1]["manifest"]
    compared = restored.results["compare", -1]
    assert {name: table["rows"] for name, table in compared["tables"].items()} == {"users": 3, "orders": 2}
    # a second restore into what is no empty database any more is refused, and nothing after it runs
    again = run_dag("d1_restore", run=backup.results["back_up", -1]["run"])
    assert again.state == "failed"
    assert again.tasks["compare", -1] == "upstream_failed"


CREDITS = [(1, "Ada", 12.5), (2, "Grace", None), (3, "Line\nbreak", -0.25)]
ORDERS = [(10, 1, ""), (11, 3, None)]


def test_to_duckdb(emulator: Emulator, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": str(file)}))
    run = run_dag("d1_to_warehouse")
    assert run.state == "success"
    check_load(run.results["load", -1], run.results["stage", -1])
    with duckdb.connect(str(file)) as database:
        assert database.execute("SELECT * FROM d1.users").fetchall() == CREDITS
        assert database.execute("SELECT * FROM d1.orders").fetchall() == ORDERS


def test_to_postgres(
    emulator: Emulator, s3: S3Server, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", postgres.airflow_connection())
    for _ in range(2):
        run = run_dag("d1_to_warehouse", warehouse="other", schema="d1")
        assert run.state == "success"
        check_load(run.results["load", -1], run.results["stage", -1])
    with postgres.connect() as database:
        assert database.execute("SELECT * FROM d1.users").fetchall() == CREDITS
        assert database.execute("SELECT * FROM d1.orders").fetchall() == ORDERS


def check_load(loaded: dict[str, Any], staged: dict[str, Any]) -> None:
    for key in ("manifest", "database_id", "bookmark", "rows"):
        assert loaded[key] == staged[key]
    assert {name: table["rows"] for name, table in loaded["tables"].items()} == {"users": 3, "orders": 2}


@pytest.mark.parametrize("warehouse", ["postgres", "duckdb"])
def test_many_tenants_in_one_set_of_tables(
    emulator: Emulator,
    s3: S3Server,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    warehouse: str,
) -> None:
    if warehouse == "duckdb":
        file = tmp_path / "warehouse.duckdb"
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": str(file)}))
        connect = partial(duckdb.connect, str(file))
    else:
        server = request.getfixturevalue("postgres")
        monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", server.airflow_connection())
        connect = server.connect

    names = ("tenant-a", "tenant-b", "tenant-c")
    run = run_dag("d1_multi_tenant")
    assert run.state == "success"
    bookmarks = {name: run.results["tenant.stage", index]["bookmark"] for index, name in enumerate(names)}
    expected = {
        ("tenant-a", bookmarks["tenant-a"], "1", "Ada", None),
        ("tenant-a", bookmarks["tenant-a"], "2", None, None),
        ("tenant-b", bookmarks["tenant-b"], "1.0", "Bob", "bob@example.com"),
        ("tenant-b", bookmarks["tenant-b"], "2.5", "Grace", ""),
    }
    users = "SELECT _d1_database, _d1_bookmark, id::text, name, email FROM tenants.users"

    def ask(sql: str) -> list[tuple[Any, ...]]:
        with connect() as database:
            return database.execute(sql).fetchall()

    def numbers_alike(rows: list[tuple[Any, ...]]) -> set[tuple[Any, ...]]:
        return {(a, b, str(float(c)), d, e) for a, b, c, d, e in rows}

    assert numbers_alike(ask(users)) == numbers_alike(list(expected))
    assert ask("SELECT note, _d1_database FROM tenants.notes") == [("only here", "tenant-b")]

    # nothing has been written in D1 since, so the exports are the same and nothing is loaded again …
    again = run_dag("d1_multi_tenant")
    assert again.state == "success"
    unchanged = {
        name for i, name in enumerate(names) if again.results["tenant.stage", i]["bookmark"] == bookmarks[name]
    }
    skipped = {name for i, name in enumerate(names) if again.results["tenant.load", i]["skipped"]}
    assert skipped == unchanged
    # … and the query in the DAG's docstring gives each tenant's rows once, whatever was loaded before
    sql = textwrap.dedent((run_path_doc("d1_multi_tenant")).split("::", 1)[1])
    with connect() as database:
        database.execute("SET search_path = 'tenants'")
        now = database.execute(f"SELECT _d1_database, id, name FROM ({sql}) AS now").fetchall()
    assert len(now) == len(expected)


def test_a_failing_tenant_does_not_block_the_others(
    emulator: Emulator, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": str(file)}))
    run = run_dag("d1_multi_tenant", databases=["no-such-database", "tenant-b"])
    assert run.state == "failed"
    assert run.tasks["tenant.load", 0] == "upstream_failed"
    with duckdb.connect(str(file)) as database:
        assert database.execute("SELECT count(*) FROM tenants.users").fetchall() == [(2,)]


def test_stock_redshift_operator_gets_each_table(
    emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no Redshift here: what is compared is the SQL that the stock operator hands to its hook."""
    from airflow.providers.amazon.aws.hooks.redshift_sql import RedshiftSQLHook

    ran: list[list[str]] = []

    def run_sql(self: RedshiftSQLHook, sql: list[str], **options: Any) -> None:
        ran.append(list(sql))

    monkeypatch.setattr(RedshiftSQLHook, "run", run_sql)
    run = run_dag("d1_to_redshift_stock")
    assert run.state == "success"
    staged = run.results["stage", -1]
    assert len(ran) == 2
    for (begin, delete, copy, commit), (name, table) in zip(
        sorted(ran, key=itemgetter(1)), sorted(staged["tables"].items()), strict=True
    ):
        assert (begin, delete, commit) == ("BEGIN;", f'DELETE FROM "d1"."{name}";', "COMMIT")
        (folder,) = {uri.rpartition("/")[0] for uri in table["uris"]}
        assert f'COPY "d1"."{name}"' in copy
        assert f"FROM '{folder}/'" in copy
        assert "FORMAT AS PARQUET" in copy
        listed = s3.client().list_objects_v2(Bucket=BUCKET, Prefix=folder.removeprefix(f"s3://{BUCKET}/") + "/")
        assert [f"s3://{BUCKET}/{found['Key']}" for found in listed["Contents"]] == table["uris"]


def test_stock_snowflake_operator_gets_each_table(
    emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Snowflake either: the SQL that the stock operator hands to its hook."""
    from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

    ran: list[str] = []

    def run_sql(self: SnowflakeHook, sql: str, **options: Any) -> None:
        ran.append(" ".join(sql.split()))

    monkeypatch.setattr(SnowflakeHook, "run", run_sql)
    run = run_dag("d1_to_snowflake_stock")
    assert run.state == "success"
    assert sorted(ran) == [
        f'COPY INTO "d1"."{name}" FROM @OPS.PUBLIC.D1_STAGING/ '
        f"FILES=({','.join(repr(uri.removeprefix(f's3://{BUCKET}/')) for uri in table['uris'])}) "
        "FILE_FORMAT=(TYPE = PARQUET BINARY_AS_TEXT = FALSE USE_LOGICAL_TYPE = TRUE) "
        "MATCH_BY_COLUMN_NAME = CASE_SENSITIVE"
        for name, table in sorted(run.results["stage", -1]["tables"].items())
    ]


def test_stock_bigquery_operators_get_each_table(
    emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No Google Cloud: S3 is really listed, and what would be copied and loaded is compared."""
    from airflow.providers.google.cloud.transfers import gcs_to_bigquery, s3_to_gcs

    copied: list[str] = []
    jobs: list[dict[str, Any]] = []

    def transfer_files(self: s3_to_gcs.S3ToGCSOperator, keys: list[str], *hooks: Any) -> None:
        copied.extend(self.s3_to_gcs_object(key) for key in keys)

    def execute(self: gcs_to_bigquery.GCSToBigQueryOperator, context: Any) -> None:
        objects = [f"gs://{self.bucket}/{name}" for name in self.source_objects]
        kind = (self.source_format, self.write_disposition)
        jobs.append({"from": objects, "into": self.destination_project_dataset_table, "as": kind})

    monkeypatch.setattr(s3_to_gcs, "GCSHook", dict)
    monkeypatch.setattr(s3_to_gcs.S3ToGCSOperator, "transfer_files", transfer_files)
    monkeypatch.setattr(gcs_to_bigquery.GCSToBigQueryOperator, "execute", execute)
    run = run_dag("d1_to_bigquery_stock")
    assert run.state == "success"
    tables = run.results["stage", -1]["tables"]
    uris = [uri for table in tables.values() for uri in table["uris"]]
    assert {f"s3://{BUCKET}/{key}" for key in copied} == {*uris, run.results["stage", -1]["manifest"]}
    assert sorted(jobs, key=itemgetter("into")) == [
        {
            "from": [uri.replace(f"s3://{BUCKET}/", "gs://my-gcs-bucket/") for uri in table["uris"]],
            "into": f"d1.{name}",
            "as": ("PARQUET", "WRITE_TRUNCATE"),
        }
        for name, table in sorted(tables.items())
    ]


EXAMPLES = sorted(path.stem for path in (REPOSITORY / "example_dags").glob("*.py"))


@pytest.mark.parametrize("name", EXAMPLES)
def test_every_example_is_a_dag_of_its_files_name(name: str) -> None:
    dag = runpy.run_path(str(REPOSITORY / "example_dags" / f"{name}.py"))["dag"]
    assert dag.dag_id == name
    assert dag.tasks
    assert "d1" in dag.tags
    assert {"bucket", "prefix"} <= set(dag.params)
    # an asset names its database, so that is not a parameter
    assert {"database", "databases"} & set(dag.params) or any(task.outlets for task in dag.tasks)
    assert all(dag.params.get_param(name).description for name in dag.params)
    assert dag.max_active_runs == 1


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_without_its_provider_names_the_package_to_install(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The amazon provider is a dependency of this one; every other provider may be absent."""
    needed = []
    for provider in ("google", "snowflake", "postgres", "duckdb", "databricks", "clickhousedb"):
        for module in [each for each in sys.modules if each.startswith(f"airflow.providers.{provider}.")]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, f"airflow.providers.{provider}", None)
        needed.append(f"pip install apache-airflow-providers-{provider}")
    dag = runpy.run_path(str(REPOSITORY / "example_dags" / f"{name}.py"))["dag"]
    assert dag.dag_id == name
    assert dag.tasks or dag.description.rpartition(": ")[2] in needed


def test_an_example_shows_the_connections_that_it_needs() -> None:
    for line in re.findall(r"^    AIRFLOW_CONN_\w+='.*?'$", run_path_doc("d1_to_s3"), re.DOTALL | re.MULTILINE):
        assert json.loads(line.partition("=")[2].strip("'"))["conn_type"] in ("d1", "aws")
    assert run_path_doc("d1_to_s3").count("AIRFLOW_CONN_") == 2


@pytest.mark.parametrize("warehouse", ["redshift", "snowflake", "bigquery"])
def test_a_warehouse_that_is_not_here_gets_a_dry_run(
    emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch, warehouse: str
) -> None:
    """The unchanged DAG, with its load turned into a dry run."""
    conn_type = {"bigquery": "google_cloud_platform"}.get(warehouse, warehouse)
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": conn_type}))
    whole = D1StagingToWarehouseOperator.execute

    def dry(self: D1StagingToWarehouseOperator, context: Any) -> dict[str, Any]:
        self.only_statements = True
        return whole(self, context)

    monkeypatch.setattr(D1StagingToWarehouseOperator, "execute", dry)
    run = run_dag("d1_to_warehouse")
    assert run.state == "success"
    loaded, staged = run.results["load", -1], run.results["stage", -1]
    assert (loaded["manifest"], loaded["bookmark"]) == (staged["manifest"], staged["bookmark"])
    assert any(kind in statement for statement in loaded["statements"] for kind in ("COPY", "Load job"))


def run_path_doc(name: str) -> str:
    return runpy.run_path(str(REPOSITORY / "example_dags" / f"{name}.py"))["__doc__"]
