"""Send values to D1 and read them from it exactly, although JSON and JavaScript have other types.

D1 reads JSON into JavaScript and binds every number as a REAL: an INTEGER ``5`` would be stored as ``5.0`` in a column
without a type and as ``'5.0'`` in a TEXT column, and ``2**53 + 1`` would lose its last digit. So a value is sent in a
form that JSON does not change, inside an SQL expression that makes the value from it. The unary plus removes the
affinity that CAST would have in a comparison.

Results need the reverse: :func:`exact` is an SQL expression around a column, :func:`from_exact` reads
what it returns.
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
import uuid
from typing import Any

from airflow_provider_d1.cloudflare.sql_errors import DataError, OperationalError, ProgrammingError

JsonValue = int | float | str | None

_MAX_INTEGER = 2**63 - 1
#: beyond it JavaScript rounds
MAX_EXACT = 2**53


def to_sql(value: object) -> tuple[str, list[JsonValue]]:
    """The SQL expression for a value, ``?`` in it for the parameter, and the parameter, if there is one.

    SQLite stores the same value as with Python's ``sqlite3``: dates and times as ISO 8601 texts with a space in
    between, booleans as 0 and 1. Beyond that, :class:`~decimal.Decimal`, :class:`~uuid.UUID` and
    :class:`~datetime.time` are stored as text, numpy and pandas scalars as their Python values, and their ``NaT`` and
    ``NA`` as NULL.

    :raises DataError: NaN; an integer beyond 64 bits; a string that is not valid Unicode.
    :raises ProgrammingError: another type.
    """
    value = plain_value(value)
    if value is None:
        return "?", [None]
    if isinstance(value, int):
        if not -_MAX_INTEGER - 1 <= value <= _MAX_INTEGER:
            raise DataError("the integer is beyond 64 bits; pass it as a string, or as a float.")
        return "(+CAST(? AS INTEGER))", [str(int(value))]
    if isinstance(value, float):
        if math.isnan(value):
            raise DataError("NaN is not an SQL value; pass None to store NULL.")
        if math.isinf(value):
            return ("(9e999)" if value > 0 else "(-9e999)"), []
        return "(+CAST(? AS REAL))", [float(value)]
    if isinstance(value, str):
        text = str.__str__(value)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                raise DataError("the string contains a lone surrogate, so it is not valid Unicode.") from None
        return "?", [text]
    if isinstance(value, bytes | bytearray | memoryview):
        return "(unhex(?))", [bytes(value).hex()]
    raise ProgrammingError(
        f"{type(value).__name__} cannot be stored; expected None, a number, a string, bytes, a date, a time, a Decimal"
        " or a UUID. Convert it, for example with json.dumps."
    )


def plain_value(value: object) -> object:
    """None, int, float, str or bytes for types with one such form; other values are returned unchanged."""
    if type(value).__name__ in ("NaTType", "NAType"):  # of pandas, which is not imported here
        return None
    if isinstance(value, dt.datetime):
        return value.isoformat(" ")
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        if not value.is_finite():
            raise DataError(f"{value} is not an SQL value; pass None to store NULL.")
        return str(value)
    if isinstance(value, uuid.UUID):
        return str(value)
    if type(value).__module__ == "numpy" and not isinstance(value, float | str | bytes):
        return _from_numpy(value)
    return value


def _from_numpy(scalar: Any) -> object:  # noqa: ANN401 - numpy is not imported for this
    kind = getattr(getattr(scalar, "dtype", None), "kind", "")
    if kind == "M":
        text = str(scalar)
        if text == "NaT":
            return None
        micros = scalar.astype("datetime64[us]")
        if scalar != micros:
            return text.replace("T", " ")  # nanoseconds, which Python's datetime does not have
        moment: dt.datetime = micros.item()
        return moment.date().isoformat() if len(text) <= len("2026-01-01") else moment.isoformat(" ")
    if kind in "biuf" and getattr(scalar, "shape", None) == ():
        plain: object = scalar.item()
        return plain if isinstance(plain, int | float) else scalar
    return scalar


def exact(column: str) -> str:
    """An SQL expression for a column's value in a form that keeps it and its type in JSON.

    :param column: an SQL expression; evaluated more than once.
    """
    return (
        f"CASE typeof({column}) WHEN 'integer' THEN 'i'||{column}"
        f" WHEN 'real' THEN CASE {column} WHEN 9e999 THEN 'r+' WHEN -9e999 THEN 'r-' ELSE {column} END"
        f" WHEN 'blob' THEN 'b'||hex({column})"
        f" WHEN 'text' THEN CASE WHEN instr({column},char(65533)) THEN 'h'||hex({column}) ELSE 't'||{column} END END"
    )


def from_exact(value: object) -> int | float | str | bytes | None:
    """The value from the result of :func:`exact`.

    :raises OperationalError: a text in the database is not valid UTF-8.
    """
    if value is None:
        return None
    if isinstance(value, int | float):
        return float(value)
    tag, rest = str(value)[:1], str(value)[1:]
    if tag == "t":
        # the database's text has no U+FFFD, so JavaScript has put it there for bytes that are not UTF-8
        if "\ufffd" in rest:
            raise _not_utf8()
        return rest
    if tag == "i":
        return int(rest)
    if tag == "b":
        return bytes.fromhex(rest)
    if tag == "r":
        return math.inf if rest == "+" else -math.inf
    try:
        return bytes.fromhex(rest).decode()
    except UnicodeDecodeError:
        raise _not_utf8() from None


def from_json(value: object) -> Any:  # noqa: ANN401 - any of SQLite's values
    """A value of a result as D1 sends it: a blob is a list of numbers."""
    return bytes(value) if isinstance(value, list) else value


def may_differ(value: object) -> bool:
    """Whether a value as D1 sends it may not be the one in the database: D1 rounds, and returns null for infinities."""
    return value is None or (isinstance(value, int | float) and abs(value) >= MAX_EXACT)


def _not_utf8() -> OperationalError:
    return OperationalError("a text in the result is not valid UTF-8; select CAST(column AS BLOB) to get its bytes.")
