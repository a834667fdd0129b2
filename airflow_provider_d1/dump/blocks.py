"""Parse a block of rows into Arrow columns and their statistics: a pure function that any thread may call.

Rows take the fast path (:mod:`~airflow_provider_d1.dump.fields`, :mod:`~airflow_provider_d1.dump.classify`,
:mod:`~airflow_provider_d1.dump.fast_path`) where each byte can be verified. The others take the exact path
(:mod:`~airflow_provider_d1.dump.exact_path`), and the two results are merged in the order of the dump. A native
parser could replace everything behind :func:`parse_block`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from airflow_provider_d1.dump.classify import FallbackRows
from airflow_provider_d1.dump.column_types import ParsedColumn, cast, from_values, part_type
from airflow_provider_d1.dump.exact_path import ExactColumn, read_row, read_rows
from airflow_provider_d1.dump.fast_path import read_columns
from airflow_provider_d1.dump.fields import Fields, find_fields
from airflow_provider_d1.dump.literals import MAX_TEXT
from airflow_provider_d1.exceptions import D1DumpError

if TYPE_CHECKING:
    from airflow_provider_d1.dump.affinity import Affinity
    from airflow_provider_d1.dump.buffers import Mask
    from airflow_provider_d1.dump.literals import Literal
    from airflow_provider_d1.dump.schema import TableSchema

_LAST_ASCII = 127
_REPLACEMENT = "\ufffd".encode()
#: above this share of rows for the exact path, it reads the whole block, which is then faster
_MAX_FALLBACK_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Block:
    r"""Consecutive rows of one table as the dump has them, with all values needed to parse them.

    :param schema: the table.
    :param offset: where ``body`` starts in the dump.
    :param body: the rows: from behind the opening parenthesis of the first to the closing one of the last.
    :param separator: the bytes between two rows, ``);\nINSERT INTO "t" ("a","b") VALUES(``.
    :param layout: for each value of a row, the index of its column in ``schema.columns``.
    :param defaults: for each column that the rows omit, its index and its DEFAULT.
    :param temporal: whether to collect the forms of dates and times.
    """

    schema: TableSchema
    offset: int
    body: memoryview
    separator: bytes
    layout: tuple[int, ...]
    defaults: tuple[tuple[int, Literal], ...] = ()
    temporal: bool = False


@dataclass(frozen=True, slots=True)
class ParsedBlock:
    """A block's rows as Arrow.

    :param schema: the table.
    :param rows: how many.
    :param columns: one for each of ``schema.columns``; the array's type follows from the column's own ``stats``.
    :param exact_rows: how many rows went through the exact path.
    :param fallback_reason: why they did, None when none did.
    """

    schema: TableSchema
    rows: int
    columns: tuple[ParsedColumn, ...]
    exact_rows: int = 0
    fallback_reason: str | None = None


def parse_block(block: Block) -> ParsedBlock:
    """Parse a block.

    :raises D1DumpError: for a row that cannot be evaluated; it names the row's offset and the table.
    """
    # numpy releases the GIL, unlike bytes.isascii()
    wide = np.frombuffer(block.body, np.uint8).max(initial=0) > _LAST_ASCII
    if wide:
        _check_utf8(block)
    fields = find_fields(block.body, block.separator, len(block.layout))
    if isinstance(fields, str):
        return _parse_exactly(block, fields)
    return _parse_fields(block, fields, replacements=bool(wide) and _has_replacement(fields))


def parse_exactly(block: Block) -> ParsedBlock:
    """Parse a block by the exact path alone, which is faster for a few rows: the fast path has a fixed cost.

    :raises D1DumpError: as :func:`parse_block` does.
    """
    _check_utf8(block)
    return replace(_parse_exactly(block, ""), exact_rows=0, fallback_reason=None)


def _check_utf8(block: Block) -> None:
    offsets = pa.py_buffer(np.array([0, len(block.body)], np.int32))
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, pa.py_buffer(block.body)])
    try:
        text.validate(full=True)
    except pa.ArrowInvalid:
        try:
            bytes(block.body).decode()
        except UnicodeDecodeError as error:
            at = block.offset + error.start
            raise D1DumpError("invalid UTF-8", offset=at, table=block.schema.name) from None
        raise


def _affinities(block: Block) -> list[Affinity]:
    return [block.schema.columns[index].affinity for index in block.layout]


def _parse_exactly(block: Block, reason: str) -> ParsedBlock:
    body = bytes(block.body)
    exact = read_rows(body, block.separator, _affinities(block), offset=block.offset, table=block.schema.name)
    rows = len(exact[0].values)
    return _complete(block, _from_exact(exact, temporal=block.temporal), rows, exact_rows=rows, fallback_reason=reason)


def _has_replacement(fields: Fields) -> bool:
    # searching its first byte alone is faster
    return bool((fields.data == _REPLACEMENT[0]).any()) and _REPLACEMENT in fields.data.tobytes()


def _parse_fields(block: Block, fields: Fields, *, replacements: bool) -> ParsedBlock:
    """Parse all rows that the fast path can verify; the other rows are found column by column."""
    fallback = ~fields.regular
    reason = "rows with other literals" if fallback.any() else None
    while True:
        if np.count_nonzero(fallback) > _MAX_FALLBACK_SHARE * fields.rows:
            return _parse_exactly(block, reason or "")
        good = None if fields.regular.all() and not fallback.any() else np.flatnonzero(~fallback[fields.regular])
        try:
            columns = read_columns(
                fields, good, _affinities(block), replacements=replacements, temporal_forms=block.temporal
            )
            break
        except FallbackRows as found:
            reason = found.reason
            regular = np.flatnonzero(fields.regular)
            fallback[(regular if good is None else regular[good])[found.rows]] = True
    if fallback.any():
        try:
            exact = _parse_rows_exactly(block, fields, fallback)
        except D1DumpError:
            # either an INSERT has several rows, which look like one row here, or the dump is wrong: the exact path
            # reads the first, and reports the position of the second
            return _parse_exactly(block, reason or "")
        columns = _merge(columns, exact, fallback, block)
    return _complete(block, columns, fields.rows, exact_rows=int(np.count_nonzero(fallback)), fallback_reason=reason)


def _parse_rows_exactly(block: Block, fields: Fields, fallback: Mask) -> list[ParsedColumn]:
    exact = [ExactColumn(affinity) for affinity in _affinities(block)]
    for row in np.flatnonzero(fallback).tolist():
        start, end = int(fields.row_starts[row]), int(fields.row_ends[row])
        read_row(fields.data[start:end].tobytes() + b")", exact)
    return _from_exact(exact, temporal=block.temporal)


def _from_exact(exact: list[ExactColumn], *, temporal: bool) -> list[ParsedColumn]:
    return [
        from_values(
            column.values,
            column.affinity,
            unsafe=column.unsafe,
            infinite=column.infinite,
            ambiguous=column.ambiguous,
            exact_newlines=column.exact_newlines,
            forms=temporal,
        )
        for column in exact
    ]


def _merge(good: list[ParsedColumn], exact: list[ParsedColumn], fallback: Mask, block: Block) -> list[ParsedColumn]:
    """Merge the rows of both paths in their order."""
    # The concatenation below has all rows of the fast path, then those of the exact one; ``position`` is where each row
    # of the block is in it.
    position = np.empty(len(fallback), np.int64)
    position[~fallback] = np.arange(len(fallback) - int(np.count_nonzero(fallback)))
    position[fallback] = np.arange(int(np.count_nonzero(~fallback)), len(fallback))
    indices = pa.Array.from_buffers(pa.int64(), len(position), [None, pa.py_buffer(position)])
    merged = []
    for index, (fast, slow) in zip(block.layout, zip(good, exact, strict=True), strict=True):
        stats = fast.stats + slow.stats
        target = part_type(block.schema.columns[index].affinity, stats)
        both = pa.concat_arrays([cast(part.array, part.stats, target) for part in (fast, slow)])
        merged.append(ParsedColumn(both.take(indices), stats))
    return merged


def _complete(
    block: Block, columns: list[ParsedColumn], rows: int, *, exact_rows: int, fallback_reason: str | None
) -> ParsedBlock:
    """Bring the columns into the table's order, and add those that the rows omit."""
    schema = block.schema
    by_index = dict(zip(block.layout, columns, strict=True))
    for index, default in block.defaults:
        omitted = ExactColumn(schema.columns[index].affinity)
        for _ in range(rows):
            omitted.append(default)
        if omitted.length > MAX_TEXT:
            raise D1DumpError(
                "rows are too long: DEFAULT values make a block longer than 128 MiB",
                offset=block.offset,
                table=schema.name,
            )
        by_index[index] = _from_exact([omitted], temporal=block.temporal)[0]
    for index, column in enumerate(schema.columns):
        if column.rowid_alias and by_index[index].stats.null:
            raise D1DumpError(
                f"NULL in the INTEGER PRIMARY KEY {column.name!r}, which SQLite would number itself",
                offset=block.offset,
                table=schema.name,
            )
    ordered = tuple(by_index[index] for index in range(len(schema.columns)))
    return ParsedBlock(schema, rows, ordered, exact_rows, fallback_reason)
