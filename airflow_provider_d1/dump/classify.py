"""Classify each field of a block by its first byte, then verify that all its bytes are one literal of that kind.

A quote is a text, ``X`` a blob, ``N`` NULL, ``r`` a text that D1 wrapped in ``replace()``, a digit or minus a number.
Verified for every field:

- NULL is exactly ``NULL``;
- a text starts and ends with a quote; a wrapped text has exactly D1's bytes before and after it; a blob has ``X'``
  before and a quote after an even number of bytes;
- none of them has a quote inside that is not doubled: in each row the number of quotes that open a string (and are
  not the second of two) equals the number of strings of its texts, blobs and wrappers, so there is no other string.

The content of numbers and blobs is verified where they are converted. Rows that cannot be verified are reported by
:class:`FallbackRows`, and the exact path reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from airflow_provider_d1.dump.fields import QUOTE, Fields, set_positions

if TYPE_CHECKING:
    from airflow_provider_d1.dump.buffers import Bytes, Mask, Positions

OTHER_LITERALS = "other literals"


class Kind(IntEnum):
    """Kinds of literals."""

    OTHER = 0
    NUMBER = 1
    TEXT = 2
    WRAPPED = 3
    BLOB = 4
    NULL = 5


_KIND = np.full(256, Kind.OTHER, np.uint8)
_KIND[list(b"0123456789-")] = Kind.NUMBER
_KIND[QUOTE] = Kind.TEXT
_KIND[ord("r")] = Kind.WRAPPED
_KIND[list(b"Xx")] = Kind.BLOB
_KIND[ord("N")] = Kind.NULL


class Wrapper(NamedTuple):
    """One of D1's ways to write a text with newlines.

    :param before: the bytes before the text.
    :param after: the bytes after it.
    :param placeholders: what replaces a line feed and a carriage return in it; empty where the text has none.
    :param strings: how many string literals it has.
    """

    before: bytes
    after: bytes
    placeholders: tuple[bytes, bytes]
    strings: int


def _wrapper(line_feed: bytes, carriage_return: bytes) -> Wrapper:
    after = b"'"
    if carriage_return:
        after += b",'%s',char(13))" % carriage_return
    if line_feed:
        after += b",'%s',char(10))" % line_feed
    calls = bool(line_feed) + bool(carriage_return)
    return Wrapper(b"replace(" * calls + b"'", after, (line_feed, carriage_return), 1 + calls)


#: the most frequent first; no two match the same text. Other placeholders of newer exporters, such as ``(\\n0)``, are
#: read by the exact path
WRAPPERS = (
    _wrapper(b"\\n", b""),
    _wrapper(b"\\n", b"\\r"),
    _wrapper(b"", b"\\r"),
    _wrapper(b"\\012", b""),
    _wrapper(b"\\012", b"\\r"),
    _wrapper(b"\\n", b"\\015"),
    _wrapper(b"\\012", b"\\015"),
    _wrapper(b"", b"\\015"),
)
NO_WRAPPER = len(WRAPPERS)


class FallbackRows(Exception):  # noqa: N818 - not an error: it lists rows for the exact path
    """Some rows need the exact path.

    :param rows: which, as a mask over the rows that were given.
    :param reason: why, for the log.
    """

    def __init__(self, rows: Mask, reason: str) -> None:
        super().__init__(reason)
        self.rows = rows
        self.reason = reason


@dataclass(slots=True)
class ClassifiedColumn:
    """The fields of one column and their kinds of literal.

    :param starts: where each field starts.
    :param ends: where it ends (exclusive).
    :param kinds: its :class:`Kind`.
    :param counts: how many there are of each kind.
    :param wrappers: for each field the index of its wrapper, ``NO_WRAPPER`` for none; empty when no field has one.
    """

    starts: Positions
    ends: Positions
    kinds: Bytes
    counts: list[int]
    wrappers: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def mask(self, kind: Kind) -> Mask | None:
        """Return which fields are of a kind, None when all are."""
        return None if self.counts[kind] == len(self.kinds) else self.kinds == kind


def classify_columns(fields: Fields, rows: Positions | None) -> list[ClassifiedColumn]:
    """Classify and verify the fields of all columns.

    :param fields: the fields of a block.
    :param rows: which of the regular rows, None for all.
    :raises FallbackRows: when the exact path has to read some of the rows.
    """
    starts = fields.starts if rows is None else fields.starts[:, rows]
    ends = fields.ends if rows is None else fields.ends[:, rows]
    columns = [_classify_column(fields.data, *bounds) for bounds in zip(starts, ends, strict=True)]
    _verify_strings(fields, columns)
    return columns


def _classify_column(data: Bytes, starts: Positions, ends: Positions) -> ClassifiedColumn:
    # mode="clip" below keeps numpy from checking bounds value by value. A position beyond the end can only come from
    # an empty field at the end of the block, and an empty field is unverified anyway.
    kinds = _KIND.take(data.take(starts, mode="clip"))
    if (kinds == kinds[0]).all():
        counts = [0] * len(Kind)
        counts[kinds[0]] = len(kinds)
    else:
        counts = np.bincount(kinds, minlength=len(Kind)).tolist()
    column = ClassifiedColumn(starts, ends, kinds, counts)
    unverified = starts == ends
    if counts[Kind.OTHER] or unverified.any():
        raise FallbackRows(unverified | (kinds == Kind.OTHER), OTHER_LITERALS)
    for kind, wrong in ((Kind.NULL, _not_null), (Kind.TEXT, _not_a_text), (Kind.BLOB, _not_a_blob)):
        if counts[kind]:
            which = np.flatnonzero(kinds == kind) if counts[kind] < len(kinds) else slice(None)
            unverified[which] = wrong(data, starts[which], ends[which])
    if counts[Kind.WRAPPED]:
        column.wrappers = np.full(len(kinds), NO_WRAPPER, np.uint8)
        which = np.flatnonzero(kinds == Kind.WRAPPED)
        column.wrappers[which] = _which_wrapper(data, starts[which], ends[which])
        unverified[which] = column.wrappers[which] == NO_WRAPPER
    if unverified.any():
        raise FallbackRows(unverified, OTHER_LITERALS)
    return column


def _not_null(data: Bytes, starts: Positions, ends: Positions) -> Mask:
    wrong: Mask = (ends - starts != 4) | ~_has(data, starts, b"NULL")
    return wrong


def _not_a_text(data: Bytes, starts: Positions, ends: Positions) -> Mask:
    wrong: Mask = data.take(ends - 1) != QUOTE
    wrong |= ends - starts < 2
    return wrong


def _not_a_blob(data: Bytes, starts: Positions, ends: Positions) -> Mask:
    wrong: Mask = data.take(ends - 1) != QUOTE
    wrong |= data.take(starts + 1, mode="clip") != QUOTE
    wrong |= ends - starts < 3
    wrong |= (ends - starts) % 2 == 0
    return wrong


def _which_wrapper(data: Bytes, starts: Positions, ends: Positions) -> Bytes:
    """Return for each field the index of the wrapper around it, ``NO_WRAPPER`` for none."""
    result = np.full(len(starts), NO_WRAPPER, np.uint8)
    left = np.arange(len(starts))
    for index, wrapper in enumerate(WRAPPERS):
        if not len(left):
            break
        same = ends[left] - starts[left] >= len(wrapper.before) + len(wrapper.after)
        same &= _has(data, starts[left], wrapper.before)
        same &= _has(data, ends[left] - len(wrapper.after), wrapper.after)
        result[left[same]] = index
        left = left[~same]
    return result


def _has(data: Bytes, positions: Positions, expected: bytes) -> Mask:
    """Return at which positions some bytes begin; beyond the end of the data the result is arbitrary."""
    result = np.ones(len(positions), np.bool_)
    for at, byte in enumerate(expected):
        result &= data.take(positions + at, mode="clip") == byte
    return result


def _verify_strings(fields: Fields, columns: list[ClassifiedColumn]) -> None:
    """Verify that each quote that opens a string (not the second of two) belongs to a classified field."""
    # First for the whole block: the number of opening quotes equals the number of strings. A surplus in one row cannot
    # hide a lack in another, because each field has at least the strings of its kind. Row by row only if this fails.
    rows = len(columns[0].kinds)
    strings_of = np.array([*(wrapper.strings for wrapper in WRAPPERS), 0])
    expected = 0
    for column in columns:
        expected += column.counts[Kind.TEXT] + column.counts[Kind.BLOB]
        if column.counts[Kind.WRAPPED]:
            expected += int(np.bincount(column.wrappers, minlength=NO_WRAPPER + 1) @ strings_of)
    if rows == fields.rows and expected == int(np.count_nonzero(np.unpackbits(fields.openings))):
        return
    strings = np.zeros(rows, np.int64)
    for column in columns:
        strings += (column.kinds == Kind.TEXT) | (column.kinds == Kind.BLOB)
        if column.counts[Kind.WRAPPED]:
            strings += strings_of[column.wrappers]
    openings = set_positions(fields.openings, len(fields.data))
    wrong = np.searchsorted(openings, columns[-1].ends) - np.searchsorted(openings, columns[0].starts) != strings
    if wrong.any():
        raise FallbackRows(wrong, OTHER_LITERALS)
