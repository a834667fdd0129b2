from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_d1.emulator.databases import Databases, LocalDatabase, QueryError

SEED = """
CREATE TABLE parent(id INTEGER PRIMARY KEY);
CREATE TABLE child(id INTEGER PRIMARY KEY, parent INTEGER REFERENCES parent(id));
INSERT INTO parent VALUES (1);
INSERT INTO child VALUES (1, 1);
"""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[LocalDatabase]:
    database = LocalDatabase(tmp_path / "x.sqlite", "x", "id", SEED)
    yield database
    database.close()


def one(database: LocalDatabase, sql: str, *parameters: object) -> list[list[object]]:
    (result,) = database.query([(sql, parameters)])
    return result.rows  # type: ignore[return-value]


def test_one_result_for_each_statement(database: LocalDatabase) -> None:
    first, second, third = database.query([("SELECT 1 AS a; SELECT 2 AS b, 3 AS b", ()), ("DELETE FROM child", ())])
    assert (first.columns, first.rows, first.changes) == (["a"], [[1]], 0)
    assert (second.columns, second.rows) == (["b", "b"], [[2, 3]])
    assert (third.columns, third.rows, third.changes) == ([], [], 1)


def test_changes_belong_to_their_statement(database: LocalDatabase) -> None:
    sql = "INSERT INTO parent VALUES (7), (8); SELECT 1; DELETE FROM parent WHERE id > 1"
    results = database.query([(sql, ())])
    assert [result.changes for result in results] == [2, 0, 2]
    assert results[0].last_row_id == 8


def test_parameters(database: LocalDatabase) -> None:
    assert one(database, "SELECT ?1, ?2, ?3", 1, "x", None) == [[1, "x", None]]


def test_a_text_that_is_not_utf8(database: LocalDatabase) -> None:
    (result,) = database.query([("SELECT 1 AS n, CAST(X'ff' AS TEXT) AS t, X'ff' AS b;", ())])
    assert (result.columns, result.rows) == (["n", "t", "b"], [[1, "�", [255]]])


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELEC 1", 'near "SELEC": syntax error at offset 0: SQLITE_ERROR'),
        ("SELECT x", "no such column: x at offset 7: SQLITE_ERROR"),
        ("INSERT INTO child VALUES (2, 99)", "FOREIGN KEY constraint failed: SQLITE_CONSTRAINT"),
        ("BEGIN", "To execute a transaction, please use the state.storage.transaction()"),
        ("SAVEPOINT s", "To execute a transaction, please use the state.storage.transaction()"),
        ("CREATE VIEW _CF_v AS SELECT 1", "not authorized: SQLITE_AUTH"),
        ("ALTER TABLE parent RENAME TO _cf_p", "not authorized: SQLITE_AUTH"),
        ("CREATE TEMP TABLE x(a)", "not authorized: SQLITE_AUTH"),
        ("CREATE VIRTUAL TABLE x USING fts4(a)", "not authorized: SQLITE_AUTH"),
        ("SELECT sqlite_version()", "not authorized to use function: sqlite_version at offset 7: SQLITE_ERROR"),
        ("ATTACH ':memory:' AS a", "not authorized: SQLITE_AUTH"),
        ("PRAGMA journal_mode=DELETE", "not authorized: SQLITE_AUTH"),
        ("CREATE TABLE _cf_mine(a)", "not authorized: SQLITE_AUTH"),
        ("SELECT * FROM _cf_KV", "access to _cf_KV.key is prohibited: SQLITE_AUTH"),
        ("-- nothing", "No SQL statements detected."),
        ("  ; ", "No SQL statements detected."),
    ],
)
def test_errors_have_d1s_messages(database: LocalDatabase, sql: str, message: str) -> None:
    with pytest.raises(QueryError) as refused:
        database.query([(sql, ())])
    assert str(refused.value).startswith(message)
    assert one(database, "SELECT 1") == [[1]]  # and nothing is left behind


def test_a_text_that_is_not_utf8_beside_another_statement(database: LocalDatabase) -> None:
    with pytest.raises(QueryError, match="only a single SELECT"):
        database.query([("SELECT CAST(X'ff' AS TEXT); SELECT 1", ())])


def test_a_query_that_fails_changes_nothing(database: LocalDatabase) -> None:
    with pytest.raises(QueryError):
        database.query([("DELETE FROM child", ()), ("SELEC 1", ())])
    assert one(database, "SELECT count(*) FROM child") == [[1]]


def test_the_pragmas_that_d1_allows(database: LocalDatabase) -> None:
    assert one(database, "SELECT name FROM pragma_table_xinfo('child')") == [["id"], ["parent"]]
    assert one(database, "PRAGMA foreign_keys") == [[1]]


def test_cloudflare_s_own_table_is_there_but_not_counted(database: LocalDatabase) -> None:
    assert ["_cf_KV"] in one(database, "SELECT name FROM sqlite_schema")
    assert database.table_count == 2


def test_analyze_leaves_only_the_statistics_that_d1_has(database: LocalDatabase) -> None:
    database.query([("ANALYZE", ())])
    assert one(database, "SELECT name FROM sqlite_schema WHERE name LIKE 'sqlite_stat%'") == [["sqlite_stat1"]]


def test_a_dump_does_not_hold_up_queries(database: LocalDatabase) -> None:
    with database.reader() as connection:
        rows = connection.execute("SELECT id FROM parent")
        assert rows.fetchone() == (1,)
        database.query([("INSERT INTO parent VALUES (2)", ())])
        assert connection.execute("SELECT count(*) FROM parent").fetchone() == (1,)


def test_a_table_others_refer_to_can_be_dropped(database: LocalDatabase) -> None:
    database.drop_table("parent")
    database.drop_table("parent")
    assert database.table_count == 1
    assert one(database, "PRAGMA foreign_keys") == [[1]]


def test_store(tmp_path: Path) -> None:
    store = Databases(tmp_path, "account")
    shop, workshop = store.add("shop", None), store.add("Workshop", None)
    assert store.get(shop.uuid.upper()) is shop
    assert store.get("0" * 8) is None
    assert store.search("SHOP") == [shop, workshop]
    assert store.search("work") == [workshop]
    assert store.search(None) == [shop, workshop]
    assert store.ids() == {"shop": shop.uuid, "Workshop": workshop.uuid}
    store.close()
    again = Databases(tmp_path / "..", "account")
    assert again.add("shop", None).uuid == shop.uuid
    again.close()
