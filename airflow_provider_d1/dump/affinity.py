"""Column affinity: how SQLite converts a value when it stores it in a column."""

from __future__ import annotations

from enum import StrEnum

from airflow_provider_d1.dump.text_form import real_to_integer, real_to_text, text_to_number

#: an evaluated SQL value; a bool never occurs
Value = int | float | str | bytes | None


class Affinity(StrEnum):
    """SQLite's column affinities; a column without a declared type (and ANY in a STRICT table) is NONE, not BLOB.

    Neither converts anything; they differ in the type of a column without values.
    """

    INTEGER = "INTEGER"
    REAL = "REAL"
    TEXT = "TEXT"
    NUMERIC = "NUMERIC"
    BLOB = "BLOB"
    NONE = "NONE"


def affinity_of(declared_type: str, *, strict: bool) -> Affinity:
    """Return a column's affinity by the rules of https://sqlite.org/datatype3.html, section 3.1.

    :param declared_type: as ``PRAGMA table_xinfo`` gives it.
    :param strict: whether the table is STRICT, where ANY converts nothing.
    """
    name = declared_type.upper()
    if not name or (strict and name == "ANY"):
        return Affinity.NONE
    if "INT" in name:
        return Affinity.INTEGER
    if "CHAR" in name or "CLOB" in name or "TEXT" in name:
        return Affinity.TEXT
    if "BLOB" in name:
        return Affinity.BLOB
    if "REAL" in name or "FLOA" in name or "DOUB" in name:
        return Affinity.REAL
    return Affinity.NUMERIC


def apply_affinity(value: Value, affinity: Affinity) -> Value:
    """Return what a column of this affinity stores for a value.

    NULL and blobs are never converted. A REAL column gives float for every number, INTEGER and NUMERIC give int for
    every real that is whole and within 64 bits, even when it was written as text.
    """
    if value is None or isinstance(value, bytes) or affinity in (Affinity.BLOB, Affinity.NONE):
        return value
    if affinity is Affinity.TEXT:
        if isinstance(value, str):
            return value
        return str(value) if isinstance(value, int) else real_to_text(value)
    number = text_to_number(value) if isinstance(value, str) else value
    if number is None:
        return value
    if affinity is Affinity.REAL:
        return float(number) + 0.0  # a stored -0.0 loses its sign: the file format keeps it as the integer 0
    if isinstance(number, float):
        whole = real_to_integer(number)
        return number if whole is None else whole
    return number
