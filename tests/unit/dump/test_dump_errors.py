"""Errors of the reader, whole: the place first, then what is wrong and what was expected."""

from __future__ import annotations

import pytest

from airflow_provider_d1.exceptions import D1DumpError
from tests.unit.dump.dump_oracle import read_with_ours

TABLE = "CREATE TABLE t(a, b DEFAULT (random()));\n"
KEY = "CREATE TABLE t(id INTEGER PRIMARY KEY, b);\n"


@pytest.mark.parametrize(
    ("dump", "message"),
    [
        (
            TABLE + "INSERT INTO t(a) VALUES(1);",
            "byte 41: table 't': INSERT omits column 'b', whose DEFAULT cannot be evaluated",
        ),
        (
            KEY + "INSERT INTO t(b) VALUES(1);",
            "byte 43: table 't': INSERT omits the INTEGER PRIMARY KEY 'id', which SQLite would number itself",
        ),
        (
            KEY + "INSERT INTO t VALUES(NULL,1);",
            "byte 64: table 't': NULL in the INTEGER PRIMARY KEY 'id', which SQLite would number itself",
        ),
        (TABLE + "INSERT INTO t VALUES(1);", "byte 64: table 't': expected 2 values in the row, got 1"),
        (
            TABLE + "INSERT INTO t(a) VALUES(1,2);",
            "byte 41: table 't': INSERT omits column 'b', whose DEFAULT cannot be evaluated",
        ),
        ("CREATE TABLE t(a);\nINSERT INTO t VALUES(1,2);", "byte 44: table 't': expected 1 value in the row, got 2"),
        (TABLE + "INSERT INTO t VALUES(1,*);", "byte 64: table 't': expected a value, found '*)'"),
        (
            TABLE + "INSERT INTO t VALUES(1,abs(2));",
            "'abs' is neither a literal nor a function that dumps use (replace, char, unistr, CAST)",
        ),
        (TABLE + "INSERT INTO t(a,c) VALUES(1,2);", "byte 41: table 't': INSERT names the unknown column 'c'"),
        (TABLE + "INSERT INTO t(a,A) VALUES(1,2);", "byte 41: table 't': INSERT names a column twice"),
        (TABLE + "INSERT INTO u VALUES(1);", "byte 41: table 'u': INSERT before CREATE TABLE"),
        (
            "INSERT INTO u VALUES(1);",
            "table 'u': the dump has INSERT but no CREATE TABLE: export it again without no_schema",
        ),
        (
            TABLE + "INSERT INTO t SELECT 1, 2;",
            "byte 41: table 't': unsupported INSERT; expected INSERT INTO … VALUES (…)",
        ),
        (
            TABLE + "CREATE TRIGGER g AFTER INSERT ON t BEGIN SELECT 1; END;\nINSERT INTO t VALUES(1,2);",
            "byte 97: table 't': INSERT would run a trigger that the dump has created before it",
        ),
        (TABLE + "CREATE TABLE T(a);", "byte 41: table 'T': table is created twice"),
        ("SELECT 1;", "byte 0: unexpected statement: 'SELECT 1'"),
        (TABLE + "ROLLBACK;", "byte 41: dump ends with ROLLBACK: it is incomplete"),
        (
            TABLE + "INSERT INTO t VALUES(1,",
            "byte 41: table 't': dump ends inside a statement: it is incomplete",
        ),
        ("", "byte 0: dump is empty; D1 writes at least a PRAGMA, even for an empty database"),
        (
            "CREATE VIRTUAL TABLE f USING fts5(x);",
            "byte 0: CREATE VIRTUAL TABLE: a dump cannot contain the rows of a virtual table",
        ),
        ("CREATE TABLE t(a, A);", "byte 19: table 't': CREATE TABLE: column 'A' is defined twice"),
        ("CREATE TABLE t(a PRIMARY KEY, b PRIMARY KEY);", "table 't': CREATE TABLE: more than one PRIMARY KEY"),
        ("CREATE TABLE t(a", "byte 0: table 't': dump ends inside a statement: it is incomplete"),
        ("CREATE TABLE t(a TEXT TEXT ,);", "table 't': CREATE TABLE: expected a name"),
        ("CREATE TABLE t AS SELECT 1;", "table 't': CREATE TABLE: AS SELECT cannot be read without executing it"),
    ],
)
def test_error_messages(dump: str, message: str) -> None:
    with pytest.raises(D1DumpError) as caught:
        read_with_ours(dump.encode())
    assert str(caught.value).endswith(message)
    assert str(caught.value).startswith(f"byte {caught.value.offset}: ")


def test_a_cell_that_the_exporter_could_not_write() -> None:
    """D1 writes the bare word ERROR for a value whose type it does not know; the value is not in the dump."""
    for cell in ("ERROR", "ERROR,2"):
        dump = "CREATE TABLE t(a, b);\nINSERT INTO t VALUES(1,2);\nINSERT INTO t VALUES(" + cell + ");"
        with pytest.raises(D1DumpError) as caught:
            read_with_ours(dump.encode())
        assert str(caught.value) == (
            f"byte {dump.index('ERROR')}: table 't': the exporter wrote ERROR instead of a value that it could not"
            " represent. Export again; if ERROR remains, correct or remove the value in D1"
        )


def test_error_as_a_text_is_a_text() -> None:
    staged = read_with_ours(b"CREATE TABLE t(a);\nINSERT INTO t VALUES('ERROR');")
    assert staged["t"].columns["a"].to_pylist() == ["ERROR"]
