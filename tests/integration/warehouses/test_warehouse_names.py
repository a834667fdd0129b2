"""Names that a warehouse can't hold, folds onto each other or reserves: loaded, found again, and never mixed up."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pytest

from tests.integration.warehouses.hard_names import COLUMNS, TABLES, database, keys, named, rows_of
from tests.integration.warehouses.warehouse_engines import WITH_FAKESNOW, Engine
from tests.unit.warehouses.warehouse_plans import ENGINES

#: fakesnow's SQL and its folders of stages know no others
FAKESNOW_TABLES = ("users", "Été", "été", "t" * 300, "a.b/c d", "_d1_loads")


@pytest.fixture(params=WITH_FAKESNOW)
def engine(request: pytest.FixtureRequest, connected: Callable[[str], Engine]) -> Engine:
    return connected(request.param)


@pytest.fixture
def schema() -> str:
    return f"staging_{secrets.token_hex(4)}"


@pytest.fixture
def chosen(engine: Engine) -> tuple[str, ...]:
    return FAKESNOW_TABLES if engine.name == "snowflake" else TABLES


@pytest.fixture
def content(engine: Engine, chosen: tuple[str, ...]) -> Callable[..., dict[str, pa.Table]]:
    """DuckDB, which is behind fakesnow, has no columns without a name; the loader names them for it by position."""
    columns = COLUMNS[:-1] if engine.name == "snowflake" else COLUMNS
    return partial(database, tables=chosen, columns=columns)


def held(engine: Engine, schema: str, result: dict[str, Any]) -> dict[str, Any]:
    """The rows of each table, by its name in the manifest."""
    return {source: sorted(engine.rows(schema, name), key=repr) for source, name in named(result).items()}


def expected(*databases: dict[str, pa.Table]) -> dict[str, Any]:
    return {name: rows_of(*(each[name] for each in databases)) for name in databases[0]}


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("parquet", {}),
        ("parquet", {"names": "upper", "table_prefix": "shop_"}),
        ("csv", {"names": "lower"}),
    ],
    ids=str,
)
def test_every_mode(engine, schema, load_staged, stage, chosen, content, file_format, options, caplog) -> None:
    if engine.name == "snowflake":
        file_format = "parquet"  # it is loaded from nothing else
    options = {**options, "tables": list(chosen)}
    first, second, changed = content([1, 2]), content([3]), content([2, 4], " changed")
    result = load_staged(stage(content([9]), file_format), **options)
    names = named(result)
    assert set(names) == set(chosen)
    uri = stage(first, file_format)
    for _ in range(2):
        assert named(load_staged(uri, **options)) == names
    assert held(engine, schema, result) == expected(first)
    uri = stage(second, file_format)
    assert load_staged(uri, mode="append", **options)["rows"] == len(chosen)
    assert load_staged(uri, mode="append", **options)["skipped"] is True
    assert held(engine, schema, result) == expected(first, second)
    uri = stage(changed, file_format, keys=keys(chosen))
    for _ in range(2):
        load_staged(uri, mode="merge", **options)
    assert held(engine, schema, result) == expected(content([1]), second, changed)
    caplog.clear()
    caplog.set_level(logging.WARNING)
    load_staged(uri, mode="merge", delete_missing=True, **options)
    assert held(engine, schema, result) == expected(changed)
    assert engine.tables(schema) == {*names.values(), "_d1_loads"}
    assert {table for table, *_ in engine.loads(schema)} == set(names.values())
    (warning,) = [message for message in caplog.messages if "renamed_tables=" in message]
    assert len(warning) <= 300


def test_what_the_result_says(engine, schema, load_staged, stage, content) -> None:
    staged = content([1])
    result = load_staged(stage(staged))
    dialect = ENGINES[engine.name].dialect
    for name, entry in result["tables"].items():
        source = entry.get("source_name", name)
        columns = [column for column, _ in engine.columns(schema, name)]
        assert columns == [
            entry.get("renamed_columns", {}).get(column, column) for column in staged[source].column_names
        ]
        assert (dialect.name_problem(source, column=False) is None) or name != source
        assert "source_name" not in entry or name != source
    assert "source_name" not in result["tables"]["users"]


def test_a_column_that_came_later_and_one_that_became_wider_are_found(engine, schema, load_staged, stage) -> None:
    """Drift goes by the names in the warehouse."""
    if engine.name == "snowflake":
        pytest.skip("Snowflake widens no column")
    long = "c" * 300
    load_staged(stage({"t" * 300: pa.table({"ctid": [1], "Id_É": [1], long: [1]})}))
    more = pa.table({"ctid": [2], "Id_É": [1.5], long: ["x"], "Id_é": [2], "c" * 301: ["y"]})
    result = load_staged(stage({"t" * 300: more}), mode="append")
    (name,) = result["tables"]
    assert len(engine.columns(schema, name)) == 5
    assert held(engine, schema, result)["t" * 300] == sorted(
        [(1, 1.0, "1", None, None), (2, 1.5, "x", 2, "y")], key=repr
    )


def test_a_choice_of_tables_does_not_change_names(load_staged, stage, chosen, content) -> None:
    uri = stage(content([1]))
    everything = named(load_staged(uri))
    for name in chosen[1:3]:
        assert named(load_staged(uri, tables=[name])) == {name: everything[name]}


def test_two_databases_side_by_side(engine, schema, load_staged, stage) -> None:
    """Each by its prefix: none sees the other's tables as missing, or replaces them."""
    users, orders = pa.table({"id": [1]}), pa.table({"id": [2]})
    shop, blog = {"database_id": "shop"}, {"database_id": "blog", "database_name": "blog"}
    load_staged(stage({"users": users, "orders": orders}, **shop), table_prefix="shop_")
    result = load_staged(stage({"users": orders}, **blog), table_prefix="blog_", on_missing="drop")
    assert result["missing_in_source"] == []
    result = load_staged(stage({"users": users}, **shop), table_prefix="shop_", on_missing="drop")
    assert result["missing_in_source"] == ["shop_orders"]
    # fakesnow can't say whether a table has policies, so it stays there
    assert ("dropped" in result) == (engine.name != "snowflake")
    assert engine.tables(schema) - {"shop_orders"} == {"shop_users", "blog_users", "_d1_loads"}
    assert engine.rows(schema, "blog_users") == [(2,)]


@pytest.mark.parametrize("options", [{"table_prefix": "other_"}, {"names": "upper", "table_prefix": "x"}], ids=str)
def test_a_table_under_a_former_name_is_not_missing_in_d1(engine, schema, load_staged, stage, options) -> None:
    """D1 has it still: another prefix or case is no reason to drop it."""
    content = {"users": pa.table({"id": [1]}), "t" * 300: pa.table({"id": [1]})}
    before = named(load_staged(stage(content)))
    result = load_staged(stage(content), on_missing="drop", **options)
    assert result["missing_in_source"] == []
    assert engine.tables(schema) == {*before.values(), *named(result).values(), "_d1_loads"}
    assert engine.rows(schema, before["t" * 300]) == [(1,)]
