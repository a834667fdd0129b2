"""Find where every field of every row of a block begins and ends, with arithmetic on whole arrays.

The separator between two rows is replaced by one byte that UTF-8 does not use. The running parity of the quotes shows
for each byte whether it is inside a text. The commas and row ends outside texts are the ends of the fields. No step is
a loop over values.

Nothing is verified here: :mod:`~airflow_provider_d1.dump.classify` and the code that converts values verify for each
field that all its bytes are one literal. Since fields and separators cover the block without a gap, a block whose
fields are all verified is read as SQLite would read it. Other rows go to the exact path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

if TYPE_CHECKING:
    from airflow_provider_d1.dump.buffers import Bytes, Mask, Positions

QUOTE = 39
_COMMA = 44
_END = ord(")")
#: replaces the separator between two rows; does not occur in valid UTF-8
ROW_END = 0xFF
_LETTER_C = ord("c")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a block's rows.

    :param buffer: the rows, with ``ROW_END`` between them.
    :param data: the same as numbers.
    :param row_starts: where each row starts in it.
    :param row_ends: where each row ends (exclusive).
    :param regular: which rows have the right number of fields.
    :param starts: where the fields start: a row of this array for each column, a column of it for each regular row.
    :param ends: where they end (exclusive).
    :param openings: one bit for each byte, set for a quote that opens a string and is not the second of two.
    """

    buffer: pa.Buffer
    data: Bytes
    row_starts: Positions
    row_ends: Positions
    regular: Mask
    starts: Positions
    ends: Positions
    openings: Bytes

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.row_ends)


def _bits(mask: Mask) -> npt.NDArray[np.uint64]:
    """Pack a mask into 64-bit words, the first byte in the lowest bit."""
    packed = np.packbits(mask, bitorder="little")
    words = np.zeros((len(packed) + 7) // 8, np.uint64)
    words.view(np.uint8)[: len(packed)] = packed
    return words


def set_positions(bits: Bytes, count: int) -> Positions:
    """Return which of the first ``count`` bits are set."""
    return np.flatnonzero(np.unpackbits(bits, count=count, bitorder="little").view(np.bool_))


def parity_of_quotes(quotes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a bit for each byte: set when the number of quotes up to and including it is odd, that is inside a text.

    Running parity is a prefix sum modulo 2, and there XOR is addition. Within a 64-bit word, six shifts by 1, 2, 4 … 32
    add up all lower bits (after each step a bit holds the parity of twice as many). Then the top bit of a word is the
    word's own parity; an XOR over these says which words begin inside a text, and those are inverted. That is eight
    times faster than an XOR from byte to byte.
    """
    words = quotes.copy()
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    odd = np.bitwise_xor.accumulate((words >> np.uint64(63)).astype(np.uint8))
    words[1:] ^= np.uint64(0) - odd[:-1].astype(np.uint64)  # 0 - 1 wraps to a word of ones, which inverts
    return words


def find_fields(body: memoryview, separator: bytes, columns: int) -> Fields | str:
    """Find the fields of a block's rows.

    :param body: the rows, from after the first opening parenthesis to the last closing one; valid UTF-8.
    :param separator: the bytes between two rows.
    :param columns: fields a row should have.
    :return: the fields, or the reason why the exact path has to read the block.
    """
    if not len(body) or body[-1] != _END:
        return "a comment at the end"
    buffer = _with_row_ends(body, separator)
    data: Bytes = np.frombuffer(buffer, np.uint8)
    if not len(data):
        return "an empty row"
    quotes = _bits(data == QUOTE)
    inside = parity_of_quotes(quotes)
    if int(inside[-1]) >> ((len(data) - 1) % 64) & 1:
        return "an unclosed quote"
    row_end_mask = data == ROW_END
    ends = set_positions((_bits((data == _COMMA) | row_end_mask) & ~inside).view(np.uint8), len(data))
    ends = _without_wrapper_commas(data, ends)
    is_last = np.ones(len(ends) + 1, np.bool_)
    is_last[:-1] = data[ends] == ROW_END
    ends = np.append(ends, len(data))
    last = np.flatnonzero(is_last)
    if len(last) != int(np.count_nonzero(row_end_mask)) + 1:
        return "a separator inside a text"
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    first = np.empty_like(last)
    first[0] = 0
    first[1:] = last[:-1] + 1
    row_starts, row_ends = starts[first], ends[last]
    regular = last - first == columns - 1
    if not regular.all():
        chosen = first[regular][:, np.newaxis] + np.arange(columns)
        starts, ends = starts[chosen], ends[chosen]
    # A quote opens a string when the parity before it is even and the byte before it is not a quote: two quotes in a
    # row are one inside a text. The shift moves every bit to the next byte; the top bit of a word goes to the next
    # word.
    after_a_quote = quotes << np.uint64(1)
    after_a_quote[1:] |= quotes[:-1] >> np.uint64(63)
    return Fields(
        buffer,
        data,
        row_starts,
        row_ends,
        regular,
        np.ascontiguousarray(starts.reshape(-1, columns).T),
        np.ascontiguousarray(ends.reshape(-1, columns).T),
        (quotes & inside & ~after_a_quote).view(np.uint8),
    )


def _with_row_ends(body: memoryview, separator: bytes) -> pa.Buffer:
    """Return the rows without the last parenthesis and with one byte between them.

    Arrow releases the GIL for this, and is faster than ``bytes.replace``.
    """
    whole = pa.py_buffer(body)[: len(body) - 1]
    offsets = pa.py_buffer(np.array([0, len(whole)], np.int64))
    rows = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, whole])
    return pc.replace_substring(rows, pattern=separator, replacement=bytes([ROW_END])).buffers()[2]


def _without_wrapper_commas(data: Bytes, ends: Positions) -> Positions:
    r"""Remove the commas of ``replace('…','\n',char(10))``: the one before ``char`` and the one before that.

    Only a call begins with ``c``, so that letter after a comma is enough to find them. Whether it is this call is
    verified with the field: :mod:`~airflow_provider_d1.dump.classify` compares all of its bytes.
    """
    following = data[np.minimum(ends + 1, len(data) - 1)]
    calls = np.flatnonzero(following == _LETTER_C)
    if not len(calls):
        return ends
    keep = np.ones(len(ends), np.bool_)
    keep[calls] = False
    keep[np.maximum(calls - 1, 0)] = False
    keep |= data[ends] == ROW_END
    return ends[keep]
