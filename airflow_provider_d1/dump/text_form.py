"""Convert numbers to text and text to numbers exactly as a modern SQLite (>= 3.52) does.

A mixed column is staged in the form of ``CAST(x AS TEXT)``. SQLite differs from Python in both directions: it
writes up to 17 digits (``3.1415926535897931``, ``1.0e+300``, ``Inf``), shortened only where the digits end in a run of
zeros or nines, and it ignores the digits of a decimal beyond the twentieth.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache

INT64_MIN = -(2**63)
INT64_MAX = 2**63 - 1

#: a text that numeric affinity converts to a number; a NUL ends it. SQLite's isspace has VT, its tokenizer has not
_NUMERIC_TEXT = re.compile(
    r"[ \t\n\v\f\r]*([+-]?)([0-9]*)(\.?)([0-9]*)([eE][+-]?[0-9]+)?[ \t\n\v\f\r]*(\0.*)?", re.ASCII | re.DOTALL
)
#: the same as the beginning of a text, for CAST
_NUMERIC_PREFIX = re.compile(
    r"[ \t\n\v\f\r]*([+-]?)(?:([0-9]+)(\.?)([0-9]*)|()(\.)([0-9]+))([eE][+-]?[0-9]+)?", re.ASCII
)
#: SQLite adds decimal digits to an unsigned 64-bit number while the next one fits in any case
_MOST_BEFORE_ANOTHER_DIGIT = (2**64 - 1 - 9) // 10
_SIGNIFICANT_DIGITS = 17


def decimal_to_real(sign: str, whole: str, fraction: str, exponent: str) -> float:
    """Return the double that SQLite reads from a decimal, whose digits beyond the twentieth it drops.

    :param sign: ``"-"``, ``"+"`` or empty.
    :param whole: digits before the point, may be empty.
    :param fraction: digits after it, may be empty.
    :param exponent: digits with their sign, without the ``e``; may be empty.
    """
    digits = (whole + fraction).lstrip("0")
    power = int(exponent[:8] or "0") - len(fraction)
    if len(digits) > 19:  # fewer always fit into SQLite's 64 bits, where it rounds as Python does
        kept = 20 if int(digits[:19]) <= _MOST_BEFORE_ANOTHER_DIGIT else 19
        power += len(digits) - kept
        digits = digits[:kept]
    value = float(f"{digits or '0'}e{power}")
    return -value if sign == "-" else value


def real_to_integer(value: float) -> int | None:
    """Return the integer to which numeric affinity converts a real, None where it stays a real.

    SQLite converts only what is exact, and neither the smallest nor the largest 64-bit integer.
    """
    if not math.isfinite(value) or value != math.floor(value):
        return None
    whole = int(value)
    return whole if INT64_MIN < whole < INT64_MAX else None


def text_to_number(text: str) -> int | float | None:
    """Return the number to which numeric affinity converts a text, None where it stays text.

    Whole numbers in 64 bits give int, everything else float: ``" 12 "`` → 12, ``"1e3"`` → 1000.0,
    ``"0x10"`` → None.
    """
    match = _NUMERIC_TEXT.fullmatch(text)
    if match is None:
        return None
    sign, whole, point, fraction, exponent, rest = match.groups(default="")
    if not whole and not fraction:
        return None
    if rest:  # SQLite then reads a real, and converts a whole one to an integer
        return decimal_to_real(sign, whole, fraction, exponent[1:])
    return _number(sign, whole, point, fraction, exponent)


def text_prefix_to_number(text: str) -> int | float:
    """Return the number at the beginning of a text, 0 without one, as CAST to a number does."""
    match = _NUMERIC_PREFIX.match(text)
    if match is None:
        return 0
    sign, whole, point, fraction, _, point2, fraction2, exponent = match.groups(default="")
    return _number(sign, whole, point or point2, fraction or fraction2, exponent)


def _number(sign: str, whole: str, point: str, fraction: str, exponent: str) -> int | float:
    if not point and not exponent and len(whole.lstrip("0")) <= 19:
        value = int(whole.lstrip("0") or "0") * (-1 if sign == "-" else 1)
        if INT64_MIN <= value <= INT64_MAX:
            return value
    return decimal_to_real(sign, whole, fraction, exponent[1:])


@lru_cache(maxsize=1024)
def _power_of_ten(power: int) -> int:
    """Return the top 64 bits of ``10**power``, the first of them set."""
    if power >= 0:
        value: int = 10**power
        surplus = value.bit_length() - 64
        return value >> surplus if surplus > 0 else value << -surplus
    divisor: int = 10**-power
    value = (1 << (divisor.bit_length() + 63)) // divisor
    return value >> (value.bit_length() - 64)


def _eighteen_digits(value: float) -> tuple[str, int]:
    """Return SQLite's first digits (18 or 19) of a positive finite double and the power of ten that scales them."""
    # value = mantissa * 2**exponent with a 64-bit mantissa. Multiplied by 10**power, 18 or 19 of its digits are whole.
    # The fractions are SQLite's own, so that both round alike: 78913 / 2**18 is log10(2), which gives the number of
    # decimal digits, and 108853 / 2**15 is log2(10), which gives the binary exponent of 10**power.
    fraction, exponent = math.frexp(value)
    mantissa = int(fraction * 2**53) << 11
    exponent -= 64
    power = 17 - (((exponent + 63) * 78913) >> 18)
    high = (mantissa * _power_of_ten(power)) >> 64
    high >>= -(exponent + ((power * 108853) >> 15) + 2)
    return str((high >> 1) + (high & 1)), -power


def _round_trip_length(value: float, digits: str, power: int) -> int:
    """Return how many digits SQLite keeps: fewer than 17 where a run of zeros or nines can be removed without loss."""
    # SQLite tries a shorter number only for such a run, and keeps it only if it reads back as the same double.
    kept = None
    if digits[14:16] == "99":
        kept = len(digits[:14].rstrip("9"))
        shorter = int(digits[:kept] or "0") + 1
    elif power >= 0 or digits[13:16] == "000":
        kept = len(digits[:13].rstrip("0"))
        shorter = int(digits[:kept])
    if kept is not None and float(f"{shorter}e{power + len(digits) - kept}") == value:
        return kept + 1
    return _SIGNIFICANT_DIGITS


def real_to_text(value: float) -> str:
    """Return ``CAST(value AS TEXT)`` of a double that is not NaN (SQLite has none)."""
    if math.isinf(value):
        return "Inf" if value > 0 else "-Inf"
    if value == 0:
        return "0.0"
    sign = "-" if value < 0 else ""
    value = abs(value)
    digits, power = _eighteen_digits(value)
    length = _round_trip_length(value, digits, power)
    rounded = str(int(digits[:length]) + (digits[length] >= "5"))
    point = len(rounded) + len(digits) - length + power
    kept = rounded.rstrip("0")
    exponent = point - 1
    if not -4 <= exponent < _SIGNIFICANT_DIGITS:
        return f"{sign}{kept[0]}.{kept[1:] or '0'}e{'-' if exponent < 0 else '+'}{abs(exponent):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{kept}"
    if len(kept) <= point:
        return f"{sign}{kept}{'0' * (point - len(kept))}.0"
    return f"{sign}{kept[:point]}.{kept[point:]}"
