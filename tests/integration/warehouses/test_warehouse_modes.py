"""Replace and append: once and twice, with another export, with columns that come, go and widen."""

from __future__ import annotations

import datetime as dt
import json
import re
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.integration.warehouses.staged import edit_manifest
from tests.unit.warehouses.warehouse_plans import ENGINES


def table(**columns: list[Any]) -> pa.Table:
    types = {int: pa.int64(), float: pa.float64(), str: pa.string(), bytes: pa.binary()}
    arrays = {}
    for name, values in columns.items():
        kind = next((type(value) for value in values if value is not None), str)
        arrays[name] = pa.array(values, types[kind])
    return pa.table(arrays)


USERS = table(id=[1, 2], name=["Ada", None])
MORE = table(id=[3, 4], name=["Grace", ""])


def rows(*values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return sorted(values, key=repr)


def held(engine, schema, name="users") -> list[tuple[Any, ...]]:
    return sorted(engine.rows(schema, name), key=repr)


def test_what_a_load_returns(engine, schema, load_staged, stage) -> None:
    uri = stage({"users": USERS, "nobody": USERS.slice(0, 0)})
    result = load_staged({"manifest": uri, "rows": 2, "tables": {}})
    kind = {"postgres": "COPY", "mysql": "INSERT", "duckdb": "CREATE TABLE AS", "clickhouse": "INSERT"}[engine.name]
    assert result == {
        "manifest": uri,
        "database_id": "11111111-2222-3333-4444-555555555555",
        "bookmark": "bookmark-1",
        "mode": "replace",
        "skipped": False,
        "rows": 2,
        "tables": {
            "users": {"rows": 2, "table": engine.quoted(schema, "users"), "statement": kind},
            "nobody": {"rows": 0, "table": engine.quoted(schema, "nobody"), "statement": kind},
        },
        "missing_in_source": [],
    }
    assert engine.rows(schema, "nobody") == []
    assert engine.loads(schema) == [
        (name, result["database_id"], "bookmark-1", count, "replace") for name, count in (("users", 2), ("nobody", 0))
    ]


def test_replace_takes_the_new_shape_and_leaves_other_tables_alone(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS, "orders": MORE}))
    load_staged(stage({"users": table(name=["Ada"], email=["a@example.com"])}))
    assert engine.columns(schema, "users") == [("name", engine.types["string"]), ("email", engine.types["string"])]
    assert held(engine, schema) == [("Ada", "a@example.com")]
    assert held(engine, schema, "orders") == rows((3, "Grace"), (4, ""))
    assert engine.tables(schema) == {"users", "orders", "_d1_loads"}


def test_a_table_is_never_taken_for_one_of_another_case(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"Users": USERS}))
    if engine.name != "duckdb":
        load_staged(stage({"users": MORE}))
        assert engine.tables(schema) == {"Users", "users", "_d1_loads"}
    else:
        for mode in ("replace", "append"):
            with pytest.raises(AirflowFailException, match=r"'users'.*'Users'.*case-insensitive"):
                load_staged(stage({"users": MORE}), mode=mode)
        load_staged(stage({"Users": USERS}))
    assert held(engine, schema, "Users") == rows((1, "Ada"), (2, None))


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_view_in_the_place_of_a_table_stays(engine, schema, load_staged, stage, mode) -> None:
    load_staged(stage({"users": USERS}))
    path = engine.quoted(schema, "report")
    engine.execute(f"CREATE VIEW {path} AS SELECT * FROM {engine.quoted(schema, 'users')}")
    with pytest.raises(AirflowFailException, match=r"report"):
        load_staged(stage({"report": USERS}), mode=mode)
    assert sorted(engine.execute(f"SELECT * FROM {path}"), key=repr) == rows((1, "Ada"), (2, None))


def test_only_the_tables_asked_for(engine, schema, load_staged, stage) -> None:
    uri = stage({"users": USERS, "Orders": MORE, "other": MORE})
    assert list(load_staged(uri, tables=["Orders"])["tables"]) == ["Orders"]
    assert engine.tables(schema) == {"Orders", "_d1_loads"}
    with pytest.raises(AirflowFailException, match=r"no table 'orders'.*'Orders'"):
        load_staged(uri, tables=["orders"])


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_append_adds_each_export_once(engine, schema, load_staged, stage, file_format) -> None:
    first, second = stage({"users": USERS}, file_format), stage({"users": MORE}, file_format)
    assert load_staged(first, mode="append")["rows"] == 2
    assert load_staged(second, mode="append")["rows"] == 2
    for uri in (first, second):
        result = load_staged(uri, mode="append")
        assert result["skipped"] is True
        assert result["tables"]["users"]["rows"] == 0
    assert held(engine, schema) == rows((1, "Ada"), (2, None), (3, "Grace"), (4, ""))


def test_the_same_bookmark_of_another_database_is_another_export(engine, schema, load_staged, stage) -> None:
    for database in ("a", "b", "a"):
        load_staged(stage({"users": USERS}, bookmark="same", database_id=database), mode="append")
    assert len(held(engine, schema)) == 4


def test_without_a_bookmark_the_dump_is_the_export(engine, schema, load_staged, stage) -> None:
    anonymous = {"bookmark": None, "database_id": None, "database_name": None}
    for content in (USERS, USERS, MORE):
        load_staged(stage({"users": content}, **anonymous), mode="append")
    assert held(engine, schema) == rows((1, "Ada"), (2, None), (3, "Grace"), (4, ""))


def test_what_was_just_replaced_is_not_appended(engine, schema, load_staged, stage) -> None:
    first, second = stage({"users": USERS}), stage({"users": MORE})
    load_staged(first)
    assert load_staged(first, mode="append")["skipped"] is True
    load_staged(second)
    # the first export has gone from the table with the second replace, so it is not loaded any more
    assert load_staged(first, mode="append")["skipped"] is False
    assert len(held(engine, schema)) == 4


def test_a_clock_that_is_put_back_appends_nothing_twice(engine, schema, load_staged, stage, monkeypatch) -> None:
    first, second = stage({"users": USERS}), stage({"users": MORE})
    load_staged(first)
    monkeypatch.setattr(type(ENGINES[engine.name]), "now", "'2000-01-01 00:00:00'")
    for skipped in (False, True, True):
        assert load_staged(second, mode="append")["skipped"] is skipped
    assert len(held(engine, schema)) == 4
    load_staged(first)
    assert load_staged(second, mode="append")["skipped"] is False
    assert len(held(engine, schema)) == 4


def test_a_schema_that_is_there_is_not_made(engine, load_staged, stage, caplog) -> None:
    """CREATE SCHEMA IF NOT EXISTS needs the right to create one. The schema's name has capitals."""
    load_staged(stage({"users": USERS}))
    caplog.clear()
    load_staged(stage({"users": USERS}))
    assert "INSERT INTO" in caplog.text
    assert not re.search("CREATE (SCHEMA|DATABASE)", caplog.text)


def test_tables_that_the_database_no_longer_has_are_named(engine, schema, load_staged, stage, tmp_path) -> None:
    load_staged(stage({"users": USERS, "old": MORE, "shared": MORE}))
    load_staged(stage({"shared": MORE}, database_id="another"), mode="append")
    suffix = "ENGINE = MergeTree ORDER BY tuple() " if engine.name == "clickhouse" else ""
    copy = f"{suffix}AS SELECT * FROM {engine.quoted(schema, 'users')}"
    engine.execute(f"CREATE TABLE {engine.quoted(schema, 'mine')} {copy}")
    for mode in ("replace", "append"):
        result = load_staged(stage({"users": USERS}), mode=mode)
        assert result["missing_in_source"] == ["old", "shared"]
    # an export of some tables does not say what else there is, and a table that was left out is still there
    some, left_out = stage({"users": USERS}), stage({"users": USERS})
    edit_manifest(tmp_path / "export 5", lambda manifest: manifest["source"]["options"].update(tables=["users"]))
    skipped = [{"name": name, "reason": "excluded"} for name in ("old", "shared")]
    edit_manifest(tmp_path / "export 6", lambda manifest: manifest["source"].update(skipped=skipped))
    for uri in (some, left_out):
        result = load_staged(uri, on_missing="drop")
        assert result["missing_in_source"] == []
    assert engine.tables(schema) == {"users", "old", "shared", "mine", "_d1_loads"}

    result = load_staged(stage({"users": USERS}), on_missing="drop")
    assert (result["missing_in_source"], result["dropped"]) == (["old", "shared"], ["old"])
    assert engine.tables(schema) == {"users", "shared", "mine", "_d1_loads"}
    # somebody's table with the name of one that was dropped is not the loader's
    engine.execute(f"CREATE TABLE {engine.quoted(schema, 'old')} {copy}")
    assert load_staged(stage({"users": USERS}), on_missing="drop")["missing_in_source"] == ["shared"]
    assert "old" in engine.tables(schema)


def test_a_table_with_something_attached_is_not_dropped(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS, "old": MORE}))
    path = engine.quoted(schema, "old")
    comment = {"clickhouse": f"ALTER TABLE {path} MODIFY COMMENT 'x'", "mysql": f"ALTER TABLE {path} COMMENT 'x'"}
    engine.execute(comment.get(engine.name, f"COMMENT ON TABLE {path} IS 'x'"))
    result = load_staged(stage({"users": USERS}), on_missing="drop")
    assert result["missing_in_source"] == ["old"]
    assert "dropped" not in result
    assert "old" in engine.tables(schema)


def test_an_append_loads_the_tables_that_are_new_to_it(engine, schema, load_staged, stage) -> None:
    uri = stage({"users": USERS, "orders": MORE})
    load_staged(uri, mode="append", tables=["users"])
    result = load_staged(uri, mode="append")
    assert result["skipped"] is False
    assert result["rows"] == 2
    assert result["tables"]["users"]["skipped"] is True
    engine.execute(f"DROP TABLE {engine.quoted(schema, 'users')}")
    assert load_staged(uri, mode="append")["tables"]["users"]["rows"] == 2


def test_append_adds_columns_and_keeps_those_that_were_dropped(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS}), mode="append")
    load_staged(stage({"users": table(id=[3], email=["g@example.com"])}), mode="append")
    assert [name for name, _ in engine.columns(schema, "users")] == ["id", "name", "email"]
    assert held(engine, schema) == rows((1, "Ada", None), (2, None, None), (3, None, "g@example.com"))
    assert engine.tables(schema) == {"users", "_d1_loads"}


@pytest.mark.parametrize(
    ("old", "new", "wide", "values"),
    [
        pytest.param([1, None], [1.5], "float64", [1.0, None, 1.5], id="int64 to float64"),
        pytest.param([1, -(2**63)], ["x"], "string", ["1", str(-(2**63)), "x"], id="int64 to string"),
        pytest.param(
            [1.0, -2.5, -0.0, 1e15, 1e16, 1e21, 1e-7, float("-inf")],
            ["x"],
            "string",
            ["1.0", "-2.5", "0.0", "1000000000000000.0", "10000000000000000.0", "1.0e+21", "1.0e-07", "-Inf", "x"],
            id="float64 to string",
        ),
        pytest.param([b"\x00\xff", b"", None], ["x"], "string", ["00FF", "", None, "x"], id="binary to string"),
    ],
)
def test_append_widens(engine, schema, load_staged, stage, old, new, wide, values) -> None:
    if not engine.holds_infinity:
        old, values = ([v for v in held if v not in (float("-inf"), "-Inf")] for held in (old, values))
    narrow = stage({"t": table(v=old)})
    wider = stage({"t": table(v=new)})
    load_staged(narrow, mode="append")
    load_staged(wider, mode="append")
    assert engine.columns(schema, "t") == [("v", engine.types[wide])]
    texts = [value for (value,) in engine.rows(schema, "t")]
    assert sorted(texts, key=repr) == sorted(values, key=repr)
    # a column that is wider in the warehouse stays wide, and takes the narrow values in the same form
    again = stage({"t": table(v=old)})
    load_staged(again, mode="append")
    assert engine.columns(schema, "t") == [("v", engine.types[wide])]
    texts = [value for (value,) in engine.rows(schema, "t")]
    assert sorted(texts, key=repr) == sorted([*values, *values[: len(old)]], key=repr)


def test_a_column_that_is_not_staged_keeps_its_values_while_another_widens(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"t": table(v=[1], kept=["here"])}), mode="append")
    load_staged(stage({"t": table(v=["x"])}), mode="append")
    assert held(engine, schema, "t") == rows(("1", "here"), ("x", None))


def test_times_widen_to_text(engine, schema, load_staged, stage) -> None:
    moment, midnight = (dt.datetime.fromisoformat(text) for text in ("2024-02-29T12:30:01.25", "2024-02-29"))
    times = pa.table({"v": pa.array([moment, None], pa.timestamp("us"))})
    days = pa.table({"v": pa.array([dt.date(2024, 2, 29)], pa.date32())})
    load_staged(stage({"t": days}), mode="append")
    load_staged(stage({"t": times}), mode="append")
    assert engine.columns(schema, "t") == [("v", engine.types["timestamp[us]"])]
    assert held(engine, schema, "t") == rows((midnight,), (moment,), (None,))
    load_staged(stage({"t": table(v=["soon"])}), mode="append")
    load_staged(stage({"t": times}), mode="append")
    found = [value for (value,) in engine.rows(schema, "t") if value is not None]
    assert sum(value.startswith("2024-02-29 12:30:01.25") for value in found) == 2
    assert sum(value.startswith("2024-02-29 00:00:00") for value in found) == 1


def test_widening_never_rounds(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"t": table(v=[2**53 + 1])}), mode="append")
    with pytest.raises(AirflowFailException, match=r"'t'.*'v'.*ALTER"):
        load_staged(stage({"t": table(v=[0.5])}), mode="append")
    assert engine.rows(schema, "t") == [(2**53 + 1,)]
    assert engine.columns(schema, "t") == [("v", engine.types["int64"])]
    engine.execute(f"DROP TABLE {engine.quoted(schema, 't')}")
    load_staged(stage({"t": table(v=[0.5])}), mode="append")
    with pytest.raises(AirflowFailException, match="'v' holds doubles"):
        load_staged(stage({"t": table(v=[2**53 + 1])}), mode="append")
    assert engine.rows(schema, "t") == [(0.5,)]


def test_a_type_of_somebody_elses_making_is_refused_with_the_statement(engine, schema, load_staged, stage) -> None:
    load_staged(stage({"users": USERS}))
    path, name = engine.quoted(schema, "users"), engine.quoted("id")
    narrow = {
        "postgres": "TYPE integer",
        "mysql": "`id` int",
        "duckdb": "TYPE INTEGER",
        "clickhouse": "Nullable(Int32)",
    }[engine.name]
    verb = "MODIFY COLUMN" if engine.name in ("clickhouse", "mysql") else "ALTER COLUMN"
    engine.execute(f"ALTER TABLE {path} {verb} {'' if engine.name == 'mysql' else name} {narrow}")
    too_large = table(id=[2**40], name=["Eve"])
    with pytest.raises(AirflowFailException, match=rf"'id' is .*; run ALTER TABLE .*{verb}") as failure:
        load_staged(stage({"users": too_large}), mode="append")
    assert engine.types["int64"].partition("(20)")[0] in str(failure.value)
    assert held(engine, schema) == rows((1, "Ada"), (2, None))


HOSTILE = "users'; DROP TABLE victim; --\"`\\"


def test_sql_in_names_and_values_does_nothing(engine, schema, load_staged, stage) -> None:
    victim, attack = USERS, table(**{HOSTILE: [HOSTILE, "'); DROP TABLE victim; --"]})
    hostile_source = {"database_id": HOSTILE, "database_name": HOSTILE, "bookmark": HOSTILE}
    load_staged(stage({"victim": victim}))
    load_staged(stage({HOSTILE: attack}, **hostile_source))
    wider = pa.table({HOSTILE: pa.array([1], pa.int64()), "new '\"`\\": pa.array([b"x"], pa.binary())})
    load_staged(stage({HOSTILE: wider}, **{**hostile_source, "bookmark": HOSTILE * 2}), mode="append")
    assert load_staged(stage({HOSTILE: wider}, **{**hostile_source, "bookmark": HOSTILE * 2}), mode="append")["skipped"]
    assert held(engine, schema, "victim") == rows((1, "Ada"), (2, None))
    assert [name for name, _ in engine.columns(schema, HOSTILE)] == [HOSTILE, "new '\"`\\"]
    assert held(engine, schema, HOSTILE) == rows((HOSTILE, None), ("'); DROP TABLE victim; --", None), ("1", b"x"))
    assert engine.tables(schema) == {"victim", HOSTILE, "_d1_loads"}


def test_a_dry_run_asks_no_server(engine, schema, load_staged, stage, monkeypatch) -> None:
    nowhere = {"conn_type": engine.name, "host": "127.0.0.1", "port": 1, "password": "pa$s/w@rd"}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(nowhere))
    uri = stage({"users": USERS})
    for mode in ("replace", "append"):
        result = load_staged(uri, mode=mode, dry_run=True)
        assert result["rows"] == 0
        assert any(engine.quoted(schema) in statement for statement in result["statements"])
        assert any("_d1_loads" in statement for statement in result["statements"])
        assert "pa$s/w@rd" not in str(result)
    assert not engine.tables(schema)


def test_another_database_is_replaced_only_when_that_is_allowed(engine, schema, load_staged, stage) -> None:
    blog = {"database_id": "blog-id", "database_name": "blog"}
    crm = {"database_id": "crm-id", "database_name": "crm"}
    load_staged(stage({"users": USERS}, **blog))
    with pytest.raises(
        AirflowFailException, match=r"'users' has rows of blog \(blog-id\).*crm \(crm-id\).*allow_other"
    ):
        load_staged(stage({"fine": USERS, "users": MORE}, **crm))
    assert held(engine, schema) == rows((1, "Ada"), (2, None))
    assert engine.tables(schema) == {"users", "_d1_loads"}
    load_staged(stage({"users": MORE}, **crm), allow_other_database=True)
    load_staged(stage({"users": MORE}, **crm))
    # rows of several databases in one table
    load_staged(stage({"users": USERS}, **blog), mode="append")
    with pytest.raises(AirflowFailException, match=r"has rows of blog"):
        load_staged(stage({"users": MORE}, **crm))
    assert len(held(engine, schema)) == 4
    # a table that somebody dropped belongs to no database
    engine.execute(f"DROP TABLE {engine.quoted(schema, 'users')}")
    load_staged(stage({"users": MORE}, **crm))
    assert held(engine, schema) == rows((3, "Grace"), (4, ""))


def test_an_export_without_data_is_not_the_full_one(engine, schema, load_staged, stage) -> None:
    """Both have the bookmark of the database, which did not change between them."""
    for content, loaded in ((USERS.slice(0, 0), 0), (USERS, 2), (USERS, 0)):
        assert load_staged(stage({"users": content}, bookmark="same"), mode="append")["rows"] == loaded
    assert held(engine, schema) == rows((1, "Ada"), (2, None))
