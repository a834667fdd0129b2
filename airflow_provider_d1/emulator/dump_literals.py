"""SQL literals exactly as D1's exporter writes them: JavaScript's numbers, ``replace()`` around newlines, hex.

D1 reads every value into JavaScript before it writes it. So integers beyond 2^53 lose digits, 1.0 becomes ``1`` and
invalid UTF-8 becomes U+FFFD. The emulator reproduces these losses on purpose.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

#: a value of SQLite
Value = float | str | bytes | None

MAX_EXACT_INTEGER = 2**53


def number(value: int | float) -> str:
    """A number as JavaScript's ``String()`` prints it, infinities as the ``9e999`` that SQLite reads back.

    :param value: an INTEGER or a REAL of SQLite.
    """
    if isinstance(value, int):
        if -MAX_EXACT_INTEGER <= value <= MAX_EXACT_INTEGER:
            return str(value)
        value = float(value)
    if math.isinf(value):
        return "9e999" if value > 0 else "-9e999"
    shortest = repr(value)
    if "e" not in shortest:
        if not shortest.endswith(".0"):
            return shortest
        return "0" if value == 0 else shortest[:-2]
    return _exponential(shortest)


def _exponential(shortest: str) -> str:
    """Python writes exponents below 1e-4 and from 1e16 on, JavaScript below 1e-6 and from 1e21 on."""
    mantissa, exponent = shortest.split("e")
    sign = "-" if mantissa.startswith("-") else ""
    whole, _, fraction = mantissa.lstrip("-").partition(".")
    digits = whole + fraction
    point = int(exponent) + 1  # digits before the decimal point
    if len(digits) <= point <= 21:
        return f"{sign}{digits}{'0' * (point - len(digits))}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    tail = f".{digits[1:]}" if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{tail}e{point - 1:+d}"


def javascript_text(raw: bytes) -> str:
    """A stored text as a JavaScript string: each invalid sequence of UTF-8 becomes U+FFFD."""
    return raw.decode(errors="replace")


def text(value: str) -> str:
    r"""A text as D1 has quoted it since autumn 2026; NUL stays a raw byte.

    A newline is written as ``\n``, or as ``\012``, ``(\n0)``, ``(\n1)`` … where the text contains that already, so no
    newline is ambiguous; a carriage return likewise, in an inner call. Both placeholders are chosen by the text as it
    is stored.
    """
    quoted = _quoted(value)
    for newline, letter, code in (("\r", "r", "015"), ("\n", "n", "012")):
        if newline in value:
            placeholder = _unused_placeholder(value, letter, code)
            quoted = f"replace({quoted.replace(newline, placeholder)},'{placeholder}',char({ord(newline)}))"
    return quoted


def old_text(value: str) -> str:
    r"""A text as D1 quoted it until autumn 2026: newlines always become ``\n``, carriage returns ``\r``.

    A text with both a real newline and a literal ``\n`` is read back with two newlines; the emulator reproduces this.
    """
    quoted = _quoted(value)
    if "\r" in value:
        quoted = "replace(" + quoted.replace("\r", "\\r") + ",'\\r',char(13))"
    if "\n" in value:
        quoted = "replace(" + quoted.replace("\n", "\\n") + ",'\\n',char(10))"
    return quoted


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def _unused_placeholder(value: str, letter: str, code: str) -> str:
    numbered = (f"(\\{letter}{number})" for number in itertools.count())
    return next(name for name in itertools.chain((f"\\{letter}", f"\\{code}"), numbered) if name not in value)


def blob(raw: bytes) -> str:
    """A blob as ``X'00ff10'``."""
    return f"X'{raw.hex()}'"


def identifier(name: str) -> str:
    """A table's or column's name in double quotes."""
    return '"' + name.replace('"', '""') + '"'


def _null(_value: None) -> str:
    return "NULL"


Writer = Callable[[Any], str]
_BY_TYPE: dict[type, Writer] = {
    int: number,
    float: number,
    str: text,
    bytes: blob,
    type(None): _null,
}
_OLD_BY_TYPE: dict[type, Writer] = {**_BY_TYPE, str: old_text}


def row(values: Iterable[Value], *, old_newlines: bool = False) -> str:
    """A row's values between the parentheses of ``VALUES(…)``.

    :param old_newlines: write newlines as :func:`old_text` does.
    """
    writers = _OLD_BY_TYPE if old_newlines else _BY_TYPE
    return ",".join([writers[type(value)](value) for value in values])


def as_bytes(columns: Iterable[str]) -> str:
    """The SELECT list for columns that may contain invalid UTF-8, which Python can only fetch as bytes.

    It has two fields for each column: whether the value is text, and the value, or the bytes of the text.

    :param columns: quoted names.
    """
    return ", ".join(
        f"typeof({c})='text', CASE typeof({c}) WHEN 'text' THEN CAST({c} AS BLOB) ELSE {c} END" for c in columns
    )


def with_text(row: Sequence[Value]) -> Iterator[Value]:
    """The values of a row fetched by :func:`as_bytes`, with text as JavaScript has it."""
    for is_text, value in zip(row[::2], row[1::2], strict=True):
        yield javascript_text(value) if is_text and isinstance(value, bytes) else value
