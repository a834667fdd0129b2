"""A script becomes the file of an import: checked, and rewritten only where D1 could not read it."""

from __future__ import annotations

import hashlib
import io
import random
import sqlite3
from pathlib import Path

import apsw
import pytest

from airflow_provider_d1.cloudflare.sql_calls import MAX_STATEMENT_BYTES
from airflow_provider_d1.exceptions import D1ImportFileError
from airflow_provider_d1.into_d1 import sql_script
from airflow_provider_d1.into_d1.import_file import ImportFile
from airflow_provider_d1.into_d1.sql_script import copy_script

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT NOT NULL CHECK (length(a) >= 0), b BLOB, c);\n"


class Trickle(io.RawIOBase):
    """Gives few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._data = io.BytesIO(data)
        self._size = size

    def read(self, size: int = -1) -> bytes:
        return self._data.read(min(size, self._size))


def copied(tmp_path: Path, script: bytes | str, *, pieces: int = 1 << 20) -> tuple[bytes, ImportFile]:
    data = script.encode() if isinstance(script, str) else script
    with ImportFile(tmp_path / "import.sql") as target:
        summary = copy_script(Trickle(data, pieces), target)
        target.finish()
    content = target.path.read_bytes()
    assert (target.bytes, target.md5) == (len(content), hashlib.md5(content).hexdigest())
    assert (summary.bytes, summary.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    return content, target


def statements(content: bytes) -> list[str]:
    """What SQLite itself takes for the statements."""
    found: list[str] = []
    connection = apsw.Connection(":memory:")

    def trace(_cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
        found.append(statement.strip())
        return True

    cursor = connection.cursor()
    cursor.exec_trace = trace
    for _ in cursor.execute(content.decode()):
        pass
    return found


SCRIPT = """\ufeff-- a comment; with a semicolon
/* another; one */
PRAGMA foreign_keys=TRUE;
CREATE TABLE "a;b" (x, [y;z] TEXT DEFAULT ';', `q``;` INT); ;
INSERT INTO "a;b" VALUES('it''s; -- no comment', 1 /* ; */, 2); insert into "a;b" values(1,2,3);
CREATE TRIGGER tr AFTER INSERT ON "a;b" BEGIN UPDATE "a;b" SET x = 1 WHERE 0; SELECT CASE WHEN 1 THEN 2 END; END;
CREATE VIEW v AS SELECT 1 -- the end;
;
REPLACE INTO "a;b" VALUES('é漢🙂', ';;', NULL);
SELECT 1 -- without a semicolon"""


@pytest.mark.parametrize("pieces", [1, 2, 3, 7, 50, 1 << 20])
def test_statements_are_those_of_sqlite(tmp_path: Path, pieces: int) -> None:
    content, file = copied(tmp_path, SCRIPT, pieces=pieces)
    expected = statements(SCRIPT.removeprefix("\ufeff").encode())
    expected[0] = expected[0].rpartition("*/\n")[2]
    assert [s.rstrip("; \n") for s in statements(content)] == [s.rstrip("; \n") for s in expected if s.strip("; ")]
    assert (file.with_nul, file.split) == (0, 0)


def test_a_dump_is_copied_unchanged(tmp_path: Path) -> None:
    dump = TABLE + "".join(f'INSERT INTO "t" ("id","a") VALUES({n},\'row {n}\');\n' for n in range(50_000))
    content, _ = copied(tmp_path, dump)
    assert content.decode() == dump


@pytest.mark.parametrize("statement", ["BEGIN TRANSACTION", "commit", "END", "ROLLBACK", "SAVEPOINT a", "RELEASE a"])
def test_transactions_are_refused_with_their_place(tmp_path: Path, statement: str) -> None:
    with pytest.raises(D1ImportFileError, match=r"byte 10: .*refuses BEGIN, COMMIT and SAVEPOINT: remove") as raised:
        copied(tmp_path, f"SELECT 1; {statement};")
    assert (raised.value.offset, raised.value.retryable) == (10, False)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("ATTACH 'x' AS y;", "D1 does not run ATTACH"),
        ("VACUUM;", "D1 does not run VACUUM"),
        (f"CREATE VIEW v AS SELECT '{'x' * 100_000}';", "at most 100,000 bytes"),
        ("INSERT INTO t VALUES " + ",".join(["(1,2)"] * 20_000) + ";", "at most 100,000 bytes"),
        ("CREATE TABLE t\0 (a);", "NUL byte outside"),
        ("SELECT 1; INSERT INTO t VALUES('cut", "byte 10: the file ends inside a quoted text"),
        ("SELECT 1; CREATE VIEW v AS SELECT 'cut", "byte 10: the file ends inside a quoted text"),
        ("S\0E\0".encode("utf-16"), "UTF-16"),
    ],
)
def test_what_d1_would_refuse(tmp_path: Path, script: str | bytes, words: str) -> None:
    with pytest.raises(D1ImportFileError, match=words):
        copied(tmp_path, script)


def test_the_size_of_the_file_is_bounded(tmp_path: Path) -> None:
    with (
        pytest.raises(D1ImportFileError, match=r"larger than 100 bytes.*Split it into several imports"),
        ImportFile(tmp_path / "import.sql", max_bytes=100) as target,
    ):
        copy_script(Trickle(b"SELECT 1;" * 20, 100), target)


def test_a_quote_without_an_end_does_not_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sql_script, "CHUNK", 1000)
    with pytest.raises(D1ImportFileError, match="more than 16,777,216 bytes"):
        copied(tmp_path, b"SELECT '" + b"x" * (33 << 20))


def test_long_and_nul_values_are_the_same_after_the_rewriting(tmp_path: Path) -> None:
    """Texts with quotes, line breaks and NULs, and blobs, up to D1's two megabytes."""
    rng = random.Random(1)
    rows: list[tuple[int, object, object, object]] = [
        (1, "a\0b'c\0", b"\0\xff", "\0"),
        (2, "é'\n" * 60_000, rng.randbytes(200_000), 1.5),
        (3, "", rng.randbytes(2_000_000), None),
        (4, "x'" * 900_000, b"", "\0" * 30_000),
        (5, "🙂" * 24_000, b"\0" * 50_000, "literal \\n and\nreal"),
        (6, "x" * 40_000, b"y" * 20_000, "z" * 40_000),
    ]
    lines = [TABLE.encode()]
    for id_, *values in rows:
        literals = [
            b"X'" + value.hex().encode() + b"'"
            if isinstance(value, bytes)
            else b"NULL"
            if value is None
            else b"'" + str(value).encode().replace(b"'", b"''") + b"'"
            if isinstance(value, str)
            else str(value).encode()
            for value in values
        ]
        if id_ == 5:
            literals[2] = rb"replace('literal \n and" + rb"\012" + rb"real','\012',char(10))"
        lines.append(b'INSERT INTO "t" VALUES(%d,%s);\n' % (id_, b",".join(literals)))
    content, file = copied(tmp_path, b"".join(lines))
    assert (file.with_nul, file.split) == (2, 5)
    assert b"\0" not in content
    assert max(map(len, content.split(b"\n"))) <= MAX_STATEMENT_BYTES
    database = sqlite3.connect(":memory:")
    database.executescript(content.decode())
    assert database.execute("SELECT * FROM t ORDER BY id").fetchall() == rows
    kinds = database.execute("SELECT DISTINCT typeof(a), typeof(b) FROM t").fetchall()
    assert kinds == [("text", "blob")]
    assert database.execute("SELECT name FROM sqlite_schema").fetchall() == [("t",)]  # the helper is gone


@pytest.mark.parametrize("long", [99_000, 99_999, 100_001, 180_000])
def test_a_long_text_in_a_table_without_affinity(tmp_path: Path, long: int) -> None:
    content, _ = copied(tmp_path, f"CREATE TABLE t (a);\nINSERT INTO t VALUES('{'1' * long}');")
    database = sqlite3.connect(":memory:")
    database.executescript(content.decode())
    assert database.execute("SELECT typeof(a), a FROM t").fetchall() == [("text", "1" * long)]


def test_the_tables_of_a_dump_come_before_its_rows_and_views_before_triggers(tmp_path: Path) -> None:
    """D1 dumps each table with its rows, and an INSERT fails when a table that its foreign key names is not there."""
    first = ["PRAGMA defer_foreign_keys=TRUE;", "CREATE TABLE child (p REFERENCES parent);", "create table parent (p);"]
    rows = ["INSERT INTO child VALUES(1);", "INSERT INTO parent VALUES(1);", "CREATE INDEX i ON child (p);"]
    view, trigger = "CREATE VIEW v AS SELECT 1;", "CREATE TRIGGER t INSTEAD OF INSERT ON v BEGIN SELECT 1; END;"
    dump = [*first[:2], rows[0], first[2], *rows[1:], trigger, view]
    assert copied(tmp_path, "\n".join(dump))[0].decode().splitlines() == [*first, *rows, view, trigger]
    # D1 puts the semicolon of a view into its last comment
    view = b"CREATE VIEW v AS SELECT 1 -- the end;\nCREATE VIEW w AS SELECT 2;"
    assert copied(tmp_path, view)[0] == b"CREATE VIEW v AS SELECT 1 -- the end;\n;\nCREATE VIEW w AS SELECT 2;\n"
    # any other script keeps its order
    assert copied(tmp_path, "\n".join(dump[1:]))[0].decode().splitlines() == dump[1:]
