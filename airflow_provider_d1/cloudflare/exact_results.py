"""Rewrite statements so that D1's JSON results carry SQLite's exact values.

D1 rounds integers beyond 2^53, returns null for infinities, 1 for 1.0 and U+FFFD for bytes that are not UTF-8. A SELECT
is put into a common table expression, and each of its columns is selected through
:func:`~airflow_provider_d1.cloudflare.sql_values.exact`. That needs the number of columns; where it is not clear from
    the statement's text, the statement runs with ``LIMIT 0`` first. Such a run also provides the names of the columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from airflow_provider_d1.cloudflare.sql_tokens import Token, split, top_level, verb
from airflow_provider_d1.cloudflare.sql_values import exact

_AFTER_COLUMNS = frozenset(
    ("FROM", "WHERE", "GROUP", "HAVING", "WINDOW", "ORDER", "LIMIT", "UNION", "INTERSECT", "EXCEPT")
)


@dataclass(frozen=True, slots=True)
class ExactSelect:
    """A SELECT or VALUES that can be rewritten.

    ``names`` is the statement with its columns but no rows; ``width`` is the number of columns, None when it is not
    clear from the text.
    """

    sql: str
    names: str
    width: int | None

    def rows(self, width: int) -> str:
        """The statement that returns the exact rows of ``width`` columns."""
        columns = [f"c{number}" for number in range(width)]
        fields = ", ".join(map(exact, columns))
        # MATERIALIZED, so that the expressions of the statement are evaluated once, as random() must be
        return f"WITH d1_exact({', '.join(columns)}) AS MATERIALIZED (\n{self.sql}\n) SELECT {fields} FROM d1_exact"  # noqa: S608


def exact_select(sql: str) -> ExactSelect | None:
    """Analyse one statement; None when it is neither SELECT nor VALUES.

    :param sql: one statement, with or without its semicolon.
    """
    statement = split(sql)[0]
    kind = verb(statement)
    if kind not in ("SELECT", "VALUES"):
        return None
    body = "".join(token.text for token in statement if token.kind != "semicolon")
    top = top_level(statement)
    if kind == "VALUES":
        return ExactSelect(body, f"SELECT * FROM (\n{body}\n) LIMIT 0", None)  # noqa: S608
    return ExactSelect(body, _without_rows(statement, top, body), _width(statement, top))


def exact_returning(sql: str) -> str | None:
    """A statement that returns its RETURNING columns twice: as they are, for their names, and exact.

    :return: None when there is no RETURNING, or one with ``*``.
    """
    statement = split(sql)[0]
    if verb(statement) not in ("INSERT", "REPLACE", "UPDATE", "DELETE"):
        return None
    top = top_level(statement)
    at = next((place for place, (_, token) in enumerate(top) if token.keyword == "RETURNING"), None)
    if at is None:
        return None
    columns = _columns(statement, top[at][0] + 1, len(statement))
    if any("*" in (token.text for token in _significant(column)[:3]) for column in columns):
        return None
    body = "".join(token.text for token in statement if token.kind != "semicolon")
    fields = ", ".join(exact(_without_alias(column)) for column in columns)
    return f"{body}\n, {fields}"


def _width(statement: Sequence[Token], top: Sequence[tuple[int, Token]]) -> int | None:
    start = next(index for index, token in top if token.keyword == "SELECT") + 1
    end = len(statement)
    for (_, before), (index, token) in pairwise(top):
        # IS DISTINCT FROM is an operator
        if (
            index >= start
            and token.keyword in _AFTER_COLUMNS
            and (token.keyword, before.keyword) != ("FROM", "DISTINCT")
        ):
            end = index
            break
    columns = _columns(statement, start, end)
    for column in columns:
        words = [token.text.upper() for token in _significant(column)]
        words = words[1:] if words[:1] in (["DISTINCT"], ["ALL"]) else words
        if words[-1:] == ["*"]:
            return None
    return len(columns)


def _columns(statement: Sequence[Token], start: int, end: int) -> list[list[Token]]:
    """The expressions of a list, split at the commas outside of parentheses."""
    found: list[list[Token]] = [[]]
    depth = 0
    for token in statement[start:end]:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if token.text == "," and depth == 0:
            found.append([])
        else:
            found[-1].append(token)
    return found


def _significant(column: Sequence[Token]) -> list[Token]:
    return [token for token in column if token.kind not in ("space", "semicolon")]


def _without_alias(column: Sequence[Token]) -> str:
    words = _significant(column)
    named = len(words) > 2 and words[-2].keyword == "AS"
    # two tokens without a space are one string with a quote in it
    apart = len(words) == 2 and words[0].start + len(words[0].text) < words[1].start
    if apart and all(token.kind in ("word", "quoted") for token in words):
        return words[0].text
    end = column.index(words[-2]) if named else len(column)
    text = "".join(" " if token.kind == "space" else token.text for token in column[:end] if token.kind != "semicolon")
    return f"({text.strip()})"


def _without_rows(statement: Sequence[Token], top: Sequence[tuple[int, Token]], body: str) -> str:
    """The statement with ``LIMIT 0``; all its parameters stay in it, as D1 counts them."""
    limit = next((index for index, token in top if token.keyword == "LIMIT"), None)
    if limit is None:
        return f"{body}\nLIMIT 0"
    before = "".join(token.text for token in statement[: limit + 1])
    parts: list[str] = [""]
    words = {index for index, token in top if index > limit and token.keyword in (",", "OFFSET")}
    for index, token in enumerate(statement[limit + 1 :], limit + 1):
        if index in words:
            parts.append("")
        elif token.kind != "semicolon":
            parts[-1] += token.text
    zero = " + ".join(f"0*({part}\n)" for part in parts)
    return f"{before} {zero}"
