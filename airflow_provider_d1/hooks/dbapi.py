"""As much of the DB-API (PEP 249) over D1's HTTP API as Airflow's SQL operators use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client

#: D1 takes so many bound parameters in one statement
MAX_PARAMETERS = 100


class D1Cursor:
    """Sends each statement as a call of its own and holds its whole result.

    ``description`` has the columns' names only: D1 tells no types. ``rowcount`` is the number of rows that a query
    returned, -1 for a statement without any.
    """

    arraysize = 1

    def __init__(self, client: D1Client, database_id: str) -> None:
        self._client = client
        self._database_id = database_id
        self._rows: list[tuple[Any, ...]] = []
        self._next = 0
        self.description: list[tuple[Any, ...]] | None = None
        self.rowcount = -1

    def execute(self, sql: str, parameters: Sequence[Any] | None = None) -> Self:
        """Run one statement; ``?`` stands for a parameter, at most 100 of them."""
        columns, rows = self._client.raw(self._database_id, sql, list(parameters or ()))
        self._rows = [tuple(row) for row in rows]
        self._next = 0
        self.description = [(name, None, None, None, None, None, None) for name in columns] or None
        self.rowcount = len(self._rows) if columns else -1
        return self

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> Self:
        """Run one statement once for each set of parameters."""
        for row in parameters:
            self.execute(sql, row)
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        """Return the next row, None after the last."""
        rows = self.fetchmany(1)
        return rows[0] if rows else None

    def fetchmany(self, size: int | None = None) -> list[tuple[Any, ...]]:
        """Return the next ``size`` rows."""
        rows = self._rows[self._next : self._next + (self.arraysize if size is None else size)]
        self._next += len(rows)
        return rows

    def fetchall(self) -> list[tuple[Any, ...]]:
        """Return all rows that are left."""
        return self.fetchmany(len(self._rows))

    def close(self) -> None:
        """Forget the result."""
        self._rows = []


class D1Connection:
    """One database behind a client that it owns. D1 commits each statement by itself."""

    autocommit = True

    def __init__(self, client: D1Client, database_id: str) -> None:
        self._client = client
        self._database_id = database_id

    def cursor(self) -> D1Cursor:
        """Return a new cursor."""
        return D1Cursor(self._client, self._database_id)

    def commit(self) -> None:
        """Do nothing: it is committed already."""

    def close(self) -> None:
        """Close the client."""
        self._client.close()


def insert_statements(
    table: str, rows: Iterable[Sequence[Any]], columns: Sequence[str] | None, *, replace: bool = False
) -> Iterator[tuple[str, list[Any]]]:
    """Bring rows into as few INSERT statements as D1's limit on parameters allows.

    :param table: an identifier, quoted here.
    :param rows: of one length.
    :param columns: identifiers, quoted here; None for all of the table's.
    :param replace: INSERT OR REPLACE.
    :return: statements with their parameters.
    """
    verb = "INSERT OR REPLACE" if replace else "INSERT"
    names = "" if columns is None else f" ({', '.join(map(quoted, columns))})"
    rest = iter(rows)
    for first in rest:
        more = islice(rest, max(MAX_PARAMETERS // max(len(first), 1) - 1, 0))
        batch = [first, *more]
        places = ", ".join(f"({', '.join('?' * len(row))})" for row in batch)
        yield f"{verb} INTO {quoted(table)}{names} VALUES {places}", [value for row in batch for value in row]


def quoted(identifier: str) -> str:
    """An SQL identifier, whatever is in it."""
    return '"' + identifier.replace('"', '""') + '"'
