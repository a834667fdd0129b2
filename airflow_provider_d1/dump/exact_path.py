"""The exact path: evaluate rows one value at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from airflow_provider_d1.dump.affinity import Affinity, Value, apply_affinity
from airflow_provider_d1.dump.literals import (
    AMBIGUOUS_NEWLINE,
    EXACT_NEWLINE,
    INFINITE,
    MAX_TEXT,
    UNSAFE_INTEGER,
    Literal,
    LiteralReader,
)


@dataclass
class ExactColumn:
    """The evaluated values of a column, and how many of them the export may have altered."""

    affinity: Affinity
    values: list[Value] = field(default_factory=list)
    length: int = 0
    unsafe: int = 0
    infinite: int = 0
    ambiguous: int = 0
    exact_newlines: int = 0

    def append(self, literal: Literal) -> None:
        """Store a literal as the column does."""
        value = apply_affinity(literal.value, self.affinity)
        self.values.append(value)
        if isinstance(value, str | bytes):
            self.length += len(value)
        if literal.flags:
            self.unsafe += bool(literal.flags & UNSAFE_INTEGER)
            self.infinite += bool(literal.flags & INFINITE) and not isinstance(value, float)
            self.ambiguous += bool(literal.flags & AMBIGUOUS_NEWLINE)
            self.exact_newlines += bool(literal.flags & EXACT_NEWLINE)


def read_row(row: bytes, columns: Sequence[ExactColumn]) -> None:
    """Evaluate one row and append its values.

    :param row: from after the opening parenthesis to the closing one.
    :param columns: one for each value.
    :raises D1DumpError: for a value that cannot be evaluated.
    """
    reader = LiteralReader(row)
    _append(reader, columns)
    reader.skip_space()
    if reader.at != len(row):
        reader.fail("expected the end of the row after its closing parenthesis")


def _append(reader: LiteralReader, columns: Sequence[ExactColumn]) -> None:
    literals = reader.row()
    if len(literals) != len(columns):
        reader.fail(f"expected {len(columns)} value{'s' if len(columns) != 1 else ''} in the row, got {len(literals)}")
    for column, literal in zip(columns, literals, strict=True):
        column.append(literal)
    if sum(column.length for column in columns) > MAX_TEXT:
        reader.fail("rows are too long: replace() makes a block longer than 128 MiB")


def read_rows(
    body: bytes, separator: bytes, affinities: Sequence[Affinity], *, offset: int, table: str | None
) -> list[ExactColumn]:
    """Evaluate rows.

    :param body: from after the opening parenthesis of the first row to the closing one of the last; other rows of
        the same INSERT follow after a comma, rows of the next one after a semicolon, which begins with the same bytes.
    :param separator: the bytes between two rows that the reader found; it ends with the bytes that begin an INSERT.
    :param affinities: of the rows' columns, in the rows' order.
    :param offset: where the body starts in the dump, for errors.
    :param table: the table's name, for errors.
    :raises D1DumpError: for a value that cannot be evaluated.
    """
    columns = [ExactColumn(affinity) for affinity in affinities]
    insert = separator[separator.index(b";") + 1 :].lstrip(b" \t\r\n\f")
    reader = LiteralReader(body, offset=offset, table=table)
    while True:
        _append(reader, columns)
        if reader.take(b","):
            reader.expect(b"(")
            continue
        reader.skip_space()
        if reader.at == len(body):
            return columns
        reader.expect(b";")
        reader.expect(insert)


def check_rows(body: bytes, prefix: bytes, offset: int) -> None:
    """Check that the rows of an internal table, which are not staged, can be evaluated."""
    reader = LiteralReader(body, offset=offset)
    while True:
        reader.row()
        if reader.take(b","):
            reader.expect(b"(")
            continue
        reader.skip_space()
        if reader.at == len(body):
            return
        reader.expect(b";")
        reader.expect(prefix)
