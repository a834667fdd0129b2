"""SQLite's tokens, as far as they matter for splitting a script and for finding parameter markers.

The rules are those of SQLite's ``tokenize.c`` and ``complete.c``. A marker inside a text, a quoted name or a comment is
no marker, ``a$b`` is a name, and ``$a::b(c)`` is one marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
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


def tokens(sql: str) -> Iterator[Token]:
    """Every token of ``sql``; joined again they are the text as it was.

    ``'it''s'`` is two quoted tokens here, which makes no difference. An ``illegal`` token is one that SQLite refuses: a
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
            words.append(token.text.upper())
        if token.kind == "semicolon" and (not _creates_trigger(words) or words[-3:] == [";", "END", ";"]):
            found.append(current)
            current, words = [], []
    found.append(current)
    return [statement for statement in found if any(token.kind not in ("space", "semicolon") for token in statement)]


def _creates_trigger(words: list[str]) -> bool:
    start = words[:6]
    if start[:1] == ["EXPLAIN"]:
        start = start[3:] if start[1:3] == ["QUERY", "PLAN"] else start[1:]
    return start[:2] == ["CREATE", "TRIGGER"] or (
        start[:1] == ["CREATE"] and start[1:2] in (["TEMP"], ["TEMPORARY"]) and start[2:3] == ["TRIGGER"]
    )
