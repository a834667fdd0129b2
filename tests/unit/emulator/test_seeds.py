from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from airflow_provider_d1.emulator import seeds


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    yield connection
    connection.close()


def rows(connection: apsw.Connection, sql: str = "SELECT * FROM t") -> list[tuple[object, ...]]:
    return connection.execute(sql).fetchall()


def test_none_is_an_empty_database(connection: apsw.Connection) -> None:
    seeds.apply(connection, None)
    assert rows(connection, "SELECT * FROM sqlite_schema") == []


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE t(a); INSERT INTO t VALUES (1);",
        "BEGIN; CREATE TABLE t(a); INSERT INTO t VALUES (1); COMMIT;",
        "PRAGMA foreign_keys=OFF; CREATE TABLE t(a); SELECT 1 UNION SELECT 2; INSERT INTO t VALUES (1) -- the end",
    ],
)
def test_scripts(connection: apsw.Connection, tmp_path: Path, sql: str) -> None:
    (tmp_path / "seed.sql").write_text(sql)
    seeds.apply(connection, tmp_path / "seed.sql")
    assert rows(connection) == [(1,)]


def test_a_raw_nul_in_a_dump_is_kept(connection: apsw.Connection) -> None:
    seeds.apply(connection, "CREATE TABLE t(a); INSERT INTO t VALUES ('a\0b'), (replace('\0\\n','\\n',char(10)));")
    assert rows(connection) == [("a\0b",), ("\0\n",)]


def test_a_list_of_statements(connection: apsw.Connection, tmp_path: Path) -> None:
    statements = ["CREATE TABLE t(a)", "INSERT INTO t VALUES ('x;y')"]
    (tmp_path / "seed.json").write_text(json.dumps(statements))
    seeds.apply(connection, tmp_path / "seed.json")
    assert rows(connection) == [("x;y",)]


@pytest.mark.parametrize("name", ["a.sqlite", "a.db", "a.SQLITE3"])
def test_a_sqlite_file_is_copied_and_left_alone(connection: apsw.Connection, tmp_path: Path, name: str) -> None:
    source = apsw.Connection(str(tmp_path / name))
    source.execute("CREATE TABLE t(a); INSERT INTO t VALUES (1)")
    source.close()
    before = (tmp_path / name).read_bytes()
    (tmp_path / name).chmod(0o400)
    seeds.apply(connection, tmp_path / name)
    connection.execute("INSERT INTO t VALUES (2)")
    assert rows(connection) == [(1,), (2,)]
    assert (tmp_path / name).read_bytes() == before


def test_rows_of_plain_python(connection: apsw.Connection) -> None:
    seeds.apply(connection, {'the "table"': [{"n": None, "s": "x"}, {"n": 1, "s": None, "b": b"\x00"}, {"r": 1.5}]})
    assert rows(connection, 'SELECT * FROM "the ""table"""') == [
        (None, "x", None, None),
        (1, None, b"\x00", None),
        (None, None, None, 1.5),
    ]
    declared = "SELECT name, type FROM pragma_table_info('the \"table\"')"
    assert rows(connection, declared) == [("n", "INTEGER"), ("s", "TEXT"), ("b", "BLOB"), ("r", "REAL")]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("x.sql", "CREATE TABLE t(", r"x\.sql: incomplete input"),
        ("x.sql", "BEGIN; CREATE TABLE t(a);", "a transaction is still open"),
        ("x.sql", b"\xff", r"x\.sql is not UTF-8"),
        ("x.json", '{"a": 1}', "must contain a JSON list of SQL statements"),
        ("x.json", "[1]", "must contain a JSON list of SQL statements"),
        ("x.json", "[", "must contain a JSON list of SQL statements"),
        ("x.json", '["SELEC 1"]', "SELEC 1.*syntax error"),
        ("x.db", "no database", "x.db: .*not a database"),
        ("x.csv", "a,b", r"a seed file ends in \.sql"),
        ("x.sql", None, "does not exist"),
    ],
)
def test_a_bad_seed_is_a_clear_error(
    connection: apsw.Connection, tmp_path: Path, file: str, content: str | bytes | None, message: str
) -> None:
    if isinstance(content, str):
        content = content.encode()
    if content is not None:
        (tmp_path / file).write_bytes(content)
    with pytest.raises(seeds.SeedError, match=message):
        seeds.apply(connection, tmp_path / file)


def test_utf16_is_not_d1(connection: apsw.Connection, tmp_path: Path) -> None:
    source = apsw.Connection(str(tmp_path / "wide.db"))
    source.execute("PRAGMA encoding='UTF-16le'; CREATE TABLE t(a)")
    source.close()
    with pytest.raises(seeds.SeedError, match="encoded in UTF-16le"):
        seeds.apply(connection, tmp_path / "wide.db")


def test_a_table_without_rows_has_no_columns(connection: apsw.Connection) -> None:
    with pytest.raises(seeds.SeedError, match="'t' needs at least one row"):
        seeds.apply(connection, {"t": []})
