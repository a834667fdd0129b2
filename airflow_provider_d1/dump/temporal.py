"""Read texts as dates and times, for columns in which all texts have the same form.

The forms, all of them ISO 8601 with four-digit years from 0001 to 9999 and real calendar dates: ``2026-11-22``;
``2026-11-22 09:30:00`` and ``2026-11-22T09:30:00``, with or without one to six fractional digits, each either without a
zone or with a ``Z``. Anything else (offsets, week dates, hours without seconds, more digits) stays text, and so does a
column that mixes two forms. Times are staged as written: D1 has no time zones, and ``Z`` is ignored.
"""

from __future__ import annotations

import re

import pyarrow as pa
import pyarrow.compute as pc

DATE = 1
SPACE = 2
T = 4
SPACE_Z = 8
T_Z = 16
OTHER = 32

_PATTERNS = (
    (DATE, r"^\d{4}-\d\d-\d\d$"),
    (SPACE, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?$"),
    (T, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?$"),
    (SPACE_Z, r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?Z$"),
    (T_Z, r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,6})?Z$"),
)


def forms(texts: pa.Array) -> int:
    """Return the one form that all texts have; OTHER when there are several, or one that is not a date."""
    if texts.null_count == len(texts):
        return 0
    first = texts[pc.index(texts.is_valid(), True).as_py()].as_py()
    if pc.any(pc.starts_with(texts, "0000")).as_py():
        return OTHER  # Arrow has a year 0, other systems do not
    form = next((form for form, pattern in _PATTERNS if re.search(pattern, first, re.ASCII)), OTHER)
    if form == OTHER or not pc.all(pc.match_substring_regex(texts, dict(_PATTERNS)[form])).as_py():
        return OTHER
    try:
        parse(texts, form)
    except pa.ArrowInvalid:
        return OTHER  # no such day
    return form


def arrow_type(form: int) -> pa.DataType | None:
    """Return the type for texts of one form, None for OTHER, none and several."""
    if form == DATE:
        return pa.date32()
    return pa.timestamp("us") if form in (SPACE, T, SPACE_Z, T_Z) else None


def parse(texts: pa.Array, form: int) -> pa.Array:
    """Return texts of one form as dates or timestamps.

    :raises pyarrow.ArrowInvalid: for a date that does not exist.
    """
    if form in (SPACE_Z, T_Z):
        texts = pc.utf8_rtrim(texts, characters="Z")
    return pc.cast(texts, arrow_type(form))
