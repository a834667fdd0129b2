"""What people have done to a loaded table stays when its rows are replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.integration.warehouses.staged import write_staged

USERS = pa.table({"id": [1, 2], "name": ["Ada", None]})
MORE = pa.table({"id": [2, 3], "name": ["Grace", ""]})
ADDED = pa.table({"id": [4, 5], "name": ["Alan", "Edsger"]})

#: engine → statements on the table {t}, and a query that shows what they did
TOUCHED = {
    "duckdb": (
        [
            "ALTER TABLE {t} ALTER COLUMN id SET NOT NULL",
            "ALTER TABLE {t} ADD PRIMARY KEY (id)",
            "CREATE INDEX by_name ON {t} (name)",
            "COMMENT ON TABLE {t} IS 'people'",
            "COMMENT ON COLUMN {t}.name IS 'what they are called'",
            "ALTER TABLE {t} ALTER COLUMN name SET DEFAULT 'nobody'",
            "CREATE VIEW {v} AS SELECT name FROM {t}",
        ],
        (
            "SELECT t.sql, t.comment, "
            "(SELECT list(c.comment) FROM duckdb_columns() c WHERE c.table_oid = t.table_oid), "
            "(SELECT list(i.index_name) FROM duckdb_indexes() i WHERE i.table_oid = t.table_oid) "
            "FROM duckdb_tables() t WHERE table_name = 'users'"
        ),
    ),
    "clickhouse": (
        [
            "DROP TABLE {t}",
            (
                "CREATE TABLE {t} (id Nullable(Int64) CODEC(ZSTD(3)), "
                "name Nullable(String) DEFAULT 'nobody' COMMENT 'n') "
                "ENGINE = MergeTree PARTITION BY ifNull(id, 0) % 2 ORDER BY (ifNull(id, 0)) "
                "TTL toDate('2100-01-01') + toIntervalDay(ifNull(id, 0)) SETTINGS index_granularity = 1024 "
                "COMMENT 'people'"
            ),
            "ALTER TABLE {t} ADD INDEX by_name name TYPE bloom_filter",
            "CREATE VIEW {v} AS SELECT name FROM {t}",
        ],
        "SELECT replaceRegexpOne(create_table_query, 'UUID .*? ', '') FROM system.tables WHERE name = 'users'",
    ),
}


@pytest.fixture(params=list(TOUCHED))
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    engine = request.getfixturevalue(f"{request.param}_engine")
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", engine.airflow_connection())
    return engine


def test_rows_are_replaced_and_the_table_stays(engine, schema, load_staged, tmp_path: Path) -> None:
    uris = []
    for number, content in enumerate((USERS, MORE)):
        folder = tmp_path / str(number)
        folder.mkdir()
        uris.append(write_staged(folder, {"users": content}, bookmark=str(number)))
    load_staged(uris[0])
    statements, query = TOUCHED[engine.name]
    names = {"t": engine.quoted(schema, "users"), "v": engine.quoted(schema, "names")}
    for statement in statements:
        engine.execute(statement.format(**names))
    query += f" AND {'database' if engine.name == 'clickhouse' else 'schema_name'} = '{schema}'"
    before = engine.execute(query)
    assert "people" in str(before)
    for _ in range(2):
        load_staged(uris[1])
        assert engine.execute(query) == before
        assert sorted(engine.rows(schema, "users")) == [(2, "Grace"), (3, "")]
        assert sorted(engine.execute(f"SELECT * FROM {names['v']}")) == [("",), ("Grace",)]
    assert engine.tables(schema) - {"names"} == {"users", "_d1_loads"}


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_append_and_merge_keep_the_table(engine, schema, load_staged, tmp_path: Path, mode) -> None:
    uris = []
    for number, content in enumerate((USERS, ADDED)):
        folder = tmp_path / str(number)
        folder.mkdir()
        uris.append(write_staged(folder, {"users": content}, bookmark=str(number), keys={"users": ["id"]}))
    load_staged(uris[0])
    statements, query = TOUCHED[engine.name]
    names = {"t": engine.quoted(schema, "users"), "v": engine.quoted(schema, "names")}
    for statement in statements:
        engine.execute(statement.format(**names))
    load_staged(uris[0], replace_strategy="rows")
    query += f" AND {'database' if engine.name == 'clickhouse' else 'schema_name'} = '{schema}'"
    before = engine.execute(query)
    load_staged(uris[1], mode=mode)
    assert engine.execute(query) == before
    expected = sorted(tuple(row.values()) for table in (USERS, ADDED) for row in table.to_pylist())
    assert sorted(engine.rows(schema, "users")) == expected
    assert len(engine.execute(f"SELECT * FROM {names['v']}")) == len(expected)


def test_a_swap_that_would_lose_something_is_refused(engine, schema, load_staged, tmp_path: Path) -> None:
    uris = []
    for number, content in enumerate((USERS, MORE, MORE.append_column("email", MORE["name"]))):
        folder = tmp_path / str(number)
        folder.mkdir()
        uris.append(write_staged(folder, {"users": content}, bookmark=str(number)))
    load_staged(uris[0])
    load_staged(uris[1], replace_strategy="swap")  # nothing is attached yet
    assert sorted(engine.rows(schema, "users")) == [(2, "Grace"), (3, "")]
    statements, _ = TOUCHED[engine.name]
    names = {"t": engine.quoted(schema, "users"), "v": engine.quoted(schema, "names")}
    for statement in statements:
        engine.execute(statement.format(**names))
    for uri, strategy in ((uris[0], "swap"), (uris[2], "auto"), (uris[2], "swap")):
        with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*would not have .*index"):
            load_staged(uri, replace_strategy=strategy)
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*Run ALTER TABLE .*email"):
        load_staged(uris[2], replace_strategy="rows")
    load_staged(uris[0], replace_strategy="rows")
    assert sorted(engine.rows(schema, "users")) == sorted(tuple(row.values()) for row in USERS.to_pylist())
