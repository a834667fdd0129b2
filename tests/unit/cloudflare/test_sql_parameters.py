"""Parameters reach the markers that they were meant for, or nothing is sent."""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict, deque
from typing import Any

import apsw
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_d1.cloudflare import sql_tokens
from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.cloudflare.sql_parameters import bind, check_each


def bound(sql: str, parameters: Any = None) -> tuple[str, list[Any]]:
    (statement,) = bind(sql, parameters)
    return statement.sql, statement.params


@pytest.mark.parametrize(
    ("sql", "parameters", "sent", "values"),
    [
        ("DELETE FROM t WHERE s <> :keep", {"keep": "x"}, "DELETE FROM t WHERE s <> ?1", ["x"]),
        ("SELECT @b, $a, :b, :a", {"a": "1", "b": "2"}, "SELECT ?1, ?2, ?1, ?2", ["2", "1"]),
        ("SELECT :b, :a", OrderedDict(a="1", b="2"), "SELECT ?1, ?2", ["2", "1"]),
        (
            "SELECT $a::b(c), :é, @_1, #x",
            {"a::b(c)": "1", "é": "2", "_1": "3", "x": "4"},
            "SELECT ?1, ?2, ?3, ?4",
            ["1", "2", "3", "4"],
        ),
        ("SELECT :a(b)", {"a(b)": "1"}, "SELECT ?1", ["1"]),
        ("SELECT ?, ?", ["1", "2"], "SELECT ?1, ?2", ["1", "2"]),
        ("SELECT ?2, ?, ?1", ("1", "2", "3"), "SELECT ?1, ?2, ?3", ["2", "3", "1"]),
        ("SELECT ?1, ?1", deque(["5"]), "SELECT ?1, ?1", ["5"]),
        ("SELECT ?2", ["1", "2"], "SELECT ?1", ["2"]),
        ("SELECT ?", (value for value in ["1"]), "SELECT ?1", ["1"]),
        ("SELECT '?', \"?\", [?], `?`, ':a' -- ?\n /* :b ? */, ?", ["1"], None, ["1"]),
        ("SELECT 'it''s ?', a$b, c->>'$.x', ?", ["1"], None, ["1"]),
        ("SELECT ?/* ? ", ["1"], None, ["1"]),
        ("SELECT 1", None, "SELECT 1", []),
        ("SELECT 1", [], "SELECT 1", []),
        ("SELECT 1;", {}, "SELECT 1;", []),
    ],
)
def test_each_value_reaches_its_marker(sql: str, parameters: Any, sent: str | None, values: list[Any]) -> None:
    got, params = bound(sql, parameters)
    assert params == values
    if sent is not None:
        assert got == sent


@pytest.mark.parametrize(
    ("sql", "parameters", "words"),
    [
        ("SELECT ?", "a", "str cannot be bound by position"),
        ("SELECT ?", b"a", "bytes cannot be bound by position"),
        ("SELECT ?", bytearray(b"a"), "bytearray cannot be bound"),
        ("SELECT ?", {1}, "set cannot be bound"),
        ("SELECT ?", frozenset([1]), "frozenset cannot be bound"),
        ("SELECT ?", {"a": 1}.keys(), "dict_keys cannot be bound"),
        ("SELECT ?", 5, "int cannot be bound"),
        ("SELECT 1", "", "str cannot be bound"),
        ("SELECT ?", None, "expected 1, got 0"),
        ("SELECT ?", [], "expected 1, got 0"),
        ("SELECT ?", [1, 2], "expected 1, got 2"),
        ("SELECT ?3", [1, 2], "expected 3, got 2"),
        ("SELECT ?0", [1], "between 1 and"),
        ("SELECT ?", {"a": 1}, "mapping was given for markers by position"),
        ("SELECT ?", {}, "mapping was given for markers by position"),
        ("SELECT :a", [1], "a sequence was given for markers by name (:a)"),
        ("SELECT :a", None, "nothing was given for markers by name (:a)"),
        ("SELECT :a", {}, "no value for a"),
        ("SELECT :a, :b", {"a": 1}, "no value for b"),
        ("SELECT :a", {":a": 1}, "no value for a. Names are given without their first character"),
        ("SELECT :a", {"A": 1}, "no value for a"),
        ("SELECT :a", {"a": 1, "b": 2}, "no marker in the statement for b"),
        ("SELECT 1", {"a": 1}, "no marker in the statement for a"),
        ("SELECT ':a'", {"a": 1}, "no marker in the statement for a"),
        ("SELECT ?, :a", {"a": 1}, "mixed"),
        ("SELECT 1::text, ?", [1], "CAST(x AS type)"),
        ("SELECT 'a, ?", [1], 'line 1: unexpected "\'"'),
        ("SELECT 1\n, [a, ?", [1], "line 2"),
        ("SELECT ? \0", [1], "NUL"),
        ("", None, "no statement"),
        (" -- nothing\n;", None, "no statement"),
        (f"SELECT {','.join('?' * 101)}", range(101), "has 101; D1 allows 100"),
    ],
)
def test_what_does_not_fit_is_refused(sql: str, parameters: Any, words: str) -> None:
    with pytest.raises(ProgrammingError) as raised:
        bind(sql, parameters)
    assert words in str(raised.value)
    assert raised.value.retryable is False


def test_a_name_that_is_repeated_counts_once() -> None:
    sql, values = bound(f"SELECT {','.join([':a'] * 300)}", {"a": "x"})
    assert values == ["x"]
    assert sql.count("?1") == 300


def test_the_markers_of_a_script_are_one_series() -> None:
    first, second, third = bind("INSERT INTO t VALUES (?, ?); SELECT 1; UPDATE t SET a = ?2, b = ?", ["1", "2", "3"])
    assert (first.sql, first.params) == ("INSERT INTO t VALUES (?1, ?2);", ["1", "2"])
    assert (second.sql, second.params) == ("SELECT 1;", [])
    assert (third.sql, third.params) == ("UPDATE t SET a = ?1, b = ?2", ["2", "3"])
    named = bind("SELECT :a; SELECT :b, :a", {"a": "1", "b": "2"})
    assert [statement.params for statement in named] == [["1"], ["2", "1"]]


def test_scripts_that_are_run_with_the_same_parameters() -> None:
    check_each(["SELECT :a", "SELECT :b; SELECT :a"], {"a": 1, "b": 2})
    check_each(["SELECT ?", "SELECT ?1"], [1])
    check_each(["SELECT 1", "SELECT 2"], None)
    with pytest.raises(ProgrammingError, match="no marker in the statement for c"):
        check_each(["SELECT :a", "SELECT :b"], {"a": 1, "b": 2, "c": 3})
    with pytest.raises(ProgrammingError, match="no value for b"):
        check_each(["SELECT :a", "SELECT :b"], {"a": 1})
    with pytest.raises(ProgrammingError, match="expected 0, got 1"):
        check_each(["SELECT ?", "SELECT 1"], [1])


@pytest.mark.parametrize(
    ("script", "statements"),
    [
        ("SELECT 1; SELECT ';'; -- ;\n/* ; */ SELECT 2", ["SELECT 1;", "SELECT ';';", "-- ;\n/* ; */ SELECT 2"]),
        (
            "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; DELETE FROM t; END; SELECT 1",
            [
                "CREATE TRIGGER x AFTER INSERT ON t BEGIN SELECT CASE 1 WHEN 1 THEN 2 END; DELETE FROM t; END;",
                "SELECT 1",
            ],
        ),
        (
            "create /* a */ temp trigger x begin select 1; end;select 1",
            ["create /* a */ temp trigger x begin select 1; end;", "select 1"],
        ),
        ("EXPLAIN QUERY PLAN CREATE TABLE a(trigger); SELECT 1", None),
        (";;SELECT 1;;", [";;SELECT 1;"]),
        ('SELECT [a;b], `;`, "x;""y"', None),
    ],
)
def test_scripts_are_split_by_sqlites_rules(script: str, statements: list[str] | None) -> None:
    found = sql_tokens.statements(script)
    if statements is not None:
        assert [text.lstrip(";") for text in found] == [text.lstrip(";") for text in statements]
    assert "".join(token.text for token in sql_tokens.tokens(script)) == script


EXPRESSIONS = (
    *("?", "?", "?1", "?2", "?03", ":a", "@a", "$a", ":b", "$a::b", "$a::b(c)", ":::c", ":a::", "#x", ":é", ":_"),
    *(":a(?)", "a", "é", "a$b", "[a]", "`a$b`", '"é"', "'?'", "':a'", '"?"', "x'3f'", "1.5e3", "'it''s ?'", "a->'?'"),
    *("1- -?", "?--?\n", "(?)"),
)
GLUE = (",", ", ", ",\n", ",--?\n", ",/* :a */", "||", "+", "-", "/", " - ", " AS ", " ", "\ufeff,", "'", "[")


def sqlites_own(connection: apsw.Connection, sql: str) -> list[str | None] | None:
    """Names of the parameters that SQLite finds, without their first character; None when it refuses the statement."""
    count = 0
    try:
        connection.execute(sql)
    except apsw.BindingsError as error:
        count = int(re.findall(r"\d+", str(error))[0])
    except apsw.Error:
        return None
    names: list[str | None] = []
    cursor = connection.cursor()
    cursor.exec_trace = lambda cursor, *_: bool(names.extend(cursor.bindings_names) or True)
    cursor.execute(sql, [None] * count).fetchall()
    return names


@settings(max_examples=3000, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(EXPRESSIONS), st.sampled_from(GLUE)), min_size=1, max_size=6))
def test_markers_are_those_that_sqlite_sees(pieces: list[tuple[str, str]]) -> None:
    sql = "SELECT " + "".join(expression + glue for expression, glue in pieces)[: -len(pieces[-1][1])] + " FROM t"
    connection = apsw.Connection(":memory:")
    connection.execute("CREATE TABLE t(a, é, a$b); INSERT INTO t VALUES ('\"A\"', 'É', 'A$B')")
    found = sqlites_own(connection, sql)
    if found is None:
        with contextlib.suppress(ProgrammingError):
            bind(sql)
        return
    by_position = [f"<{number}>" for number in range(len(found))]
    by_name = {name: f"<{name}>" for name in found if name and not name.isdigit()}
    values = [by_name.get(name or "", position) for name, position in zip(found, by_position, strict=True)]
    by_number = [token.text for token in sql_tokens.tokens(sql) if token.kind == "marker" and token.text[0] == "?"]
    if by_name and by_number:
        with pytest.raises(ProgrammingError, match="mixed"):
            bind(sql, by_name)
        return
    (ours,) = bind(sql, by_name or by_position)
    assert rows_of(connection, ours.sql, ours.params) == rows_of(connection, sql, values)


def rows_of(connection: apsw.Connection, sql: str, values: list[Any]) -> object:
    try:
        return connection.execute(sql, values).fetchall()
    except apsw.SQLError as error:
        return str(error)
