"""Databricks' statements by Sail: Delta tables, odd names, INSERT … SELECT, INSERT OVERWRITE, in the loader's order.

Shims where Sail lacks what a SQL warehouse has: see :class:`SailSession`. Not shown: COPY INTO, CLONE, ALTER TABLE,
Unity Catalog, credentials.
"""

from __future__ import annotations

import re
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import load_history
from airflow_provider_d1.warehouses.databricks import Databricks
from airflow_provider_d1.warehouses.session import Session
from tests.integration.warehouses.hard_names import database, keys, named, rows_of
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID

USERS = pa.table({"id": [1, 2], "a b": ["it's \\ \n", None], "x": pa.array([b"\0\xff", None], pa.binary())})
MORE = pa.table({"id": [3, 2**63 - 1], "a b": ["", "é"], "x": pa.array([b"", b"x"], pa.binary())})

_COPY = re.compile(
    r"COPY INTO (\S+) FROM (?:\(SELECT (.*) FROM )?'(\S+)'\)?.* FILES = \((.*?)\) COPY_OPTIONS", re.DOTALL
)
_CLONE = re.compile(r"CREATE OR REPLACE TABLE (\S+) CLONE (\S+)")
_COLUMNS = re.compile(r"FROM information_schema.columns WHERE table_schema = '(\S+)' AND table_name = '(\S+)'")
_HELPERS = re.compile(r"FROM information_schema.tables WHERE table_schema = '(\S+)'")
_SCHEMATA = re.compile(r"FROM information_schema.schemata WHERE schema_name = '(\S+)'")


class SailSession(Session):
    """Spark Connect, with Sail behind it, instead of the driver; what Sail does not know is put in other words."""

    def __init__(self, spark: Any) -> None:
        self.spark = spark

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        if found := _COLUMNS.search(statement):
            if found[2] not in self.tables(found[1]):
                return []
            described = self._collect(f"DESCRIBE TABLE `{found[1]}`.`{found[2]}`")
            return [(name, kind) for name, kind, *_ in described]
        if found := _HELPERS.search(statement):
            return [(name,) for name in self.tables(found[1])]
        if found := _SCHEMATA.search(statement):
            return [(1,) for name, *_ in self._collect("SHOW DATABASES") if name == found[1]]
        if found := _COPY.search(statement):
            for name in re.findall(r"'(.*?)'", found[4]):
                self._collect(f"INSERT INTO {found[1]} SELECT {found[2] or '*'} FROM parquet.`{found[3]}{name}`")
            return []
        if found := _CLONE.fullmatch(statement):
            self._collect(f"DROP TABLE IF EXISTS {found[1]}")  # CREATE OR REPLACE would want the old columns
            mapping = " TBLPROPERTIES ('delta.columnMapping.mode' = 'name')"
            suffix = Databricks.table_suffix + mapping
            return self._collect(f"CREATE TABLE {found[1]}{suffix} AS SELECT * FROM {found[2]}")
        return self._collect(statement)

    def tables(self, schema: str) -> list[str]:
        return [row["tableName"] for row in self.spark.sql(f"SHOW TABLES IN `{schema}`").collect()]

    def _collect(self, statement: str) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in self.spark.sql(statement).collect()]

    def close(self) -> None:
        """The fixture stops it."""


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    host, port = server.listening_address
    with pytest.MonkeyPatch.context() as patch:
        # without a file of the main module, as in a process of pytest-xdist, PySpark takes the tests for its own
        patch.setattr(sys.modules["__main__"], "__file__", __file__, raising=False)
        session = SparkSession.builder.remote(f"sc://{host}:{port}").getOrCreate()
    session.conf.set("spark.sql.warehouse.dir", f"file://{tmp_path_factory.mktemp('delta')}")
    yield session
    session.stop()
    server.stop()


@pytest.fixture(autouse=True)
def databricks(spark: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyspark.errors import PySparkException

    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", '{"conn_type": "databricks", "host": "sail"}')
    monkeypatch.setattr(Databricks, "check", lambda *_: None)  # the staged files lie on this machine
    monkeypatch.setattr(Databricks, "connect", lambda *_: SailSession(spark))
    monkeypatch.setattr(Databricks, "driver_errors", lambda _: (PySparkException,))


@pytest.fixture
def schema() -> str:
    return f"d1_{secrets.token_hex(4)}"


@pytest.fixture
def stage(tmp_path: Path):
    count = 0

    def write(tables: dict[str, pa.Table], **options: Any) -> str:
        nonlocal count
        count += 1
        folder = tmp_path / f"export{count}"
        folder.mkdir()
        return write_staged(folder, tables, bookmark=f"bookmark-{count}", **options)

    return write


def rows(spark: Any, schema: str, table: str = "users") -> list[tuple[Any, ...]]:
    found = spark.sql(f"SELECT * FROM `{schema}`.`{table}`").collect()
    return sorted((tuple(bytes(v) if isinstance(v, bytearray) else v for v in row) for row in found), key=repr)


def values(*contents: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for content in contents for row in content.to_pylist()), key=repr)


def test_replace_and_append(spark, schema, load_staged, stage) -> None:
    first, second = stage({"users": USERS, "empty": USERS.slice(0, 0)}), stage({"users": MORE}, rows_in_part=1)
    assert load_staged(first)["rows"] == 2
    assert rows(spark, schema) == values(USERS)
    assert rows(spark, schema, "empty") == []
    for _ in range(2):
        assert load_staged(second)["rows"] == 2
        assert rows(spark, schema) == values(MORE)
    assert load_staged(first, mode="append")["rows"] == 2
    assert load_staged(first, mode="append")["skipped"] is True
    assert rows(spark, schema) == values(USERS, MORE)
    assert set(SailSession(spark).tables(schema)) == {"users", "empty", "_d1_loads"}


def test_merge(spark, schema, load_staged, stage) -> None:
    keys = {"users": ["a b", "id"]}
    changed = pa.table({"id": [1, 7], "a b": ["it's \\ \n", "x"], "x": pa.array([b"new", None], pa.binary())})
    load_staged(stage({"users": USERS.slice(0, 1)}, keys=keys), mode="merge")
    uri = stage({"users": changed}, keys=keys)
    for _ in range(2):
        assert load_staged(uri, mode="merge")["rows"] == 2
        assert rows(spark, schema) == values(changed)
    load_staged(stage({"users": MORE}, keys=keys), mode="append")
    load_staged(uri, mode="merge")
    assert rows(spark, schema) == values(changed, MORE)
    load_staged(uri, mode="merge", delete_missing=True)
    assert rows(spark, schema) == values(changed)
    twice = pa.concat_tables([changed, changed.slice(1)])
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*1 values of it are staged more than once"):
        load_staged(stage({"users": twice}, keys=keys), mode="merge")
    load_staged(stage({"users": twice}), mode="replace")
    with pytest.raises(AirflowFailException, match=r"in the warehouse's table more than once"):
        load_staged(uri, mode="merge")
    assert rows(spark, schema) == values(twice)
    assert set(SailSession(spark).tables(schema)) == {"users", "_d1_loads"}


def test_replace_takes_the_new_shape(spark, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS}))
    load_staged(stage({"users": pa.table({"email": ["a@example.com"]})}))
    assert rows(spark, schema) == [("a@example.com",)]


def test_names_that_it_cannot_hold(spark, schema, load_staged, stage) -> None:
    tables, columns = ("users", "a.b/c d", "_d1_loads"), ("id", "a\nb", "c" * 300, 'say "hi" `x`')
    first, second, changed = (
        database(ids, mark, tables, columns) for ids, mark in (([1, 2], ""), ([3], ""), ([2, 4], "changed"))
    )
    for _ in range(2):
        result = load_staged(stage(first), table_prefix="shop_")
    load_staged(stage(second), mode="append", table_prefix="shop_")
    load_staged(stage(changed, keys=keys(tables, columns)), mode="merge", table_prefix="shop_")
    wanted = [database([1], "", tables, columns), second, changed]
    for source, name in named(result).items():
        assert rows(spark, schema, name) == rows_of(*(each[source] for each in wanted))


def test_an_error_leaves_no_helper_table(spark, schema, load_staged, stage, monkeypatch) -> None:
    load_staged(stage({"users": USERS}))
    monkeypatch.setattr(load_history, "insert_statement", lambda *_: "INSERT INTO no such table")
    with pytest.raises((AirflowFailException, D1WarehouseError), match="Databricks rejected"):
        load_staged(stage({"users": MORE}))
    assert set(SailSession(spark).tables(schema)) == {"users", "_d1_loads"}
