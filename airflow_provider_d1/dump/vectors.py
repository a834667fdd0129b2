"""Columns of a block out of its fields, at vector speed and each field proven.

Each field is told by its first byte: a quote is a text, ``X`` a blob, ``N`` NULL, ``r`` a text that D1 wrapped in
``replace()``, a digit or minus a number. What is then proven, for every field:

- a text starts and ends with a quote and has no other quote in it but doubled ones (all texts of the block together: as many
  quotes open a text without continuing one as there are texts, so there is no room for another one);
- a wrapped text has D1's exact words before and behind it;
- a number has only the bytes of a decimal number and converts;
- a blob is ``X'…'`` with an even number of hex digits;
- NULL is exactly that.

A row in which one of these fails is odd: :class:`OddRows` names it, and the exact path reads it.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.dump import temporal
from airflow_provider_d1.dump.affinity import Affinity
from airflow_provider_d1.dump.columns import (
    BINARY,
    FLOAT64,
    INT64,
    STRING,
    ColumnEvidence,
    ParsedColumn,
    cast,
    nulls,
    part_type,
)
from airflow_provider_d1.dump.fields import QUOTE, Bytes, Fields, Mask, Positions, set_positions, take_slices

_ODD, _NUMBER, _TEXT, _WRAPPED, _BLOB, _NULL = range(6)

_KIND = np.full(256, _ODD, np.uint8)
_KIND[list(b"0123456789-")] = _NUMBER
_KIND[QUOTE] = _TEXT
_KIND[ord("r")] = _WRAPPED
_KIND[list(b"Xx")] = _BLOB
_KIND[ord("N")] = _NULL

_NOT_IN_A_NUMBER = np.full(256, True)  # noqa: FBT003
_NOT_IN_A_NUMBER[list(b"0123456789-+.eE")] = False
#: first bytes of texts that numeric affinity might turn into a number
_MAY_START_A_NUMBER = np.full(256, False)  # noqa: FBT003
_MAY_START_A_NUMBER[list(b"0123456789+-. \t\n\v\f\r")] = True
_DIGIT = np.full(256, False)  # noqa: FBT003
_DIGIT[list(b"0123456789")] = True
_DATE_MARK = np.full(256, False)  # noqa: FBT003
_DATE_MARK[list(b"-/:")] = True

_NUMERIC_TEXT = r"^[ \t\n\v\f\r]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*(\x00(?s:.)*)?$"
_SURE_INTEGER = r"^-?[0-9]{1,18}$"
_SURE_REAL = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
#: longer decimals may have more digits than SQLite reads
_SURELY_READ = 20
_UNSAFE = 2**53

_REPLACEMENT_CHARACTER = "\ufffd"
_LINE_FEED, _CARRIAGE_RETURN = 10, 13
_LETTER_N, _LETTER_R, _BACKSLASH = 110, 114, 92
_DIGIT_ZERO, _MINUS = 48, 45


@dataclass(frozen=True, slots=True)
class _Wrapper:
    """One of D1's ways to write a text with newlines: the words around it, the newlines in it, its strings."""

    before: bytes
    behind: bytes
    line_feeds: bool
    carriage_returns: bool
    strings: int


_WRAPPERS = (
    _Wrapper(b"replace(replace('", b"','\\r',char(13)),'\\n',char(10))", True, True, 3),
    _Wrapper(b"replace('", b"','\\n',char(10))", True, False, 2),
    _Wrapper(b"replace('", b"','\\r',char(13))", False, True, 2),
)


class OddRows(Exception):  # noqa: N818 - not an error: it says what the exact path has to read
    """Some rows need the exact path.

    :param rows: which, as a mask over the rows that were given.
    :param reason: why, in a word or two.
    """

    def __init__(self, rows: Mask, reason: str) -> None:
        super().__init__(reason)
        self.rows = rows
        self.reason = reason


@dataclass(slots=True)
class _Column:
    """The fields of one column and what kind of literal each is."""

    starts: Positions
    ends: Positions
    kinds: Bytes
    counts: list[int]
    #: of wrapped texts: which wrapper, as an index
    wrappers: Bytes = field(default_factory=lambda: np.empty(0, np.uint8))

    def mask(self, kind: int) -> Mask | None:
        """Return which rows are of a kind, None when all are."""
        return None if self.counts[kind] == len(self.kinds) else self.kinds == kind


def read_columns(
    fields: Fields, rows: npt.NDArray[np.intp] | None, affinities: list[Affinity], *, replacements: bool, temporal_forms: bool
) -> list[ParsedColumn]:
    """Read columns.

    :param fields: the fields of a block.
    :param rows: which of the regular rows, None for all.
    :param affinities: one for each field of a row.
    :param replacements: whether U+FFFD occurs in the block.
    :param temporal_forms: whether to look at the temporal form of texts.
    :raises OddRows: when the exact path has to read some of the rows; the others may be tried again.
    """
    starts = fields.starts if rows is None else fields.starts[:, rows]
    ends = fields.ends if rows is None else fields.ends[:, rows]
    columns = [_told(fields.data, starts[j], ends[j]) for j in range(len(affinities))]
    _prove_texts(fields, starts, ends, columns)
    readers = [
        _ColumnReader(fields, column, affinity, has_replacement=replacements, temporal_forms=temporal_forms)
        for column, affinity in zip(columns, affinities, strict=True)
    ]
    return [reader.read() for reader in readers]


def _told(data: Bytes, starts: Positions, ends: Positions) -> _Column:
    """Tell the fields of a column by their first bytes; prove NULLs, wrappers and the ends of texts and blobs."""
    kinds = _KIND.take(data.take(starts, mode="clip"))
    if (kinds == kinds[0]).all():
        counts = [0] * 6
        counts[kinds[0]] = len(kinds)
    else:
        counts = np.bincount(kinds, minlength=6).tolist()
    column = _Column(starts, ends, kinds, counts)
    odd = starts == ends
    if counts[_ODD] or odd.any():
        raise OddRows(odd | (kinds == _ODD), "other literals")
    for kind, prove in ((_NULL, _not_null), (_TEXT, _not_a_text), (_BLOB, _not_a_blob)):
        if counts[kind]:
            which = None if counts[kind] == len(kinds) else np.flatnonzero(kinds == kind)
            wrong = prove(data, starts if which is None else starts[which], ends if which is None else ends[which])
            if wrong.any():
                odd[np.flatnonzero(wrong) if which is None else which[wrong]] = True
    if counts[_WRAPPED]:
        column.wrappers = np.full(len(kinds), len(_WRAPPERS), np.uint8)
        which = np.flatnonzero(kinds == _WRAPPED)
        column.wrappers[which] = _which_wrapper(data, starts[which], ends[which])
        odd[which[column.wrappers[which] == len(_WRAPPERS)]] = True
    if odd.any():
        raise OddRows(odd, "other literals")
    return column


def _not_null(data: Bytes, starts: Positions, ends: Positions) -> Mask:
    wrong: Mask = ends - starts != 4
    for at, letter in enumerate(b"NULL"):
        wrong |= data.take(starts + at, mode="clip") != letter
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
    """Return for each field the index of the wrapper around it, ``len(_WRAPPERS)`` for none."""
    result = np.full(len(starts), len(_WRAPPERS), np.uint8)
    for index in range(len(_WRAPPERS) - 1, -1, -1):
        wrapper = _WRAPPERS[index]
        fits = np.flatnonzero(ends - starts >= len(wrapper.before) + len(wrapper.behind))
        before = starts[fits, np.newaxis] + np.arange(len(wrapper.before))
        behind = ends[fits, np.newaxis] - len(wrapper.behind) + np.arange(len(wrapper.behind))
        same = (data[before] == np.frombuffer(wrapper.before, np.uint8)).all(axis=1)
        same &= (data[behind] == np.frombuffer(wrapper.behind, np.uint8)).all(axis=1)
        result[fits[same]] = index
    return result


def _prove_texts(fields: Fields, starts: Positions, ends: Positions, columns: list[_Column]) -> None:
    """Prove that every quote which opens a string and does not go on with one is that of a told text or blob."""
    rows = starts.shape[1]
    total = 0
    for column in columns:
        total += column.counts[_TEXT] + column.counts[_BLOB]
        if column.counts[_WRAPPED]:
            used = np.bincount(column.wrappers, minlength=len(_WRAPPERS))
            total += sum(int(count) * wrapper.strings for count, wrapper in zip(used, _WRAPPERS, strict=False))
    if rows == fields.rows and total == int(np.count_nonzero(np.unpackbits(fields.openings))):
        return
    strings = np.zeros(rows, np.int64)
    for column in columns:
        strings += (column.kinds == _TEXT) | (column.kinds == _BLOB)
        if column.counts[_WRAPPED]:
            strings += np.array([*(wrapper.strings for wrapper in _WRAPPERS), 0])[column.wrappers]
    openings = set_positions(fields.openings, len(fields.data))
    wrong = np.searchsorted(openings, ends[-1]) - np.searchsorted(openings, starts[0]) != strings
    if wrong.any():
        raise OddRows(wrong, "other literals")


class _ColumnReader:
    """Turns the fields of one column into Arrow."""

    def __init__(
        self, fields: Fields, column: _Column, affinity: Affinity, *, has_replacement: bool, temporal_forms: bool
    ) -> None:
        self._fields = fields
        self._column = column
        self._affinity = affinity
        self._has_replacement = has_replacement
        self._temporal_forms = temporal_forms

    def read(self) -> ParsedColumn:
        """Read the column; a mixed one is put together from one array for each storage class."""
        rows = len(self._column.kinds)
        counts = self._column.counts
        parsed: list[ParsedColumn] = []
        if counts[_NUMBER]:
            parsed += self._numbers()
        if counts[_TEXT] or counts[_WRAPPED]:
            parsed.append(self._texts())
        if counts[_BLOB]:
            parsed.append(self._blobs())
        if len(parsed) == 1 and not counts[_NULL]:
            return parsed[0]
        evidence = ColumnEvidence(null=counts[_NULL])
        for part in parsed:
            evidence += part.evidence
        if len(parsed) == 1:
            return ParsedColumn(parsed[0].array, evidence)
        target = part_type(self._affinity, evidence)
        if not parsed:
            return ParsedColumn(nulls(target, rows), evidence)
        arrays = [cast(part.array, part.evidence, target) for part in parsed]
        return ParsedColumn(pc.coalesce(*arrays), evidence)

    def _numbers(self) -> list[ParsedColumn]:
        """Read the numbers; give the integers and the reals as far as there are any."""
        if self._affinity is Affinity.TEXT:
            raise OddRows(self._column.kinds == _NUMBER, "numbers in a TEXT column")
        present = self._column.mask(_NUMBER)
        written = self._fields.take(self._column.starts, self._column.ends, present)
        data, offsets = _data(written)
        marks = np.flatnonzero((data - np.uint8(_DIGIT_ZERO)) > 9)  # unsigned: what is below the digits wraps to above
        marked = data[marks]
        odd = _NOT_IN_A_NUMBER[marked]
        if odd.any():
            raise OddRows(_rows_with(offsets, marks[odd]), "other literals")
        if self._affinity is Affinity.REAL:
            return [self._reals(written, present)]
        marks = marks[marked != _MINUS]
        if not len(marks):
            return [self._integers(written, present)]
        if self._affinity in (Affinity.INTEGER, Affinity.NUMERIC):
            numbers = self._small_numbers(written, present)
            if numbers is not None:
                return [numbers]
        broken = _rows_with(offsets, marks)
        whole = _present(present, len(broken)) & ~broken
        if not whole.any():
            return self._split_reals(self._reals(written, present), None)
        integers = self._integers(_only(written, whole), whole)
        return self._split_reals(self._reals(_only(written, broken), broken), integers)

    def _small_numbers(self, written: pa.Array, present: Mask | None) -> ParsedColumn | None:
        """Convert decimals of a column that keeps whole numbers as integers, None where doubles can't tell which they are."""
        reals = self._reals(written, present)
        values = _values(reals.array, np.float64)
        here = _true(reals.array.is_valid()) if reals.array.null_count else None
        if here is not None:
            values = np.where(here, values, 0.0)
        if len(values) and not max(values.max(), -values.min()) < _UNSAFE:
            return None
        whole = values == np.floor(values)
        integers = int(np.count_nonzero(whole if here is None else whole & here))
        real = reals.evidence.real - integers
        if not real:
            return ParsedColumn(pc.cast(reals.array, INT64), ColumnEvidence(integer=integers))
        return ParsedColumn(reals.array, ColumnEvidence(integer=integers, real=real))

    def _integers(self, written: pa.Array, present: Mask | None) -> ParsedColumn:
        """Convert whole-number literals."""
        try:
            array = pc.cast(written, INT64)
        except pa.ArrowInvalid:
            sure = _true(pc.match_substring_regex(written, _SURE_INTEGER))
            raise OddRows(_present(present, len(sure)) & ~sure, "numbers beyond 64 bits") from None
        return ParsedColumn(array, _integer_evidence(array, literal=True))

    def _reals(self, written: pa.Array, present: Mask | None) -> ParsedColumn:
        """Convert decimals."""
        here = _present(present, len(written))
        _, offsets = _data(written)
        long = np.flatnonzero(np.diff(offsets) > _SURELY_READ)
        if len(long):
            digits = pc.replace_substring_regex(written.take(_indices(long)), r"([eE].*|^-?[0.]*|\.)", "")
            too_long = long[np.diff(_data(digits)[1]) >= _SURELY_READ]
            if len(too_long):
                odd = np.zeros(len(written), np.bool_)
                odd[too_long] = True
                raise OddRows(odd, "decimals of many digits")
        try:
            array = pc.cast(written, FLOAT64)
        except pa.ArrowInvalid:
            sure = _true(pc.match_substring_regex(written, _SURE_REAL))
            wrong = here & ~sure
            raise OddRows(wrong if wrong.any() else here, "other literals") from None
        values = _values(array, np.float64)
        if self._affinity is Affinity.REAL and np.signbit(values[values == 0]).any():
            array = _rebuilt(array, values + 0.0)  # SQLite keeps a whole real as an integer in the file, without the sign
        return ParsedColumn(array, self._real_evidence(array, values, here))

    def _real_evidence(self, array: pa.Array, values: npt.NDArray[np.float64], here: Mask) -> ColumnEvidence:
        infinite = int(np.count_nonzero(np.isinf(values) & here))
        whole = 0
        if self._affinity is not Affinity.REAL:
            whole = int(np.count_nonzero((np.floor(values) == values) & (values >= -(2.0**63)) & (values < 2.0**63) & here))
        return ColumnEvidence(real=len(array) - array.null_count, whole_reals=whole, infinities=infinite)

    def _split_reals(self, reals: ParsedColumn, integers: ParsedColumn | None) -> list[ParsedColumn]:
        """Apply affinity to reals: INTEGER and NUMERIC columns store whole ones as integers."""
        found = [] if integers is None else [integers]
        if self._affinity not in (Affinity.INTEGER, Affinity.NUMERIC) or not reals.evidence.whole_reals:
            return [*found, reals]
        values = _values(reals.array, np.float64)
        here = _true(reals.array.is_valid())
        converts = (np.floor(values) == values) & (values > -(2.0**63)) & (values < 2.0**63) & here
        if not converts.any():
            return [*found, reals]
        bitmap = pa.py_buffer(np.packbits(converts, bitorder="little"))
        numbers = pa.py_buffer(np.where(converts, values, 0).astype(np.int64))
        converted = pa.Array.from_buffers(INT64, len(values), [bitmap, numbers])
        found.append(ParsedColumn(converted, _integer_evidence(converted, literal=False)))
        stays = here & ~converts
        if stays.any():
            array = _only(reals.array, stays)
            found.append(ParsedColumn(array, self._real_evidence(array, values, stays)))
        return found

    def _texts(self) -> ParsedColumn:
        """Read plain and wrapped texts."""
        column = self._column
        is_text = column.mask(_TEXT)
        starts, ends = column.starts + 1, column.ends - 1
        present = is_text
        wrapped = bool(column.counts[_WRAPPED])
        if wrapped:
            before = np.array([*(len(w.before) for w in _WRAPPERS), 1])
            behind = np.array([*(len(w.behind) for w in _WRAPPERS), 1])
            starts, ends = column.starts + before[column.wrappers], column.ends - behind[column.wrappers]
            here = column.kinds == _WRAPPED
            present = here if is_text is None else here | is_text
            present = None if present.all() else present
        if present is not None:  # nothing is copied for the other rows, and their bounds stay in order
            starts, ends = np.where(present, starts, column.starts), np.where(present, ends, column.starts)
        array = self._fields.take(starts, ends, present)
        ambiguous = 0
        if wrapped:
            array, ambiguous = _unwrapped(array, column.wrappers)
        elif _has_quotes(array):
            array = pc.replace_substring(array, pattern="''", replacement="'")
        if self._affinity in (Affinity.INTEGER, Affinity.REAL, Affinity.NUMERIC):
            numeric = _numeric_texts(array)
            if numeric is not None:
                raise OddRows(numeric, "texts that become numbers")
        evidence = ColumnEvidence(
            text=len(array) - array.null_count,
            ambiguous_newlines=ambiguous,
            replacement_characters=_count(pc.match_substring(array, _REPLACEMENT_CHARACTER)) if self._has_replacement else 0,
            temporal_forms=temporal.forms(array) if self._temporal_forms else 0,
        )
        return ParsedColumn(array, evidence)

    def _blobs(self) -> ParsedColumn:
        """Read blobs: all hex digits at once."""
        present = self._column.mask(_BLOB)
        starts, ends = self._column.starts + 2, self._column.ends - 1
        if present is not None:
            starts = np.where(present, starts, self._column.starts)
            ends = np.where(present, ends, self._column.starts)
        written = self._fields.take(starts, ends, present)
        data, offsets = _data(written)
        try:
            blobs = binascii.unhexlify(data.tobytes())
        except binascii.Error:
            sure = _true(pc.match_substring_regex(written, "^[0-9A-Fa-f]*$"))
            raise OddRows(_present(present, len(sure)) & ~sure, "other literals") from None
        buffers = [written.buffers()[0], pa.py_buffer(offsets // 2), pa.py_buffer(blobs)]
        array = pa.Array.from_buffers(BINARY, len(written), buffers)
        return ParsedColumn(array, ColumnEvidence(blob=len(array) - array.null_count))


def _integer_evidence(array: pa.Array, *, literal: bool) -> ColumnEvidence:
    """Count integers; those that were written as reals are not unsafe."""
    values = _values(array, np.int64)
    unsafe = inexact = 0
    if len(values) and (values.max() >= _UNSAFE or values.min() <= -_UNSAFE):
        far = (values >= _UNSAFE) | (values <= -_UNSAFE)
        if array.null_count:
            far &= _true(array.is_valid())
        unsafe = int(np.count_nonzero(far)) if literal else 0
        as_real = values[far].astype(np.float64)
        in_range = as_real < 2.0**63
        inexact = int(np.count_nonzero(~in_range | (np.where(in_range, as_real, 0).astype(np.int64) != values[far])))
    return ColumnEvidence(integer=len(array) - array.null_count, unsafe_integers=unsafe, inexact_integers=inexact)


def _unwrapped(array: pa.Array, wrappers: Bytes) -> tuple[pa.Array, int]:
    """Put real newlines into wrapped texts and undouble all quotes, in one pass.

    :return: the texts, and how many of the wrapped ones have a marker more than once.
    """
    data, offsets = _data(array)
    data = data.copy()
    at = np.flatnonzero((data == QUOTE) | (data == _BACKSLASH))
    quotes = np.flatnonzero(data[at] == QUOTE)
    drop = np.zeros(len(at), np.bool_)
    drop[quotes[1::2]] = True
    letters = data.take(at + 1, mode="clip")
    letters[quotes] = 0
    ambiguous = np.zeros(len(array), np.bool_)
    for letter, newline, wrapped_with in (
        (_LETTER_N, _LINE_FEED, [wrapper.line_feeds for wrapper in _WRAPPERS]),
        (_LETTER_R, _CARRIAGE_RETURN, [wrapper.carriage_returns for wrapper in _WRAPPERS]),
    ):
        marks = np.flatnonzero(letters == letter)
        row = np.searchsorted(offsets, at[marks], side="right") - 1
        real = np.array([*wrapped_with, False])[wrappers[row]] & (at[marks] + 1 < offsets[row + 1])
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


def _numeric_texts(array: pa.Array) -> Mask | None:
    """Return which texts numeric affinity would turn into numbers, None for none; dates are seen at a glance."""
    data, offsets = _data(array)
    starts, lengths = offsets[:-1], np.diff(offsets)
    last = max(len(data) - 1, 0)
    if not len(data):
        return None
    candidates = (lengths > 0) & _MAY_START_A_NUMBER[data[np.minimum(starts, last)]]
    dates = _DIGIT[data[np.minimum(starts + 3, last)]] & _DATE_MARK[data[np.minimum(starts + 4, last)]] & (lengths > 4)
    which = np.flatnonzero(candidates & ~dates)
    if not len(which):
        return None
    found = which[_true(pc.match_substring_regex(array.take(_indices(which)), _NUMERIC_TEXT))]
    if not len(found):
        return None
    mask = np.zeros(len(array), np.bool_)
    mask[found] = True
    return mask


def _data(array: pa.Array) -> tuple[Bytes, npt.NDArray[np.int32]]:
    """Return the bytes and the offsets of a string array that owns its buffers from their start."""
    _, offsets, data = array.buffers()
    bounds = np.frombuffer(offsets, np.int32, count=len(array) + 1)
    return (np.frombuffer(data, np.uint8, count=int(bounds[-1])) if data is not None else np.empty(0, np.uint8)), bounds


def _values(array: pa.Array, dtype: type) -> npt.NDArray[np.generic]:
    """Return the values of a number array; what stands at NULLs is undefined."""
    return np.frombuffer(array.buffers()[1], dtype, count=len(array))


def _rebuilt(array: pa.Array, values: npt.NDArray[np.generic]) -> pa.Array:
    return pa.Array.from_buffers(array.type, len(array), [array.buffers()[0], pa.py_buffer(values)])


def _true(array: pa.Array) -> Mask:
    """Return a boolean array as a mask; NULL is False."""
    values = np.unpackbits(np.frombuffer(array.buffers()[1], np.uint8), bitorder="little")
    values = values[array.offset : array.offset + len(array)].view(np.bool_)
    if array.null_count:
        valid = np.unpackbits(np.frombuffer(array.buffers()[0], np.uint8), bitorder="little")
        values = values & valid[array.offset : array.offset + len(array)].view(np.bool_)
    return values


def _count(array: pa.Array) -> int:
    return int(np.count_nonzero(_true(array)))


def _present(present: Mask | None, rows: int) -> Mask:
    return np.ones(rows, np.bool_) if present is None else present


def _has_quotes(array: pa.Array) -> bool:
    data, _ = _data(array)
    return bool((data == QUOTE).any())


def _rows_with(offsets: npt.NDArray[np.int32], positions: npt.NDArray[np.intp]) -> Mask:
    """Return in which rows some bytes lie."""
    mask = np.zeros(len(offsets) - 1, np.bool_)
    mask[np.searchsorted(offsets, positions, side="right") - 1] = True
    return mask


def _indices(positions: npt.NDArray[np.intp]) -> pa.Array:
    return pa.Array.from_buffers(INT64, len(positions), [None, pa.py_buffer(positions.astype(np.int64))])


def _only(array: pa.Array, which: Mask) -> pa.Array:
    """Return an array with NULL in all other rows."""
    bitmap = pa.py_buffer(np.packbits(which, bitorder="little"))
    everywhere = pa.py_buffer(np.arange(len(array), dtype=np.int64))
    return array.take(pa.Array.from_buffers(INT64, len(array), [bitmap, everywhere]))
