"""Values of INSERTs: evaluated as SQLite does, or refused; nothing else."""

from __future__ import annotations

import apsw
import pytest

from airflow_provider_d1.dump.literals import AMBIGUOUS_NEWLINE, INFINITE, UNSAFE_INTEGER, Literal, LiteralReader
from airflow_provider_d1.exceptions import D1DumpError


def read(sql: str) -> Literal:
    reader = LiteralReader(sql.encode())
    literal = reader.value()
    reader.skip_space()
    assert reader.at == len(sql.encode())
    return literal


UNDERSTOOD = [
    "NULL", "null", "TRUE", "false", "0", "-0", "007", "1_000", "9223372036854775807", "-9223372036854775808",
    "9223372036854775808",
    "- -9223372036854775808", "-/* minus */5", "+5", "- -5", "0x10", "-0x10", "0xFFFFFFFFFFFFFFFF",
    "0x00000000000000000012", "1.", ".5",
    "1.5e3", "1E-5", "-0.0", "1e999", "-9e999", "1_0.5_5e1_0", "123456789012345678901234567890",
    "0.1000000000000000055511151231257827",
    "''", "'it''s'", "'a\nb'", "'--'", "'/*'", "X''", "x'00fF'", "replace('a\\nb','\\n',char(10))",
    "replace(replace('a\\r\\nb','\\r',char(13)),'\\n',char(10))", "REPLACE('aaa','a','')", "replace('abc','','x')",
    "replace(NULL,'a','b')",
    "replace('a',NULL,'b')", "replace(12,'1','2')", "replace(X'4142','A','b')", "replace(1.5,'.',',')", "char()",
    "char(65,0x42,128512)",
    "char(-1)", "char(1114112)", "unistr('a\\u000ab\\\\')", "unistr('\\0041\\+01F600\\U0001F600')", "unistr(NULL)",
    "unistr(CAST(X'5C30303431005C30303432' AS TEXT))",
    "CAST('12x' AS INTEGER)",
    "CAST('1.9e1' AS INTEGER)", "CAST(-1.9 AS INT)", "CAST(1e30 AS INTEGER)", "CAST('1.5x' AS REAL)",
    "CAST('1e2' AS NUMERIC)",
    "CAST(X'4142' AS TEXT)", "CAST('AB' AS BLOB)", "CAST(1.0 AS TEXT)", "CAST(12 AS VARCHAR(10))", "CAST(NULL AS TEXT)",
    "CAST(5 AS REAL)", "CAST(2.5 AS NUMERIC)", "cast('' as integer)", "CAST(9e999 AS INTEGER)",
    "CAST(replace('1x','x','2') AS INTEGER)",
]  # fmt: skip


@pytest.mark.parametrize("sql", UNDERSTOOD)
def test_understood_as_sqlite_does(sql: str) -> None:
    ((kind, expected),) = apsw.Connection(":memory:").execute(f"SELECT typeof({sql}), {sql}").fetchall()
    value = read(sql).value
    assert repr(value) == repr(expected)
    assert kind == {type(None): "null", int: "integer", float: "real", str: "text", bytes: "blob"}[type(value)]


@pytest.mark.parametrize("sql", ["Infinity", "-Infinity", "infinity"])
def test_d1s_own_infinity(sql: str) -> None:
    assert read(sql) == Literal(float(sql), INFINITE)


def test_a_raw_nul_is_a_character() -> None:
    assert read("'a\0b'").value == "a\0b"


HOSTILE = [
    "load_extension('x')", "randomblob(10)", "zeroblob(1)", "hex('a')", "abs(-1)", "readfile('/etc/passwd')",
    "(SELECT 1)", "(1)",
    "CURRENT_TIMESTAMP", "1+1", "'a'||'b'", '"dq"', "`bt`", "[br]", "?1", ":a", "@a", "$a", "X'4'", "X'zz'", "'open",
    "12abc", "1e", "1__0",
    "0x", "0x11111111111111111", "-'5'", "replace('a','b')", "replace('a')", "char('65')", "char(0xD800)",
    "unistr('\\d800')",
    "unistr('\\x')", "unistr()", "CAST(1)", "CAST(1 AS)", "CAST(1 AS TEXT", "nan", "inf", "", "CAST(X'ff' AS TEXT)",
    "replace(",
    "-" * 60 + "5", "replace(" * 60 + "'a'" + ",'b','c')" * 60,
]  # fmt: skip


@pytest.mark.parametrize("sql", HOSTILE, ids=range(len(HOSTILE)))
def test_everything_else_is_refused(sql: str) -> None:
    reader = LiteralReader(f"1,{sql})".encode(), offset=1000, table="t")
    with pytest.raises(D1DumpError) as caught:
        reader.row()
    assert caught.value.offset >= 1000
    assert caught.value.table == "t"


def test_invalid_utf8_is_refused() -> None:
    with pytest.raises(D1DumpError, match="UTF-8"):
        LiteralReader(b"'\xff'").value()


def test_a_text_that_replace_would_make_huge_is_refused() -> None:
    bomb = "replace(" * 4 + f"'{'a' * 1000}'" + f",'a','{'a' * 1000}')" * 4
    with pytest.raises(D1DumpError, match="too long"):
        read(bomb)


@pytest.mark.parametrize(
    ("sql", "flags"),
    [
        ("9007199254740991", 0),
        ("9007199254740992", UNSAFE_INTEGER),
        ("-9007199254740992", UNSAFE_INTEGER),
        ("9223372036854776000", UNSAFE_INTEGER),
        ("100000000000000000000", UNSAFE_INTEGER),
        ("9007199254740992.0", 0),
        ("1e+21", 0),
        ("'9007199254740993'", 0),
        ("9e999", INFINITE),
        ("replace('a\\nb','\\n',char(10))", 0),
        ("replace('a\\nb\\n','\\n',char(10))", AMBIGUOUS_NEWLINE),
        ("replace(replace('a\\r\\nb\\r\\n','\\r',char(13)),'\\n',char(10))", AMBIGUOUS_NEWLINE),
        ("replace(replace('a\\r\\nb','\\r',char(13)),'\\n',char(10))", 0),
        ("replace(replace('a\\r\\n\\r','\\r',char(13)),'\\n',char(10))", AMBIGUOUS_NEWLINE),
        ("'a\\nb\\n'", 0),
        ("replace('aXbX','X',char(10))", 0),
    ],
)
def test_what_may_have_been_lost(sql: str, flags: int) -> None:
    assert read(sql).flags == flags
