"""Every example runs as it stands, against a local D1 API and a real S3 server."""

from __future__ import annotations

import io
import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow.parquet as pq
import pytest
import zstandard
from dag_runs import BUCKET, run_dag

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


def test_nightly(emulator: Emulator, s3: S3Server) -> None:
    run = run_dag("d1_nightly_to_s3")
    assert run.state == "success"
    result = run.results["stage", -1]
    assert set(result) == {"manifest", "database_id", "bookmark", "rows", "bytes", "tables"}
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
    manifests = {run.results["stage", index]["manifest"] for index in range(3)}
    assert manifests == {f"s3://{BUCKET}/d1/{name}/_manifest.json" for name in ("shop", "blog", "crm")}
    for uri in manifests:
        name = uri.split("/")[-2]
        assert json.loads(stored(s3, uri))["source"]["database_name"] == name


CREDITS = [(1, "Ada", 12.5), (2, "Grace", None), (3, "Line\nbreak", -0.25)]
ORDERS = [(10, 1, ""), (11, 3, None)]


def test_to_duckdb(emulator: Emulator, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "warehouse.duckdb"
    monkeypatch.setenv("AIRFLOW_CONN_DUCKDB_DEFAULT", json.dumps({"conn_type": "duckdb", "host": str(file)}))
    run = run_dag("d1_to_duckdb")
    assert run.state == "success"
    check_load(run.results["load", -1], run.results["stage", -1])
    with duckdb.connect(str(file)) as database:
        assert database.execute("SELECT * FROM d1.users").fetchall() == CREDITS
        assert database.execute("SELECT * FROM d1.orders").fetchall() == ORDERS


def test_to_postgres(
    emulator: Emulator, s3: S3Server, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_POSTGRES_DEFAULT", postgres.airflow_connection())
    for _ in range(2):
        run = run_dag("d1_to_postgres")
        assert run.state == "success"
        check_load(run.results["load", -1], run.results["stage", -1])
    with postgres.connect() as database:
        assert database.execute("SELECT * FROM d1.users").fetchall() == CREDITS
        assert database.execute("SELECT * FROM d1.orders").fetchall() == ORDERS


def check_load(loaded: dict[str, Any], staged: dict[str, Any]) -> None:
    for key in ("manifest", "database_id", "bookmark", "rows"):
        assert loaded[key] == staged[key]
    assert {name: table["rows"] for name, table in loaded["tables"].items()} == {"users": 3, "orders": 2}
