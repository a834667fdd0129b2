"""As much of the DB-API (PEP 249) over D1's HTTP API as Airflow's SQL operators use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.cloudflare.sql_parameters import MAX_PARAMETERS, Parameters, bind, sequence

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client


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

    def execute(self, sql: str, parameters: Parameters | None = None) -> Self:
        """Run SQL; the result is that of the last statement.

        :param sql: one statement, or several that run in order and in one transaction.
        :param parameters: a mapping for ``:name``, ``@name`` and ``$name``; a sequence for ``?`` and ``?NNN``.
        :raises ProgrammingError: when they do not fit; nothing was sent then.
        """
        result = self._client.execute(self._database_id, bind(sql, parameters))[-1]
        self._rows = [tuple(row) for row in result.rows]
        self._next = 0
        self.description = [(name, None, None, None, None, None, None) for name in result.columns] or None
        self.rowcount = len(self._rows) if result.columns else -1
        return self

    def executemany(self, sql: str, parameters: Iterable[Parameters]) -> Self:
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
    table: str, rows: Iterable[Parameters], columns: Sequence[str] | None, *, replace: bool = False
) -> Iterator[tuple[str, list[Any]]]:
    """Bring rows into as few INSERT statements as D1's limit on parameters allows.

    :param table: an identifier, quoted here.
    :param rows: sequences of one length, or mappings from columns to values.
    :param columns: identifiers, quoted here; None for all of the table's, or for the first row's when it is a mapping.
    :param replace: INSERT OR REPLACE.
    :return: statements with their parameters.
    :raises ProgrammingError: a row that is neither a sequence nor a mapping, or that has other columns.
    """
    if isinstance(columns, str):
        raise ProgrammingError("insert_rows: target_fields is a text; expected a list of column names.")
    rest = iter(rows)
    for first in rest:
        if columns is None and isinstance(first, Mapping):
            columns = list(first)
        width = len(columns) if columns is not None else len(sequence(first))
        more = islice(rest, max(MAX_PARAMETERS // max(width, 1) - 1, 0))
        batch = [_in_order(row, columns, width) for row in (first, *more)]
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        names = "" if columns is None else f" ({', '.join(map(quoted, columns))})"
        places = ", ".join([f"({', '.join('?' * width)})"] * len(batch))
        yield f"{verb} INTO {quoted(table)}{names} VALUES {places}", [value for row in batch for value in row]


def _in_order(row: Parameters, columns: Sequence[str] | None, width: int) -> list[Any]:
    if isinstance(row, Mapping):
        if columns is None or set(row) != set(columns):
            expected = "sequences, as the first row is one" if columns is None else f"values for {', '.join(columns)}"
            raise ProgrammingError(
                f"insert_rows: a row has values for {', '.join(map(str, row))}; expected {expected}."
            )
        return [row[column] for column in columns]
    values = sequence(row)
    if len(values) != width:
        raise ProgrammingError(f"insert_rows: a row has {len(values)} values; expected {width}.")
    return values


def quoted(identifier: str) -> str:
    """An SQL identifier, whatever is in it."""
    return '"' + identifier.replace('"', '""') + '"'
