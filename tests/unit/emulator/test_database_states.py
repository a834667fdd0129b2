"""Bookmarks that move with writes only, and restoring what they stand for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from airflow_provider_d1.emulator import database_states
from airflow_provider_d1.emulator.database_states import RestoreError
from airflow_provider_d1.emulator.databases import LocalDatabase, QueryError


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LocalDatabase]:
    database = LocalDatabase(tmp_path / "x.sqlite", "x", "id", "CREATE TABLE t(a UNIQUE); INSERT INTO t VALUES (1);")
    yield database
    database.close()


def run(database: LocalDatabase, sql: str) -> list[list[object]]:
    return database.query([(sql, ())])[-1].rows  # type: ignore[return-value]


def values(database: LocalDatabase) -> list[object]:
    return [row[0] for row in run(database, "SELECT a FROM t ORDER BY a")]


@pytest.mark.parametrize(
    ("sql", "moves"),
    [
        ("SELECT * FROM t", False),
        ("PRAGMA table_info(t)", False),
        ("DELETE FROM t WHERE a = 99", False),
        ("INSERT INTO t VALUES (2)", True),
        ("UPDATE t SET a = 5", True),
        ("CREATE TABLE u(a)", True),
        ("ALTER TABLE t ADD COLUMN b", True),
        ("SELECT 1; DELETE FROM t", True),
    ],
)
def test_a_bookmark_moves_with_what_is_written(database: LocalDatabase, sql: str, moves: bool) -> None:
    before = database.bookmark()
    assert database.bookmark() == before
    run(database, sql)
    assert (database.bookmark() > before) is moves
    assert (database.bookmark() != before) is moves


def test_a_failed_write_does_not_move_the_bookmark(database: LocalDatabase) -> None:
    before = database.bookmark()
    with pytest.raises(QueryError):
        run(database, "INSERT INTO t VALUES (2); INSERT INTO t VALUES (1)")
    assert database.bookmark() == before


def test_bookmarks_that_move_with_every_call(database: LocalDatabase) -> None:
    first, second = database.bookmark(moving=True), database.bookmark(moving=True)
    assert first < second
    run(database, "INSERT INTO t VALUES (2)")
    database.restore(first)
    assert values(database) == [1]


def test_restore_there_and_back(database: LocalDatabase) -> None:
    bookmarks = [database.bookmark()]
    for sql in (
        "INSERT INTO t VALUES (2)",
        "DELETE FROM t",
        "DROP TABLE t; CREATE TABLE t(a); INSERT INTO t VALUES (9)",
    ):
        run(database, sql)
        bookmarks.append(database.bookmark())
    states = [[1], [1, 2], [], [9]]
    for which in (0, 2, 1, 3, 3, 0):
        before = database.bookmark()
        previous, current = database.restore(bookmarks[which])
        assert (previous, current) == (before, database.bookmark())
        assert values(database) == states[which]
        assert current not in bookmarks
    run(database, "INSERT INTO t VALUES (7)")
    assert values(database) == [1, 7]
    database.restore(bookmarks[0])
    assert values(database) == [1]


def test_a_restored_database_keeps_its_rules(database: LocalDatabase) -> None:
    bookmark = database.bookmark()
    run(database, "INSERT INTO t VALUES (2)")
    database.restore(bookmark)
    with pytest.raises(QueryError, match="UNIQUE"):
        run(database, "INSERT INTO t VALUES (1)")
    run(database, "INSERT INTO t VALUES (3)")
    with database.reader() as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [(1,), (3,)]


def test_an_unknown_bookmark(database: LocalDatabase) -> None:
    with pytest.raises(RestoreError, match="Invalid bookmark"):
        database.restore("00000000-nothing")
    assert values(database) == [1]


def test_bookmarks_of_the_past(database: LocalDatabase) -> None:
    first, created = database.bookmark(), datetime.now(UTC)
    run(database, "INSERT INTO t VALUES (2)")
    second = database.bookmark()
    assert database.bookmark(created) == first
    assert database.bookmark(created - timedelta(days=1)) == first
    assert database.bookmark(datetime.now(UTC) + timedelta(days=1)) == second


def test_only_so_many_states_are_kept(database: LocalDatabase, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(database_states, "MAX_COPIES", 3)
    first = database.bookmark()
    for number in range(10, 20):
        run(database, f"INSERT INTO t VALUES ({number})")
    assert len(list(tmp_path.glob("*.copy"))) == 3
    with pytest.raises(RestoreError, match="kept no copy"):
        database.restore(first)
    assert len(values(database)) == 11
