"""``mode="merge"``: rows by their keys, on the warehouses that run here; the end is compared with a dict's update."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.integration.warehouses.staged import edit_manifest
from tests.integration.warehouses.warehouse_engines import WITH_FAKESNOW, Engine, new_schema
from tests.unit.warehouses.warehouse_plans import ENGINES

KEYS = {"users": ["id"]}
OLD = pa.table(
    {"id": [1, 2, 3, 4], "name": ["Ada", None, "Grace", ""], "x": [1.5, 2.5, None, -0.0], "b": [b"\0", b"", None, b"z"]}
)
NEW = pa.table(
    {"id": [3, 2, 9], "name": [None, "it's \\ \n", "Alan"], "x": [2.5, None, 1e300], "b": [b"\xff", None, b""]}
)


@pytest.fixture(params=WITH_FAKESNOW)
def engine(request: pytest.FixtureRequest, connected: Callable[[str], Engine]) -> Engine:
    return connected(request.param)


@pytest.fixture
def schema(engine: Engine) -> str:
    return new_schema(engine)


@pytest.fixture
def stage(stage):
    def write(users: pa.Table, key: list[str] | None = None, **options: Any) -> str:
        return stage({"users": users}, **{"keys": KEYS if key is None else {"users": key}, **options})

    return write


def values(table: pa.Table) -> list[tuple[Any, ...]]:
    return sorted((tuple(row.values()) for row in table.to_pylist()), key=repr)


def merged(old: pa.Table, new: pa.Table, *key: str, keep: bool = True) -> list[tuple[Any, ...]]:
    rows: dict[Any, tuple[Any, ...]] = {}
    for table in (old, new) if keep else (new,):
        for row in table.to_pylist():
            rows[tuple(row[name] for name in key)] = tuple(row.values())
    return sorted(rows.values(), key=repr)


def held(engine: Engine, schema: str) -> list[tuple[Any, ...]]:
    return sorted(engine.rows(schema, "users"), key=repr)


def test_rows_are_changed_by_their_key_and_added(engine, schema, load_staged, stage) -> None:
    assert load_staged(stage(OLD), mode="merge")["rows"] == 4
    assert held(engine, schema) == values(OLD)
    uri = stage(NEW, rows_in_part=2)
    for _ in range(2):
        result = load_staged(uri, mode="merge")
        assert (result["rows"], result["mode"], result["skipped"]) == (3, "merge", False)
        assert held(engine, schema) == merged(OLD, NEW, "id")
    assert engine.tables(schema) == {"users", "_d1_loads"}
    assert [(rows, mode) for _, _, _, rows, mode in engine.loads(schema)] == [(4, "merge"), (3, "merge"), (3, "merge")]


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
def test_text_formats_are_merged_alike(engine, schema, load_staged, stage, file_format) -> None:
    load_staged(stage(OLD))
    uri = stage(NEW, file_format=file_format)
    if not ENGINES[engine.name].reads_text_formats:
        with pytest.raises(AirflowFailException, match="file_format='parquet'"):
            load_staged(uri, mode="merge")
        return
    load_staged(uri, mode="merge")
    assert held(engine, schema) == merged(OLD, NEW, "id")


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_merge_into_what_another_mode_loaded(engine, schema, load_staged, stage, mode) -> None:
    load_staged(stage(OLD), mode=mode)
    new = stage(NEW)
    load_staged(new, mode="merge")
    assert held(engine, schema) == merged(OLD, NEW, "id")
    # what was merged is in the table, so that an append of it adds nothing
    assert load_staged(new, mode="append")["skipped"] is True
    load_staged(stage(OLD))
    assert held(engine, schema) == values(OLD)
    assert load_staged(new, mode="append")["skipped"] is False


def test_rows_that_are_gone_are_deleted_when_asked(engine, schema, load_staged, stage) -> None:
    load_staged(stage(OLD))
    uri = stage(NEW)
    for _ in range(2):
        load_staged(uri, mode="merge", delete_missing=True)
        assert held(engine, schema) == values(NEW)
    load_staged(stage(NEW.slice(0, 0)), mode="merge")
    assert held(engine, schema) == values(NEW)
    load_staged(stage(NEW.slice(0, 0)), mode="merge", delete_missing=True)
    assert held(engine, schema) == []
    assert engine.tables(schema) == {"users", "_d1_loads"}


def test_an_export_without_rows_deletes_none(engine, schema, load_staged, stage, tmp_path) -> None:
    load_staged(stage(OLD))
    uri = stage(NEW.slice(0, 0))
    edit_manifest(tmp_path / "export 2", lambda manifest: manifest["source"]["options"].update(no_data=True))
    with pytest.raises(AirflowFailException, match=r"delete_missing=True.*no_data=True"):
        load_staged(uri, mode="merge", delete_missing=True)
    assert held(engine, schema) == values(OLD)


def test_a_key_of_several_columns_of_any_type(engine, schema, load_staged, stage) -> None:
    columns = {"a": ["x", "x ", "X", "x"], "b": [b"1", b"1", b"1", b"2"], "c": [1.5, 1.5, 1.5, 1.5]}
    old = pa.table({**columns, "v": [1, 2, 3, 4]})
    new = pa.table({**{name: values[1:] + values[:1] for name, values in columns.items()}, "v": [5, 6, None, 8]})
    added = pa.table({"a": ["y", "x"], "b": [b"1", b"1"], "c": [1.5, 2.5], "v": [9, 10]})
    load_staged(stage(old, ["b", "c", "a"]), mode="merge")
    new = pa.concat_tables([new.slice(1), added])
    load_staged(stage(new, ["b", "c", "a"]), mode="merge")
    assert held(engine, schema) == merged(old, new, "b", "c", "a")


def test_the_task_says_which_columns_are_the_key(engine, schema, load_staged, stage) -> None:
    load_staged(stage(OLD, []))
    with pytest.raises(AirflowFailException, match=r"none: 'users'.*keys=\{'users'"):
        load_staged(stage(NEW, []), mode="merge")
    for keys, problem in (
        ({"user": ["id"]}, r"no table 'user'; did you mean 'users'"),
        ({"users": ["nme"]}, r"'users' has no column 'nme'; did you mean 'name'"),
    ):
        with pytest.raises(AirflowFailException, match=problem):
            load_staged(stage(NEW, []), mode="merge", keys=keys)
    assert held(engine, schema) == values(OLD)
    load_staged(stage(NEW, []), mode="merge", keys=KEYS)
    assert held(engine, schema) == merged(OLD, NEW, "id")


@pytest.mark.parametrize("standing", [True, False])
def test_keys_that_do_not_tell_rows_apart_are_refused(engine, schema, load_staged, stage, standing) -> None:
    if standing:
        load_staged(stage(OLD))
    twice = pa.concat_tables([NEW, NEW.slice(1, 1)])
    missing = pa.concat_tables([NEW, NEW.slice(0, 1).set_column(0, "id", pa.array([None], pa.int64()))])
    for content, problem in ((twice, "1 values of it are staged more than once"), (missing, "1 staged rows have NULL")):
        with pytest.raises(AirflowFailException, match=rf"'users' is unchanged.*matched by 'id', and {problem}"):
            load_staged(stage(content), mode="merge")
    if standing:
        assert held(engine, schema) == values(OLD)
    assert not {name for name in engine.tables(schema) if name.startswith("_d1_new_")}


def test_a_key_that_the_table_has_twice_is_refused(engine, schema, load_staged, stage) -> None:
    load_staged(stage(pa.concat_tables([OLD, OLD.slice(1, 1)])))
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*in the warehouse's table more than once"):
        load_staged(stage(NEW), mode="merge")
    assert held(engine, schema) == values(pa.concat_tables([OLD, OLD.slice(1, 1)]))
    # rows that are not staged, and those whose key is NULL, are left alone
    load_staged(stage(NEW.slice(2)), mode="merge")
    assert len(held(engine, schema)) == 6


def test_rows_without_a_key_in_the_table_stay(engine, schema, load_staged, stage) -> None:
    odd = OLD.set_column(0, "id", pa.array([None, None, 3, 4], pa.int64()))
    load_staged(stage(odd))
    load_staged(stage(NEW), mode="merge")
    kept = [row for row in values(odd) if row[0] in (None, 4)]
    assert held(engine, schema) == sorted([*kept, *values(NEW)], key=repr)


def test_columns_come_and_go_as_with_append(engine, schema, load_staged, stage) -> None:
    load_staged(stage(pa.table({"id": [1, 2], "name": ["Ada", "Grace"]})))
    load_staged(stage(pa.table({"id": [2, 3], "email": ["g@example.com", None]})), mode="merge")
    assert held(engine, schema) == sorted([(1, "Ada", None), (2, "Grace", "g@example.com"), (3, None, None)], key=repr)
    with pytest.raises(AirflowFailException, match=r"'users' is unchanged.*has no column 'key'.*mode='replace'"):
        load_staged(stage(pa.table({"key": [1]}), ["key"]), mode="merge")


def test_columns_widen_as_with_append(engine, schema, load_staged, stage) -> None:
    load_staged(stage(pa.table({"id": [1, 2], "v": [1, 2], "more": ["a", "b"]})))
    new = stage(pa.table({"id": ["2", "x"], "v": [0.5, 2.0]}))
    if engine.name == "snowflake":
        with pytest.raises(AirflowFailException, match="has to become wider"):
            load_staged(new, mode="merge")
        return
    for _ in range(2):
        load_staged(new, mode="merge")
        assert held(engine, schema) == sorted([("1", 1.0, "a"), ("2", 0.5, "b"), ("x", 2.0, None)], key=repr)
    load_staged(stage(pa.table({"id": [1, 7], "v": [9, 7]})), mode="merge")
    expected = [("1", 9.0, "a"), ("2", 0.5, "b"), ("7", 7.0, None), ("x", 2.0, None)]
    assert held(engine, schema) == sorted(expected, key=repr)


def test_a_table_of_a_key_only(engine, schema, load_staged, stage) -> None:
    load_staged(stage(pa.table({"id": [1, 2]})))
    load_staged(stage(pa.table({"id": [2, 3]})), mode="merge")
    assert held(engine, schema) == [(1,), (2,), (3,)]
    load_staged(stage(pa.table({"id": [3]})), mode="merge", delete_missing=True)
    assert held(engine, schema) == [(3,)]


def test_another_database_is_merged_into_only_when_that_is_allowed(engine, schema, load_staged, stage) -> None:
    blog = {"database_id": "blog-id", "database_name": "blog"}
    crm = {"database_id": "crm-id", "database_name": "crm"}
    load_staged(stage(OLD, **blog), mode="merge")
    with pytest.raises(AirflowFailException, match=r"'users' has rows of blog \(blog-id\).*crm \(crm-id\)"):
        load_staged(stage(NEW, **crm), mode="merge")
    assert held(engine, schema) == values(OLD)
    load_staged(stage(NEW, **crm), mode="merge", allow_other_database=True)
    assert held(engine, schema) == merged(OLD, NEW, "id")
    for mode in ("merge", "replace"):
        with pytest.raises(AirflowFailException, match=r"'users' has rows of blog"):
            load_staged(stage(NEW, **crm), mode=mode)


def test_a_key_with_an_index_and_other_indexes(engine, schema, load_staged, stage) -> None:
    """The warehouse's own primary key holds while rows change."""
    load_staged(stage(OLD))
    path = engine.quoted(schema, "users")
    statements = {
        "postgres": [f"ALTER TABLE {path} ADD PRIMARY KEY (id)", f"CREATE INDEX ON {path} (name)"],
        "mysql": [f"ALTER TABLE {path} ADD PRIMARY KEY (id)", f"CREATE INDEX by_name ON {path} (name(10))"],
        "duckdb": [f"ALTER TABLE {path} ADD PRIMARY KEY (id)", f"CREATE INDEX by_name ON {path} (name)"],
    }
    for statement in statements.get(engine.name, []):
        engine.execute(statement)
    for delete in (False, True, True):
        load_staged(stage(NEW), mode="merge", delete_missing=delete)
        assert held(engine, schema) == merged(OLD, NEW, "id", keep=not delete)
