"""What a load reads from ``_d1_loads`` stays as little as it is, however many loads are recorded there."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from airflow_provider_d1.warehouses.load_history import history_query, loaded_tables, owners_query
from tests.unit.warehouses.warehouse_plans import ENGINES, manifest, plan

TABLES = {"users": {"a": "int64"}, "orders": {"a": "int64"}}


@pytest.mark.parametrize("query", [history_query, owners_query])
@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_only_the_records_of_the_loaded_tables_are_read(engine: str, query: object) -> None:
    statement = query(plan(ENGINES[engine], manifest(TABLES), mode="append"))
    where = sqlglot.parse_one(statement, dialect=engine).args["where"].this
    conditions = where.flatten() if isinstance(where, exp.And) else [where]
    names = [
        {literal.name for literal in condition.expressions}
        for condition in conditions
        if isinstance(condition, exp.In) and condition.this.name == "table_name"
    ]
    assert names == [{"users", "orders"}]


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_records_of_other_exports_count_only_where_they_replaced_the_table(engine: str) -> None:
    statement = history_query(plan(ENGINES[engine], manifest(TABLES), mode="append"))
    where = sqlglot.parse_one(statement, dialect=engine).args["where"].this
    [choice] = where.find_all(exp.Or)
    assert {column.name for column in choice.find_all(exp.Column)} >= {"mode", "database_id", "bookmark"}


def test_a_table_has_the_name_in_d1_that_it_was_last_loaded_from() -> None:
    """Records of earlier releases have no name in D1: it was the same."""
    records = [
        ("users", None, None, None, 1, "a"),
        ("shop_users", "users", None, None, 2, "b"),
        ("shop_users", "Users", None, None, 3, "c"),
        ("gone", "gone", 5, "e", 4, "d"),
        ("dropped_by_another_name", "old", 6, "f", None, None),
        ("dropped_by_another_name", "new", None, None, 5, "e"),
        ("back", "back", 6, "f", 7, "g"),
    ]
    for order in (records, records[::-1]):
        assert loaded_tables(order) == {"users": "users", "shop_users": "Users", "back": "back"}
