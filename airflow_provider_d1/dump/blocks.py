"""A block of rows → Arrow columns and evidence: a pure function that any thread may call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.dump.columns import ParsedColumn, from_values
from airflow_provider_d1.dump.rows import ExactColumn, read_rows
from airflow_provider_d1.exceptions import D1DumpError

if TYPE_CHECKING:
    from airflow_provider_d1.dump.affinity import Affinity
    from airflow_provider_d1.dump.literals import Literal
    from airflow_provider_d1.dump.schema import TableSchema


@dataclass(frozen=True, slots=True)
class Block:
    r"""Consecutive rows of one table as they stand in the dump. Everything needed to parse them travels with them.

    :param schema: the table.
    :param offset: where ``body`` starts in the dump.
    :param body: the rows: from behind the opening parenthesis of the first to the closing one of the last.
    :param separator: what stands between two rows, ``);\nINSERT INTO "t" ("a","b") VALUES(``.
    :param layout: for each value of a row, the index of its column in ``schema.columns``.
    :param defaults: for each column that the rows leave out, its index and its DEFAULT.
    :param temporal: whether to collect evidence of dates and times.
    """

    schema: TableSchema
    offset: int
    body: bytes
    separator: bytes
    layout: tuple[int, ...]
    defaults: tuple[tuple[int, Literal], ...] = ()
    temporal: bool = False


@dataclass(frozen=True, slots=True)
class ParsedBlock:
    """A block's rows as Arrow.

    :param schema: the table.
    :param rows: how many.
    :param columns: one for each of ``schema.columns``; the array's type follows from the column's own evidence.
    :param exact_rows: how many rows went through the exact path.
    :param fallback: why they did, None when none did.
    """

    schema: TableSchema
    rows: int
    columns: tuple[ParsedColumn, ...]
    exact_rows: int = 0
    fallback: str | None = None


def parse_block(block: Block) -> ParsedBlock:
    """Parse a block.

    :raises D1DumpError: for a row that is not what dumps are written with; it names the row's offset and the table.
    """
    schema = block.schema
    affinities = [schema.columns[index].affinity for index in block.layout]
    read = read_rows(block.body, block.separator, affinities, offset=block.offset, table=schema.name)
    rows = len(read[0].values)
    by_index = dict(zip(block.layout, read, strict=True))
    for index, default in block.defaults:
        by_index[index] = _repeated(default, schema.columns[index].affinity, rows)
    columns = []
    for index, column in enumerate(schema.columns):
        values = by_index[index]
        parsed = from_values(
            values.values,
            column.affinity,
            unsafe=values.unsafe,
            infinite=values.infinite,
            ambiguous=values.ambiguous,
            forms=block.temporal,
        )
        if column.rowid_alias and parsed.evidence.null:
            raise D1DumpError(
                f"a NULL in the INTEGER PRIMARY KEY {column.name!r}, for which SQLite would make up a number,"
                " among the rows",
                offset=block.offset,
                table=schema.name,
            )
        columns.append(parsed)
    return ParsedBlock(schema, rows, tuple(columns), exact_rows=rows, fallback="not yet fast")


def _repeated(default: Literal, affinity: Affinity, rows: int) -> ExactColumn:
    """Return a column that the rows leave out."""
    column = ExactColumn(affinity)
    for _ in range(rows):
        column.append(default)
    return column
