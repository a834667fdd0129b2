"""The types that declared ones ask for, and how every warehouse asks whether values fit a type.

    python -m pytest tests/unit/warehouses/test_native_types.py --golden

writes the reviewed statements anew; read the difference before committing it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.warehouses.declared_types import hint_for, same_type
from airflow_provider_d1.warehouses.native_types import fit, kind_of
from airflow_provider_d1.warehouses.plan import Column
from airflow_provider_d1.warehouses.table_planning import plan_table
from tests.unit.warehouses.test_golden_statements import GOLDEN, understood
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

DECLARED = {
    "flag": ("BOOLEAN", "int64"),
    "day": ("DATE", "string"),
    "at": ("DATETIME", "string"),
    "price": ("DECIMAL(10,2)", "float64"),
    "whole": ("NUMERIC(5)", "int64"),
    "doc": ("JSON", "string"),
}
#: types of tables that people made, beside those of DECLARED: a shorter integer, a shorter text
TUNED = {
    "postgres": ("integer", "character varying(20)"),
    "redshift": ("integer", "character varying(20)"),
    "snowflake": ("NUMBER(10,0)", "TEXT(20)"),
    "bigquery": ("NUMERIC(10, 0)", "STRING(20)"),
    "databricks": ("int", "varchar(20)"),
    "mysql": ("int(11)", "varchar(20)"),
    "duckdb": ("INTEGER", "ENUM('a', 'b')"),
    "clickhouse": ("Int32", "LowCardinality(String)"),
}


def statements(name: str) -> list[str]:
    """The statements that decide, and those that put the values into a table with the types."""
    warehouse: Any = ENGINES[name]
    made = plan(warehouse, manifest({"users": {c: staged for c, (_, staged) in DECLARED.items()}}))
    (table,) = made.tables
    columns = tuple(
        replace(column, hint=hint_for(warehouse.dialect, DECLARED[column.name][0], column.type))
        for column in table.columns
    )
    work = plan_table(warehouse, made, replace(table, columns=columns), {})
    result = []
    targets = []
    for column in columns:
        if column.hint is None or not column.hint.type:
            targets.append(column)
            continue
        found = warehouse.fit(made, work, "", column.as_staged(), column.hint.type, column.hint.kind)
        result += [*found.prepare, f"SELECT COUNT(CASE WHEN {found.misfit} THEN 1 END) FROM {made.path(work.into)}"]
        targets.append(replace(column, native=column.hint.type))
    for number, (native, kind) in enumerate(zip(TUNED[name], ("int64", "string"), strict=True)):
        found = warehouse.fit(made, work, "", Column(f"tuned {number}", kind), native)
        result += [*found.prepare, f"SELECT COUNT(CASE WHEN {found.misfit} THEN 1 END) FROM {made.path(work.into)}"]
    work.drift = replace(work.drift, targets=tuple(targets))
    create = warehouse.create_table(made, work.table.typed, targets)
    return [*result, create, warehouse.insert_from_helper(made, work, into=work.table.typed)]


@pytest.mark.parametrize("name", ENGINES)
def test_statements_are_as_they_were_read(name: str, request: pytest.FixtureRequest) -> None:
    text = "".join(f"{statement};\n" for statement in statements(name))
    file: Path = GOLDEN / f"{name}_types.sql"
    if request.config.getoption("--golden"):
        file.write_text(text)
    assert text == file.read_text()


@pytest.mark.parametrize("name", ENGINES)
def test_sqlglot_understands_them(name: str) -> None:
    for statement in statements(name):
        assert understood(statement, name) != statement.startswith("UPDATE IGNORE "), statement


@pytest.mark.parametrize("name", ENGINES)
def test_every_warehouse_has_a_type_or_a_reason(name: str) -> None:
    dialect = ENGINES[name].dialect
    for declared, staged in DECLARED.values():
        hint = hint_for(dialect, declared, staged)
        assert hint is not None
        assert bool(hint.type) != bool(hint.reason)
        if hint.type:
            # what a catalogue shows of such a column is not taken for a type of its own with another meaning
            assert kind_of(hint.type) in (hint.kind, "integer"), hint
    digits, after, before = dialect.largest_decimal
    too_large = hint_for(dialect, f"DECIMAL({digits + 1},0)", "int64")
    assert too_large is not None
    assert too_large.reason == f"{dialect.name} has no such decimal"
    assert after <= digits
    assert before <= digits


@pytest.mark.parametrize("name", ENGINES)
def test_values_of_another_meaning_never_fit(name: str) -> None:
    """A cast may take an integer for a number of days; it is none."""
    warehouse = ENGINES[name]
    date, timestamp = warehouse.dialect.native["date"], warehouse.dialect.native["timestamp"]
    for staged, native in (("int64", date), ("float64", timestamp), ("binary", date), ("timestamp[us]", date)):
        assert fit(warehouse, "x", staged, native).misfit == "x IS NOT NULL"


@pytest.mark.parametrize(
    ("declared", "staged", "kind", "reason"),
    [
        ("bool", "int64", "boolean", ""),
        ("Boolean", "string", "boolean", "its values are staged as string"),
        ("DATETIME", "string", "timestamp", ""),
        ("timestamp(6)", "string", "timestamp", ""),
        ("decimal( 10 , 2 )", "float64", "decimal", ""),
        ("NUMERIC(10)", "int64", "decimal", ""),
        ("DECIMAL(2,3)", "int64", "decimal", "Postgres has no such decimal"),
        ("DECIMAL(10,2)", "string", "decimal", "its values are staged as string"),
        ("JSON", "string", "json", ""),
    ],
)
def test_what_a_declared_type_asks_for(declared: str, staged: str, kind: str, reason: str) -> None:
    hint = hint_for(ENGINES["postgres"].dialect, declared, staged)
    assert hint is not None
    assert (hint.kind, hint.reason) == (kind, reason)


@pytest.mark.parametrize("declared", ["", "TEXT", "DECIMAL", "BOOLEANS", "DATES", "TIMESTAMP WITH TIME ZONE", "INT"])
def test_other_declared_types_ask_for_nothing(declared: str) -> None:
    assert hint_for(ENGINES["postgres"].dialect, declared, "string") is None


def test_what_is_staged_as_a_date_is_one_already() -> None:
    assert hint_for(ENGINES["postgres"].dialect, "DATE", "date32") is None
    assert hint_for(ENGINES["postgres"].dialect, "DATETIME", "timestamp[us]") is None


@pytest.mark.parametrize(
    ("native", "kind"),
    [
        ("timestamp without time zone", "timestamp"),
        ("timestamp(3) with time zone", "zoned"),
        ("TIMESTAMP_NTZ(6)", "timestamp"),
        ("TIMESTAMP_LTZ", "zoned"),
        ("Nullable(DateTime64(6, 'UTC'))", "timestamp"),
        ("DateTime('Europe/Berlin')", "zoned"),
        ("LowCardinality(Nullable(String))", "text"),
        ("Nullable(Date32)", "date"),
        ("daterange", ""),
        ("bigint unsigned", "integer"),
        ("interval", ""),
        ("uuid", ""),
        ("character varying(20)", "text"),
        ("Enum8('int' = 1)", "text"),
        ("FixedString(2)", "text"),
    ],
)
def test_kinds_of_types(native: str, kind: str) -> None:
    assert kind_of(native) == kind


def test_a_catalogue_may_spell_a_type_differently() -> None:
    assert same_type("DECIMAL(10,2)", "decimal(10, 2)")
    assert not same_type("DECIMAL(10,2)", "DECIMAL(10,3)")
