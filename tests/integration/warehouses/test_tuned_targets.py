"""Tables that people made with narrower or native types: loads work while every value fits, decided from the values."""

from __future__ import annotations

import datetime as dt
import decimal
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from tests.integration.warehouses.warehouse_engines import WITH_FAKESNOW, Engine, new_schema

KEYS = {"users": ["id"]}
COLUMNS = ("id", "name", "flag", "day", "at", "price", "code", "ratio")
#: the columns' types, and what follows them
TUNED = {
    "postgres": (
        ("integer", "varchar(5)", "boolean", "date", "timestamp(3)", "numeric(6,2)", "char(2)", "real"),
        ", PRIMARY KEY (id)",
    ),
    "mysql": (
        ("int(11)", "varchar(5)", "tinyint(1)", "date", "datetime(3)", "decimal(6,2)", "char(2)", "float"),
        ", PRIMARY KEY (id)",
    ),
    "duckdb": (
        ("INTEGER", "VARCHAR", "BOOLEAN", "DATE", "TIMESTAMP_MS", "DECIMAL(6,2)", "ENUM('de', 'fr')", "FLOAT"),
        "",
    ),
    "clickhouse": (
        (
            "Int32",
            "LowCardinality(Nullable(String))",
            "Nullable(Bool)",
            "Nullable(Date)",
            "Nullable(DateTime64(3, 'UTC'))",
            "Nullable(Decimal(6, 2))",
            "Enum8('de' = 1, 'fr' = 2)",
            "Nullable(Float32)",
        ),
        ") ENGINE = MergeTree ORDER BY (`id`) PARTITION BY (`id` % 2",
    ),
    "snowflake": (
        ("NUMBER(10,0)", "VARCHAR(5)", "BOOLEAN", "DATE", "TIMESTAMP_NTZ", "NUMBER(6,2)", "VARCHAR(2)", "FLOAT"),
        "",
    ),
}
AT = dt.datetime(2026, 1, 2, 3, 4, 5, 120000, dt.UTC).replace(tzinfo=None)
ROWS = [
    (1, "Ada", 1, "2026-01-02", AT, 0.1, "de", 1.5),
    (2, None, 0, None, None, -9999.99, "fr", None),
    (-3, "", None, "1999-12-31", AT, None, "de", -0.25),
]
MORE = [(1, "Eve", 0, "2024-02-29", None, 7.0, "fr", 2.0), (7, "Bob", 1, None, AT, 12.3, "de", 0.0)]
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("flag", pa.int64()),
        ("day", pa.string()),
        ("at", pa.timestamp("us")),
        ("price", pa.float64()),
        ("code", pa.string()),
        ("ratio", pa.float64()),
    ]
)
#: column → a value that its type can't hold
MISFITS: dict[str, Any] = {
    "id": 2**40,
    "name": "Grace H.",
    "flag": 2,
    "at": AT.replace(microsecond=1),
    "price": 0.125,
    "code": "it",
    "ratio": 0.1,
}
#: engine → the columns whose types do hold those values
HOLDING = {
    "postgres": {"code"},
    "mysql": {"flag", "code"},
    "duckdb": {"name"},
    "clickhouse": {"name"},
    "snowflake": {"at", "code", "ratio"},
}


@pytest.fixture(params=WITH_FAKESNOW)
def engine(request: pytest.FixtureRequest, connected: Callable[[str], Engine]) -> Engine:
    return connected(request.param)


@pytest.fixture
def schema(engine: Engine) -> str:
    return new_schema(engine)


@pytest.fixture
def stage(stage):
    def write(rows: list[tuple[Any, ...]]) -> str:
        table = pa.table([list(c) for c in zip(*rows, strict=True)] or [[]] * len(SCHEMA), schema=SCHEMA)
        return stage({"users": table}, keys=KEYS, rows_in_part=2)

    return write


@pytest.fixture
def tuned(engine: Engine, schema: str, load_staged, stage) -> list[tuple[str, str]]:
    """Make the table, with the loader's own table in its schema; the columns with their types."""
    load_staged(stage(ROWS))
    types, rest = TUNED[engine.name]
    engine.execute(f"DROP TABLE {engine.quoted(schema, 'users')}")
    listed = ", ".join(f"{engine.quoted(name)} {kind}" for name, kind in zip(COLUMNS, types, strict=True))
    engine.execute(f"CREATE TABLE {engine.quoted(schema, 'users')} ({listed}{rest})")
    return engine.columns(schema, "users")


def plain(value: Any) -> Any:
    if isinstance(value, dt.datetime):
        return value
    if isinstance(value, dt.date):
        return value.isoformat()
    return float(value) if isinstance(value, decimal.Decimal) else int(value) if isinstance(value, bool) else value


def held(engine: Engine, schema: str) -> list[tuple[Any, ...]]:
    rows = [tuple(map(plain, row)) for row in engine.rows(schema, "users")]
    if engine.name == "snowflake":  # NUMBER(10,0) is a decimal to its connector
        rows = [(int(row[0]), *row[1:]) for row in rows]
    return sorted(rows, key=repr)


def expected(*rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=repr)


def test_every_mode_keeps_the_types(engine, schema, load_staged, stage, tuned) -> None:
    load_staged(stage(ROWS))
    assert held(engine, schema) == expected(*ROWS)
    load_staged(stage(MORE), mode="merge")
    assert held(engine, schema) == expected(*ROWS[1:], *MORE)
    more = stage([(9, *MORE[0][1:])])
    for skipped in (False, True):
        assert load_staged(more, mode="append")["skipped"] is skipped
        assert held(engine, schema) == expected(*ROWS[1:], *MORE, (9, *MORE[0][1:]))
    uri = stage(ROWS)
    for _ in range(2):
        load_staged(uri, replace_strategy="rows")
        assert held(engine, schema) == expected(*ROWS)
    load_staged(stage(ROWS[:0]))
    assert held(engine, schema) == []
    assert engine.columns(schema, "users") == tuned
    assert engine.tables(schema) == {"users", "_d1_loads"}


@pytest.mark.parametrize("mode", ["replace", "append", "merge"])
def test_values_that_do_not_fit_are_counted_and_refused(engine, schema, load_staged, stage, tuned, mode) -> None:
    load_staged(stage(ROWS))
    for column in MISFITS.keys() - HOLDING[engine.name]:
        row = [MISFITS[column] if name == column else value for name, value in zip(COLUMNS, MORE[1], strict=True)]
        with pytest.raises(AirflowFailException, match=rf"'users' is unchanged: its column '{column}' is .*; run "):
            load_staged(stage([MORE[0], tuple(row)]), mode=mode)
        assert held(engine, schema) == expected(*ROWS)
        assert engine.columns(schema, "users") == tuned
    assert engine.tables(schema) == {"users", "_d1_loads"}
