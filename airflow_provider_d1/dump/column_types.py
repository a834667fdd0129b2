"""The types of columns: statistics of a column's values, the type that follows from them, casts to wider types.

The type of a column is a pure function of its affinity and of the statistics over all its rows, so it does not depend
on where blocks begin. A part that was written before a wider value occurred is cast to the final type by
:func:`cast`, which needs the part's own statistics: they contain the values' original storage classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from airflow_provider_d1.dump import temporal
from airflow_provider_d1.dump.affinity import Affinity, Value
from airflow_provider_d1.dump.hex_codec import encode_hex
from airflow_provider_d1.dump.text_form import INT64_MIN, real_to_text

INT64 = pa.int64()
FLOAT64 = pa.float64()
STRING = pa.string()
BINARY = pa.binary()

_TYPE_OF_AN_EMPTY_COLUMN = {
    Affinity.INTEGER: INT64,
    Affinity.REAL: FLOAT64,
    Affinity.TEXT: STRING,
    Affinity.NUMERIC: STRING,
    Affinity.BLOB: BINARY,
    Affinity.NONE: STRING,
}


@dataclass(frozen=True, slots=True)
class ColumnStats:
    """Counts over some rows of a column, in rows; ``a + b`` are the counts over both.

    :param integer: values of storage class INTEGER (``typeof(x)`` in SQLite), and so for
        the next four; the five add up to the number of rows.
    :param inexact_integers: integers that a double cannot represent exactly.
    :param whole_reals: reals whose double could also be that of a 64-bit integer; not counted in columns with REAL
        affinity, which have no integers.
    :param unsafe_integers: integer literals from 2**53 on, in columns without REAL affinity.
    :param infinities: infinite numbers.
    :param ambiguous_newlines: texts in which a newline may originally have been a backslash and a letter.
    :param exact_newlines: texts whose newlines have a form that only newer exporters use; with one of them no newline
        of the dump is ambiguous.
    :param replacement_characters: texts with U+FFFD.
    :param temporal_forms: union of the forms (:mod:`airflow_provider_d1.dump.temporal`) of all texts; 0 when not
        collected.
    """

    integer: int = 0
    real: int = 0
    text: int = 0
    blob: int = 0
    null: int = 0
    inexact_integers: int = 0
    whole_reals: int = 0
    unsafe_integers: int = 0
    infinities: int = 0
    ambiguous_newlines: int = 0
    exact_newlines: int = 0
    replacement_characters: int = 0
    temporal_forms: int = 0

    def __add__(self, other: ColumnStats) -> ColumnStats:
        merged = {name: getattr(self, name) + getattr(other, name) for name in _COUNTS}
        return ColumnStats(**merged, temporal_forms=self.temporal_forms | other.temporal_forms)

    @property
    def rows(self) -> int:
        """All rows, NULLs included."""
        return self.integer + self.real + self.text + self.blob + self.null

    @property
    def storage(self) -> dict[str, int]:
        """Rows by storage class, as in the manifest."""
        return {
            "integer": self.integer,
            "real": self.real,
            "text": self.text,
            "blob": self.blob,
            "null": self.null,
        }

    @property
    def lossy(self) -> dict[str, int]:
        """Rows in which D1's export may have lost something, as in the manifest."""
        return {
            "unsafe_integers": self.unsafe_integers,
            "infinities": self.infinities,
            "ambiguous_newlines": self.ambiguous_newlines,
            "replacement_characters": self.replacement_characters,
        }


_COUNTS = tuple(field.name for field in fields(ColumnStats) if field.name != "temporal_forms")


def settle_newlines(tables: Sequence[Sequence[ColumnStats]]) -> list[tuple[ColumnStats, ...]]:
    """Return the statistics of a whole dump's tables without ambiguous newlines that are known to be exact.

    An exporter that can choose another placeholder does so in every text that needs one.
    """
    proven = any(stats.exact_newlines for columns in tables for stats in columns)
    return [tuple(replace(stats, ambiguous_newlines=0) if proven else stats for stats in columns) for columns in tables]


@dataclass(frozen=True, slots=True)
class ParsedColumn:
    """A column of a block: its values as ``part_type(affinity, stats)`` and their statistics."""

    array: pa.Array
    stats: ColumnStats


def final_type(affinity: Affinity, stats: ColumnStats, *, parse_temporal: bool = False) -> pa.DataType:
    """Return the type of a column when all its rows are known.

    One storage class gives its own type. Integers and reals give float64 if every integer is exact in it; any other
    mix gives string. A column without values has its affinity's type.

    :param parse_temporal: return timestamp[us] or date32 for a column of texts of one temporal form; requires
        statistics with ``temporal_forms``.
    """
    classes = (stats.integer > 0, stats.real > 0, stats.text > 0, stats.blob > 0)
    if not any(classes):
        return _TYPE_OF_AN_EMPTY_COLUMN[affinity]
    if classes == (True, False, False, False):
        return INT64
    if classes == (False, True, False, False):
        return FLOAT64
    if classes == (True, True, False, False):
        return STRING if stats.inexact_integers else FLOAT64
    if classes == (False, False, False, True):
        return BINARY
    if parse_temporal and classes == (False, False, True, False):
        return temporal.arrow_type(stats.temporal_forms) or STRING
    return STRING


def part_type(affinity: Affinity, stats: ColumnStats) -> pa.DataType:
    """Return the type in which to write rows before all rows are known.

    It is the final type with two exceptions. Texts are not written as dates yet. And integers beside whole reals
    (``1`` and ``1.0`` in a typeless column, which only ``sqlite3 .dump`` writes) are written as text: as doubles they
    could not be distinguished if the column became a string later.
    """
    if stats.integer and stats.whole_reals:
        return STRING
    return final_type(affinity, stats)


def has_type_conflict(affinity: Affinity, stats: ColumnStats) -> bool:
    """Return whether a column has values that do not fit its declared type.

    For NUMERIC and undeclared types, only a mix that is staged as string is a conflict.
    """
    numbers = stats.integer + stats.real
    match affinity:
        case Affinity.INTEGER:
            return bool(stats.real or stats.text or stats.blob)
        case Affinity.REAL:
            return bool(stats.text or stats.blob)
        case Affinity.TEXT:
            return bool(numbers or stats.blob)
        case Affinity.BLOB:
            return bool(numbers or stats.text)
    return (numbers > 0) + (stats.text > 0) + (stats.blob > 0) > 1 or bool(
        stats.integer and stats.real and stats.inexact_integers
    )


def cast(array: pa.Array, stats: ColumnStats, target: pa.DataType) -> pa.Array:
    """Return a column (of a block or of a written part) as a wider type, without loss.

    :param array: the values, as ``part_type(…, stats)``.
    :param stats: of exactly these values, or of these and earlier ones of the same type.
    :param target: ``part_type`` or ``final_type`` of statistics that include these.
    :raises ValueError: for two types that do not follow from statistics.
    """
    source = array.type
    if source == target:
        return array
    if array.null_count == len(array):
        return pa.nulls(len(array), target)
    if pa.types.is_temporal(target) and source == STRING:
        return temporal.parse(array, stats.temporal_forms)
    if source == INT64 and target in (FLOAT64, STRING):
        return pc.cast(array, target, safe=False)  # the statistics say that every integer is exact
    if source == FLOAT64 and target == STRING:
        return _reals_as_text(array, whole_are_integers=bool(stats.integer))
    if source == BINARY and target == STRING:
        return encode_hex(array)
    if source == STRING and target == FLOAT64 and not stats.text and not stats.blob:
        return _from_values([None if text is None else float(text) for text in array.to_pylist()], FLOAT64)
    raise ValueError(f"cannot cast {source} to {target}")


def from_values(
    values: Sequence[Value],
    affinity: Affinity,
    *,
    unsafe: int = 0,
    infinite: int = 0,
    ambiguous: int = 0,
    exact_newlines: int = 0,
    forms: bool = False,
) -> ParsedColumn:
    """Build a column from stored values, one by one.

    :param values: after affinity was applied.
    :param unsafe: rows with an unsafe integer literal; not counted in a REAL column.
    :param infinite: rows with an infinite literal that affinity converted to text.
    :param ambiguous: rows with an ambiguous newline.
    :param exact_newlines: rows with a newline in the form of newer exporters.
    :param forms: whether to find the temporal form of texts.
    """
    integers = [v for v in values if isinstance(v, int)]
    reals = [v for v in values if isinstance(v, float)]
    texts = [v for v in values if isinstance(v, str)]
    nulls_ = sum(v is None for v in values)
    not_real = affinity is not Affinity.REAL
    stats = ColumnStats(
        integer=len(integers),
        real=len(reals),
        text=len(texts),
        blob=len(values) - len(integers) - len(reals) - len(texts) - nulls_,
        null=nulls_,
        inexact_integers=sum(abs(v) > 2**53 and int(float(v)) != v for v in integers),
        whole_reals=sum(_could_be_integer(v) for v in reals) if not_real else 0,
        unsafe_integers=unsafe if not_real else 0,
        infinities=infinite + sum(math.isinf(v) for v in reals),
        ambiguous_newlines=ambiguous,
        exact_newlines=exact_newlines,
        replacement_characters=sum("\ufffd" in v for v in texts),
        temporal_forms=temporal.forms(_from_values(texts, STRING)) if forms and texts else 0,
    )
    return ParsedColumn(_from_values(values, part_type(affinity, stats)), stats)


def _could_be_integer(value: float) -> bool:
    return INT64_MIN <= value < -INT64_MIN and value == math.floor(value)


def as_text(value: int | float | str | bytes) -> str:
    """Return a value as it is staged in a mixed column."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.hex().upper()
    return str(value) if isinstance(value, int) else real_to_text(value)


def _from_values(values: Sequence[Value], target: pa.DataType) -> pa.Array:
    """Build an array of Python values without pa.array, which imports pandas where it is installed."""
    if target in (INT64, FLOAT64):
        dtype = np.int64 if target == INT64 else np.float64
        data = np.array([0 if v is None else v for v in values], dtype=dtype)
        return pa.Array.from_buffers(target, len(values), [validity(values), pa.py_buffer(data)])
    if target == BINARY:
        encoded = [v if isinstance(v, bytes) else b"" for v in values]
    else:
        encoded = [b"" if v is None else as_text(v).encode() for v in values]
    offsets = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in encoded], out=offsets[1:])
    buffers = [validity(values), pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(target, len(values), buffers)


def validity(values: Sequence[Value]) -> pa.Buffer | None:
    """Return the validity bitmap of Python values, None when none is None."""
    if None not in values:
        return None
    present = np.array([v is not None for v in values], dtype=bool)
    return pa.py_buffer(np.packbits(present, bitorder="little"))


def _reals_as_text(array: pa.Array, *, whole_are_integers: bool) -> pa.Array:
    """Format doubles as SQLite does; whole ones as integers where they were integers.

    Arrow writes the fewest digits that give the same double, in its own form. For up to a dozen digits with a decimal
    point, SQLite writes the same (it shortens where the following digits are zeros or nines). The other values are
    formatted one by one.
    """
    printed = pc.cast(array, STRING)
    plain = pc.match_substring_regex(printed, r"^-?(0\.[1-9][0-9]{0,10}|[1-9][0-9]{0,5}\.[0-9]{1,6})$")
    if whole_are_integers:
        values = np.frombuffer(array.buffers()[1], np.float64)[array.offset : array.offset + len(array)]
        # Below 2**53 the integer has exactly the digits of the double. Larger ones are formatted one by one below.
        small = pa.py_buffer(np.packbits((np.floor(values) == values) & (np.abs(values) < 2**53), bitorder="little"))
        whole = pc.and_kleene(pa.Array.from_buffers(pa.bool_(), len(array), [None, small]), array.is_valid())
        printed = pc.if_else(
            whole, pc.cast(pc.cast(pc.if_else(whole, array, pa.nulls(len(array), FLOAT64)), INT64), STRING), printed
        )
        plain = pc.or_(plain, whole)
    rest = pc.invert(plain)
    values_left: list[Value] = pc.filter(array, rest).to_pylist()
    if not values_left:
        return printed
    if whole_are_integers:
        values_left = [int(v) if isinstance(v, float) and _could_be_integer(v) else v for v in values_left]
    return pc.replace_with_mask(printed, rest, _from_values(values_left, STRING))
