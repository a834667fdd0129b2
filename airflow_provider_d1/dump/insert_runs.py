"""Runs of INSERTs: where many rows of one table end, without a look at each of them.

The last words between two rows are searched from the end and proven to stand outside quotes by the parity of these;
that nothing else stands between the rows is proven by counting.
"""

from __future__ import annotations

import re

import numpy as np

from airflow_provider_d1.dump.statements import SPACE, find_insert_end

#: a run is looked at so far ahead before it is looked at as a whole
_GLANCE = 1 << 15

_SPACE = re.compile(SPACE)
_BETWEEN_ROWS = re.compile(rb"[ \t\r\n\f]*+")


def run_end(buffer: bytearray, prefix: bytes, first: int, *, block_size: int, final: bool) -> tuple[int, bytes]:
    """Find the end of a run of INSERTs with the same prefix, at most about a block long.

    :param buffer: bytes of the dump.
    :param prefix: the words before the values.
    :param first: where the first row's values start.
    :param block_size: how far to look.
    :param final: whether the buffer is all there will be.
    :return: offset just past the last row's semicolon (-1: not there yet) and the separator of the rows.
    """
    row_end = find_insert_end(buffer, first)
    if row_end < 0:
        return -1, b""
    between = _BETWEEN_ROWS.match(buffer, row_end)
    next_start = between.end() if between else row_end
    separator = bytes(buffer[row_end - 2 : next_start]) + prefix
    if not final and len(buffer) - next_start < len(prefix) and prefix.startswith(buffer[next_start:]):
        return -1, b""
    if not separator.startswith(b");") or not buffer.startswith(prefix, next_start):
        return row_end, b");\n" + prefix
    for size in (_GLANCE, block_size):  # else tables that take turns would have each block searched whole
        window = min(len(buffer), max(first + min(size, block_size), next_start + len(prefix)))
        end = _last_separator(buffer, separator, prefix, first, window)
        broken = _break_of_run(buffer, separator, first, end)
        if broken >= 0:
            return broken, separator
    if end < 0:
        return row_end, separator
    last = find_insert_end(buffer, end + len(separator))
    if last >= 0 and _run_is_over(buffer, prefix, last, final=final):
        return last, separator
    return end + 2, separator


def _break_of_run(buffer: bytearray, separator: bytes, first: int, end: int) -> int:
    """Return where the first row ends that something else than the separator follows, -1 when there is none.

    What follows may be any statement; the run's own words come again only behind it.

    :param end: where a separator outside quotes starts; -1 when there is none.
    """
    if end < 0:
        return -1
    region = np.frombuffer(buffer, np.uint8, count=end - first, offset=first)
    separators = buffer.count(separator, first, end)
    if int(np.count_nonzero(region == 59)) == separators * separator.count(b";"):
        return -1  # they have all semicolons
    ends = np.flatnonzero((region[:-1] == 41) & (region[1:] == 59))  # );
    if len(ends) == separators * separator.count(b");"):
        return -1
    in_prefix = separator.count(b"'")
    before = np.searchsorted(np.flatnonzero(region == 39), ends)
    if not in_prefix:
        inside = before % 2 == 1  # a text
        words = np.ndarray(len(region) + len(separator) - 8, np.uint64, buffer, first, (1,))
        alike = ends[inside & (words[ends] == np.frombuffer(separator, np.uint64, 1))]
        quoted = sum(buffer.startswith(separator, place) for place in (alike + first).tolist())
        ends, before = ends[~inside], before[~inside]
        if len(ends) == (separators - quoted) * separator.count(b");"):
            return -1
    at = seen = 0
    for place, quotes in zip((ends + first).tolist(), before.tolist(), strict=True):
        if place < at or (quotes - seen * in_prefix) % 2:
            continue  # inside the separator or a text
        if not buffer.startswith(separator, place):
            return place + 2
        at, seen = place + len(separator), seen + 1
    return -1


def _run_is_over(buffer: bytearray, prefix: bytes, end: int, *, final: bool) -> bool:
    """Tell whether something else than another row with the same prefix follows the row that ends at ``end``."""
    space = _SPACE.match(buffer, end)
    start = space.end() if space else end
    there = buffer[start : start + len(prefix)]
    return there != prefix[: len(there)] or (final and len(there) < len(prefix))


def _last_separator(buffer: bytearray, separator: bytes, prefix: bytes, first: int, window: int) -> int:
    """Return where the last separator outside quotes starts, -1 when there is none.

    Outside quotes means an even number of quotes before it; those of the prefixes in between don't count.
    """
    last = buffer.rfind(separator, first, window)
    if last < 0:
        return -1
    region = np.frombuffer(buffer, np.uint8, count=last - first, offset=first)
    quotes = region == 39
    in_prefix = prefix.count(b"'") % 2
    seen = buffer.count(separator, first, last) if in_prefix else 0
    if (int(np.count_nonzero(quotes)) - seen * in_prefix) % 2 == 0:
        del region
        return last
    positions = np.flatnonzero(quotes)
    del region, quotes
    candidates = []
    at = buffer.find(separator, first, last)
    while 0 <= at < last:
        candidates.append(at - first)
        at = buffer.find(separator, at + 1, last)
    before = np.searchsorted(positions, np.array(candidates, dtype=np.int64)) - np.arange(len(candidates)) * in_prefix
    even = np.flatnonzero(before % 2 == 0)
    return first + candidates[int(even[-1])] if len(even) else -1
