"""What differs between warehouses' SQL in names, literals and types, as values."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

_PLAIN = frozenset(f"{string.ascii_letters}{string.digits}_".encode())

Escape = Literal["double", "backslash"]


def exact(name: str) -> str:
    """For warehouses whose quoted names are case-sensitive."""
    return name


@dataclass(frozen=True, slots=True)
class Dialect:
    """The rules of one warehouse.

    :param name: its name in messages.
    :param types: staged type → the warehouse's type, never a narrower one.
    :param known_types: the warehouse's own type names (lower case, as its catalogue gives them) → the staged type
        that holds the same values; narrower ones are absent on purpose.
    :param max_length: longest identifier.
    :param max_file_name: longest name of a table together with its schema's where both are names of files, in which
        each byte but ASCII letters, digits and ``_`` takes three.
    :param length_in: whether that counts bytes of UTF-8 or characters.
    :param fold: two names with the same image are one name in the warehouse.
    :param stored: the name of a schema or table as the catalogue has it, where quoted names are put in lower case too.
    :param quote: the character around identifiers.
    :param quote_escape: how a quote inside an identifier is escaped: it is doubled, or a backslash precedes it.
    :param backslash: True where a backslash escapes in string literals.
    :param apostrophe_escape: the same for an apostrophe in a string literal.
    :param forbidden: what no name may contain.
    :param forbidden_column: what no column's name may contain, besides.
    :param forbidden_table: what no schema's or table's name may contain, besides.
    :param reserved_columns: folded column names that the warehouse reserves.
    :param catalogs: whether a schema's name may be qualified: Databricks' catalog, BigQuery's project.
    :param native: what a declared type may ask for (``boolean``, ``date``, ``timestamp``, ``decimal``, ``json``) → the
        warehouse's type as its catalogue writes it; without those whose values it would not keep as they are.
    :param no_native: why one of these is missing, where the reason is the warehouse's own.
    :param largest_decimal: most digits, most of them after the point, most of them before it.
    :param try_cast: how ``{value}`` is cast to ``{type}`` (``{literal}``, as a string) when it may not fit: NULL,
        another value or an error comes of it.
    :param text_length: the length of a text ``{value}`` as the types of texts count it; empty where a cast to such a
        type cuts what is longer.
    :param zoned_in_utc: whether timestamps without a time zone are cast to those with one as UTC.
    """

    name: str
    types: Mapping[str, str]
    known_types: Mapping[str, str]
    max_length: int
    length_in: Literal["bytes", "characters"] = "bytes"
    max_file_name: int | None = None
    fold: Callable[[str], str] = exact
    stored: Callable[[str], str] = exact
    quote: str = '"'
    quote_escape: Escape = "double"
    backslash: bool = False
    apostrophe_escape: Escape = "double"
    forbidden: re.Pattern[str] = field(default_factory=lambda: re.compile("\x00"))
    forbidden_column: re.Pattern[str] | None = None
    forbidden_table: re.Pattern[str] | None = None
    reserved_columns: frozenset[str] = frozenset()
    catalogs: bool = False
    native: Mapping[str, str] = field(default_factory=dict)
    no_native: Mapping[str, str] = field(default_factory=dict)
    largest_decimal: tuple[int, int, int] = (38, 37, 38)
    #: more names of types than the usual ones that have a time zone
    zoned: frozenset[str] = frozenset()
    try_cast: str = "TRY_CAST({value} AS {type})"
    text_length: str = ""
    zoned_in_utc: bool = False

    def type_of(self, staged: str, native: str) -> str:
        """A column's type in this warehouse.

        :param native: its own type, empty where it has the staged one.
        """
        return native or self.types[staged]

    @property
    def lower_case_tables(self) -> bool:
        """Whether the warehouse stores the names of tables in lower case."""
        return self.stored is not exact

    def identifier(self, *parts: str) -> str:
        """Quote one name, or several as a qualified one."""
        return ".".join(f"{self.quote}{self._escaped(part)}{self.quote}" for part in parts)

    def _escaped(self, name: str) -> str:
        if self.quote_escape == "double":
            return name.replace(self.quote, self.quote * 2)
        return name.replace("\\", "\\\\").replace(self.quote, f"\\{self.quote}")

    def literal(self, text: str | None) -> str:
        """A string literal, or ``NULL``."""
        if text is None:
            return "NULL"
        if self.backslash:
            text = text.replace("\\", "\\\\")
        if self.apostrophe_escape == "double":
            text = text.replace("'", "''")
        else:
            text = text.replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r")
        return f"'{text}'"

    def length(self, name: str) -> int:
        """How long a name is to the warehouse."""
        return len(name.encode()) if self.length_in == "bytes" else len(name)

    def room(self, schema: str, name: str, *, column: bool) -> int:
        """By how much a name is shorter than the longest possible one; negative for one that is too long."""
        room = self.max_length - self.length(name)
        if column or self.max_file_name is None:
            return room
        return min(room, self.max_file_name - sum(1 if byte in _PLAIN else 3 for byte in (schema + name).encode()))

    def name_problem(self, name: str, *, column: bool) -> str | None:
        """Why this warehouse can't hold a name exactly as it is; None when it can."""
        if not name:
            return "is empty"
        length = self.length(name)
        if length > self.max_length:
            return f"has {length} {self.length_in}, at most {self.max_length} are possible"
        for pattern in (self.forbidden, self.forbidden_column if column else self.forbidden_table):
            if pattern is not None and (found := pattern.search(name)):
                return f"contains {found.group()!r}" if found.group() else "has a form that is not possible"
        if column and self.fold(name) in self.reserved_columns:
            return "is a name that the warehouse reserves"
        return None
