"""The fast path: convert classified fields to Arrow columns, one column at a time.

Only values that Arrow reads exactly as SQLite does are converted here. Rows with any other value are reported by
:class:`~airflow_provider_d1.dump.classify.FallbackRows`, and the exact path reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.dump import temporal
from airflow_provider_d1.dump.affinity import Affinity
from airflow_provider_d1.dump.buffers import rows_mask, take_rows, take_slices, text_data, true_rows, valid_rows
from airflow_provider_d1.dump.classify import (
    OTHER_LITERALS,
    WRAPPERS,
    ClassifiedColumn,
    FallbackRows,
    Kind,
    classify_columns,
)
from airflow_provider_d1.dump.column_types import STRING, ColumnStats, ParsedColumn, cast, part_type
from airflow_provider_d1.dump.fields import QUOTE, Fields
from airflow_provider_d1.dump.hex_codec import decode_hex
from airflow_provider_d1.dump.numbers import read_numbers

if TYPE_CHECKING:
    from airflow_provider_d1.dump.buffers import Bytes, Mask, Positions

#: first bytes of texts that numeric affinity may convert to a number
_MAY_START_A_NUMBER = np.zeros(256, np.bool_)
_MAY_START_A_NUMBER[list(b"0123456789+-. \t\n\v\f\r")] = True
_DIGIT = np.zeros(256, np.bool_)
_DIGIT[list(b"0123456789")] = True
_DATE_MARK = np.zeros(256, np.bool_)
_DATE_MARK[list(b"-/:")] = True
_NUMERIC_TEXT = r"^[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*(\x00(?s:.)*)?$"
_REPLACEMENT_CHARACTER = "\ufffd"
_BACKSLASH = ord("\\")
#: each placeholder of a newline, the newline, and which wrappers use it
_PLACEHOLDERS = tuple(
    (
        placeholder,
        ord(newline),
        np.array([*(wrapper.placeholders[which] == placeholder for wrapper in WRAPPERS), False]),
    )
    for placeholder, newline, which in ((b"\\n", "\n", 0), (b"\\r", "\r", 1), (b"\\012", "\n", 0), (b"\\015", "\r", 1))
)
#: placeholders of this length are also written by older exporters, even where the text already contains them
_PLAIN_LENGTH = len(b"\\n")
_EXACT = np.array([*(max(map(len, wrapper.placeholders)) > _PLAIN_LENGTH for wrapper in WRAPPERS), False])
_BEFORE = np.array([*(len(wrapper.before) for wrapper in WRAPPERS), len("'")])
_AFTER = np.array([*(len(wrapper.after) for wrapper in WRAPPERS), len("'")])


def read_columns(
    fields: Fields, rows: Positions | None, affinities: list[Affinity], *, replacements: bool, temporal_forms: bool
) -> list[ParsedColumn]:
    """Read columns.

    :param fields: the fields of a block.
    :param rows: which of the regular rows, None for all.
    :param affinities: one for each field of a row.
    :param replacements: whether U+FFFD occurs in the block.
    :param temporal_forms: whether to find the temporal form of texts.
    :raises FallbackRows: when the exact path has to read some of the rows; call it again with the other rows.
    """
    return [
        _read_column(fields, column, affinity, replacements=replacements, temporal_forms=temporal_forms)
        for column, affinity in zip(classify_columns(fields, rows), affinities, strict=True)
    ]


def _read_column(
    fields: Fields, column: ClassifiedColumn, affinity: Affinity, *, replacements: bool, temporal_forms: bool
) -> ParsedColumn:
    """Read a column; a mixed one is merged from one array for each storage class."""
    parsed: list[ParsedColumn] = []
    if column.counts[Kind.NUMBER]:
        written = take_slices(fields.buffer, column.starts, column.ends, column.mask(Kind.NUMBER))
        parsed += read_numbers(written, affinity)
    if column.counts[Kind.TEXT] or column.counts[Kind.WRAPPED]:
        parsed.append(_read_texts(fields, column, affinity, replacements=replacements, temporal_forms=temporal_forms))
    if column.counts[Kind.BLOB]:
        parsed.append(_read_blobs(fields, column))
    if len(parsed) == 1 and not column.counts[Kind.NULL]:
        return parsed[0]
    stats = ColumnStats(null=column.counts[Kind.NULL])
    for part in parsed:
        stats += part.stats
    if len(parsed) == 1:
        return ParsedColumn(parsed[0].array, stats)
    target = part_type(affinity, stats)
    if not parsed:
        return ParsedColumn(pa.nulls(len(column.kinds), target), stats)
    arrays = [cast(part.array, part.stats, target) for part in parsed]
    return ParsedColumn(pc.coalesce(*arrays), stats)


def _read_texts(
    fields: Fields, column: ClassifiedColumn, affinity: Affinity, *, replacements: bool, temporal_forms: bool
) -> ParsedColumn:
    present = column.mask(Kind.TEXT)
    wrapped = column.counts[Kind.WRAPPED] > 0
    if wrapped:
        starts, ends = column.starts + _BEFORE[column.wrappers], column.ends - _AFTER[column.wrappers]
        either = (column.kinds == Kind.TEXT) | (column.kinds == Kind.WRAPPED)
        present = None if either.all() else either
    else:
        starts, ends = column.starts + 1, column.ends - 1
    array = _strings(fields, column, starts, ends, present)
    ambiguous = exact_newlines = 0
    if wrapped:
        array, ambiguous = _unwrapped(array, column.wrappers)
        exact_newlines = int(np.count_nonzero(_EXACT[column.wrappers]))
    elif (text_data(array)[0] == QUOTE).any():
        array = pc.replace_substring(array, pattern="''", replacement="'")
    if affinity in (Affinity.INTEGER, Affinity.REAL, Affinity.NUMERIC):
        numeric = _numeric_texts(array)
        if len(numeric):
            raise FallbackRows(rows_mask(numeric, len(array)), "texts that become numbers")
    found = true_rows(pc.match_substring(array, _REPLACEMENT_CHARACTER)) if replacements else np.empty(0, np.bool_)
    stats = ColumnStats(
        text=len(array) - array.null_count,
        ambiguous_newlines=ambiguous,
        exact_newlines=exact_newlines,
        replacement_characters=int(np.count_nonzero(found)),
        temporal_forms=temporal.forms(array) if temporal_forms else 0,
    )
    return ParsedColumn(array, stats)


def _strings(
    fields: Fields, column: ClassifiedColumn, starts: Positions, ends: Positions, present: Mask | None
) -> pa.Array:
    """Copy the content of strings; rows without one get an empty slice, so that all bounds stay in order."""
    # take_slices needs ascending bounds without overlaps, and the start of a row's own field keeps them so.
    if present is not None:
        starts, ends = np.where(present, starts, column.starts), np.where(present, ends, column.starts)
    return take_slices(fields.buffer, starts, ends, present)


def _read_blobs(fields: Fields, column: ClassifiedColumn) -> ParsedColumn:
    written = _strings(fields, column, column.starts + 2, column.ends - 1, column.mask(Kind.BLOB))
    try:
        array = decode_hex(written)
    except ValueError:
        sure = true_rows(pc.match_substring_regex(written, "^[0-9A-Fa-f]*$"))
        raise FallbackRows(valid_rows(written) & ~sure, OTHER_LITERALS) from None
    return ParsedColumn(array, ColumnStats(blob=len(array) - array.null_count))


def _unwrapped(array: pa.Array, wrappers: Bytes) -> tuple[pa.Array, int]:
    """Restore the newlines of wrapped texts and replace doubled quotes by single ones, in one pass.

    Every change removes bytes: the second of two quotes, and all bytes of a placeholder except the one that becomes the
    newline. So the positions of all removed bytes are collected, the bytes between them are copied, and the offsets are
    reduced by the number of removed bytes before them.

    :return: the texts, and how many of the wrapped ones have a plain placeholder more than once.
    """
    data, offsets = text_data(array)
    data = data.copy()
    at = np.flatnonzero((data == QUOTE) | (data == _BACKSLASH))
    is_quote = data[at] == QUOTE
    dropped = [at[is_quote][1::2]]  # inside a text quotes come in pairs
    at = at[~is_quote]
    ambiguous = np.zeros(len(array), np.bool_)
    for placeholder, newline, uses_it in _PLACEHOLDERS:
        if not uses_it[wrappers].any():
            continue
        marks = at
        for place, byte in enumerate(placeholder[1:], 1):
            marks = marks[data.take(marks + place, mode="clip") == byte]
        row = np.searchsorted(offsets, marks, side="right") - 1
        # a backslash at the end of a text is followed by the bytes of the next text
        real = uses_it[wrappers[row]] & (marks + len(placeholder) <= offsets[row + 1])
        marks, row = marks[real], row[real]
        data[marks] = newline
        dropped += [marks + place for place in range(1, len(placeholder))]
        if len(row) and len(placeholder) == _PLAIN_LENGTH:
            ambiguous |= np.bincount(row, minlength=len(array)) > 1
    # What remains is between the removed bytes: from behind each of them (or the beginning) to the next (or the end).
    gone = np.sort(np.concatenate(dropped))
    starts = np.zeros(len(gone) + 1, np.int64)
    starts[1:] = gone + 1
    kept = take_slices(pa.py_buffer(data), starts, np.append(gone, len(data)))
    moved = (offsets - np.searchsorted(gone, offsets)).astype(np.int32)
    texts = pa.Array.from_buffers(STRING, len(array), [array.buffers()[0], pa.py_buffer(moved), kept.buffers()[2]])
    return texts, int(np.count_nonzero(ambiguous))


def _numeric_texts(array: pa.Array) -> Positions:
    """Return the rows whose texts numeric affinity would turn into numbers; not those that start like a date."""
    data, offsets = text_data(array)
    starts, lengths = offsets[:-1], np.diff(offsets)
    if not len(data):
        return np.empty(0, np.int64)
    # Few texts in numeric columns look like numbers, so the first byte excludes most of them. Dates are the exception:
    # their first byte is a digit. A number cannot have a "-", "/" or ":" behind a digit, so a text with one there, as
    # "2026-11-27" has, is excluded too, and the regular expression runs for the remaining texts only.
    candidates = (lengths > 0) & _MAY_START_A_NUMBER[data.take(starts, mode="clip")]
    year, mark = data.take(starts + 3, mode="clip"), data.take(starts + 4, mode="clip")
    which = np.flatnonzero(candidates & ~(_DIGIT[year] & _DATE_MARK[mark] & (lengths > 4)))
    if not len(which):
        return which
    return which[true_rows(pc.match_substring_regex(take_rows(array, which), _NUMERIC_TEXT))]
