"""Snowflake: external stages in every store, helper tables that cost nothing afterwards, its session."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.warehouses.session import Connections, Run
from airflow_provider_d1.warehouses.snowflake_stage import described_url, names_in_stage
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from airflow_provider_d1.warehouses.table_planning import plan_table
from tests.unit.warehouses.test_load_steps import TABLES, Recorder, existing, load
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

STAGE = "OPS.PUBLIC.D1"


@pytest.mark.parametrize(
    ("url", "uri", "name"),
    [
        ("s3://bucket", "s3://bucket/d1/it's/part.parquet", "d1/it's/part.parquet"),
        ("s3://bucket/", "s3://bucket/d1/part.parquet", "d1/part.parquet"),
        ("s3://bucket/d1/shop/", "s3://bucket/d1/shop/t0/part.parquet", "t0/part.parquet"),
        ("s3://bucket/d1", "s3://bucket/d1/part.parquet", "part.parquet"),
        ("s3gov://bucket/d1/", "s3://bucket/d1/part.parquet", "part.parquet"),
        ("s3compat://bucket.example/../d1", "s3://d1/part.parquet", None),
        ("s3compat://store.example/bucket/d1/", "s3://bucket/d1/part.parquet", "part.parquet"),
        ("gcs://bucket/d1/", "gs://bucket/d1/part.parquet", "part.parquet"),
        ("gcs://bucket", "gs://my_conn@bucket/d1/part.parquet", "d1/part.parquet"),
        ("azure://acme.blob.core.windows.net/box/d1/", "abfs://box/d1/part.parquet", "part.parquet"),
        ("azure://acme.blob.core.windows.net/box", "abfs://my_conn@box/d1/part.parquet", "d1/part.parquet"),
        (
            "azure://acme.blob.core.windows.net/box/",
            "abfss://box@acme.dfs.core.windows.net/d1/part.parquet",
            "d1/part.parquet",
        ),
        ("s3://bucket/d1/", "s3://bucket/d1-old/part.parquet", None),
        ("s3://bucket/d1", "s3://bucket/d1-old/part.parquet", None),
        ("s3://other/", "s3://bucket/part.parquet", None),
        ("gcs://bucket/", "s3://bucket/part.parquet", None),
        ("azure://acme.blob.core.windows.net/box/", "abfs://other/part.parquet", None),
        ("s3://bucket/", "file:///staged/part.parquet", None),
    ],
)
def test_a_file_is_named_by_its_path_below_the_stage(url: str, uri: str, name: str | None) -> None:
    if name is not None:
        assert names_in_stage(STAGE, url, [uri]) == [name]
        return
    with pytest.raises(D1ConfigurationError, match=r"'OPS.PUBLIC.D1'.*worker uploads"):
        names_in_stage(STAGE, url, [uri])


@pytest.mark.parametrize("value", ['["s3://bucket/d1/"]', "s3://bucket/d1/"])
def test_the_url_is_what_the_stage_says(value: str) -> None:
    rows = [("STAGE_FILE_FORMAT", "TYPE", "String", "CSV", ""), ("STAGE_LOCATION", "URL", "String", value, "")]
    assert described_url(STAGE, rows) == "s3://bucket/d1/"
    for internal in (
        [],
        [("STAGE_LOCATION", "URL", "String", "", "")],
        [("STAGE_LOCATION", "URL", "String", '[""]', "")],
    ):
        with pytest.raises(D1ConfigurationError, match=r"'OPS.PUBLIC.D1' is an internal stage, expected an external"):
            described_url(STAGE, internal)


class Stage(Recorder):
    """An external stage with the staged files, of which COPY INTO loads what it is asked for."""

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if statement == f"DESC STAGE {STAGE}":
            return [("STAGE_LOCATION", "URL", "String", '["s3://bucket/d1/"]', "")]
        self.ran.append(statement)
        if statement.startswith("COPY INTO"):
            return [
                (f"s3://bucket/d1/shop''s/t0/part-0000{number}.parquet".replace("''", "'"), "LOADED", rows, rows)
                for number, rows in enumerate((2, 1))
            ]
        return []


def test_files_are_copied_by_their_names_in_the_stage() -> None:
    made, session = plan(ENGINES["snowflake"], manifest(TABLES), stage=STAGE), Stage([])
    work = plan_table(ENGINES["snowflake"], made, made.tables[0], {})
    files = StagedFiles(object(), verify_checksums=False)  # type: ignore[arg-type]
    assert ENGINES["snowflake"].fill(Run(made, files, session), work) == 3
    (copy,) = session.ran
    assert "FILES = ('shop''s/t0/part-00000.parquet', 'shop''s/t0/part-00001.parquet')" in copy


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
@pytest.mark.parametrize("columns", [{}, {"id": "int64", "name": "string"}, {"id": "int64"}])
def test_a_helper_table_is_transient_unless_it_becomes_the_table(mode: str, columns: dict[str, str]) -> None:
    recorder = Recorder(existing("snowflake", **columns))
    load("snowflake", recorder, mode, **({"keys": {"users": ["id"]}} if mode == "merge" else {}))
    (create,) = [s for s in recorder.ran if s.startswith("CREATE") and '"_d1_new_' in s and "OR REPLACE" not in s]
    renamed = any("RENAME TO" in statement for statement in recorder.ran)
    assert renamed == (mode == "replace" and not columns)
    assert create.startswith("CREATE TABLE " if renamed else "CREATE TRANSIENT TABLE ")
    assert create.endswith(")" if renamed else " DATA_RETENTION_TIME_IN_DAYS = 0")
    assert not any("TRANSIENT" in statement for statement in recorder.ran if statement != create)


def test_a_session_commits_each_statement_whatever_the_account_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from airflow.providers.snowflake.hooks.snowflake import SnowflakeHook

    class Connection:
        mode: bool | None = None

        def autocommit(self, mode: bool) -> None:
            self.mode = mode

        def cursor(self) -> object:
            return object()

    connection = Connection()
    monkeypatch.setattr(SnowflakeHook, "get_conn", lambda _: connection)
    made = plan(ENGINES["snowflake"], manifest(TABLES))
    files = StagedFiles(object(), verify_checksums=False)  # type: ignore[arg-type]
    ENGINES["snowflake"].connect(made, files, Connections("any", None))
    assert connection.mode is True
