"""Columns of a block out of its told fields, at vector speed."""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.dump import temporal
from airflow_provider_d1.dump.affinity import Affinity
from airflow_provider_d1.dump.buffers import rows_mask, take_rows, take_slices, text_data, true_rows, valid_rows
from airflow_provider_d1.dump.columns import BINARY, STRING, ColumnEvidence, ParsedColumn, cast, nulls, part_type
from airflow_provider_d1.dump.fields import QUOTE, Fields
from airflow_provider_d1.dump.kinds import OTHER_LITERALS, WRAPPERS, Kind, OddRows, ToldColumn, tell_columns
from airflow_provider_d1.dump.numbers import read_numbers

if TYPE_CHECKING:
    from airflow_provider_d1.dump.buffers import Bytes, Mask, Positions

#: first bytes of texts that numeric affinity might turn into a number
_MAY_START_A_NUMBER = np.zeros(256, np.bool_)
_MAY_START_A_NUMBER[list(b"0123456789+-. \t\n\v\f\r")] = True
_DIGIT = np.zeros(256, np.bool_)
_DIGIT[list(b"0123456789")] = True
_DATE_MARK = np.zeros(256, np.bool_)
_DATE_MARK[list(b"-/:")] = True
_NUMERIC_TEXT = r"^[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*(\x00(?s:.)*)?$"
_REPLACEMENT_CHARACTER = "\ufffd"
_BACKSLASH = ord("\\")
_NEWLINES = (
    (ord("n"), ord("\n"), np.array([*(wrapper.line_feeds for wrapper in WRAPPERS), False])),
    (ord("r"), ord("\r"), np.array([*(wrapper.carriage_returns for wrapper in WRAPPERS), False])),
)
_BEFORE = np.array([*(len(wrapper.before) for wrapper in WRAPPERS), len("'")])
_BEHIND = np.array([*(len(wrapper.behind) for wrapper in WRAPPERS), len("'")])


def read_columns(
    fields: Fields, rows: Positions | None, affinities: list[Affinity], *, replacements: bool, temporal_forms: bool
) -> list[ParsedColumn]:
    """Read columns.

    :param fields: the fields of a block.
    :param rows: which of the regular rows, None for all.
    :param affinities: one for each field of a row.
    :param replacements: whether U+FFFD occurs in the block.
    :param temporal_forms: whether to look at the temporal form of texts.
    :raises OddRows: when the exact path has to read some of the rows; the others may be tried again.
    """
    return [
        _column(fields, told, affinity, replacements=replacements, temporal_forms=temporal_forms)
        for told, affinity in zip(tell_columns(fields, rows), affinities, strict=True)
    ]


def _column(
    fields: Fields, told: ToldColumn, affinity: Affinity, *, replacements: bool, temporal_forms: bool
) -> ParsedColumn:
    """Read a column; a mixed one is put together from one array for each storage class."""
    parsed: list[ParsedColumn] = []
    if told.counts[Kind.NUMBER]:
        written = take_slices(fields.buffer, told.starts, told.ends, told.mask(Kind.NUMBER))
        parsed += read_numbers(written, affinity)
    if told.counts[Kind.TEXT] or told.counts[Kind.WRAPPED]:
        parsed.append(_texts(fields, told, affinity, replacements=replacements, temporal_forms=temporal_forms))
    if told.counts[Kind.BLOB]:
        parsed.append(_blobs(fields, told))
    if len(parsed) == 1 and not told.counts[Kind.NULL]:
        return parsed[0]
    evidence = ColumnEvidence(null=told.counts[Kind.NULL])
    for part in parsed:
        evidence += part.evidence
    if len(parsed) == 1:
        return ParsedColumn(parsed[0].array, evidence)
    target = part_type(affinity, evidence)
    if not parsed:
        return ParsedColumn(nulls(target, len(told.kinds)), evidence)
    arrays = [cast(part.array, part.evidence, target) for part in parsed]
    return ParsedColumn(pc.coalesce(*arrays), evidence)


def _texts(
    fields: Fields, told: ToldColumn, affinity: Affinity, *, replacements: bool, temporal_forms: bool
) -> ParsedColumn:
    """Read plain and wrapped texts."""
    present = told.mask(Kind.TEXT)
    wrapped = told.counts[Kind.WRAPPED] > 0
    if wrapped:
        starts, ends = told.starts + _BEFORE[told.wrappers], told.ends - _BEHIND[told.wrappers]
        either = (told.kinds == Kind.TEXT) | (told.kinds == Kind.WRAPPED)
        present = None if either.all() else either
    else:
        starts, ends = told.starts + 1, told.ends - 1
    array = _strings(fields, told, starts, ends, present)
    ambiguous = 0
    if wrapped:
        array, ambiguous = _unwrapped(array, told.wrappers)
    elif (text_data(array)[0] == QUOTE).any():
        array = pc.replace_substring(array, pattern="''", replacement="'")
    if affinity in (Affinity.INTEGER, Affinity.REAL, Affinity.NUMERIC):
        numeric = _numeric_texts(array)
        if len(numeric):
            raise OddRows(rows_mask(numeric, len(array)), "texts that become numbers")
    found = true_rows(pc.match_substring(array, _REPLACEMENT_CHARACTER)) if replacements else np.empty(0, np.bool_)
    evidence = ColumnEvidence(
        text=len(array) - array.null_count,
        ambiguous_newlines=ambiguous,
        replacement_characters=int(np.count_nonzero(found)),
        temporal_forms=temporal.forms(array) if temporal_forms else 0,
    )
    return ParsedColumn(array, evidence)


def _strings(fields: Fields, told: ToldColumn, starts: Positions, ends: Positions, present: Mask | None) -> pa.Array:
    """Copy what is inside strings; for the other rows nothing, at a place that keeps all bounds in order."""
    if present is not None:
        starts, ends = np.where(present, starts, told.starts), np.where(present, ends, told.starts)
    return take_slices(fields.buffer, starts, ends, present)


def _blobs(fields: Fields, told: ToldColumn) -> ParsedColumn:
    """Read blobs: the hex digits of all at once."""
    written = _strings(fields, told, told.starts + 2, told.ends - 1, told.mask(Kind.BLOB))
    data, offsets = text_data(written)
    try:
        blobs = binascii.unhexlify(data.tobytes())
    except binascii.Error:
        sure = true_rows(pc.match_substring_regex(written, "^[0-9A-Fa-f]*$"))
        raise OddRows(valid_rows(written) & ~sure, OTHER_LITERALS) from None
    buffers = [written.buffers()[0], pa.py_buffer(offsets // 2), pa.py_buffer(blobs)]
    array = pa.Array.from_buffers(BINARY, len(written), buffers)
    return ParsedColumn(array, ColumnEvidence(blob=len(array) - array.null_count))


def _unwrapped(array: pa.Array, wrappers: Bytes) -> tuple[pa.Array, int]:
    """Put real newlines into wrapped texts and undouble all quotes, in one pass.

    :return: the texts, and how many of the wrapped ones have a marker more than once.
    """
    data, offsets = text_data(array)
    data = data.copy()
    at = np.flatnonzero((data == QUOTE) | (data == _BACKSLASH))
    quotes = np.flatnonzero(data[at] == QUOTE)
    drop = np.zeros(len(at), np.bool_)
    drop[quotes[1::2]] = True
    letters = data.take(at + 1, mode="clip")
    letters[quotes] = 0
    ambiguous = np.zeros(len(array), np.bool_)
    for letter, newline, has_it in _NEWLINES:
        marks = np.flatnonzero(letters == letter)
        row = np.searchsorted(offsets, at[marks], side="right") - 1
        real = has_it[wrappers[row]] & (at[marks] + 1 < offsets[row + 1])
        marks, row = marks[real], row[real]
        data[at[marks]] = newline
        at[marks] += 1  # the letter goes
        drop[marks] = True
        if len(row):
            ambiguous |= np.bincount(row, minlength=len(array)) > 1
    dropped = at[drop]
    starts = np.zeros(len(dropped) + 1, np.int64)
    starts[1:] = dropped + 1
    kept = take_slices(pa.py_buffer(data), starts, np.append(dropped, len(data)))
    moved = (offsets - np.searchsorted(dropped, offsets)).astype(np.int32)
    texts = pa.Array.from_buffers(STRING, len(array), [array.buffers()[0], pa.py_buffer(moved), kept.buffers()[2]])
    return texts, int(np.count_nonzero(ambiguous))


def _numeric_texts(array: pa.Array) -> Positions:
    """Return the rows whose texts numeric affinity would turn into numbers; dates are seen at a glance."""
    data, offsets = text_data(array)
    starts, lengths = offsets[:-1], np.diff(offsets)
    if not len(data):
        return np.empty(0, np.int64)
    candidates = (lengths > 0) & _MAY_START_A_NUMBER[data.take(starts, mode="clip")]
    year, mark = data.take(starts + 3, mode="clip"), data.take(starts + 4, mode="clip")
    which = np.flatnonzero(candidates & ~(_DIGIT[year] & _DATE_MARK[mark] & (lengths > 4)))
    if not len(which):
        return which
    return which[true_rows(pc.match_substring_regex(take_rows(array, which), _NUMERIC_TEXT))]
