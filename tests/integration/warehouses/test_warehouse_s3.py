"""Manifests in a real S3 server: read by the warehouse itself where it can, and no key stays anywhere."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1ManifestError
from airflow_provider_d1.warehouses import duckdb_session, session
from tests.integration.dag_runs import BUCKET
from tests.integration.warehouses.staged import write_staged

USERS = pa.table({"id": [1, 2, 3], "name": ["Ada", None, ""], "photo": pa.array([b"\0", None, b""], pa.binary())})
NOBODY = USERS.slice(0, 0)
#: as prefixes really are: partitions, and characters that have a meaning in URLs
PREFIX = "d1/ds=2026-11-22/a b+%20é"


@pytest.fixture
def staged_in_s3(s3, tmp_path: Path):
    def stage(file_format: str = "parquet", prefix: str = PREFIX, **options: Any) -> str:
        folder = tmp_path / quote(prefix, safe="") / file_format
        folder.mkdir(parents=True)
        prefix = f"{prefix}/{file_format}"
        tables = {"users": USERS, "nobody": NOBODY}
        uri = write_staged(folder, tables, file_format, rows_in_part=2, uri=f"s3://{BUCKET}/{prefix}", **options)
        client = s3.client()
        for path in folder.rglob("*"):
            if path.is_file():
                client.upload_file(str(path), BUCKET, f"{prefix}/{path.relative_to(folder)}")
        return uri

    return stage


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_from_s3(engine, schema, load_staged, staged_in_s3, s3, file_format, caplog, monkeypatch) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setattr(session, "abbreviated", str)
    uri = staged_in_s3(file_format)
    load_staged(uri, verify_checksums=True)
    assert sorted(engine.rows(schema, "users"), key=repr) == sorted(rows_of(USERS), key=repr)
    assert engine.rows(schema, "nobody") == []
    assert load_staged(uri, mode="append")["skipped"] is True
    assert s3.secret_key not in caplog.text
    statements = load_staged(uri, dry_run=True)["statements"]
    assert s3.secret_key not in str(statements)
    # who reads the bucket
    by_itself = {"duckdb": "read_parquet(['s3://", "clickhouse": "FROM s3({d1_url:String}"}.get(engine.name)
    if by_itself is not None:
        assert (by_itself in caplog.text) == (file_format == "parquet")


def test_renamed_columns_are_read_by_the_warehouse_itself(
    engine, schema, load_staged, staged_in_s3, caplog, monkeypatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(session, "abbreviated", str)
    load_staged(staged_in_s3(), names="upper", table_prefix="x_")
    assert [name for name, _ in engine.columns(schema, "X_USERS")] == ["ID", "NAME", "PHOTO"]
    assert sorted(engine.rows(schema, "X_USERS"), key=repr) == sorted(rows_of(USERS), key=repr)
    by_itself = {"duckdb": "read_parquet(['s3://", "clickhouse": "FROM s3({d1_url:String}"}.get(engine.name, "")
    assert by_itself in caplog.text


def test_duckdb_without_its_extension_gets_the_rows_streamed(
    engine, schema, load_staged, staged_in_s3, monkeypatch, caplog
) -> None:
    if engine.name != "duckdb":
        pytest.skip("DuckDB's own matter")
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(duckdb_session.importlib.util, "find_spec", lambda _: None)
    load_staged(staged_in_s3())
    assert "no httpfs extension" in caplog.text
    assert engine.rows(schema, "users") == rows_of(USERS)


def test_no_key_stays_in_a_duckdb_file(engine, load_staged, staged_in_s3, s3) -> None:
    if engine.name != "duckdb":
        pytest.skip("DuckDB's own matter")
    load_staged(staged_in_s3())
    assert engine.execute("SELECT * FROM duckdb_secrets()") == []
    for path in engine.file.parent.glob(f"{engine.file.name}*"):
        content = path.read_bytes()
        assert s3.secret_key.encode() not in content
        assert s3.access_key.encode() not in content


def test_a_part_that_is_not_there_any_more(engine, schema, load_staged, staged_in_s3, s3) -> None:
    uri = staged_in_s3()
    load_staged(uri)
    before = engine.rows(schema, "users")
    key = next(
        found["Key"]
        for found in s3.client().list_objects_v2(Bucket=BUCKET, Prefix=PREFIX)["Contents"]
        if found["Key"].endswith("t0/part-00001.parquet")
    )
    s3.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(D1ManifestError, match=r"'users'.*part-00001.*missing") as failure:
        load_staged(uri)
    assert failure.value.retryable
    assert engine.rows(schema, "users") == before
    with pytest.raises(AirflowFailException, match="manifest not found"):
        load_staged(f"s3://{BUCKET}/elsewhere/_manifest.json")


def test_characters_that_are_patterns_to_a_warehouse(engine, schema, load_staged, staged_in_s3) -> None:
    load_staged(staged_in_s3(prefix="d1/what? [a-z] {x,y} *"))
    assert sorted(engine.rows(schema, "users"), key=repr) == sorted(rows_of(USERS), key=repr)
