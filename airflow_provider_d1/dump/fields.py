"""Where the values of a block stand: every field of every row, found at the speed of memory.

The constant words between two rows are replaced by one byte that UTF-8 never has. One pass of prefix parity over the quotes
tells for every byte whether it is inside a text; the commas and row separators outside texts and outside parentheses are
the ends of the fields. That is arithmetic on whole blocks (numpy, Arrow), no step is taken value by value.

Nothing is believed yet: :mod:`airflow_provider_d1.dump.vectors` proves for each field that its bytes, from the first to
the last, are one literal. Since fields and separators cover the block without a gap, a block whose fields are all proven
is read as SQLite would read it. Rows with anything else are left to the exact path.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

QUOTE = 39
_COMMA = 44
_OPEN = 40
_CLOSE = 41
#: stands for the words between two rows; no valid UTF-8 has it
ROW_END = 0xFF


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of a block's rows.

    :param buffer: the rows, with ``ROW_END`` between them.
    :param data: the same as numbers.
    :param row_starts: where each row starts in it.
    :param row_ends: where each row ends (exclusive).
    :param regular: which rows have the right number of fields.
    :param starts: where each field of each regular row starts, a row of this array being a row of the block.
    :param ends: where it ends (exclusive).
    :param openings: where each text or blob opens, and each text that goes on after a doubled quote.
    """

    buffer: pa.Buffer
    data: Bytes
    row_starts: Positions
    row_ends: Positions
    regular: Mask
    starts: Positions
    ends: Positions
    openings: Positions

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.row_ends)

    def take(self, starts: Positions, ends: Positions, present: Mask | None = None) -> pa.Array:
        """Copy one slice of the block for each row into a string array (its UTF-8 must have been checked).

        :param starts: ascending.
        :param ends: exclusive; no slice overlaps the next one.
        :param present: where False, NULL is given instead.
        """
        count = len(starts)
        offsets = np.empty(2 * count, np.int32)
        offsets[0::2] = starts
        offsets[1::2] = ends
        slices = pa.Array.from_buffers(pa.string(), 2 * count - 1, [None, pa.py_buffer(offsets), self.buffer])
        bitmap = None if present is None else pa.py_buffer(np.packbits(present, bitorder="little"))
        every_other = np.arange(0, 2 * count, 2, dtype=np.int32)
        return slices.take(pa.Array.from_buffers(pa.int32(), count, [bitmap, pa.py_buffer(every_other)]))


def outside_quotes(quotes: Mask) -> Bytes:
    """Return one bit for each byte: set when an even number of quotes stands before and at it.

    Parity is summed up inside 64-bit words by six shifts, then over the words; that is eight times faster than one byte
    after the other.
    """
    packed = np.packbits(quotes, bitorder="little")
    words = np.zeros((len(packed) + 7) // 8, np.uint64)
    words.view(np.uint8)[: len(packed)] = packed
    for shift in (1, 2, 4, 8, 16, 32):
        words ^= words << np.uint64(shift)
    odd = np.bitwise_xor.accumulate((words >> np.uint64(63)).astype(np.uint8))
    words[1:] ^= np.uint64(0) - odd[:-1].astype(np.uint64)
    result: Bytes = (~words).view(np.uint8)
    return result


def _positions_outside(wanted: Mask, outside: Bytes) -> Positions:
    """Return where a mask is set outside quotes."""
    packed = np.packbits(wanted, bitorder="little")
    packed &= outside[: len(packed)]
    return np.flatnonzero(np.unpackbits(packed, count=len(wanted), bitorder="little").view(np.bool_))


def find_fields(body: bytes, separator: bytes, columns: int) -> Fields | str:
    """Find the fields of a block's rows.

    :param body: the rows, from behind the first opening parenthesis to the last closing one; valid UTF-8.
    :param separator: what stands between two rows.
    :param columns: fields a row should have.
    :return: the fields, or why they cannot be told apart here.
    """
    buffer = _with_row_ends(body, separator)
    data: Bytes = np.frombuffer(buffer, np.uint8)
    quotes = data == QUOTE
    quote_positions = np.flatnonzero(quotes)
    if len(quote_positions) % 2:
        return "a quote is left open"
    outside = outside_quotes(quotes)
    row_ends = data == ROW_END
    ends = _field_ends(data, row_ends, outside)
    if isinstance(ends, str):
        return ends
    ends = np.append(ends, len(data))
    is_last = np.append(data[ends[:-1]] == ROW_END, True)  # noqa: FBT003
    last = np.flatnonzero(is_last)
    if len(last) != int(np.count_nonzero(row_ends)) + 1:
        return "the words between two rows stand inside a text"
    starts = np.empty_like(ends)
    starts[0] = 0
    starts[1:] = ends[:-1] + 1
    first = np.empty_like(last)
    first[0] = 0
    first[1:] = last[:-1] + 1
    regular = last - first == columns - 1
    row_starts, row_end_positions = starts[first], ends[last]
    if not regular.all():
        chosen = first[regular][:, np.newaxis] + np.arange(columns)
        starts, ends = starts[chosen], ends[chosen]
    return Fields(
        buffer,
        data,
        row_starts,
        row_end_positions,
        regular,
        starts.reshape(-1, columns),
        ends.reshape(-1, columns),
        quote_positions[0::2],
    )


def _with_row_ends(body: bytes, separator: bytes) -> pa.Buffer:
    """Return the rows without the last parenthesis and with one byte between them.

    Arrow's replacement lets other threads run, and is faster than that of bytes.
    """
    whole = pa.py_buffer(body)[: len(body) - 1]
    if body.find(separator) < 0:
        return whole
    offsets = pa.py_buffer(np.array([0, len(whole)], np.int64))
    rows = pa.Array.from_buffers(pa.large_binary(), 1, [None, offsets, whole])
    return pc.replace_substring(rows, pattern=separator, replacement=bytes([ROW_END])).buffers()[2]


def _field_ends(data: Bytes, row_ends: Mask, outside: Bytes) -> Positions | str:
    """Return where fields end: commas and row ends outside quotes and parentheses."""
    parentheses = (data == _OPEN) | (data == _CLOSE)
    packed = np.packbits(parentheses, bitorder="little")
    packed &= outside[: len(packed)]
    if not packed.any():
        return _positions_outside((data == _COMMA) | row_ends, outside)
    positions = _positions_outside((data == _COMMA) | row_ends | parentheses, outside)
    found = data[positions]
    opens, closes = found == _OPEN, found == _CLOSE
    depth = np.cumsum(opens.view(np.int8) - closes.view(np.int8), dtype=np.int32)
    if depth.min() < 0 or depth[-1] or depth[found == ROW_END].any():
        return "parentheses go beyond their row"
    return positions[(depth == 0) & ~(opens | closes)]
