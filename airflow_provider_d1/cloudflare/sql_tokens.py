"""SQLite's tokens, as needed to split a script and to find parameter markers and clauses.

The rules are those of SQLite's ``tokenize.c`` and ``complete.c``. A marker inside a string, a quoted name or a comment
is not a marker, ``a$b`` is a name, and ``$a::b(c)`` is one marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["space", "quoted", "marker", "word", "semicolon", "illegal", "other"]

_NAME = r"[0-9A-Za-z_$\x80-\U0010ffff]"
_TOKEN = re.compile(
    rf"""
    (?P<space> [ \t\n\f\r\ufeff]+ | --[^\n]* | /\*.*?(?:\*/|\Z) )
  | (?P<quoted> '[^']*' | "[^"]*" | `[^`]*` | \[[^\]]*\] )
  | (?P<marker> \?[0-9]* | [$@:\#](?:::)*{_NAME}(?:{_NAME}|::)*(?:\([^ \t\n\v\f\r)]*\))? )
  | (?P<word> [0-9A-Za-z_\x80-\U0010ffff]{_NAME}* )
  | (?P<semicolon> ; )
  | (?P<illegal> ['"`\[$@:\#\x00] )
  | (?P<other> . )
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token of SQL text; ``start`` is its offset in characters. Comments count as ``space``."""

    kind: Kind
    text: str
    start: int

    @property
    def keyword(self) -> str:
        """The token in capitals when it is a word or a sign, otherwise empty."""
        return self.text.upper() if self.kind in ("word", "semicolon", "other") else ""


def tokens(sql: str) -> Iterator[Token]:
    """Every token of ``sql``; joined they give the text again.

    ``'it''s'`` is two quoted tokens here, with no consequence. An ``illegal`` token is one that SQLite rejects: a
    quote without its end, a ``:``, ``@`` or ``$`` without a name, NUL.
    """
    for match in _TOKEN.finditer(sql):
        kind: Kind = match.lastgroup  # type: ignore[assignment]
        yield Token(kind, match.group(), match.start())


def statements(sql: str) -> list[str]:
    """The statements of a script as texts; see :func:`split`."""
    return ["".join(token.text for token in statement).strip() for statement in split(sql)]


def split(sql: str) -> list[list[Token]]:
    """The statements of a script, without those that are empty; a trigger's body belongs to its CREATE."""
    found: list[list[Token]] = []
    current: list[Token] = []
    words: list[str] = []  # of the current statement, spaces left out
    for token in tokens(sql):
        current.append(token)
        if token.kind != "space":
            words.append(token.keyword)
        if token.kind == "semicolon" and (not _creates_trigger(words) or words[-3:] == [";", "END", ";"]):
            found.append(current)
            current, words = [], []
    found.append(current)
    return [statement for statement in found if any(token.kind not in ("space", "semicolon") for token in statement)]


def top_level(statement: Sequence[Token]) -> list[tuple[int, Token]]:
    """A statement's tokens outside of all parentheses, with their indices; without spaces and semicolons."""
    found: list[tuple[int, Token]] = []
    depth = 0
    for index, token in enumerate(statement):
        if token.text == "(":
            depth += 1
        elif token.text == ")":
            depth -= 1
        elif depth == 0 and token.kind not in ("space", "semicolon"):
            found.append((index, token))
    return found


def verb(statement: Sequence[Token]) -> str:
    """A statement's verb: ``SELECT``, ``INSERT`` …; after a WITH clause, the verb that follows it."""
    words = [token.keyword for _, token in top_level(statement)]
    if words[:1] == ["WITH"]:
        return next(
            (word for word in words if word in ("SELECT", "VALUES", "INSERT", "REPLACE", "UPDATE", "DELETE")), ""
        )
    return words[0] if words else ""


def is_read_only(sql: str) -> bool:
    """True for SQL that surely changes nothing; in doubt False."""
    found = split(sql)
    return bool(found) and all(
        verb(statement) in ("SELECT", "VALUES", "EXPLAIN")
        or (verb(statement) == "PRAGMA" and not any(token.text == "=" for token in statement))
        for statement in found
    )


def _creates_trigger(words: list[str]) -> bool:
    start = words[:6]
    if start[:1] == ["EXPLAIN"]:
        start = start[3:] if start[1:3] == ["QUERY", "PLAN"] else start[1:]
    return start[:2] == ["CREATE", "TRIGGER"] or (
        start[:1] == ["CREATE"] and start[1:2] in (["TEMP"], ["TEMPORARY"]) and start[2:3] == ["TRIGGER"]
    )
