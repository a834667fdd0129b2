"""D1 as a database module in the sense of PEP 249.

D1 has no transactions over several calls. A call is a transaction of its own: one statement, a script, or what
:meth:`Cursor.executemany` sends at once. So :meth:`Connection.commit` does nothing, and
:meth:`Connection.rollback` raises an error when there are changes to undo.
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from airflow_provider_d1.cloudflare.sql_calls import batches
from airflow_provider_d1.cloudflare.sql_errors import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,  # noqa: A004 - PEP 249's name
)
from airflow_provider_d1.cloudflare.sql_parameters import Parameters, Statement, bind
from airflow_provider_d1.cloudflare.sql_tokens import split, verb

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client
    from airflow_provider_d1.cloudflare.credentials import Credentials
    from airflow_provider_d1.cloudflare.sql_calls import StatementResult

__all__ = [
    "BINARY",
    "DATETIME",
    "NUMBER",
    "ROWID",
    "STRING",
    "Binary",
    "Connection",
    "Cursor",
    "DataError",
    "DatabaseError",
    "Date",
    "DateFromTicks",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Time",
    "TimeFromTicks",
    "Timestamp",
    "TimestampFromTicks",
    "Warning",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]

apilevel = "2.0"
#: threads may share the module, but no connections
threadsafety = 1
#: a mapping binds ``:name``, ``@name`` and ``$name`` too
paramstyle = "qmark"

Date = dt.date
Time = dt.time
Timestamp = dt.datetime
Binary = bytes

#: SQLite's columns have no types of their own, so ``description`` has none
STRING, BINARY, NUMBER, DATETIME, ROWID = str, bytes, float, dt.datetime, int

Description = tuple[str, None, None, None, None, None, None]

_CHANGES = frozenset(("INSERT", "REPLACE", "UPDATE", "DELETE"))


def DateFromTicks(ticks: float) -> dt.date:  # noqa: N802 - PEP 249's name
    """The local date of a time in epoch seconds."""
    return dt.date(*time.localtime(ticks)[:3])


def TimeFromTicks(ticks: float) -> dt.time:  # noqa: N802 - PEP 249's name
    """The local time of day of a time in epoch seconds."""
    return dt.time(*time.localtime(ticks)[3:6])


def TimestampFromTicks(ticks: float) -> dt.datetime:  # noqa: N802 - PEP 249's name
    """The local date and time of a time in epoch seconds."""
    return dt.datetime(*time.localtime(ticks)[:6])  # noqa: DTZ001 - PEP 249 asks for the local time


def connect(credentials: Credentials, database: str) -> Connection:
    """Open a connection to a database; close it, or use it as a context manager.

    :param credentials: account, token and API base.
    :param database: name or UUID.
    :raises D1DatabaseNotFoundError: when there is none.
    """
    from airflow_provider_d1.cloudflare.client import D1Client

    client = D1Client(credentials)
    try:
        return Connection(client, client.get_database(database).uuid)
    except BaseException:
        client.close()
        raise


class Cursor:
    """Sends statements and holds the whole result of the last one.

    ``description`` has the columns' names only. ``rowcount`` is the number of rows that a query returned or that a
    statement changed, -1 for other statements. ``lastrowid`` is the row id of the last row that the cursor inserted.
    """

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.description: list[Description] | None = None
        self.rowcount = -1
        self.lastrowid: int | None = None
        self._rows: list[tuple[Any, ...]] = []
        self._next = 0
        self._closed = False

    def execute(self, sql: str, parameters: Parameters | None = None) -> Self:
        """Run SQL; the result is that of the last statement.

        :param sql: one statement, or several that run in order and in one transaction.
        :param parameters: a mapping for ``:name``, ``@name`` and ``$name``; a sequence for ``?`` and ``?NNN``.
        :raises ProgrammingError: when they do not fit; nothing was sent then.
        """
        statements = bind(sql, parameters)
        results = self._send(statements)
        last = results[-1]
        self._rows = [tuple(row) for row in last.rows]
        self.description = [(name, None, None, None, None, None, None) for name in last.columns] or None
        if last.columns:
            self.rowcount = len(self._rows)
        else:
            self.rowcount = _changes(statements[-1:], results[-1:])
        return self

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Self:
        """Run SQL once for each set of parameters. A call is one transaction and takes at most 500 statements or 1 MB.

        A failure leaves the changes of earlier calls.

        :param sql: as for :meth:`execute`; there is no result.
        :param parameters: sets of parameters; all are checked before the first call.
        """
        statements = [statement for each in parameters for statement in bind(sql, each)]
        counts = [_changes(batch, self._send(batch)) for batch in batches(statements)]
        changed = [count for count in counts if count >= 0]
        self.rowcount = sum(changed) if changed else -1
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """The next row, None after the last."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """The next ``size`` rows."""
        self._check_open()
        if self.description is None:
            raise ProgrammingError("Cursor: there is no result; execute a query first.")
        rows = self._rows[self._next : self._next + (self.arraysize if size is None else size)]
        self._next += len(rows)
        return rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """All rows that are left."""
        return self.fetchmany(len(self._rows))

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self

    def __next__(self) -> tuple[Any, ...]:
        row = self.fetchone()
        if row is None:
            raise StopIteration
        return row

    def setinputsizes(self, sizes: Sequence[Any]) -> None:
        """Do nothing."""

    def setoutputsize(self, size: int, column: int | None = None) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Discard the result."""
        self._closed = True
        self._rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, statements: Sequence[Statement]) -> list[StatementResult]:
        self._check_open()
        self.description, self.rowcount, self._rows, self._next = None, -1, [], 0
        results = self.connection.send(statements)
        for statement, result in zip(statements, results, strict=False):
            if _verb(statement) in ("INSERT", "REPLACE") and result.changes:
                self.lastrowid = result.last_row_id
        return results

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("Cursor: it is closed; get a new one by connection.cursor().")


class Connection:
    """One database behind a client that the connection owns. D1 commits each call."""

    autocommit = True

    Warning: ClassVar[type[Exception]] = Warning
    Error: ClassVar[type[Exception]] = Error
    InterfaceError: ClassVar[type[Exception]] = InterfaceError
    DatabaseError: ClassVar[type[Exception]] = DatabaseError
    DataError: ClassVar[type[Exception]] = DataError
    OperationalError: ClassVar[type[Exception]] = OperationalError
    IntegrityError: ClassVar[type[Exception]] = IntegrityError
    InternalError: ClassVar[type[Exception]] = InternalError
    ProgrammingError: ClassVar[type[Exception]] = ProgrammingError
    NotSupportedError: ClassVar[type[Exception]] = NotSupportedError

    def __init__(self, client: D1Client, database_id: str) -> None:
        self._client = client
        self._database_id = database_id
        self._closed = False
        self._changed = False

    def cursor(self) -> Cursor:
        """A new cursor."""
        self._check_open()
        return Cursor(self)

    def execute(self, sql: str, parameters: Parameters | None = None) -> Cursor:
        """Run ``sql`` with a new cursor, and return the cursor."""
        return self.cursor().execute(sql, parameters)

    def commit(self) -> None:
        """Do nothing: everything is committed already."""
        self._check_open()
        self._changed = False

    def rollback(self) -> None:
        """Do nothing when there is nothing to roll back.

        :raises NotSupportedError: when statements since the last :meth:`commit` may have changed something: D1 has
            committed them already.
        """
        self._check_open()
        if self._changed:
            raise NotSupportedError(
                "Connection: D1 commits each call, so the statements since the last commit() cannot be rolled back. Put"
                " statements that belong together into one script, or use executemany."
            )

    def close(self) -> None:
        """Close the client."""
        self._closed = True
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(self, statements: Sequence[Statement]) -> list[StatementResult]:
        """Run bound statements by one call; a result for each."""
        self._check_open()
        results = self._client.execute(self._database_id, statements)
        self._changed = self._changed or any(_verb(statement) not in _READS for statement in statements)
        return results

    def _check_open(self) -> None:
        if self._closed:
            raise InterfaceError("Connection: it is closed.")


_READS = frozenset(("SELECT", "VALUES", "EXPLAIN", "PRAGMA"))


def _verb(statement: Statement) -> str:
    return verb(split(statement.sql)[0])


def _changes(statements: Sequence[Statement], results: Sequence[StatementResult]) -> int:
    """How many rows were changed; -1 when no statement changes rows."""
    counts = [
        result.changes
        for statement, result in zip(statements, results, strict=False)
        if result.changes is not None and _verb(statement) in _CHANGES
    ]
    return sum(counts) if counts else -1
