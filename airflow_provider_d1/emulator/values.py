"""Values on their way into and out of ``/query`` and ``/raw``: what JavaScript makes of them."""

from __future__ import annotations

import math

from airflow_provider_d1.emulator import literals

JsonValue = int | float | str | list[int] | None


def from_json(value: JsonValue) -> float | str | None:
    """One parameter as D1 binds it: every number and boolean is a REAL, as JavaScript has no integers."""
    if not isinstance(value, int | float):
        return str(value) if value is not None else None
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


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
