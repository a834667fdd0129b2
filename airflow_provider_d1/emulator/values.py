"""Values on their way out of ``/query`` and ``/raw``: what JavaScript makes of SQLite's, as JSON can carry it."""

from __future__ import annotations

import math

from airflow_provider_d1.emulator import literals

JsonValue = int | float | str | list[int] | None


def to_json(is_text: bool, value: float | bytes | None) -> JsonValue:
    """One value of a result row.

    Integers beyond 2^53 lose digits, whole REALs lose their point, infinities become null, blobs lists of numbers.

    :param is_text: the value is a TEXT, fetched as bytes.
    :param value: as SQLite holds it.
    """
    if isinstance(value, bytes):
        return literals.valid_utf8(value).decode() if is_text else list(value)
    if value is None or (isinstance(value, float) and math.isinf(value)):
        return None
    printed = literals.number(value)
    return float(printed) if any(mark in printed for mark in ".e") else int(printed)
