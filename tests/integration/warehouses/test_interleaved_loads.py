"""Two loads of one database at once, on the warehouses that publish one table after the other."""

from __future__ import annotations

import re
import secrets
from typing import Any

import pyarrow as pa
import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from tests.integration.warehouses.interleaving import Interleaving
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID

OLD = pa.table({"id": list(range(10))})
ONE = pa.table({"id": list(range(100, 220))})
OTHER = pa.table({"id": list(range(300, 350))})


@pytest.fixture(params=["clickhouse", "snowflake"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    engine = request.getfixturevalue(f"{request.param}_engine")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
    return engine


@pytest.fixture
def schema() -> str:
    return f"Staging_{secrets.token_hex(4)}"


@pytest.fixture
def stage(tmp_path):
    def write(bookmark: str, users: pa.Table, **tables: pa.Table) -> str:
        folder = tmp_path / bookmark
        folder.mkdir()
        return write_staged(folder, {"users": users, **tables}, bookmark=bookmark)

    return write


def ids(engine, schema) -> list[int]:
    return sorted(row[0] for row in engine.rows(schema, "users"))


def publishes(statement: str) -> bool:
    """The statement that brings the loaded rows into the table itself."""
    return any(word in statement for word in ("EXCHANGE TABLES", "OVERWRITE", "OR REPLACE TABLE", "RENAME"))


def makes_helper(statement: str) -> bool:
    return re.search(r"CREATE (TRANSIENT )?TABLE ", statement) is not None and "_d1_new_" in statement


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_an_empty_helper_table_of_another_load_is_not_published(engine, schema, load_staged, stage, mode) -> None:
    """One load has counted its rows; another one of the same manifest has just made its helper table."""
    load_staged(stage("old", OLD))
    uri = stage("one", ONE)
    with Interleaving() as loads:
        loads.start("one", lambda: load_staged(uri))
        loads.run_until("one", publishes)
        loads.start("other", lambda: load_staged(uri, mode=mode))
        loads.run_until("other", makes_helper)
        loads.step("other")
        result = loads.finish("one")
        assert result["rows"] == 120
        assert ids(engine, schema) == ONE["id"].to_pylist()
        other = loads.finish("other")
    assert other["rows"] == 120
    assert ids(engine, schema) == sorted(ONE["id"].to_pylist() * (1 if mode == "replace" else 2))
    assert engine.tables(schema) == {"users", "_d1_loads"}


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_whole_load_between_filling_and_publishing(engine, schema, load_staged, stage, mode) -> None:
    load_staged(stage("old", OLD))
    one, other = stage("one", ONE), stage("other", OTHER)
    with Interleaving() as loads:
        loads.start("one", lambda: load_staged(one, mode=mode))
        loads.run_until("one", lambda statement: "ATTACH" in statement or publishes(statement))
        loads.start("other", lambda: load_staged(other, mode=mode))
        assert loads.finish("other")["rows"] == 50
        assert loads.finish("one")["rows"] == 120
    kept = [] if mode == "replace" else [*OLD["id"].to_pylist(), *OTHER["id"].to_pylist()]
    assert ids(engine, schema) == sorted([*ONE["id"].to_pylist(), *kept])
    assert engine.tables(schema) == {"users", "_d1_loads"}


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_a_whole_load_while_a_table_is_merged(engine, schema, load_staged, stage, mode) -> None:
    """What the other load brings is in the table at the end, or the first one says that it may be tried again."""
    keys = {"users": ["id"]}
    old = pa.table({"id": list(range(10)), "v": ["old"] * 10})
    one = pa.table({"id": [3, 10], "v": ["one"] * 2})
    other = pa.table({"id": [11, 12] if mode == "append" else [4], "v": ["other"] * (2 if mode == "append" else 1)})
    load_staged(stage("old", old))
    first, second = stage("one", one), stage("other", other)
    with Interleaving() as loads:
        loads.start("one", lambda: load_staged(first, mode="merge", keys=keys))
        loads.run_until("one", lambda statement: "EXCHANGE" in statement or "MERGE INTO" in statement)
        loads.start("other", lambda: load_staged(second, mode=mode, keys=keys if mode == "merge" else None))
        assert loads.finish("other")["rows"] == other.num_rows
        result = loads.finish("one")
    if isinstance(result, Exception):
        assert isinstance(result, D1WarehouseError)
        assert result.retryable
        load_staged(first, mode="merge", keys=keys)
    expected = {} if mode == "replace" else {row["id"]: row["v"] for row in old.to_pylist()}
    for table in (other, one):
        expected.update((row["id"], row["v"]) for row in table.to_pylist())
    assert sorted(engine.rows(schema, "users")) == sorted(expected.items())
    assert engine.tables(schema) == {"users", "_d1_loads"}
