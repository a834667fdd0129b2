r"""Runs of INSERTs: find where many rows of one table end, without parsing each of them.

A dump has one INSERT for each row, and all INSERTs of a table begin with the same bytes. So the bytes between two rows
are always the same, such as ``);\nINSERT INTO "t" ("a","b") VALUES(``: the *separator*. A run is found in three steps:

1. The last separator within a block's length is searched from the end (``rfind``).
2. A text can contain the separator too. Outside texts, the number of quotes before it is even, because a quote inside a
   text is doubled; so one count over the block decides (:func:`_last_separator`).
3. There may be something else between two rows of the run, such as an INSERT into another table. Then there is a
   semicolon that is not part of a separator; equal counts show that there is none (:func:`_break_of_run`).

Only when the counts differ, the positions are examined, with numpy.
"""

from __future__ import annotations

import re

import numpy as np

from airflow_provider_d1.dump.statements import SPACE, find_insert_end

#: bytes that are searched before a whole block: where rows of several tables alternate, every run is short, and
#: searching a block for each run would take quadratic time
_FIRST_WINDOW = 1 << 15

_QUOTE = ord("'")
_CLOSING = ord(")")
_SEMICOLON = ord(";")
#: bytes in the word that :func:`_break_of_run` compares at once
_WORD = 8

_SPACE = re.compile(SPACE)
_BETWEEN_ROWS = re.compile(rb"[ \t\r\n\f]*+")


def run_end(buffer: bytearray, prefix: bytes, first: int, *, block_size: int, final: bool) -> tuple[int, bytes]:
    """Find the end of a run of INSERTs with the same prefix, at most about a block long.

    :param buffer: bytes of the dump.
    :param prefix: the first bytes of every INSERT of the run, up to the opening parenthesis.
    :param first: where the first row's values start.
    :param block_size: how far to search.
    :param final: whether the dump ends with the buffer.
    :return: offset just past the last row's semicolon (-1 when it is not in the buffer yet) and the separator of the
        rows.
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
    for size in (_FIRST_WINDOW, block_size):
        window = min(len(buffer), max(first + min(size, block_size), next_start + len(prefix)))
        end = _last_separator(buffer, separator, prefix, first, window)
        broken = _break_of_run(buffer, separator, first, end)
        if broken >= 0:
            return broken, separator
    if end < 0:
        return row_end, separator
    # ``end`` is where the second last row ends; the last row belongs to the block too if the run ends with it
    last = find_insert_end(buffer, end + len(separator))
    if last >= 0 and _run_is_over(buffer, prefix, last, final=final):
        return last, separator
    return end + len(b");"), separator


def _break_of_run(buffer: bytearray, separator: bytes, first: int, end: int) -> int:
    """Return where the first row ends that is not followed by the separator, -1 when there is none.

    :param end: where a separator outside quotes starts; -1 when there is none.
    """
    if end < 0:
        return -1
    region = np.frombuffer(buffer, np.uint8, count=end - first, offset=first)
    separators = buffer.count(separator, first, end)
    # First check: all semicolons are those of separators. This is enough for most blocks.
    if int(np.count_nonzero(region == _SEMICOLON)) == separators * separator.count(b";"):
        return -1
    # Texts may contain semicolons. A row ends with ");", which is rarer.
    ends = np.flatnonzero((region[:-1] == _CLOSING) & (region[1:] == _SEMICOLON))
    if len(ends) == separators * separator.count(b");"):
        return -1
    quotes_in_separator = separator.count(b"'")
    quotes_before = np.searchsorted(np.flatnonzero(region == _QUOTE), ends)
    if not quotes_in_separator:
        # Leave out each ");" that is inside a text, and the separators that are. To find these, the eight bytes at
        # every place are compared with the separator's first eight as one integer: ``words`` is a view of the buffer
        # with a stride of one byte, so that its items overlap. Only where these are equal, the whole separator is
        # compared.
        inside = quotes_before % 2 == 1
        words = np.ndarray(len(region) + len(separator) - _WORD, np.uint64, buffer, first, (1,))
        alike = ends[inside & (words[ends] == np.frombuffer(separator, np.uint64, 1))]
        quoted = sum(buffer.startswith(separator, place) for place in (alike + first).tolist())
        ends, quotes_before = ends[~inside], quotes_before[~inside]
        if len(ends) == (separators - quoted) * separator.count(b");"):
            return -1
    # There is a break, or a name with a quote in it. Go through the ends of rows; quotes of separators do not count.
    at = seen = 0
    for place, quotes in zip((ends + first).tolist(), quotes_before.tolist(), strict=True):
        if place < at or (quotes - seen * quotes_in_separator) % 2:
            continue  # inside the separator, or inside a text
        if not buffer.startswith(separator, place):
            return place + len(b");")
        at, seen = place + len(separator), seen + 1
    return -1


def _run_is_over(buffer: bytearray, prefix: bytes, end: int, *, final: bool) -> bool:
    """Return whether the row that ends at ``end`` is followed by something else than a row of the same run.

    While the buffer has too few bytes to decide, the run continues.
    """
    space = _SPACE.match(buffer, end)
    start = space.end() if space else end
    there = buffer[start : start + len(prefix)]
    return there != prefix[: len(there)] or (final and len(there) < len(prefix))


def _last_separator(buffer: bytearray, separator: bytes, prefix: bytes, first: int, window: int) -> int:
    """Return where the last separator outside quotes starts, -1 when there is none.

    Outside quotes means an even number of quotes before it. A table's name may have one, as in ``"it's"``: then the
    quotes of the separators before it are subtracted.
    """
    last = buffer.rfind(separator, first, window)
    if last < 0:
        return -1
    region = np.frombuffer(buffer, np.uint8, count=last - first, offset=first)
    quotes = region == _QUOTE
    odd_in_prefix = prefix.count(b"'") % 2
    separators = buffer.count(separator, first, last) if odd_in_prefix else 0
    if (int(np.count_nonzero(quotes)) - separators * odd_in_prefix) % 2 == 0:
        del region  # a bytearray cannot be resized while a view of it exists
        return last
    # The last one is inside a text. Check all of them at once: going back one by one would count again each time.
    positions = np.flatnonzero(quotes)
    del region, quotes
    candidates = []
    at = buffer.find(separator, first, last)
    while 0 <= at < last:
        candidates.append(at - first)
        at = buffer.find(separator, at + 1, last)
    before = np.searchsorted(positions, np.array(candidates, dtype=np.int64))
    before -= np.arange(len(candidates)) * odd_in_prefix
    even = np.flatnonzero(before % 2 == 0)
    return first + candidates[int(even[-1])] if len(even) else -1
