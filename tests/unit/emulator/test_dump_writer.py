from __future__ import annotations

import json
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import apsw
import pytest

from airflow_provider_d1.cloudflare.models import ExportOptions
from airflow_provider_d1.emulator.databases import LocalDatabase
from airflow_provider_d1.emulator.dump_writer import VirtualTableError, chunks, refuse_virtual_tables

CORPUS = Path(__file__).parents[2] / "data" / "corpus"


def database(tmp_path: Path, seed: Path | str | Sequence[str]) -> LocalDatabase:
    return LocalDatabase(tmp_path / "db.sqlite", "db", "db", seed)


def dump(tmp_path: Path, seed: Path | str | Sequence[str], *, old_newlines: bool = False, **options: object) -> bytes:
    with database(tmp_path, seed).reader() as connection:
        return b"".join(chunks(connection, ExportOptions(**options), old_newlines=old_newlines))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("file", "options"),
    [("full", {}), ("nodata", {"no_data": True}), ("noschema", {"no_schema": True})],
)
def test_corpus(tmp_path: Path, file: str, options: dict[str, bool]) -> None:
    """The corpus was written by an engine with the old writer of newlines."""
    ours = dump(tmp_path, CORPUS / "nasty.json", old_newlines=True, **options)
    assert ours == (CORPUS / f"nasty_{file}.sql").read_bytes()


def test_newlines_beside_a_literal_one(tmp_path: Path) -> None:
    seed = ["CREATE TABLE t(a)", "INSERT INTO t VALUES ('x\\ny\n')"]
    (tmp_path / "old").mkdir()
    assert dump(tmp_path, seed, no_schema=True).decode().split("\n")[1:] == [
        r"""INSERT INTO "t" ("a") VALUES(replace('x\ny\012','\012',char(10)));"""
    ]
    assert dump(tmp_path / "old", seed, no_schema=True, old_newlines=True).decode().split("\n")[1:] == [
        r"""INSERT INTO "t" ("a") VALUES(replace('x\ny\n','\n',char(10)));"""
    ]


def test_one_table_beside_a_virtual_one(tmp_path: Path) -> None:
    assert dump(tmp_path, CORPUS / "fts.json", tables=("docs",)) == (CORPUS / "fts_table_docs.sql").read_bytes()


@pytest.mark.parametrize("options", [{}, {"no_data": True}, {"tables": ("docs_fts",)}])
def test_a_virtual_table_ends_the_dump(tmp_path: Path, options: dict[str, object]) -> None:
    with pytest.raises(
        VirtualTableError, match=r"^D1 Export error: cannot export databases with Virtual Tables \(fts5\)$"
    ):
        dump(tmp_path, CORPUS / "fts.json", **options)


def test_strict_refusal_looks_at_every_table(tmp_path: Path) -> None:
    with database(tmp_path, CORPUS / "fts.json").reader() as connection, pytest.raises(VirtualTableError):
        refuse_virtual_tables(connection)


def test_an_empty_database_is_one_statement(tmp_path: Path) -> None:
    assert dump(tmp_path, "") == b"PRAGMA defer_foreign_keys=TRUE;"


@pytest.mark.parametrize("name", ["SHOP", "shops", ""])
def test_an_unknown_name_gives_an_empty_dump(tmp_path: Path, name: str) -> None:
    assert dump(tmp_path, "CREATE TABLE shop(a)", tables=(name,)) == b"PRAGMA defer_foreign_keys=TRUE;"


def test_no_data_keeps_the_sequence_delete_and_the_analyze(tmp_path: Path) -> None:
    seed = "CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT); INSERT INTO a DEFAULT VALUES; ANALYZE;"
    assert dump(tmp_path, seed, no_data=True).split(b"\n")[1:] == [
        b"CREATE TABLE a(id INTEGER PRIMARY KEY AUTOINCREMENT);",
        b"ANALYZE sqlite_schema;",
        b"DELETE FROM sqlite_sequence;",
    ]


def test_quotes_in_a_comment_change_the_create(tmp_path: Path) -> None:
    assert b"CREATE TABLE IF NOT EXISTS t(a /* CREATE TABLE 'x' */);" in dump(
        tmp_path, ["CREATE TABLE t(a /* CREATE TABLE 'x' */)"]
    )


def test_rows_before_an_invalid_text_are_not_written_twice(tmp_path: Path) -> None:
    seed = ["CREATE TABLE t(a)", "INSERT INTO t VALUES ('one'), (2), (CAST(X'ff' AS TEXT)), (X'ff'), (5)"]
    assert dump(tmp_path, seed, no_schema=True).decode().split("\n")[1:] == [
        f'INSERT INTO "t" ("a") VALUES({value});' for value in ("'one'", "2", "'�'", "X'ff'", "5")
    ]


def test_a_dump_loads_and_dumps_as_itself_again(tmp_path: Path) -> None:
    (tmp_path / "first").mkdir()
    # a view that ends in a comment swallows the semicolon behind it: no SQLite can load that dump
    statements = [s for s in json.loads((CORPUS / "nasty.json").read_text()) if "trailing comment" not in s]
    statements = [s for s in statements if "v_a" not in s]
    first = dump(tmp_path / "first", statements)
    (tmp_path / "dump.sql").write_bytes(first)
    assert dump(tmp_path, tmp_path / "dump.sql") == first


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    connection = apsw.Connection(str(tmp_path / "x.db"))
    connection.execute("CREATE TABLE t(a); BEGIN")
    connection.executemany("INSERT INTO t VALUES (?)", (("x" * 1000,) for _ in range(20_000)))
    connection.execute("COMMIT")
    tracemalloc.start()
    try:
        size = sum(len(chunk) for chunk in chunks(connection, ExportOptions(), size=1 << 16))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 20_000_000
    assert peak < 2_000_000


def test_a_chunk_ends_with_the_statement_that_fills_it(tmp_path: Path) -> None:
    with database(tmp_path, "CREATE TABLE t(a); INSERT INTO t VALUES (1), (2);").reader() as connection:
        pieces = list(chunks(connection, ExportOptions(no_schema=True), size=40))
    assert pieces == [
        b'PRAGMA defer_foreign_keys=TRUE;\nINSERT INTO "t" ("a") VALUES(1);',
        b'\nINSERT INTO "t" ("a") VALUES(2);',
    ]
