"""Write rows as the INSERTs of an import, with their exact values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.insert_rows import quoted
from airflow_provider_d1.cloudflare.sql_calls import MAX_STATEMENT_BYTES
from airflow_provider_d1.cloudflare.sql_values import plain_value
from airflow_provider_d1.exceptions import D1Error, D1ImportFileError

if TYPE_CHECKING:
    from airflow_provider_d1.into_d1.import_file import ImportFile

_MAX_INTEGER = 2**63


def literal(value: object) -> bytes:
    """A value as an SQL literal that SQLite reads as exactly this value.

    Dates and times are ISO 8601 texts, lists and dicts JSON. A NUL stays in the text, for
    :meth:`~airflow_provider_d1.into_d1.import_file.ImportFile.add_insert`.

    :raises D1Error: NaN, an integer beyond 64 bits, a text that is not valid Unicode, another type.
    """
    value = plain_value(value)
    if value is None:
        return b"NULL"
    if isinstance(value, int):
        if not -_MAX_INTEGER <= value < _MAX_INTEGER:
            raise D1ImportFileError("integer beyond 64 bits; store it as text")
        # SQLite reads the digits of the smallest integer as a REAL
        return b"(-9223372036854775807-1)" if value == -_MAX_INTEGER else str(int(value)).encode()
    if isinstance(value, float):
        if math.isnan(value):
            raise D1ImportFileError("NaN is not an SQL value; store NULL instead")
        if math.isinf(value):
            return b"9e999" if value > 0 else b"-9e999"
        return repr(float(value)).encode()
    if isinstance(value, bytes | bytearray | memoryview):
        return b"X'" + bytes(value).hex().encode() + b"'"
    if isinstance(value, list | tuple | dict):
        try:
            value = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise D1ImportFileError(f"nested value is not valid JSON ({error})") from None
    if not isinstance(value, str):
        raise D1ImportFileError(f"value of type {type(value).__name__}, which D1 cannot store")
    try:
        return b"'" + value.encode().replace(b"'", b"''") + b"'"
    except UnicodeEncodeError:
        raise D1ImportFileError("text with a lone surrogate, which is not valid Unicode") from None


def add_rows(
    target: ImportFile, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, first: int = 0
) -> int:
    """Write rows as INSERTs of several rows each, each as long as D1 allows.

    :param target: receives the statements.
    :param table: the table's exact name.
    :param columns: the exact names of the columns of a row.
    :param rows: their values.
    :param first: number of the first row, for an error.
    :return: how many rows.
    :raises D1ImportFileError: names the table, the row and the column whose value cannot be stored.
    """
    head = f"INSERT INTO {quoted(table)} ({','.join(map(quoted, columns))}) VALUES".encode()
    batch: list[bytes] = []
    size = len(head) + 1
    count = 0
    for row in rows:
        text = b"(" + b",".join([_literal_of(table, columns, row, at, first + count) for at in range(len(row))]) + b")"
        # a NUL becomes longer in the file
        length = len(text) + 1 + 12 * text.count(b"\0")
        if batch and size + length > MAX_STATEMENT_BYTES:
            target.add_insert(head + b",".join(batch) + b";")
            batch, size = [], len(head) + 1
        batch.append(text)
        size += length
        count += 1
    if batch:
        target.add_insert(head + b",".join(batch) + b";")
    return count


def _literal_of(table: str, columns: Sequence[str], row: Sequence[object], at: int, number: int) -> bytes:
    try:
        return literal(row[at])
    except D1Error as error:
        raise D1ImportFileError(f"table {table!r}, row {number}, column {columns[at]!r}: {error}") from None
