"""Split an INSERT that is longer than D1 allows into statements that insert the same rows.

A row may have 2 MB, but a statement only 100 KB. So the longest literals of the statement are first assembled in a
helper table, piece by piece, and the INSERT reads them from there. All this is part of the import's transaction, and
the helper table is dropped at its end.
"""

from __future__ import annotations

from dataclasses import dataclass

from airflow_provider_d1.cloudflare.sql_calls import MAX_STATEMENT_BYTES
from airflow_provider_d1.dump.statements import SqlToken, tokens

HELPER = b'"_d1_import_values"'
CREATE_HELPER = b"CREATE TABLE " + HELPER + b' ("id" INTEGER PRIMARY KEY, "value");'
DROP_HELPER = b"DROP TABLE " + HELPER + b";"
#: bytes of a value in one statement; in hex they are twice as many
_PIECE = 45_000
#: about the length of a reference; shorter literals are not replaced
_SHORTEST = 300


@dataclass(frozen=True, slots=True)
class _Literal:
    start: int
    end: int
    value: bytes
    text: bool


def split_insert(statement: bytes) -> list[bytes] | None:
    """Short statements with the same effect as an INSERT; they need the helper table.

    :return: None when the statement's literals are too short for that.
    """
    literals = _literals(statement)
    # a text with a NUL must not remain in the statement
    taken = [literal for literal in literals if literal.text and b"\0" in literal.value]
    size = len(statement) - sum(map(_saved, taken))
    for literal in sorted(literals, key=lambda literal: literal.start - literal.end):
        if size <= MAX_STATEMENT_BYTES:
            break
        if literal.end - literal.start < _SHORTEST:
            return None
        if literal not in taken:
            taken.append(literal)
            size -= _saved(literal)
    if size > MAX_STATEMENT_BYTES:
        return None
    taken.sort(key=lambda literal: literal.start)
    statements: list[bytes] = []
    rest, at = b"", 0
    for number, literal in enumerate(taken, 1):
        statements += _fill(number, literal.value)
        rest += statement[at : literal.start] + _reference(literal, number)
        at = literal.end
    return [*statements, rest + statement[at:], b"DELETE FROM " + HELPER + b";"]


def _literals(statement: bytes) -> list[_Literal]:
    """The text and blob literals after VALUES."""
    found: list[_Literal] = []
    previous: SqlToken | None = None
    in_values = False
    for token in tokens(statement):
        in_values = in_values or token.is_word("VALUES")
        if in_values and token.kind == "string":
            content = token.text[1:-1]
            if previous is not None and previous.is_word("X") and previous.end == token.start:
                found.append(_Literal(previous.start, token.end, bytes.fromhex(content.decode("ascii")), text=False))
            else:
                found.append(_Literal(token.start, token.end, content.replace(b"''", b"'"), text=True))
        previous = token
    return found


def _fill(number: int, value: bytes) -> list[bytes]:
    """Assemble a value as bytes, so that no character is split."""
    pieces = [b"X'" + value[at : at + _PIECE].hex().encode() + b"'" for at in range(0, len(value), _PIECE)]
    first = b'INSERT INTO %s ("id","value") VALUES(%d,%s);' % (HELPER, number, pieces[0])
    more = [b'UPDATE %s SET "value"=CAST("value"||%s AS BLOB) WHERE "id"=%d;' % (HELPER, p, number) for p in pieces[1:]]
    return [first, *more]


def _saved(literal: _Literal) -> int:
    """Bytes by which a statement becomes shorter when a literal is replaced by the longest reference."""
    return literal.end - literal.start - len(_reference(literal, 10**9))


def _reference(literal: _Literal, number: int) -> bytes:
    value = b'(SELECT "value" FROM %s WHERE "id"=%d)' % (HELPER, number)
    return b"CAST(%s AS TEXT)" % value if literal.text else value
