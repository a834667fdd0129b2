"""Turn rows into INSERT statements, and those into batches within D1's limits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from airflow_provider_d1.cloudflare.sql_calls import batches
from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.cloudflare.sql_parameters import MAX_PARAMETERS, Parameters, Statement, bind, sequence
from airflow_provider_d1.validation import counted


def insert_batches(
    table: str,
    rows: Iterable[Parameters],
    columns: Sequence[str] | None = None,
    *,
    replace: bool = False,
    rows_per_batch: int = 1000,
) -> Iterator[tuple[list[Statement], int]]:
    """Group rows into batches; a batch is one call and one transaction.

    :param table: an identifier, quoted here.
    :param rows: sequences of one length, or mappings from columns to values.
    :param columns: identifiers, quoted here; None for all of the table's, or for those of the first row when it is a
        mapping.
    :param replace: INSERT OR REPLACE.
    :param rows_per_batch: at most so many rows in a batch, and at most 1 MB; 0 for all rows in one batch of any size.
    :return: batches, each with the number of its rows.
    :raises ProgrammingError: a row that is neither a sequence nor a mapping, that has other columns, or a value of a
        type that cannot be stored.
    """
    if isinstance(columns, str):
        raise ProgrammingError("insert_rows: target_fields is a string; expected a list of column names.")
    rest = iter(rows)
    while block := list(islice(rest, rows_per_batch or None)):
        if columns is None and isinstance(block[0], Mapping):
            columns = list(block[0])
        width = len(sequence(block[0])) if columns is None else len(columns)
        rows_per_statement = max(MAX_PARAMETERS // max(width, 1), 1)
        parts = [block[start : start + rows_per_statement] for start in range(0, len(block), rows_per_statement)]
        statements = [_insert(table, part, columns, width, replace=replace) for part in parts]
        done = 0
        for batch in batches(statements) if rows_per_batch else [statements]:
            yield batch, sum(map(len, parts[done : done + len(batch)]))
            done += len(batch)


def _insert(
    table: str, rows: Sequence[Parameters], columns: Sequence[str] | None, width: int, *, replace: bool
) -> Statement:
    places = ", ".join([f"({', '.join('?' * width)})"] * len(rows))
    values = [value for row in rows for value in _in_order(row, columns, width)]
    return bind(f"{insert_sql(table, columns, replace=replace)} VALUES {places}", values)[0]


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
        raise ProgrammingError(f"insert_rows: a row has {counted(len(values), 'value')}; expected {width}.")
    return values


def insert_sql(table: str, columns: Sequence[str] | None, *, replace: bool = False) -> str:
    """The first part of an INSERT statement, up to VALUES."""
    names = "" if columns is None else f" ({', '.join(map(quoted, columns))})"
    return f"{'INSERT OR REPLACE' if replace else 'INSERT'} INTO {quoted(table)}{names}"


def quoted(identifier: str) -> str:
    """Any string as an SQL identifier."""
    return '"' + identifier.replace('"', '""') + '"'
