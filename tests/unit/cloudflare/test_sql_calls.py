"""SQL statements as calls, and their answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_d1.cloudflare import sql_calls
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.cloudflare.sql_parameters import Statement
from airflow_provider_d1.exceptions import D1ApiError


def answer(result: Any) -> Response:
    return Response(200, {}, json.dumps({"success": True, "errors": [], "messages": [], "result": result}).encode())


def read(result: Any) -> tuple[list[str], list[list[Any]]]:
    (found,) = sql_calls.read_results(answer(result))
    return found.columns, found.rows


def test_raw_sends_parameters_only_when_there_are_some() -> None:
    assert sql_calls.request("acc", "db", [Statement("SELECT 1")]).body == {"sql": "SELECT 1"}
    assert sql_calls.request("acc", "db", [Statement("SELECT ?", [1])]).body == {"sql": "SELECT ?", "params": [1]}


@pytest.mark.parametrize(
    ("sql", "idempotent"),
    [
        ("SELECT 1", True),
        ("  select 1;", True),
        ("VALUES (1)", True),
        ("EXPLAIN QUERY PLAN SELECT 1", True),
        ("PRAGMA table_xinfo('users')", True),
        ("PRAGMA user_version", True),
        ("PRAGMA user_version = 3", False),
        ("INSERT INTO t VALUES (1)", False),
        ("WITH x AS (SELECT 1) INSERT INTO t SELECT * FROM x", False),
        ("SELECT 1; DELETE FROM t", False),
        ("-- SELECT\nDELETE FROM t", False),
    ],
)
def test_only_a_plain_read_may_be_sent_twice(sql: str, idempotent: bool) -> None:
    assert sql_calls.request("acc", "db", [Statement(sql)]).idempotent is idempotent


def test_duplicate_columns_survive() -> None:
    results = {"columns": ["id", "id"], "rows": [[1, 2], [3, None]]}
    found = read([{"results": results, "success": True, "meta": {}}])
    assert found == (["id", "id"], [[1, 2], [3, None]])


def test_rows_as_objects_are_rows_too() -> None:
    found = read([{"results": [{"a": 1, "b": 2}, {"a": 3, "b": None}], "success": True}])
    assert found == (["a", "b"], [[1, 2], [3, None]])


@pytest.mark.parametrize("results", ["x", 3, [1], [{"a": 1}, None]])
def test_rows_of_an_unknown_form_are_not_taken_for_none(results: object) -> None:
    with pytest.raises(D1ApiError, match="columns and rows"):
        read([{"results": results, "success": True}])


def test_a_statement_without_rows() -> None:
    assert read([{"success": True, "meta": {"changes": 3}}]) == ([], [])


def test_a_query_that_failed_inside_a_success() -> None:
    with pytest.raises(D1ApiError, match="no such table"):
        read([{"success": False, "error": "no such table: t"}])


@pytest.mark.parametrize("result", [None, [], "x", 3, [1]])
def test_a_result_of_another_shape_is_an_error(result: object) -> None:
    with pytest.raises(D1ApiError):
        read(result)


@pytest.mark.parametrize("sql", ["SELECT 1", "SELECT * FROM t", "INSERT INTO t VALUES (1) RETURNING a"])
@pytest.mark.parametrize(
    ("error", "again"),
    [
        (D1ApiError('near "x": syntax error at offset 3: SQLITE_ERROR', status=400), True),
        (D1ApiError("UNIQUE constraint failed: SQLITE_CONSTRAINT", status=400), False),
        (D1ApiError("D1 DB exceeded its CPU time limit and was reset.", status=500), False),
        (D1ApiError("D1 DB is overloaded.", status=500, retryable=True), False),
    ],
)
def test_a_rewritten_statement_is_sent_as_it_is_only_when_it_was_not_understood(
    sql: str, error: D1ApiError, again: bool
) -> None:
    plan = sql_calls.run("acc", "db", [Statement(sql)])
    next(plan)
    if again:
        assert plan.throw(error).request.body == {"sql": sql}
        return
    with pytest.raises(D1ApiError) as raised:
        plan.throw(error)
    assert str(raised.value) == str(error)
