"""Names and literals: quoted by each warehouse's rules, and refused where it can't hold them exactly."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from airflow_provider_d1.exceptions import D1ConfigurationError, D1ManifestError, D1WarehouseError
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

HOSTILE = ["x'; DROP TABLE y; --", "\\", "\\'", "'\\", "it''s", 'say "hi"', "back`tick", "new\nline", "ünï", ""]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", ENGINES)
def test_a_literal_is_one_text_to_the_warehouse(name: str, text: str) -> None:
    parsed = sqlglot.parse_one(f"SELECT {ENGINES[name].dialect.literal(text)}", dialect=name)
    (value,) = parsed.expressions
    assert isinstance(value, exp.Literal)
    assert value.this == text


@pytest.mark.parametrize("name", ENGINES)
def test_an_identifier_is_one_name_to_the_warehouse(name: str) -> None:
    dialect = ENGINES[name].dialect
    for text in HOSTILE:
        if not text or (name == "bigquery" and "`" in text) or (name in ("bigquery", "clickhouse") and "\\" in text):
            continue  # refused there, or written as the warehouse documents it and sqlglot does not read it
        if name == "clickhouse" and "`" in text:
            continue
        column = sqlglot.parse_one(f"SELECT {dialect.identifier('s', text)}", dialect=name).expressions[0]
        assert isinstance(column, exp.Column)
        assert (column.table, column.name) == ("s", text)


def test_null_is_no_text() -> None:
    assert ENGINES["postgres"].dialect.literal(None) == "NULL"


@pytest.mark.parametrize("name", ENGINES)
def test_a_schema_that_cannot_be_held_is_refused(name: str) -> None:
    with pytest.raises(D1WarehouseError, match=r"schema 's{5000}' has 5000 .*, at most \d+ are possible"):
        plan(ENGINES[name], manifest(), schema="s" * 5000)


@pytest.mark.parametrize("character", ["\n", "\t", "\0", "\x7f", "\x9f"])
def test_redshift_holds_no_control_character(character: str) -> None:
    for column in (True, False):
        problem = ENGINES["redshift"].dialect.name_problem(f"a{character}b", column=column)
        assert problem == f"contains {character!r}"


@pytest.mark.parametrize("name", ["postgres", "snowflake", "clickhouse"])
def test_names_that_differ_in_case_are_two_names_where_quotes_keep_them(name: str) -> None:
    made = plan(ENGINES[name], manifest({"Users": {"a": "int64"}, "users": {"a": "int64"}}))
    assert len({made.path(table.name) for table in made.tables}) == 2
    assert len({table.helper for table in made.tables}) == 2


def test_tables_are_chosen_by_their_exact_names() -> None:
    tables = {"users": {"a": "int64"}, "Orders": {"a": "int64"}}
    made = plan(ENGINES["postgres"], manifest(tables), tables=("Orders", "users", "Orders"))
    assert [table.name for table in made.tables] == ["Orders", "users"]
    with pytest.raises(D1ConfigurationError, match="no table 'order'; did you mean 'Orders'\\?"):
        plan(ENGINES["postgres"], manifest(tables), tables=("order",))
    with pytest.raises(D1ConfigurationError, match="no table 'xyz'; it has 'users', 'Orders'"):
        plan(ENGINES["postgres"], manifest(tables), tables=("xyz",))


def test_a_dump_is_no_table() -> None:
    with pytest.raises(D1ManifestError, match="file_format='parquet'"):
        plan(ENGINES["postgres"], manifest(format="sql", tables=()))
