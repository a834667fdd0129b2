"""ClickHouse: materialized views, and appends where a node lists not all parts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses.clickhouse import ClickHouse, ClickHouseSession
from airflow_provider_d1.warehouses.clickhouse_parts import SETTINGS
from tests.integration.warehouses.interleaving import Interleaving
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID

USERS = pa.table({"id": [1, 2]})
MORE = pa.table({"id": [3, 4, 5]})


@pytest.fixture
def engine(clickhouse_engine, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", clickhouse_engine.airflow_connection())
    return clickhouse_engine


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    found = []
    for number, content in enumerate((USERS, MORE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        found.append(write_staged(folder, {"users": content}, bookmark=str(number), keys={"users": ["id"]}))
    return found


@pytest.fixture
def table(engine, schema, load_staged, uris) -> str:
    """A table with two rows, quoted."""
    load_staged(uris[0])
    return engine.quoted(schema, "users")


@pytest.fixture
def ids(engine, schema, table) -> Callable[[], list[int]]:
    """A materialized view, and its rows."""
    view = engine.quoted(schema, "ids")
    engine.execute(f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY tuple() AS SELECT id FROM {table}")
    return lambda: [number for (number,) in engine.rows(schema, "ids")]


def add(engine: Any, table: str, numbers: list[int]) -> None:
    for number in numbers:
        engine.execute(f"INSERT INTO {table} VALUES ({number})")


def in_table(engine: Any, schema: str) -> list[Any]:
    return sorted(row[0] for row in engine.rows(schema, "users"))


def test_an_append_feeds_materialized_views(engine, schema, load_staged, stage, table, ids, caplog) -> None:
    """Also one in another database, and one that reads another one's target; and with a column that is new."""
    other = f"{schema} of others"
    total, doubled = (engine.quoted(other, name) for name in ("total", "doubled"))
    engine.execute(f"CREATE DATABASE {engine.quoted(other)}")
    for name in (total, doubled):
        engine.execute(f"CREATE TABLE {name} (number Int64) ENGINE = MergeTree ORDER BY number")
    query = f"SELECT assumeNotNull(sum(id)) AS number FROM {table}"
    engine.execute(f"CREATE MATERIALIZED VIEW {engine.quoted(other, 'sums')} TO {total} AS {query}")
    query = f"SELECT number * 2 AS number FROM {total}"
    engine.execute(f"CREATE MATERIALIZED VIEW {engine.quoted(other, 'doubling')} TO {doubled} AS {query}")
    refreshed = f"{engine.quoted(schema, 'refreshed')} REFRESH EVERY 1 YEAR ENGINE = MergeTree ORDER BY tuple() EMPTY"
    engine.execute(f"CREATE MATERIALIZED VIEW {refreshed} AS SELECT id FROM {table}")
    more = stage({"users": pa.table({"id": [3, 4, 5], "new": ["a", "b", None]})})
    with caplog.at_level("INFO"):
        load_staged(more, mode="append")
    assert in_table(engine, schema) == [1, 2, 3, 4, 5]
    assert ids() == [3, 4, 5]
    assert engine.rows(other, "total") == [(12,)]
    assert engine.rows(other, "doubled") == [(24,)]
    assert f"table=users materialized_views={other}.sums, {schema}.ids get_rows=true" in caplog.text
    load_staged(more, mode="append")
    assert ids() == [3, 4, 5]


def test_rows_of_an_append_are_those_of_a_table_without_views(engine, schema, load_staged, stage) -> None:
    """Columns that the table has beside the staged ones, and its partitions."""
    columns = """id Nullable(Int64), e Int64 EPHEMERAL 5, by_default Int64 DEFAULT ifNull(id, 0) + e,
        materialized Int64 MATERIALIZED ifNull(id, 0) * 2, alias Int64 ALIAS ifNull(id, 0) * 3,
        kept String DEFAULT 'k'"""
    names = "id, by_default, materialized, alias, kept, _partition_id"
    rows = {}
    engine.execute(f"CREATE DATABASE {engine.quoted(schema)}")
    for name in ("users", "viewed"):
        table, view = engine.quoted(schema, name), engine.quoted(schema, f"view of {name}")
        order = "PARTITION BY ifNull(id, 0) % 3 ORDER BY tuple()"
        engine.execute(f"CREATE TABLE {table} ({columns}) ENGINE = MergeTree {order}")
        engine.execute(f"INSERT INTO {table} (id, e, kept) VALUES (1, 2, 'l')")
        if name == "viewed":
            query = f"SELECT id, by_default, materialized, kept FROM {table}"
            engine.execute(f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY tuple() AS {query}")
        load_staged(stage({name: pa.table({"id": [2, None, 3, 4, 4]})}), mode="append")
        rows[name] = sorted(engine.execute(f"SELECT {names} FROM {table}"), key=repr)
    assert len(rows["users"]) == 6
    assert rows["viewed"] == rows["users"]
    viewed = [tuple(row[i] for i in (0, 1, 2, 4)) for row in rows["viewed"] if row[0] != 1]
    assert sorted(engine.rows(schema, "view of viewed"), key=repr) == sorted(viewed, key=repr)


#: what an administrator may have set for the loader's user
PROFILES = {
    "default": {},
    "small blocks": {
        "max_insert_block_size": 300_000,
        "min_insert_block_size_rows": 200_000,
        "min_insert_block_size_bytes": 100_000,
        "use_strict_insert_block_limits": 1,
    },
    "deduplication": {
        "deduplicate_insert_select": "enable_even_for_bad_queries",
        "min_insert_block_size_bytes": 1_000_000,
    },
}


@pytest.mark.parametrize("profile", PROFILES)
def test_each_partition_is_one_block(engine, schema, load_staged, stage, profile, monkeypatch) -> None:
    """More rows than ClickHouse inserts in one block by default, 1,048,449: the view has one row for each block.

    The helper table's two parts have the same keys, which the engine would merge in one INSERT.
    """
    for name, value in PROFILES[profile].items():
        monkeypatch.setitem(SETTINGS, name, value)
    engine.execute(f"CREATE DATABASE {engine.quoted(schema)}")
    table, blocks = engine.quoted(schema, "users"), engine.quoted(schema, "blocks")
    no_merges = "max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"
    options = f"{no_merges}, allow_nullable_key = 1, non_replicated_deduplication_window = 9"
    definition = f"ENGINE = ReplacingMergeTree PARTITION BY id < 0 ORDER BY id SETTINGS {options}"
    engine.execute(f"CREATE TABLE {table} (id Nullable(Int64)) {definition}")
    query = f"SELECT count() AS number FROM {table}"
    engine.execute(f"CREATE MATERIALIZED VIEW {blocks} ENGINE = MergeTree ORDER BY number AS {query}")
    rows = pa.table({"id": [*range(1_300_000), *range(100_000), -1]})
    parts = "SELECT partition_id, rows FROM system.parts WHERE active AND table = 'users' AND database = "
    for number in (1, 2):
        load_staged(stage({"users": rows}, rows_in_part=400_000), mode="append")
        assert engine.rows(schema, "blocks") == sorted([(1,), (1_400_000,)] * number, key=repr)
        found = engine.execute(f"{parts}'{schema}' ORDER BY partition_id")
        assert found == sorted([("0", 1_400_000), ("1", 1)] * number)


FAILING = {
    "query": "SELECT throwIf(ifNull(id, 0) = 4) AS failed FROM {table}",
    "target": "SELECT if(id = 4, NULL, id) AS id FROM {table}",
}


@pytest.mark.parametrize("failing", FAILING)
def test_a_view_that_fails_does_not_fail_the_load(
    engine, schema, load_staged, uris, table, ids, failing, caplog
) -> None:
    """The rows are in the table: an attempt after this one would add them again."""
    target, view = engine.quoted(schema, "target"), engine.quoted(schema, "failing")
    engine.execute(f"CREATE TABLE {target} (id Int64, failed UInt8) ENGINE = MergeTree ORDER BY tuple()")
    engine.execute(f"CREATE MATERIALIZED VIEW {view} TO {target} AS {FAILING[failing].format(table=table)}")
    with caplog.at_level("WARNING"):
        assert load_staged(uris[1], mode="append")["rows"] == 3
    assert in_table(engine, schema) == [1, 2, 3, 4, 5]
    assert engine.loads(schema)[-1][2:] == ("1", 3, "append")
    assert f"materialized_views={schema}.failing, {schema}.ids may lack rows of this load: " in caplog.text
    assert f"while pushing to view {schema.split()[0]}" in caplog.text.replace("`", "")
    assert load_staged(uris[1], mode="append")["tables"]["users"]["skipped"]
    assert in_table(engine, schema) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(("held", "added"), [([], [7, 8, 9]), ([3, 4, 5], [])], ids=["as many rows", "equal rows"])
def test_an_insert_that_did_not_come_to_the_table_fails_the_load(
    engine, schema, load_staged, uris, table, ids, monkeypatch, held, added
) -> None:
    """A view without its target. Rows that others add at that moment, or had added before, are not taken for these."""
    target, view = engine.quoted(schema, "target"), engine.quoted(schema, "failing")
    engine.execute(f"CREATE TABLE {target} (id Int64) ENGINE = MergeTree ORDER BY tuple()")
    engine.execute(f"CREATE MATERIALIZED VIEW {view} TO {target} AS SELECT assumeNotNull(id) AS id FROM {table}")
    add(engine, table, held)
    whole = ClickHouseSession.rows

    def beside_another(self: ClickHouseSession, statement: str) -> list[tuple[Any, ...]]:
        if statement.startswith(f"INSERT INTO {table}"):
            add(engine, table, added)
            engine.execute(f"DROP TABLE {target} SYNC")
        return whole(self, statement)

    with monkeypatch.context() as patch:
        patch.setattr(ClickHouseSession, "rows", beside_another)
        with pytest.raises(AirflowFailException, match=r"Target table .*target.* of view"):
            load_staged(uris[1], mode="append")
    assert in_table(engine, schema) == [1, 2, *held, *added]
    assert len(engine.loads(schema)) == 1
    engine.execute(f"DROP VIEW {view} SYNC")
    assert load_staged(uris[1], mode="append")["rows"] == 3
    assert in_table(engine, schema) == sorted([1, 2, 3, 4, 5, *held, *added])
    assert ids() == sorted([3, 4, 5, *held, *added])


def test_a_connection_that_breaks_while_the_server_goes_on(
    engine, schema, load_staged, uris, table, ids, monkeypatch
) -> None:
    """The load waits for the rows, which another attempt would add again."""
    from clickhouse_connect.driver.exceptions import OperationalError

    whole, started = ClickHouseSession.rows, []

    def broken(self: ClickHouseSession, statement: str) -> list[tuple[Any, ...]]:
        if not statement.startswith(f"INSERT INTO {table}"):
            return whole(self, statement)
        slow = statement.replace("SELECT `id`", "SELECT if(sleepEachRow(0.5) = 0, `id`, 0)")
        started.append(Thread(target=engine.execute, args=[slow]))
        started[0].start()
        while engine.execute("SELECT 1 FROM system.processes WHERE query LIKE 'INSERT%sleepEachRow%'") == []:
            sleep(0.01)
        raise OperationalError("Connection aborted")

    monkeypatch.setattr(ClickHouseSession, "rows", broken)
    assert load_staged(uris[1], mode="append")["rows"] == 3
    started[0].join()
    assert in_table(engine, schema) == [1, 2, 3, 4, 5]
    assert ids() == [3, 4, 5]
    assert engine.loads(schema)[-1][2:] == ("1", 3, "append")


@pytest.mark.parametrize("viewed", [False, True])
def test_a_connection_that_breaks_between_two_partitions(
    engine, schema, load_staged, stage, monkeypatch, viewed
) -> None:
    """With and without a view: the first partition stays, and the next attempt adds its rows again."""
    from clickhouse_connect.driver.exceptions import OperationalError

    engine.execute(f"CREATE DATABASE {engine.quoted(schema)}")
    table, view = engine.quoted(schema, "users"), engine.quoted(schema, "ids")
    order = "PARTITION BY ifNull(id, 0) % 2 ORDER BY tuple()"
    engine.execute(f"CREATE TABLE {table} (id Nullable(Int64)) ENGINE = MergeTree {order}")
    if viewed:
        engine.execute(
            f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY id AS SELECT ifNull(id, 0) AS id FROM {table}"
        )
    uri = stage({"users": pa.table({"id": [1, 2, 3]})})
    whole, published = ClickHouseSession.rows, []

    def breaking(self: ClickHouseSession, statement: str) -> list[tuple[Any, ...]]:
        if statement.startswith((f"INSERT INTO {table}", f"ALTER TABLE {table} ATTACH")):
            published.append(statement)
            if len(published) == 2:
                raise OperationalError("Connection aborted")
        return whole(self, statement)

    with monkeypatch.context() as patch:
        patch.setattr(ClickHouseSession, "rows", breaking)
        with pytest.raises(D1WarehouseError, match="Connection aborted") as failure:
            load_staged(uri, mode="append")
    assert failure.value.retryable
    assert in_table(engine, schema) == [2]
    assert engine.loads(schema) == []
    load_staged(uri, mode="append")
    assert in_table(engine, schema) == [1, 2, 2, 3]
    if viewed:
        assert engine.rows(schema, "ids") == [(1,), (2,), (2,), (3,)]


def test_a_type_that_another_load_changes_is_no_reason_to_convert(
    engine, schema, load_staged, stage, table, ids
) -> None:
    """An INSERT converts 2**53 + 1 to a double, and rounds it; the next attempt sees that the column is one."""
    exact, wider = (stage({"users": pa.table({"id": [number]})}) for number in (2**53 + 1, 0.5))
    with Interleaving() as loads:
        loads.start("one", lambda: load_staged(exact, mode="append"))
        loads.run_until("one", lambda statement: "FORMAT ArrowStream" in statement)
        loads.start("other", lambda: load_staged(wider, mode="append"))
        assert loads.finish("other")["rows"] == 1
        error = loads.finish("one")
    assert isinstance(error, D1WarehouseError)
    assert error.retryable
    assert "'users': something else changed the types of columns (id)" in str(error)
    assert in_table(engine, schema) == [0.5, 1.0, 2.0]
    with pytest.raises(AirflowFailException, match="too large to be exact"):
        load_staged(exact, mode="append")


@pytest.mark.parametrize("mode", ["replace", "merge"])
def test_rows_that_take_the_place_of_others_are_not_fed(
    engine, schema, load_staged, stage, uris, table, ids, mode, caplog
) -> None:
    """A view that adds rows up would count them again with each load; later rows are fed, as the views stay."""
    with caplog.at_level("WARNING"):
        load_staged(uris[1], mode=mode)
    assert in_table(engine, schema) == ([3, 4, 5] if mode == "replace" else [1, 2, 3, 4, 5])
    assert ids() == []
    assert f"table=users materialized_views={schema}.ids get_rows=false" in caplog.text
    engine.execute(f"INSERT INTO {table} VALUES (9)")
    assert ids() == [9]
    load_staged(stage({"users": pa.table({"id": [10, 11]})}), mode="append")
    assert ids() == [10, 11, 9]


def test_an_append_that_rebuilds_the_table_feeds_no_view(engine, schema, load_staged, stage, ids, caplog) -> None:
    """A column with a wider type: the table is exchanged, with its old rows."""
    with caplog.at_level("WARNING"):
        load_staged(stage({"users": pa.table({"id": [3.5]})}), mode="append")
    assert in_table(engine, schema) == [1.0, 2.0, 3.5]
    assert ids() == []
    assert f"table=users materialized_views={schema}.ids get_rows=false" in caplog.text


def test_a_column_with_the_name_of_the_partitions_feeds_no_view(engine, schema, load_staged, stage, caplog) -> None:
    """It hides the virtual column, by which the rows of a partition are inserted."""
    users = {"id": [1, 2], "_partition_id": ["a", "b"]}
    load_staged(stage({"users": pa.table(users)}))
    table, view = engine.quoted(schema, "users"), engine.quoted(schema, "ids")
    engine.execute(f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY tuple() AS SELECT id FROM {table}")
    with caplog.at_level("WARNING"):
        load_staged(stage({"users": pa.table(users)}), mode="append")
    assert in_table(engine, schema) == [1, 1, 2, 2]
    assert f"table=users materialized_views={schema}.ids get_rows=false" in caplog.text


def test_a_table_without_views_gets_its_rows_without_a_copy(load_staged, table, uris, caplog) -> None:
    with caplog.at_level("INFO"):
        load_staged(uris[1], mode="append")
    assert "ATTACH PARTITION ID" in caplog.text
    assert "materialized_views" not in caplog.text


def test_too_little_memory_is_named_with_the_remedy(
    engine, schema, load_staged, stage, table, ids, monkeypatch
) -> None:
    """The table is unchanged, and the task may be tried again: the server may have had other work."""
    whole = ClickHouseSession.rows

    def with_little_memory(self: ClickHouseSession, statement: str) -> list[tuple[Any, ...]]:
        less = statement.replace("SETTINGS ", "SETTINGS max_memory_usage = 20000000, ")
        return whole(self, less if statement.startswith(f"INSERT INTO {table}") else statement)

    monkeypatch.setattr(ClickHouseSession, "rows", with_little_memory)
    with pytest.raises(D1WarehouseError, match=r"Code: 241.* Load fewer rows at a time.*max_memory_usage") as failure:
        load_staged(stage({"users": pa.table({"id": list(range(2_000_000))})}, rows_in_part=500_000), mode="append")
    assert failure.value.retryable
    assert in_table(engine, schema) == [1, 2]


def test_a_node_that_lists_not_all_parts_fails_the_append(engine, schema, load_staged, uris, monkeypatch) -> None:
    """Else rows would be missing, and the load recorded; the next attempt finds them."""
    load_staged(uris[0])
    whole = ClickHouseSession.rows

    def lagging(self: ClickHouseSession, statement: str) -> list[tuple[Any, ...]]:
        found = whole(self, statement)
        return found[:-1] if "system.parts" in statement else found

    with monkeypatch.context() as patch:
        patch.setattr(ClickHouseSession, "rows", lagging)
        with pytest.raises(D1WarehouseError, match=r"'users' is unchanged.*with 0 of 3 loaded rows") as failure:
            load_staged(uris[1], mode="append")
    assert failure.value.retryable
    assert len(engine.rows(schema, "users")) == 2
    assert load_staged(uris[1], mode="append")["rows"] == 3
    assert len(engine.rows(schema, "users")) == 5


def test_queries_ask_for_all_rows_of_other_nodes(engine, load_staged, uris, monkeypatch) -> None:
    """In ClickHouse Cloud a query may run on a node that has not the rows of the last INSERT yet."""
    settings = []
    whole = ClickHouse.check_targets

    def asking(self: ClickHouse, run: Any) -> None:
        settings.extend(run.session.rows("SELECT getSetting('select_sequential_consistency')"))
        whole(self, run)

    monkeypatch.setattr(ClickHouse, "check_targets", asking)
    load_staged(uris[0])
    assert settings == [(1,)]
