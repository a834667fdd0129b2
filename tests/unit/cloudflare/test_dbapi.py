"""The database module keeps the promises of PEP 249."""

from __future__ import annotations

import inspect
import secrets
import time
from collections.abc import Iterator

import pytest

from airflow_provider_d1.cloudflare import dbapi
from airflow_provider_d1.cloudflare.credentials import Credentials
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ApiError, D1DatabaseNotFoundError, D1Error

TABLE = "CREATE TABLE t (id INTEGER PRIMARY KEY, a UNIQUE)"


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": TABLE}) as emulator:
        yield emulator


@pytest.fixture
def connection(emulator: Emulator) -> Iterator[dbapi.Connection]:
    credentials = Credentials(account_id=emulator.account_id, token=emulator.token, base_url=emulator.url)
    with dbapi.connect(credentials, "shop") as connection:
        connection.execute("DELETE FROM t")
        connection.commit()
        emulator.calls.clear()
        yield connection


def test_the_module() -> None:
    assert (dbapi.apilevel, dbapi.threadsafety, dbapi.paramstyle) == ("2.0", 1, "qmark")
    assert list(inspect.signature(dbapi.connect).parameters) == ["credentials", "database"]
    assert sorted(dbapi.__all__) == sorted(name for name in dbapi.__all__ if hasattr(dbapi, name))
    tree = {
        dbapi.Error: [dbapi.InterfaceError, dbapi.DatabaseError],
        dbapi.DatabaseError: [
            *(dbapi.DataError, dbapi.OperationalError, dbapi.IntegrityError),
            *(dbapi.InternalError, dbapi.ProgrammingError, dbapi.NotSupportedError),
        ],
        Exception: [dbapi.Warning, dbapi.Error],
    }
    for parent, children in tree.items():
        assert all(issubclass(child, parent) for child in children)
    assert not issubclass(dbapi.Warning, dbapi.Error)
    assert (dbapi.Error, dbapi.DatabaseError) == (D1Error, D1ApiError)
    for name in ("Warning", "Error", "InterfaceError", "DatabaseError", "DataError", "OperationalError"):
        assert getattr(dbapi.Connection, name) is getattr(dbapi, name)


def test_constructors() -> None:
    ticks = time.mktime((2026, 11, 27, 12, 30, 5, 0, 0, -1))
    assert dbapi.DateFromTicks(ticks) == dbapi.Date(2026, 11, 27)
    assert dbapi.TimeFromTicks(ticks) == dbapi.Time(12, 30, 5)
    assert dbapi.TimestampFromTicks(ticks).isoformat() == "2026-11-27T12:30:05"
    assert dbapi.Binary(b"a") == b"a"


def test_a_result_is_fetched_in_pieces(connection: dbapi.Connection) -> None:
    cursor = connection.cursor()
    assert cursor.connection is connection
    with pytest.raises(dbapi.ProgrammingError, match="no result"):
        cursor.fetchone()
    assert cursor.execute("VALUES (1), (2), (3), (4), (5)") is cursor
    assert (cursor.rowcount, cursor.arraysize) == (5, 1)
    assert cursor.description == [("column1", None, None, None, None, None, None)]
    assert (cursor.fetchone(), cursor.fetchmany(), cursor.fetchmany(2)) == ((1,), [(2,)], [(3,), (4,)])
    assert list(cursor) == [(5,)]
    assert (cursor.fetchone(), cursor.fetchmany(3), cursor.fetchall()) == (None, [], [])
    assert cursor.execute("SELECT 1 WHERE 0").fetchall() == []
    cursor.execute("INSERT INTO t (a) VALUES (1)")
    assert cursor.description is None
    with pytest.raises(dbapi.ProgrammingError, match="no result"):
        cursor.fetchall()


def test_counts_and_row_ids(connection: dbapi.Connection) -> None:
    cursor = connection.cursor()
    assert (cursor.rowcount, cursor.lastrowid) == (-1, None)
    cursor.execute("INSERT INTO t (id, a) VALUES (7, 'x'), (8, 'y')")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 8)
    cursor.execute("UPDATE t SET a = a || 'z'")
    assert (cursor.rowcount, cursor.lastrowid) == (2, 8)
    cursor.execute("DELETE FROM t WHERE id = 99")
    assert cursor.rowcount == 0
    cursor.execute("CREATE TABLE IF NOT EXISTS other (a)")
    assert cursor.rowcount == -1
    cursor.execute("WITH n(i) AS (VALUES (20)) INSERT INTO t (id) SELECT i FROM n")
    assert (cursor.rowcount, cursor.lastrowid) == (1, 20)
    assert connection.execute("SELECT 1").lastrowid is None


def test_many_are_one_call_within_d1s_limits(connection: dbapi.Connection, emulator: Emulator) -> None:
    cursor = connection.cursor()
    cursor.executemany("INSERT INTO t (id, a) VALUES (?, ?)", ([n, f"a{n}"] for n in range(1200)))
    assert (cursor.rowcount, cursor.lastrowid, cursor.description) == (1200, 1199, None)
    assert [len(call.body["batch"]) for call in emulator.calls.of("raw")] == [500, 500, 200]
    emulator.calls.clear()
    cursor.executemany("UPDATE t SET a = :a WHERE id = :id", [{"id": n, "a": f"{n}" * 100_000} for n in range(10, 40)])
    assert [len(call.body["batch"]) for call in emulator.calls.of("raw")] == [4] * 7 + [2]
    cursor.executemany("DELETE FROM t", [])
    assert cursor.rowcount == -1


def test_nothing_is_sent_when_one_of_many_does_not_fit(connection: dbapi.Connection, emulator: Emulator) -> None:
    with pytest.raises(dbapi.ProgrammingError):
        connection.cursor().executemany("INSERT INTO t (a) VALUES (?)", [[1], [2, 3]])
    assert not emulator.calls.of("raw")


def test_many_in_one_call_are_one_transaction(connection: dbapi.Connection) -> None:
    with pytest.raises(dbapi.IntegrityError, match="UNIQUE constraint failed"):
        connection.cursor().executemany("INSERT INTO t (a) VALUES (?)", [["x"], ["y"], ["x"]])
    assert connection.execute("SELECT a FROM t").fetchall() == []


def test_what_is_done_cannot_be_rolled_back(connection: dbapi.Connection) -> None:
    connection.execute("SELECT a FROM t")
    connection.rollback()  # nothing was done
    connection.execute("INSERT INTO t (a) VALUES (1)")
    with pytest.raises(dbapi.NotSupportedError, match="cannot be rolled back"):
        connection.rollback()
    connection.commit()
    connection.rollback()


def test_what_is_closed_is_not_used(emulator: Emulator) -> None:
    credentials = Credentials(account_id=emulator.account_id, token=emulator.token, base_url=emulator.url)
    with dbapi.connect(credentials, "shop") as connection:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        with pytest.raises(dbapi.InterfaceError, match="Cursor: it is closed"):
            cursor.fetchone()
    for use in (connection.cursor, connection.commit, connection.rollback):
        with pytest.raises(dbapi.InterfaceError, match="Connection: it is closed"):
            use()


def test_an_unknown_database(emulator: Emulator) -> None:
    credentials = Credentials(account_id=emulator.account_id, token=emulator.token, base_url=emulator.url)
    with pytest.raises(D1DatabaseNotFoundError):
        dbapi.connect(credentials, "nothing")


def test_errors_of_the_call_stay_what_they_are(emulator: Emulator) -> None:
    credentials = Credentials(account_id=emulator.account_id, token=emulator.token, base_url=emulator.url)
    with dbapi.connect(credentials, "shop") as connection:
        with pytest.raises(dbapi.OperationalError, match="no such table: nope") as raised:
            connection.execute("SELECT * FROM nope")
        assert (raised.value.status, raised.value.retryable) == (400, False)
        emulator.faults.set({"no_d1_right": True})
        with pytest.raises(dbapi.DatabaseError, match="lack the D1 permission"):
            connection.execute("SELECT 1")
    emulator.reset()
