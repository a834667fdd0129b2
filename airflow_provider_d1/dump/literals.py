"""Evaluate the VALUES of an INSERT: literals and the few functions that dumps contain.

Supported are NULL, numbers, ``'texts'``, ``X'blobs'``, TRUE and FALSE, ``Infinity`` as D1 wrote it earlier, and calls
of ``replace``, ``char``, ``unistr`` and ``CAST``. A text may contain a NUL byte, where SQLite's own parser would
stop. Everything else is a :class:`D1DumpError`, as it would have to be executed.
"""

from __future__ import annotations

import re
from typing import NamedTuple, NoReturn

from airflow_provider_d1.dump.affinity import Affinity, Value, affinity_of
from airflow_provider_d1.dump.statements import SPACE
from airflow_provider_d1.dump.text_form import (
    INT64_MAX,
    INT64_MIN,
    decimal_to_real,
    real_to_integer,
    real_to_text,
    text_prefix_to_number,
)
from airflow_provider_d1.exceptions import D1DumpError

#: an integer literal from 2**53 on, which D1 may have rounded
UNSAFE_INTEGER = 1
#: a literal that is infinite
INFINITE = 2
#: a text inside ``replace()`` whose marker occurs more than once, so one of them may be a literal backslash and letter
AMBIGUOUS_NEWLINE = 4
#: a text whose newlines were replaced by a placeholder that it does not contain, as in newer exporters
EXACT_NEWLINE = 8

_FIRST_UNSAFE_INTEGER = 2**53
_MAX_DEPTH = 50
#: longest text that ``replace()`` may produce, also for all texts of a block together; D1's own limit is 2 MB a row
MAX_TEXT = 128 << 20

_SPACE = re.compile(SPACE)
_VALUE = re.compile(
    rb"""
    '(?P<text>[^']*+(?:''[^']*+)*+)'
  | [xX]'(?P<blob>(?:[0-9A-Fa-f]{2})*+)'
  | 0[xX](?P<hexadecimal>[0-9A-Fa-f]++(?:_[0-9A-Fa-f]++)*+)(?![A-Za-z0-9_$\x80-\xff])
  | (?P<number>(?=\.?[0-9])(?P<whole>(?:[0-9]++(?:_[0-9]++)*+)?)(?P<point>\.?)(?P<fraction>(?:[0-9]++(?:_[0-9]++)*+)?)
     (?:[eE](?P<exponent>[+-]?[0-9]++(?:_[0-9]++)*+))?)(?![A-Za-z0-9_$\x80-\xff.])
  | (?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)
  | (?P<sign>[+-])
    """,
    re.VERBOSE,
)
_CAST_TYPE = re.compile(rb"[^()']*(?:\([0-9 ,+-]*\))?", re.DOTALL)
#: older exporters replace each newline by these, even where the text already contains them
_PLAIN_PLACEHOLDERS = ("\\n", "\\r")
#: newer exporters replace it by one of these when the text contains the plain one
_OTHER_PLACEHOLDERS = {"\n": re.compile(r"\\012|\(\\n[0-9]+\)"), "\r": re.compile(r"\\015|\(\\r[0-9]+\)")}
_UNISTR_ESCAPE = re.compile(
    r"\\(?:(\\)|([0-9A-Fa-f]{4})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|\+([0-9A-Fa-f]{6})|)", re.DOTALL
)


class Literal(NamedTuple):
    """An evaluated value, flags for possible losses, and the literal inside ``replace()``."""

    value: Value
    flags: int = 0
    written: str | None = None


class LiteralReader:
    """Reads values from a text, in order.

    :param sql: the text.
    :param offset: where it starts in the dump, for errors.
    :param table: the table's name, for errors.
    :param at: index of the next byte to read.
    """

    def __init__(self, sql: bytes, *, offset: int = 0, table: str | None = None, at: int = 0) -> None:
        self._sql = sql
        self._offset = offset
        self._table = table
        self.at = at

    def fail(self, what: str) -> NoReturn:
        """Raise with the current offset."""
        raise D1DumpError(what, offset=self._offset + self.at, table=self._table)

    def skip_space(self) -> None:
        """Skip white space and comments."""
        match = _SPACE.match(self._sql, self.at)
        if match is not None:
            self.at = match.end()

    def take(self, symbol: bytes) -> bool:
        """Skip space and then a symbol, if it is there."""
        self.skip_space()
        if self._sql.startswith(symbol, self.at):
            self.at += len(symbol)
            return True
        return False

    def expect(self, symbol: bytes) -> None:
        """Skip a symbol; any other byte is an error."""
        if not self.take(symbol):
            found = self._sql[self.at : self.at + 30].decode("utf-8", "replace")
            self.fail(f"expected {symbol.decode()!r}, found {found!r}" if found else f"expected {symbol.decode()!r}")

    def row(self) -> list[Literal]:
        """Read values up to the closing parenthesis, starting after the opening one."""
        values = [self.value()]
        while not self.take(b")"):
            self.expect(b",")
            values.append(self.value())
        return values

    def value(self, depth: int = 0) -> Literal:
        """Read one value."""
        self.skip_space()
        match = _VALUE.match(self._sql, self.at)
        if match is None:
            found = self._sql[self.at : self.at + 30].decode("utf-8", "replace")
            self.fail(f"expected a value, found {found!r}" if found else "expected a value")
        if depth > _MAX_DEPTH:
            self.fail("expression is nested too deeply")
        kind = match.lastgroup
        if kind == "word":
            return self._word(match, depth)
        if kind == "sign":
            return self._signed(match, depth)
        if kind == "text":
            text = self._decode(match["text"].replace(b"''", b"'"))
            literal = Literal(text, 0, text)
        elif kind == "blob":
            literal = Literal(bytes.fromhex(match["blob"].decode()))
        else:
            literal = self._number(match, negative=False)
        self.at = match.end()
        return literal

    def _decode(self, text: bytes) -> str:
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.fail("invalid UTF-8")

    def _signed(self, match: re.Match[bytes], depth: int) -> Literal:
        negative = match["sign"] == b"-"
        self.at = match.end()
        self.skip_space()
        following = _VALUE.match(self._sql, self.at)
        if following is not None and following["number"] is not None:
            literal = self._number(following, negative=negative)
            self.at = following.end()
            return literal
        operand = self.value(depth + 1)
        if not isinstance(operand.value, int | float):
            self.fail("expected a number after the sign")
        if not negative:
            return operand
        if operand.value == INT64_MIN and isinstance(operand.value, int):
            return Literal(-float(INT64_MIN), operand.flags)
        return Literal(-operand.value, operand.flags)

    def _number(self, match: re.Match[bytes], *, negative: bool) -> Literal:
        if match["hexadecimal"] is not None:
            digits = match["hexadecimal"].replace(b"_", b"").lstrip(b"0")
            if len(digits) > 16:
                self.fail("hexadecimal number is longer than 64 bits")
            value = int(digits or b"0", 16)
            value -= 2**64 if value > INT64_MAX else 0
            return Literal(value, UNSAFE_INTEGER if abs(value) >= _FIRST_UNSAFE_INTEGER else 0)
        whole, fraction, exponent = (
            (match[group] or b"").replace(b"_", b"").decode() for group in ("whole", "fraction", "exponent")
        )
        flags = 0
        if not match["point"] and match["exponent"] is None:
            digits = whole.lstrip("0")
            if len(digits) <= 19:
                number = -int(digits or "0") if negative else int(digits or "0")
                flags = UNSAFE_INTEGER if abs(number) >= _FIRST_UNSAFE_INTEGER else 0
                if INT64_MIN <= number <= INT64_MAX:
                    return Literal(number, flags)
            flags = UNSAFE_INTEGER
        real = decimal_to_real("-" if negative else "", whole, fraction, exponent)
        return Literal(real, flags | (INFINITE if real in (float("inf"), float("-inf")) else 0))

    def _word(self, match: re.Match[bytes], depth: int) -> Literal:
        word = match["word"].upper()
        known = {b"NULL": Literal(None), b"TRUE": Literal(1), b"FALSE": Literal(0)}.get(word)
        if word == b"INFINITY":
            known = Literal(float("inf"), INFINITE)
        if known is not None:
            self.at = match.end()
            return known
        if word == b"ERROR":
            self.fail(
                "the exporter wrote ERROR instead of a value that it could not represent."
                " Export again; if ERROR remains, correct or remove the value in D1"
            )
        if word not in (b"REPLACE", b"CHAR", b"UNISTR", b"CAST"):
            name = match["word"].decode("utf-8", "replace")
            self.fail(f"{name!r} is neither a literal nor a function that dumps use (replace, char, unistr, CAST)")
        start = self.at
        self.at = match.end()
        self.expect(b"(")
        if word == b"CAST":
            return self._cast(depth)
        arguments = [] if self.take(b")") else self._arguments(depth)
        end, self.at = self.at, start  # errors name the call
        if word == b"CHAR":
            result = self._char(arguments)
        elif word == b"UNISTR":
            result = self._unistr(arguments)
        else:
            result = self._replace(arguments)
        self.at = end
        return result

    def _arguments(self, depth: int) -> list[Literal]:
        arguments = [self.value(depth + 1)]
        while not self.take(b")"):
            self.expect(b",")
            arguments.append(self.value(depth + 1))
        return arguments

    def _text(self, value: Value) -> str:
        """Return a value as the text argument of a function."""
        if isinstance(value, str):
            return value
        if isinstance(value, bytes):
            return self._decode(value)
        if isinstance(value, int):
            return str(value)
        if value is None:
            self.fail("expected a text")
        return real_to_text(value)

    def _char(self, arguments: list[Literal]) -> Literal:
        characters = []
        for argument in arguments:
            if not isinstance(argument.value, int):
                self.fail("char() expects integers")
            code = argument.value if 0 <= argument.value <= 0x10FFFF else 0xFFFD
            if 0xD800 <= code < 0xE000:
                self.fail("invalid UTF-8: char() of a surrogate")
            characters.append(chr(code))
        return Literal("".join(characters))

    def _unistr(self, arguments: list[Literal]) -> Literal:
        if len(arguments) != 1:
            self.fail(f"unistr() expects 1 argument, got {len(arguments)}")
        if arguments[0].value is None:
            return Literal(None)

        def character(match: re.Match[str]) -> str:
            if match[1]:
                return "\\"
            digits = match[2] or match[3] or match[4] or match[5]
            code = int(digits, 16) if digits else -1
            if not 0 <= code <= 0x10FFFF or 0xD800 <= code < 0xE000:
                self.fail("invalid escape in unistr()")
            return chr(code)

        before, nul, after = self._text(arguments[0].value).partition("\0")  # SQLite stops reading escapes at a NUL
        return Literal(_UNISTR_ESCAPE.sub(character, before) + nul + after)

    def _replace(self, arguments: list[Literal]) -> Literal:
        if len(arguments) != 3:
            self.fail(f"replace() expects 3 arguments, got {len(arguments)}")
        subject, marker, replacement = arguments
        if subject.value is None or marker.value is None or replacement.value is None:
            return Literal(None)
        text, old, new = self._text(subject.value), self._text(marker.value), self._text(replacement.value)
        if not old or old[0] == "\0":  # SQLite looks at the first byte only
            return subject
        flags = subject.flags & (AMBIGUOUS_NEWLINE | EXACT_NEWLINE)
        if subject.written is not None:
            if old in _PLAIN_PLACEHOLDERS and subject.written.count(old) > 1:
                flags |= AMBIGUOUS_NEWLINE
            elif new in _OTHER_PLACEHOLDERS and _OTHER_PLACEHOLDERS[new].fullmatch(old):
                flags |= EXACT_NEWLINE
        if len(text) + text.count(old) * (len(new) - len(old)) > MAX_TEXT:
            self.fail("text is too long: replace() makes it longer than 128 MiB")
        return Literal(text.replace(old, new), flags, subject.written)

    def _cast(self, depth: int) -> Literal:
        operand = self.value(depth + 1)
        self.skip_space()
        if self._sql[self.at : self.at + 2].upper() != b"AS":
            self.fail("expected AS in CAST")
        self.at += 2
        match = _CAST_TYPE.match(self._sql, self.at)
        name = match.group().decode("utf-8", "replace").strip() if match else ""
        if not name:
            self.fail("expected a type in CAST")
        value = self._cast_value(operand.value, affinity_of(name, strict=False))
        self.at += len(match.group()) if match else 0
        self.expect(b")")
        return Literal(value)

    def _cast_value(self, value: Value, affinity: Affinity) -> Value:
        if value is None:
            return None
        if affinity is Affinity.TEXT:
            return self._text(value)
        if affinity is Affinity.BLOB:
            return value if isinstance(value, bytes) else self._text(value).encode()
        if isinstance(value, str | bytes):
            text = self._text(value)
            if affinity is Affinity.INTEGER:
                number: int | float = text_prefix_to_number(re.split(r"[.eE]", text, maxsplit=1)[0])
            else:
                number = text_prefix_to_number(text)
                if affinity is Affinity.NUMERIC and isinstance(number, float):
                    whole = real_to_integer(number)
                    number = number if whole is None else whole
        else:
            number = value
        if affinity is Affinity.REAL:
            return float(number)
        if affinity is Affinity.INTEGER and isinstance(number, float):
            return max(INT64_MIN, min(INT64_MAX, int(max(-1e19, min(1e19, number)))))
        return number
