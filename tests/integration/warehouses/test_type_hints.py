"""``type_hints="declared"``: the native types that declared types ask for, where every value fits; values compared."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import logging
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest

from tests.integration.warehouses.warehouse_engines import WITH_FAKESNOW, Engine, new_schema

DECLARED = {
    "id": "INTEGER",
    "flag": "BOOLEAN",
    "day": "date",
    "at": "DATETIME",
    "price": "DECIMAL(10, 2)",
    "whole": "NUMERIC(5)",
    "doc": "JSON",
    "no_flag": "BOOL",
    "no_day": "DATE",
    "no_at": "TIMESTAMP",
    "no_price": "DECIMAL(10,2)",
    "no_doc": "JSON",
    "name": "TEXT",
}
SCHEMA = pa.schema(
    [
        (name, {"id": pa.int64(), "price": pa.float64(), "no_price": pa.float64()}.get(name, pa.string()))
        for name in DECLARED
    ]
)
for _name in ("flag", "whole", "no_flag"):
    SCHEMA = SCHEMA.set(SCHEMA.get_field_index(_name), pa.field(_name, pa.int64()))
DOC = '{"b": 1.0,  "a": [1, null], "a": "\\u00e9"}'
ROWS: list[tuple[Any, ...]] = [
    (
        1,
        1,
        "2026-02-28",
        "2026-02-28 01:02:03",
        0.1,
        99999,
        DOC,
        2,
        "2026-02-30",
        "2026-01-01T00:00:00",
        0.125,
        "{",
        "a",
    ),
    (2, 0, "1999-12-31", "1999-12-31 23:59:59.000001", -0.29, -1, "[]", 1, None, None, 1e10, "1", None),
    (3, None, None, None, None, None, None, None, "2026-1-1", "2026-01-01 00:00:00.10", -0.0, None, ""),
]
MORE = [(3, 1, "2026-03-01", "2026-03-01 00:00:00.12", 7.0, 0, "1 ", 5, "x", "y", 0.001, "}", "é"), (4, *[None] * 12)]
#: like MORE, with values that do not fit any more
UNFIT = [(3, 2, "2026-3-1", "now", 0.125, 100000, "{", 5, "x", "y", 0.001, "}", "é"), (5, *[None] * 12)]
TYPES = {
    "postgres": ("boolean", "date", "timestamp without time zone", "numeric", "numeric", "json"),
    "mysql": ("tinyint(1)", "date", "datetime(6)", "decimal(10,2)", "decimal(5,0)", "longtext"),
    "duckdb": ("BOOLEAN", "DATE", "TIMESTAMP", "DECIMAL(10,2)", "DECIMAL(5,0)", "JSON"),
    "clickhouse": (
        "Nullable(Bool)",
        "Nullable(Date32)",
        "Nullable(DateTime64(6, 'UTC'))",
        "Nullable(Decimal(10, 2))",
        "Nullable(Decimal(5, 0))",
        "Nullable(String)",
    ),
    # fakesnow writes no microseconds, so that no text comes back from a timestamp
    "snowflake": ("BOOLEAN", "DATE", "TEXT", "NUMBER", "NUMBER", "TEXT"),
}
NATIVE = ("flag", "day", "at", "price", "whole", "doc")


@pytest.fixture(params=WITH_FAKESNOW)
def engine(request: pytest.FixtureRequest, connected: Callable[[str], Engine]) -> Engine:
    return connected(request.param)


@pytest.fixture
def schema(engine: Engine) -> str:
    return new_schema(engine)


@pytest.fixture
def load(stage, load_staged):
    """Stage rows as another export and load them."""

    def stage_and_load(rows: list[tuple[Any, ...]], mode: str, type_hints: str = "declared", **options: Any) -> Any:
        table = pa.table([list(c) for c in zip(*rows, strict=True)], schema=SCHEMA)
        uri = stage({"users": table}, keys={"users": ["id"]}, declared=DECLARED)
        for _ in range(2):  # the second time changes nothing
            load_staged(uri, mode=mode, type_hints=type_hints, **options)

    return stage_and_load


def types(engine: Engine, schema: str) -> dict[str, str]:
    return dict(engine.columns(schema, "users"))


def staged_types(engine: Engine) -> dict[str, str]:
    names = {field.name: {"double": "float64"}.get(str(field.type), str(field.type)) for field in SCHEMA}
    return {name: engine.types[kind] for name, kind in names.items()}


def plain(value: Any, name: str) -> Any:
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, decimal.Decimal):
        return float(value) if name.endswith("price") else int(value)
    if isinstance(value, dt.datetime):
        return value.isoformat(" ").rstrip("0").rstrip(".") if value.microsecond else value.isoformat(" ")
    if isinstance(value, dt.date):
        return value.isoformat()
    return json.dumps(value) if isinstance(value, dict | list) else value


def held(engine: Engine, schema: str) -> list[tuple[Any, ...]]:
    """The rows, as they were staged; Postgres' JSON by its text."""
    listed = ", ".join(
        engine.quoted(n) + ("::text" if engine.name == "postgres" and n == "doc" else "") for n in DECLARED
    )
    rows = engine.execute(f"SELECT {listed} FROM {engine.quoted(schema, 'users')}")
    naive = [[v.replace(tzinfo=None) if isinstance(v, dt.datetime) else v for v in row] for row in rows]
    return sorted((tuple(map(plain, row, DECLARED)) for row in naive), key=repr)


def expected(*rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_every_mode_gives_native_types_once_and_keeps_them(engine, schema, load, mode, caplog) -> None:
    with caplog.at_level(logging.INFO):
        load(ROWS, mode)
    assert types(engine, schema) == staged_types(engine) | dict(zip(NATIVE, TYPES[engine.name], strict=True))
    assert held(engine, schema) == expected(*ROWS)
    lines = [record.getMessage() for record in caplog.records if "kept=true" in record.getMessage()]
    for name in ("no_flag", "no_day", "no_at", "no_price"):
        assert any(f"column={name} " in line for line in lines), lines
    assert all(len(line) <= 300 for line in lines)
    load(MORE, mode)
    assert types(engine, schema) == staged_types(engine) | dict(zip(NATIVE, TYPES[engine.name], strict=True))
    after = {"replace": MORE, "append": [*ROWS, *MORE], "merge": [*ROWS[:2], *MORE]}
    assert held(engine, schema) == expected(*after[mode])
    assert engine.tables(schema) == {"users", "_d1_loads"}


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_values_that_no_longer_fit_widen_the_column_again(engine, schema, load, mode) -> None:
    load(ROWS, mode)
    before = types(engine, schema)
    if engine.name == "snowflake" and mode != "replace":
        with pytest.raises(Exception, match=r"'users' is unchanged.*has to become wider.*ALTER TABLE"):
            load(UNFIT, mode)
        assert (types(engine, schema), held(engine, schema)) == (before, expected(*ROWS))
        return
    load(UNFIT, mode)
    found = types(engine, schema)
    if mode == "replace":
        assert found == staged_types(engine)
    else:
        assert {name: found[name] for name in ("flag", "day", "at", "doc")} == {
            name: staged_types(engine)[name] for name in ("flag", "day", "at", "doc")
        }
    after = {"replace": UNFIT, "append": [*ROWS, *UNFIT], "merge": [*ROWS[:2], *UNFIT]}
    assert held(engine, schema) == expected(*after[mode])
    load(MORE, mode)
    assert engine.tables(schema) == {"users", "_d1_loads"}


def test_without_the_argument_columns_are_as_stored(engine, schema, load) -> None:
    load(ROWS, "replace", "storage")
    assert types(engine, schema) == staged_types(engine)
    load(ROWS, "append")
    assert types(engine, schema) == staged_types(engine)
    load(ROWS, "replace")
    if engine.name == "snowflake":  # fakesnow can't say that nothing is attached
        assert types(engine, schema) == staged_types(engine)
        return
    assert types(engine, schema) == staged_types(engine) | dict(zip(NATIVE, TYPES[engine.name], strict=True))
    # and what a load has made is then a table of its own types, as one that a person made
    load(MORE, "replace", "storage")
    assert held(engine, schema) == expected(*MORE)
    assert types(engine, schema) == staged_types(engine) | dict(zip(NATIVE, TYPES[engine.name], strict=True))
