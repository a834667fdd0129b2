"""Convert number literals of a column to int64 and float64 with Arrow, where Arrow reads them as SQLite does."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.dump.affinity import Affinity
from airflow_provider_d1.dump.buffers import (
    bitmap,
    doubles,
    integers,
    only_rows,
    rows_at,
    rows_mask,
    take_rows,
    text_data,
    true_rows,
    valid_rows,
    with_values,
)
from airflow_provider_d1.dump.classify import OTHER_LITERALS, FallbackRows
from airflow_provider_d1.dump.column_types import FLOAT64, INT64, ColumnStats, ParsedColumn

if TYPE_CHECKING:
    import numpy.typing as npt

    from airflow_provider_d1.dump.buffers import Mask

_NOT_IN_A_NUMBER = np.ones(256, np.bool_)
_NOT_IN_A_NUMBER[list(b"0123456789-+.eE")] = False
_ZERO, _MINUS = ord("0"), ord("-")
_SURE_INTEGER = r"^-?[0-9]{1,18}$"
_SURE_REAL = r"^-?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?$"
#: SQLite reads the first 19 digits of any decimal, and the twentieth of some
_SURELY_READ = 19
_ALL_BUT_DIGITS = r"([eE].*|^-?[0.]*|\.)"
_FIRST_UNSAFE = 2**53
_TWO_63 = 2.0**63

#: columns that store a whole real as an integer
_WHOLE_BECOMES_INTEGER = (Affinity.INTEGER, Affinity.NUMERIC)


def read_numbers(written: pa.Array, affinity: Affinity) -> list[ParsedColumn]:
    """Convert number literals; a column with integers and reals gives two arrays, each with NULL for the other.

    :param written: the literals, each starting with a digit or a minus; NULL where the row has none.
    :param affinity: the column's.
    :raises FallbackRows: for a literal that is not a plain decimal, or that SQLite reads differently.
    """
    if affinity is Affinity.TEXT:
        raise FallbackRows(valid_rows(written), "numbers in a TEXT column")
    data, offsets = text_data(written)
    marks = np.flatnonzero((data - np.uint8(_ZERO)) > 9)  # unsigned: bytes below the digits wrap to large values
    marked = data[marks]
    foreign = _NOT_IN_A_NUMBER[marked]
    if foreign.any():
        raise FallbackRows(rows_at(offsets, marks[foreign]), OTHER_LITERALS)
    if affinity is Affinity.REAL:
        return [_reals(written, affinity)]
    marks = marks[marked != _MINUS]
    if not len(marks):
        return [_integers(written)]
    if affinity in _WHOLE_BECOMES_INTEGER:
        small = _small_numbers(written, affinity)
        if small is not None:
            return [small]
    broken = rows_at(offsets, marks)
    whole = valid_rows(written) & ~broken
    found = [_integers(only_rows(written, whole))] if whole.any() else []
    reals = _reals(only_rows(written, broken), affinity)
    return found + (_split_whole(reals) if affinity in _WHOLE_BECOMES_INTEGER else [reals])


def _integers(written: pa.Array) -> ParsedColumn:
    try:
        array = pc.cast(written, INT64)
    except pa.ArrowInvalid:
        sure = true_rows(pc.match_substring_regex(written, _SURE_INTEGER))
        raise FallbackRows(valid_rows(written) & ~sure, "numbers beyond 64 bits") from None
    return ParsedColumn(array, _integer_stats(array, literal=True))


def _integer_stats(array: pa.Array, *, literal: bool) -> ColumnStats:
    """Count integers; those that were written as reals are not unsafe."""
    values = integers(array)
    unsafe = inexact = 0
    if len(values) and (values.max() >= _FIRST_UNSAFE or values.min() <= -_FIRST_UNSAFE):
        far = ((values >= _FIRST_UNSAFE) | (values <= -_FIRST_UNSAFE)) & valid_rows(array)
        # An integer is exact in a double when it survives the way there and back. A double of 2**63, which the largest
        # integers round to, does not fit into int64; 0 stands for it, which differs from all of them.
        as_real = values[far].astype(np.float64)
        back = np.where(as_real < _TWO_63, as_real, 0.0).astype(np.int64)
        inexact = int(np.count_nonzero(back != values[far]))
        unsafe = int(np.count_nonzero(far)) if literal else 0
    return ColumnStats(integer=len(array) - array.null_count, unsafe_integers=unsafe, inexact_integers=inexact)


def _reals(written: pa.Array, affinity: Affinity) -> ParsedColumn:
    _, offsets = text_data(written)
    long = np.flatnonzero(np.diff(offsets) > _SURELY_READ)
    if len(long):
        digits = pc.replace_substring_regex(take_rows(written, long), pattern=_ALL_BUT_DIGITS, replacement="")
        too_long = long[np.diff(text_data(digits)[1]) > _SURELY_READ]
        if len(too_long):
            raise FallbackRows(rows_mask(too_long, len(written)), "decimals of many digits")
    try:
        array = pc.cast(written, FLOAT64)
    except pa.ArrowInvalid:
        wrong = valid_rows(written) & ~true_rows(pc.match_substring_regex(written, _SURE_REAL))
        raise FallbackRows(wrong if wrong.any() else valid_rows(written), OTHER_LITERALS) from None
    values = doubles(array)
    # Adding 0.0 removes the sign of -0.0 and changes no other number.
    if affinity not in (Affinity.BLOB, Affinity.NONE) and np.signbit(values[values == 0]).any():
        array = with_values(array, values + 0.0)  # stored as the integer 0, which has no sign
    return ParsedColumn(array, _real_stats(array, affinity))


def _real_stats(array: pa.Array, affinity: Affinity) -> ColumnStats:
    values, here = doubles(array), valid_rows(array)
    whole = 0
    if affinity is not Affinity.REAL:
        whole = int(np.count_nonzero((np.floor(values) == values) & (values >= -_TWO_63) & (values < _TWO_63) & here))
    infinite = int(np.count_nonzero(np.isinf(values) & here))
    return ColumnStats(real=len(array) - array.null_count, whole_reals=whole, infinities=infinite)


def _small_numbers(written: pa.Array, affinity: Affinity) -> ParsedColumn | None:
    """Convert all decimals at once where whole ones become integers: below 2**53 a double shows which they are."""
    reals = _reals(written, affinity)
    values: npt.NDArray[np.float64] = doubles(reals.array)
    here = valid_rows(reals.array)
    if reals.array.null_count:
        values = np.where(here, values, 0.0)
    if not max(values.max(), -values.min()) < _FIRST_UNSAFE:
        return None
    whole = int(np.count_nonzero((values == np.floor(values)) & here))
    if whole == reals.stats.real:
        return ParsedColumn(pc.cast(reals.array, INT64), ColumnStats(integer=whole))
    return ParsedColumn(reals.array, ColumnStats(integer=whole, real=reals.stats.real - whole))


def _split_whole(reals: ParsedColumn) -> list[ParsedColumn]:
    """Convert whole reals within 64 bits to integers, except the two outermost, as SQLite does."""
    values, here = doubles(reals.array), valid_rows(reals.array)
    converts: Mask = (np.floor(values) == values) & (values > -_TWO_63) & (values < _TWO_63) & here
    if not converts.any():
        return [reals]
    numbers = pa.py_buffer(np.where(converts, values, 0).astype(np.int64))
    converted = pa.Array.from_buffers(INT64, len(values), [bitmap(converts), numbers])
    found = [ParsedColumn(converted, _integer_stats(converted, literal=False))]
    stays = here & ~converts
    if stays.any():
        array = only_rows(reals.array, stays)
        found.append(ParsedColumn(array, _real_stats(array, Affinity.NUMERIC)))
    return found
