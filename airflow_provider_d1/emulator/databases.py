"""The account's databases: SQLite files in a temporary folder, with D1's rules for queries."""

from __future__ import annotations

import math
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apsw

from airflow_provider_d1.emulator import dump_literals, seeds
from airflow_provider_d1.emulator.authorizer import Authorizer, reserved
from airflow_provider_d1.emulator.database_states import TimeTravel
from airflow_provider_d1.emulator.imports import ImportStatistics

JsonValue = int | float | str | list[int] | None
#: D1's limit, also for each statement of an import
MAX_STATEMENT_BYTES = 100_000
_COMMENT = re.compile(r"--[^\n]*|/\*.*?\*/", re.DOTALL)


class QueryError(Exception):
    """SQL that failed, with D1's message."""


@dataclass(slots=True)
class QueryResult:
    """The result of one statement of a query."""

    columns: list[str] = field(default_factory=list)
    rows: list[list[JsonValue]] = field(default_factory=list)
    changes: int = 0
    last_row_id: int = 0


class LocalDatabase:
    """One D1 database.

    :param path: the SQLite file, created and filled from the seed.
    :param name: its name in the account.
    :param database_id: its UUID.
    :param seed: its initial content.
    :param ready_dump: a file that every export of it returns unchanged, instead of a dump of the tables.
    """

    def __init__(
        self, path: Path, name: str, database_id: str, seed: seeds.Seed, ready_dump: Path | None = None
    ) -> None:
        self.path = path
        self.name = name
        self.uuid = database_id
        self.created_at = datetime.now(UTC)
        self.ready_dump = ready_dump
        self._lock = threading.Lock()
        self._connection = apsw.Connection(str(path))
        try:
            self._fill(seed)
        except BaseException:
            self._connection.close()
            raise
        self._time_travel = TimeTravel(path)

    def _fill(self, seed: seeds.Seed) -> None:
        # Without a journal a crash can destroy the file, which is temporary; seeding is much faster.
        self._pragmas(journal_mode="OFF", synchronous="OFF", foreign_keys="OFF")
        seeds.apply(self._connection, seed)
        self._drop_foreign_statistics()
        self._connection.execute("CREATE TABLE IF NOT EXISTS _cf_KV (key TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID")
        self._reserved = self._reserved_names()
        # A write-ahead log: a dump may still be written after its export was cancelled, and must not block queries.
        self._pragmas(journal_mode="WAL", foreign_keys="ON")

    def _pragmas(self, **settings: str) -> None:
        for name, value in settings.items():
            self._connection.pragma(name, value)

    def _reserved_names(self) -> set[str]:
        names = self._connection.execute("SELECT name FROM sqlite_schema")
        return {str(name) for (name,) in names if reserved(str(name))}

    def _drop_foreign_statistics(self) -> None:
        """Drop a table that ANALYZE fills here; D1's SQLite is built without it."""
        if self._connection.table_exists("main", "sqlite_stat4"):
            self._connection.execute("DROP TABLE sqlite_stat4")

    @property
    def file_size(self) -> int:
        """Size in bytes, as SQLite counts its pages."""
        with self._lock:
            return self._size()

    def _size(self) -> int:
        return int(self._connection.pragma("page_count")) * int(self._connection.pragma("page_size"))

    @property
    def table_count(self) -> int:
        """How many tables there are, SQLite's and Cloudflare's own not counted."""
        with self._lock:
            names = self._connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
            return sum(not str(name).startswith(("sqlite_", "_cf_")) for (name,) in names)

    @property
    def row_count(self) -> int:
        """Rows of all tables: what an export reads."""
        with self._lock:
            tables = self._connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            names = [dump_literals.identifier(str(name)) for (name,) in tables]
            counts = [f"SELECT count(*) FROM {name}" for name in names]  # noqa: S608 - quoted names
            return sum(int(n) for sql in counts for (n,) in self._connection.execute(sql))

    def bookmark(self, timestamp: datetime | None = None, *, moving: bool = False) -> str:
        """The present bookmark or that of a time in the past; it changes only with a write.

        :param moving: return a new present one, although nothing was written.
        """
        with self._lock:
            if timestamp is not None:
                return self._time_travel.bookmark_at(timestamp)
            return self._time_travel.bookmark(moving=moving)

    def restore(self, bookmark: str) -> tuple[str, str]:
        """Restore a bookmark's state; return the bookmarks of the states before and after the restore.

        :raises RestoreError: when the bookmark is unknown, or its state was not kept.
        """
        with self._lock:
            previous = self._time_travel.restore(bookmark, self._connection)
            return previous, self._time_travel.bookmark()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Run statements in one transaction; the bookmark changes when something was written."""
        with self._lock:
            before = self._written()
            with self._connection:
                yield
            if self._written() != before:
                self._time_travel.after_write()

    def _written(self) -> tuple[int, int]:
        return self._connection.total_changes(), int(self._connection.pragma("schema_version"))

    def query(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> list[QueryResult]:
        """Run statements in one transaction.

        :param statements: pairs of SQL (one statement or several) and bound parameters.
        :raises QueryError: with SQLite's message as D1 prints it; nothing was changed then.
        """
        with self._transaction():
            results = [
                result
                for sql, parameters in statements
                for result in self._run(sql, [from_json(value) for value in parameters])
            ]
            if not results:
                raise QueryError("No SQL statements detected.")
            if self._reserved_names() - self._reserved:
                raise QueryError("not authorized: SQLITE_AUTH")
            self._drop_foreign_statistics()
        return results

    def import_script(self, sql: str, cancelled: threading.Event) -> ImportStatistics:
        """Run an uploaded script in one transaction.

        :param cancelled: stops it before the next statement.
        :raises QueryError: with SQLite's message as D1 prints it; nothing was changed then.
        """
        began = time.perf_counter()
        if "\0" in sql:
            raise QueryError(f"unrecognized token at offset {sql.index(chr(0))}: SQLITE_ERROR")

        def check(statement: str) -> None:
            if cancelled.is_set():
                raise QueryError("Cancelled due to no poll() received in 15000ms.")
            if len(statement.encode()) > MAX_STATEMENT_BYTES:
                raise QueryError("statement too long: SQLITE_TOOBIG")

        with self._transaction():
            results = self._run(sql, (), check)
            self._drop_foreign_statistics()
        with self._lock:
            return ImportStatistics(
                statements=len(results),
                changes=sum(result.changes for result in results),
                last_row_id=results[-1].last_row_id if results else 0,
                milliseconds=(time.perf_counter() - began) * 1000,
                size=self._size(),
                final_bookmark=self._time_travel.bookmark(),
            )

    def _run(
        self, sql: str, parameters: Sequence[Any], check: Callable[[str], None] | None = None
    ) -> list[QueryResult]:
        results: list[QueryResult] = []
        counted = self._connection.total_changes()  # before the statement that runs

        def started(cursor: apsw.Cursor, statement: str, _bindings: object) -> bool:
            nonlocal counted
            counted = self._finish(results, counted)
            if check is not None:
                check(statement)
            if not cursor.is_readonly:
                self._time_travel.before_write()
            if _COMMENT.sub("", statement).strip(" \t\r\n;"):
                results.append(QueryResult([column[0] for column in cursor.get_description()]))
            return True

        authorizer = self._connection.authorizer = Authorizer()
        cursor = self._connection.cursor()
        cursor.exec_trace = started
        try:
            for row in cursor.execute(sql, tuple(parameters), can_cache=False):
                results[-1].rows.append([to_json(value) for value in row])
        except apsw.AuthError as error:
            raise QueryError(authorizer.reason or f"{error}: SQLITE_AUTH") from error
        except apsw.BindingsError as error:
            raise QueryError("Wrong number of parameter bindings for SQL query.") from error
        except apsw.Error as error:
            raise QueryError(_message(error)) from error
        except UnicodeDecodeError:
            self._connection.authorizer = None  # the statement has passed it already
            results[-1:] = [self._run_bytewise(sql, parameters)]
        finally:
            self._connection.authorizer = None
        self._finish(results, counted)
        return results

    def _run_bytewise(self, sql: str, parameters: Sequence[Any]) -> QueryResult:
        """Run the same SELECT again with text as bytes, because a value is not valid UTF-8."""
        cursor = self._connection.cursor()
        columns: list[str] = []

        def describe(cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
            columns.extend(column[0] for column in cursor.get_description())
            return False

        cursor.exec_trace = describe
        with suppress(apsw.ExecTraceAbort):
            cursor.execute(sql, tuple(parameters), can_cache=False)
        names = [f"c{i}" for i in range(len(columns))]
        fields = dump_literals.as_bytes(names)
        # the query is the caller's own, as it is
        wrapped = f"WITH q({', '.join(names)}) AS ({sql.strip().rstrip(';')}\n) SELECT {fields} FROM q"  # noqa: S608
        try:
            rows = self._connection.execute(wrapped, tuple(parameters), can_cache=False).fetchall()
        except apsw.Error as error:  # more than one statement, or not a SELECT
            raise QueryError("only a single SELECT can return text that is not valid UTF-8") from error
        return QueryResult(columns, [[to_json(v) for v in dump_literals.with_text(row)] for row in rows])

    def _finish(self, results: list[QueryResult], counted: int) -> int:
        """Fill in what the last statement changed; the count of all changes until now."""
        total = self._connection.total_changes()
        if results:
            results[-1].changes += total - counted
            results[-1].last_row_id = self._connection.last_insert_rowid()
        return total

    @contextmanager
    def reader(self) -> Iterator[apsw.Connection]:
        """A read-only connection that sees one state of the database."""
        connection = apsw.Connection(str(self.path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            with connection:
                yield connection
        finally:
            connection.close()

    def drop_table(self, name: str) -> None:
        """Drop a table without the API; a name that does not exist is ignored."""
        with self._lock:
            self._pragmas(foreign_keys="OFF")
            self._time_travel.before_write()
            self._connection.execute(f"DROP TABLE IF EXISTS {dump_literals.identifier(name)}")
            self._time_travel.after_write()
            self._pragmas(foreign_keys="ON")

    def close(self) -> None:
        """Close the file; it stays on disk."""
        with self._lock:
            self._connection.close()


def from_json(value: JsonValue) -> float | str | None:
    """One parameter as D1 binds it: every number and boolean is a REAL, as JavaScript has no integers."""
    if not isinstance(value, int | float):
        return str(value) if value is not None else None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def to_json(value: float | str | bytes | None) -> JsonValue:
    """One value of a result row.

    Integers beyond 2^53 lose digits, whole REALs lose their point, infinities become null, blobs lists of numbers.
    """
    if isinstance(value, bytes):
        return list(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isinf(value):
        return None
    printed = dump_literals.number(value)
    return float(printed) if any(mark in printed for mark in ".e") else int(printed)


def _message(error: apsw.Error) -> str:
    """``near "SELEC": syntax error at offset 0: SQLITE_ERROR``, as in D1's messages."""
    offset = getattr(error, "error_offset", -1)
    code = apsw.mapping_result_codes.get(getattr(error, "extendedresult", 1) & 0xFF, "SQLITE_ERROR")
    extended = apsw.mapping_extended_result_codes.get(getattr(error, "extendedresult", 1))
    at = f" at offset {offset}" if offset is not None and offset >= 0 else ""
    tail = f" (extended: {extended})" if extended else ""
    return f"{error}{at}: {code}{tail}"


class Databases:
    """The databases of the account, by UUID and in the order they were added.

    :param folder: where their files go.
    :param account_id: part of the UUIDs: the same account and name always have the same one.
    """

    def __init__(self, folder: Path, account_id: str) -> None:
        self._folder = folder
        self._account_id = account_id
        self._databases: dict[str, LocalDatabase] = {}

    def add(self, name: str, seed: seeds.Seed, ready_dump: Path | None = None) -> LocalDatabase:
        """Create a database.

        :raises seeds.SeedError: when the seed cannot be read.
        """
        database_id = str(uuid.uuid5(uuid.NAMESPACE_URL, f"d1:{self._account_id}/{name}"))
        database = LocalDatabase(self._folder / f"{database_id}.sqlite", name, database_id, seed, ready_dump)
        self._databases[database_id] = database
        return database

    def get(self, database_id: str) -> LocalDatabase | None:
        """The database of that UUID."""
        return self._databases.get(database_id.lower())

    def search(self, name: str | None) -> list[LocalDatabase]:
        """The databases that the list call finds: ``name`` anywhere in the name, case-insensitively."""
        wanted = (name or "").lower()
        return [database for database in self._databases.values() if wanted in database.name.lower()]

    def ids(self) -> Mapping[str, str]:
        """UUIDs by name."""
        return {database.name: database.uuid for database in self._databases.values()}

    def close(self) -> None:
        """Close all files."""
        for database in self._databases.values():
            database.close()
