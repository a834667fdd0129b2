"""SQL tokens and the end of a statement: enough SQL to split a dump without executing it.

All functions work on bytes, so that offsets are offsets in the dump.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from airflow_provider_d1.dump.schema import unquote
from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.validation import fold_case

#: white space of SQLite's tokenizer (no VT), line and block comments; a block comment may run to the end
SPACE = rb"(?:[ \t\n\f\r]|--[^\n]*+|/\*(?s:.*?)(?:\*/|\Z))*+"
#: one name, bare or quoted in any of SQLite's four ways
NAME = (
    rb"""(?:[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+|"(?:[^"]|"")*+"|`(?:[^`]|``)*+`|\[[^\]]*+\]|'(?:[^']|'')*+')"""
)

_TOKEN = re.compile(
    rb"""
    (?P<space>[ \t\n\f\r]++)
  | (?P<comment>--[^\n]*+|/\*(?s:.*?)(?:\*/|\Z))
  | (?P<string>'[^']*+(?:''[^']*+)*+')
  | (?P<quoted>"[^"]*+(?:""[^"]*+)*+"|`[^`]*+(?:``[^`]*+)*+`|\[[^\]]*+\])
  | (?P<word>[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*+)
  | (?P<number>(?:[0-9]++(?:\.[0-9]*+)?|\.[0-9]++)(?:[eE][+-]?[0-9]++)?)
  | (?P<symbol>(?s:.))
    """,
    re.VERBOSE,
)
#: from inside a VALUES list to the semicolon that ends the statement
_INSERT_END = re.compile(
    rb"""(?>[^';"\-/]++|'[^']*+'|"[^"]*+"|-(?!-)|/(?!\*)|--[^\n]*+\n|/\*(?s:.*?)\*/)*+;""", re.VERBOSE
)
#: what can follow a view or an index whose last line is a comment: words that cannot continue a view
_NEXT_STATEMENT = re.compile(SPACE + rb"(?:(?:CREATE|INSERT|DELETE|COMMIT)\b|\Z)", re.IGNORECASE)
#: words between CREATE and the kind of object
_BEFORE_THE_KIND = ("CREATE", "TEMP", "TEMPORARY", "UNIQUE")
_OPENING = (b"'", b'"', b"`", b"[")
_LINE_COMMENT_WITH_END = re.compile(rb"--[^\n]*;[ \t\r]*\Z")


class SqlToken(NamedTuple):
    """One SQL token: its kind, its bytes and where they start."""

    kind: str
    text: bytes
    start: int

    @property
    def end(self) -> int:
        """Offset just past the token."""
        return self.start + len(self.text)

    def is_word(self, *words: str) -> bool:
        """Return whether this is one of some (upper-case) words."""
        return self.kind == "word" and self.text.decode("utf-8", "replace").upper() in words


def tokens(sql: bytes | bytearray, start: int = 0) -> Iterator[SqlToken]:
    """Yield the tokens of a text, without white space but with comments.

    An unterminated quote is a symbol token with its opening character.
    """
    for match in _TOKEN.finditer(sql, start):
        if match.lastgroup != "space":
            yield SqlToken(match.lastgroup or "", match.group(), match.start())


def find_insert_end(sql: bytes | bytearray, start: int) -> int:
    """Return the offset just past the semicolon of an INSERT, -1 when it is not in the text (yet).

    :param sql: the text.
    :param start: an offset inside the VALUES list, outside quotes.
    """
    match = _INSERT_END.match(sql, start)
    return match.end() if match else -1


def find_statement_end(sql: bytes | bytearray, start: int, *, final: bool) -> int:
    """Return the offset just past the semicolon that ends a statement, -1 when it is not in the text (yet).

    A trigger ends at ``; END ;``. D1 writes a view or an index that ends in a comment as ``… -- comment;``: there the
    semicolon inside the comment counts when the next words cannot continue a view.

    :param sql: the text.
    :param start: where the statement's first word starts.
    :param final: whether the dump ends with the text.
    """
    kind = ""  # of the created object
    kind_may_follow = True
    ended_trigger = False
    previous = ""
    for token in tokens(sql, start):
        if token.kind == "comment":
            if kind in ("VIEW", "INDEX"):
                end = _end_in_comment(sql, token, final=final)
                if end:
                    return end
            continue
        word = token.text.decode("utf-8", "replace").upper() if token.kind == "word" else ""
        if kind_may_follow:
            kind, kind_may_follow = word, word in _BEFORE_THE_KIND
        if token.kind == "symbol" and token.text in _OPENING:
            return -1  # a quote without its end
        if token.text == b";" and (kind != "TRIGGER" or ended_trigger):
            return token.end
        ended_trigger = word == "END" and previous == ";"
        previous = ";" if token.text == b";" else word
    return -1


def _end_in_comment(sql: bytes | bytearray, comment: SqlToken, *, final: bool) -> int:
    """Return where a statement ends inside its last comment; 0 when it does not, -1 when more bytes are needed."""
    if comment.text.startswith(b"--"):
        if _LINE_COMMENT_WITH_END.search(comment.text) is None:
            return 0
        follows = _NEXT_STATEMENT.match(sql, comment.end)
        if follows is None or (follows.end() == len(sql) and not final):
            undecided = not final and len(sql) - comment.end < 64
            return -1 if follows is not None or undecided else 0
        return comment.end
    if comment.end == len(sql) and not comment.text.endswith(b"*/"):
        return comment.end if final and comment.text.rstrip().endswith(b";") else -1
    return 0


def check_statement_text(text: bytes, offset: int) -> None:
    """Refuse invalid UTF-8 and NUL outside of values: SQLite would stop reading at a NUL."""
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise D1DumpError("invalid UTF-8", offset=offset + error.start) from None
    at = text.find(b"\0")
    if at >= 0:
        raise D1DumpError("NUL byte outside of values", offset=offset + at)


def first_words(statement: bytes) -> list[str]:
    """Return a statement's first tokens, upper-cased and without quotes; at most five."""
    words = []
    for token in tokens(statement):
        if token.kind != "comment":
            words.append(unquote(token.text).decode("utf-8", "replace").upper())
            if len(words) == 5:
                break
    return words


def insert_trigger_tables(statement: bytes) -> list[str]:
    """Return the table on which a CREATE TRIGGER statement sets an INSERT trigger, nothing for other triggers."""
    found = [token for token in tokens(statement) if token.kind != "comment"]
    at = 5 if [token.is_word("IF") for token in found[2:3]] == [True] else 2
    event = next(
        (i for i, token in enumerate(found[at + 1 :], at + 1) if token.is_word("INSERT", "DELETE", "UPDATE")), 0
    )
    on = [token.is_word(word) for token, word in zip(found[event : event + 2], ("INSERT", "ON"), strict=False)]
    if not event or on != [True, True]:
        return []
    return [fold_case(unquote(token.text).decode()) for token in found[event + 2 : event + 3]]
