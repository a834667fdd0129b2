"""Values on their way out of ``/query`` and ``/raw``: what JavaScript makes of SQLite's, as JSON can carry it."""

from __future__ import annotations

import math

from airflow_provider_d1.emulator import literals

JsonValue = int | float | str | list[int] | None


def to_json(value: float | str | bytes | None) -> JsonValue:
    """One value of a result row.

    Integers beyond 2^53 lose digits, whole REALs lose their point, infinities become null, blobs lists of numbers.
    """
    if isinstance(value, bytes):
        return list(value)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, float) and math.isinf(value):
        return None
    printed = literals.number(value)
    return float(printed) if any(mark in printed for mark in ".e") else int(printed)
