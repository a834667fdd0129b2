"""Arrow columns made ready for a warehouse: widened to the type of its table, freed of NUL where it must be."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow_provider_d1.dump.text_form import real_to_text

if TYPE_CHECKING:
    import pyarrow as pa

REPLACEMENT = "\ufffd"


def widened(column: pa.Array, staged: str, wanted: str) -> pa.Array:
    """Give a column a wider type without losing a value; text is SQLite's ``CAST(x AS TEXT)``, a blob upper-case hex.

    :param column: values of the type ``staged``.
    :param wanted: the same type or a wider one.
    :raises ValueError: for an integer that is not exact as a double.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if staged == wanted:
        return column
    if wanted != "string":
        return pc.cast(column, {"float64": pa.float64(), "timestamp[us]": pa.timestamp("us")}[wanted])
    if staged == "float64":
        return pa.array([None if x is None else real_to_text(x) for x in column.to_pylist()], pa.string())
    if staged == "binary":
        return pa.array([None if x is None else x.hex().upper() for x in column.to_pylist()], pa.string())
    text = pc.cast(column, pa.string())
    if staged == "timestamp[us]":
        text = pc.replace_substring_regex(text, r"(\.\d*?)0+$", r"\1")
        text = pc.replace_substring_regex(text, r"\.$", "")
    return text


def nul_count(column: pa.StringArray) -> int:
    """In how many values of a text column there is a NUL character."""
    import pyarrow.compute as pc

    data = column.buffers()[2]
    if data is None or b"\x00" not in memoryview(data).tobytes():
        return 0
    return int(pc.sum(pc.match_substring(column, "\x00")).as_py() or 0)


def without_nul(column: pa.StringArray) -> pa.StringArray:
    """The column with U+FFFD for every NUL."""
    import pyarrow.compute as pc

    return pc.replace_substring(column, "\x00", REPLACEMENT)
