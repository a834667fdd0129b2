"""What the tasks report to OpenLineage, to Airflow's assets and as links, after success and after failure."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException, Asset, AssetAlias
from airflow.providers.openlineage.extractors.base import DefaultExtractor
from airflow.providers.openlineage.plugins.adapter import OpenLineageAdapter
from airflow.sdk.execution_time.context import OutletEventAccessors
from airflow.sdk.lineage import HookLineageCollector
from openlineage.client.serde import Serde

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ExportLostError
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.links.d1 import storage_page
from airflow_provider_d1.operators.d1 import D1ExportOperator
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, "Full Name" TEXT);
INSERT INTO users VALUES (1, 'Ada'), (2, NULL), (3, NULL);
CREATE TABLE orders (id INTEGER, price REAL);
"""
SNOWFLAKE = {"conn_type": "snowflake", "extra": {"account": "org-acc", "database": "DWH"}}
DATABRICKS = {"conn_type": "databricks", "extra": {"catalog": "main", "http_path": "/sql"}}
REDSHIFT = {"conn_type": "redshift", "host": "c.x.eu-west-1.redshift.amazonaws.com", "schema": "dev", "port": 5439}


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": SHOP}) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    running.reset()
    definition = {"conn_type": "d1", "host": running.url, "password": running.token, "login": running.account_id}
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    return running


def stage(folder: Path, **arguments: Any) -> D1ToObjectStorageOperator:
    defaults = {"task_id": "stage", "database": "shop", "path": folder.as_uri(), "deferrable": False}
    return D1ToObjectStorageOperator(**{**defaults, **arguments})


def load(manifest: object, **arguments: Any) -> D1StagingToWarehouseOperator:
    return D1StagingToWarehouseOperator(
        task_id="load", manifest=manifest, conn_id="warehouse", schema="d1", **arguments
    )


def lineage(operator: Any, failed: bool = False) -> Any:
    """What OpenLineage's extractor gets, serialised as for its back end: every facet must be one that it knows."""
    extractor = DefaultExtractor(operator)
    found = (extractor.extract_on_failure if failed else extractor.extract_on_complete)(SimpleNamespace())
    return None if found is None else json.loads(Serde.to_json(found))


def columns(dataset: dict[str, Any]) -> dict[str, str]:
    return {field["name"]: field["type"] for field in dataset["facets"]["schema"]["fields"]}


def test_an_export_reads_its_tables_at_a_bookmark(emulator: Emulator) -> None:
    operator = D1ExportOperator(task_id="export", database="shop", deferrable=False)
    bookmark = operator.execute({})["bookmark"]
    found = lineage(operator)
    assert [(each["namespace"], each["name"]) for each in found["inputs"]] == [
        (f"d1://{emulator.account_id}", "shop.users"),
        (f"d1://{emulator.account_id}", "shop.orders"),
    ]
    assert {each["facets"]["version"]["datasetVersion"] for each in found["inputs"]} == {bookmark}
    assert found["outputs"] == []


def test_staging_leads_from_each_d1_table_to_its_files(emulator: Emulator, tmp_path: Path) -> None:
    operator = stage(tmp_path, column_names="snake_case", audit_columns=True)
    result = operator.execute({})
    found = lineage(operator)
    users, orders = found["inputs"]
    assert (users["namespace"], users["name"]) == (f"d1://{emulator.account_id}", "shop.users")
    assert users["facets"]["version"]["datasetVersion"] == result["bookmark"]
    assert columns(users) == {"id": "INTEGER", "Full Name": "TEXT"}
    quality = users["inputFacets"]["dataQualityMetrics"]
    assert quality["rowCount"] == 3
    metrics = {name: (column["count"], column["nullCount"]) for name, column in quality["columnMetrics"].items()}
    assert metrics == {"id": (3, 0), "Full Name": (1, 2)}
    assert orders["inputFacets"]["dataQualityMetrics"]["rowCount"] == 0

    staged, _ = found["outputs"]
    assert (staged["namespace"], staged["name"]) == ("file", f"{tmp_path}/users")
    assert staged["facets"]["version"]["datasetVersion"] == result["run"]
    assert columns(staged) == {
        "id": "int64",
        "full_name": "string",
        "_d1_database": "string",
        "_d1_bookmark": "string",
        "_loaded_at": "timestamp[us]",
    }
    (uri,) = result["tables"]["users"]["uris"]
    statistics = staged["outputFacets"]["outputStatistics"]
    size = Path(uri.removeprefix("file://")).stat().st_size
    assert (statistics["rowCount"], statistics["size"], statistics["fileCount"]) == (3, size, 1)
    origins = {
        name: [(field["name"], field["field"]) for field in column["inputFields"]]
        for name, column in staged["facets"]["columnLineage"]["fields"].items()
    }
    assert origins == {"id": [("shop.users", "id")], "full_name": [("shop.users", "Full Name")]}


def test_a_kept_dump_is_one_dataset(emulator: Emulator, tmp_path: Path) -> None:
    operator = stage(tmp_path, file_format="sql")
    operator.execute({})
    found = lineage(operator)
    assert [each["name"] for each in found["inputs"]] == ["shop"]
    assert [each["name"] for each in found["outputs"]] == [str(tmp_path)]
    assert found["outputs"][0]["outputFacets"]["outputStatistics"]["fileCount"] == 1


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_load_reads_what_staging_wrote(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    file = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": str(file)}))
    staging = stage(tmp_path / "staged")
    operator = load(staging.execute({}), mode=mode, tables=["users"])
    operator.execute({})
    found = lineage(operator)
    (given,) = found["inputs"]
    (written, _) = lineage(staging)["outputs"]
    assert (given["namespace"], given["name"]) == (written["namespace"], written["name"])
    assert given["facets"]["version"] == written["facets"]["version"]
    assert given["inputFacets"]["dataQualityMetrics"]["columnMetrics"]["Full Name"]["nullCount"] == 2
    (table,) = found["outputs"]
    assert (table["namespace"], table["name"]) == (f"duckdb://{file}", "d1.users")
    assert columns(table) == {"id": "int64", "Full Name": "string"}
    assert table["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert ("lifecycleStateChange" in table["facets"]) == (mode == "replace")


def test_a_load_has_the_names_in_the_warehouse(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps({"conn_type": "duckdb", "host": str(file)}))
    operator = load(stage(tmp_path / "staged").execute({}), tables=["users"], names="upper", table_prefix="shop_")
    operator.execute({})
    found = lineage(operator)
    assert set(columns(found["inputs"][0])) == {"id", "Full Name"}
    (table,) = found["outputs"]
    assert table["name"] == "d1.SHOP_USERS"
    assert set(columns(table)) == {"ID", "FULL NAME"}
    fields = table["facets"]["columnLineage"]["fields"]
    assert {name: field["inputFields"][0]["field"] for name, field in fields.items()} == {
        "ID": "id",
        "FULL NAME": "Full Name",
    }


@pytest.mark.parametrize(
    ("definition", "namespace", "name"),
    [
        ({"conn_type": "postgres", "host": "db", "schema": "dwh"}, "postgres://db:5432", "dwh.d1.users"),
        (SNOWFLAKE, "snowflake://org-acc", "DWH.d1.users"),
        ({**DATABRICKS, "host": "dbc-1"}, "databricks://dbc-1", "main.d1.users"),
        ({"conn_type": "mysql", "host": "db", "port": 3306, "schema": "x"}, "mysql://db:3306", "d1.users"),
        ({"conn_type": "clickhouse", "host": "ch", "port": 8443}, "clickhouse://ch:8443", "d1.users"),
        (REDSHIFT, "redshift://c.eu-west-1:5439", "dev.d1.users"),
    ],
)
def test_warehouses_are_named_as_openlineage_names_them(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    definition: dict[str, Any],
    namespace: str,
    name: str,
) -> None:
    """A load that fails has no rows and no state change; OpenLineage still learns what it was about to write."""
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(definition))
    monkeypatch.setattr("airflow_provider_d1.warehouses.loader.load", lambda *_: 1 / 0)
    operator = load(stage(tmp_path).execute({}), tables=["users"])
    with pytest.raises(ZeroDivisionError):
        operator.execute({})
    (table,) = lineage(operator, failed=True)["outputs"]
    assert (table["namespace"], table["name"]) == (namespace, name)
    assert table["outputFacets"] == {}
    assert "lifecycleStateChange" not in table["facets"]


def test_a_failed_task_reports_its_database_and_the_error_without_secrets(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator.faults.lost_exports = 9
    operator = stage(tmp_path, max_restarts=0)
    with pytest.raises(D1ExportLostError) as raised:
        operator.execute({})
    extracted = DefaultExtractor(operator).extract_on_failure(SimpleNamespace())
    events: list[Any] = []
    monkeypatch.setattr(OpenLineageAdapter, "emit", lambda _, event: events.append(event))
    OpenLineageAdapter().fail_task(
        run_id="0190c6a5-0000-7000-8000-000000000000",
        job_name="dag.stage",
        end_time="2026-11-27T02:00:00Z",
        task=extracted,
        nominal_start_time=None,
        nominal_end_time=None,
        owners=None,
        tags=None,
        job_description=None,
        error=raised.value,
    )
    (event,) = events
    assert [(each.namespace, each.name) for each in event.inputs] == [(f"d1://{emulator.account_id}", "shop")]
    assert event.run.facets["errorMessage"].message == str(raised.value)
    sent = Serde.to_json(event)
    assert emulator.token not in sent
    assert "X-Amz-Signature" not in sent


def test_a_hook_reports_its_export_to_airflows_hook_lineage(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector = HookLineageCollector()
    monkeypatch.setattr("airflow.providers.common.compat.lineage.hook.get_hook_lineage_collector", lambda: collector)
    D1Hook(database="shop").export()
    collected = collector.collected_assets.inputs
    assert {f"d1://{emulator.account_id}/shop/{table}" for table in ("users", "orders")} <= {
        each.asset.uri for each in collected
    }


# assets


def test_the_events_of_the_outlets_say_what_was_staged(emulator: Emulator, tmp_path: Path) -> None:
    own, other, alias = Asset("d1://acc/shop"), Asset("s3://bucket/d1/shop"), AssetAlias("staged")
    events = OutletEventAccessors()
    events[other].extra = {"team": "data"}
    operator = stage(tmp_path, outlets=[own, other, alias])
    result = operator.execute({"outlet_events": events})
    extra = events[own].extra
    assert extra == {name: value for name, value in result.items() if name != "tables"} | {"database_name": "shop"}
    assert set(extra) >= {"manifest", "run", "bookmark", "rows"}
    assert events[other].extra == extra | {"team": "data"}
    (event,) = events[alias].asset_alias_events
    assert (event.dest_asset_key.uri, event.extra) == (f"d1://{emulator.account_id}/shop", extra)
    assert json.loads(json.dumps(extra)) == extra


def test_an_alias_of_a_given_export_gets_the_exported_database(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the connection's default, which another task has not exported."""
    export = D1ExportOperator(task_id="export", database="shop", deferrable=False).execute({})
    definition = json.loads(os.environ["AIRFLOW_CONN_D1_DEFAULT"])
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps({**definition, "schema": "other"}))
    alias, events = AssetAlias("staged"), OutletEventAccessors()
    stage(tmp_path, database=None, export=export, outlets=[alias]).execute({"outlet_events": events})
    (event,) = events[alias].asset_alias_events
    assert event.dest_asset_key.uri == f"d1://{emulator.account_id}/shop"


def test_without_outlets_nothing_is_recorded(emulator: Emulator, tmp_path: Path) -> None:
    events = OutletEventAccessors()
    stage(tmp_path).execute({"outlet_events": events})
    assert len(events) == 0


# links


def pages(operator: Any) -> dict[str, str]:
    return {link.name: link.get_link(operator, ti_key=None) for link in operator.operator_extra_links}


def test_a_failed_export_still_links_to_its_database(emulator: Emulator, tmp_path: Path) -> None:
    account = f"https://dash.cloudflare.com/{emulator.account_id}/workers/d1"
    operator = D1ExportOperator(task_id="export", database="nowhere", deferrable=False)
    assert pages(operator) == {"D1 database": ""}
    with pytest.raises(AirflowFailException):
        operator.execute({})
    assert pages(operator) == {"D1 database": account}
    uuid = emulator.database_id("shop")
    emulator.faults.lost_exports = 9
    operator = D1ExportOperator(task_id="export", database=uuid, deferrable=False, max_restarts=0)
    with pytest.raises(D1ExportLostError):
        operator.execute({})
    assert pages(operator) == {"D1 database": f"{account}/databases/{uuid}"}


def test_a_missing_connection_fails_with_its_own_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_D1_DEFAULT", raising=False)
    operator = D1ExportOperator(task_id="export", database="shop", deferrable=False)
    with pytest.raises(AirflowFailException, match="Connection 'd1_default' is not defined"):
        operator.execute({})
    assert pages(operator) == {"D1 database": ""}


R2 = "https://0123.r2.cloudflarestorage.com"


@pytest.mark.parametrize(
    ("connection", "page"),
    [
        ({}, "https://console.aws.amazon.com/s3/buckets/bucket?prefix=d1%2Fshop%2F"),
        (
            {"region_name": "eu-west-1"},
            "https://console.aws.amazon.com/s3/buckets/bucket?prefix=d1%2Fshop%2F&region=eu-west-1",
        ),
        ({"endpoint_url": R2}, "https://dash.cloudflare.com/0123/r2/default/buckets/bucket?prefix=d1%2Fshop%2F"),
        ({"endpoint_url": "http://127.0.0.1:1"}, ""),
    ],
)
def test_a_failed_staging_task_links_to_its_prefix(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch, connection: dict[str, str], page: str
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps({"conn_type": "aws", "extra": connection}))
    operator = D1ToS3Operator(task_id="stage", database="{{ none }}", s3_bucket="bucket", s3_prefix="d1/shop")
    operator.database = 7  # as a template may render it
    with pytest.raises(AirflowFailException, match="database must be"):
        operator.execute({})
    assert pages(operator)["Staged files"] == page


@pytest.mark.parametrize(
    ("uri", "page"),
    [
        (
            "gs://key@bucket/d1 x/shop/20261127T020000Z-3f9c1a/",
            "https://console.cloud.google.com/storage/browser/bucket/d1%20x/shop/20261127T020000Z-3f9c1a/",
        ),
        ("s3://bucket/", "https://console.aws.amazon.com/s3/buckets/bucket?prefix="),
        ("abfs://container/shop/", ""),
        ("file:///data/shop/", ""),
    ],
)
def test_stores_with_a_console_have_a_page(uri: str, page: str) -> None:
    assert storage_page(uri) == page


@pytest.mark.parametrize(
    ("definition", "tables", "page"),
    [
        (
            {"conn_type": "google_cloud_platform", "extra": {"project": "p1"}},
            ["users"],
            "https://console.cloud.google.com/bigquery?project=p1&p=p1&d=d1&t=users&page=table",
        ),
        (
            {"conn_type": "google_cloud_platform", "extra": {"project": "p1"}},
            None,
            "https://console.cloud.google.com/bigquery?project=p1&p=p1&d=d1&page=dataset",
        ),
        ({"conn_type": "google_cloud_platform"}, None, ""),
        (
            SNOWFLAKE,
            ["users"],
            "https://app.snowflake.com/org/acc/#/data/databases/DWH/schemas/d1/table/users",
        ),
        (
            {**DATABRICKS, "host": "dbc-1.cloud.databricks.com"},
            ["users"],
            "https://dbc-1.cloud.databricks.com/explore/data/main/d1/users",
        ),
        ({"conn_type": "postgres", "host": "db"}, ["users"], ""),
    ],
)
def test_a_failed_load_links_to_the_table(
    emulator: Emulator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    definition: dict[str, Any],
    tables: list[str] | None,
    page: str,
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(definition))
    monkeypatch.setattr("airflow_provider_d1.warehouses.loader.load", lambda *_: 1 / 0)
    operator = load(stage(tmp_path).execute({}), tables=tables)
    with pytest.raises(ZeroDivisionError):
        operator.execute({})
    assert pages(operator) == {"Warehouse": page}
