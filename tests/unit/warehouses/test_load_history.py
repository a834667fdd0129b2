"""What a load reads from ``_d1_loads`` stays as little as it is, however many loads are recorded there."""

from __future__ import annotations

import pytest
import sqlglot
from sqlglot import exp

from airflow_provider_d1.warehouses.load_history import history_query, owners_query
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
