"""The types of staged columns, and which of two is the wider one.

A type is an Arrow type name, as a manifest's ``columns[].type`` holds it. Widening never loses a value: what has no
common number or time type becomes ``string``, in the text form that staging itself would have given it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa


def wider(one: str, other: str) -> str:
    """The narrowest type that holds every value of both; integers in ``float64`` only as far as they are exact."""
    if one == other:
        return one
    pair = {one, other}
    if pair == {"int64", "float64"}:
        return "float64"
    if pair == {"date32", "timestamp[us]"}:
        return "timestamp[us]"
    return "string"


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type behind a name that a manifest can hold."""
    import pyarrow as pa

    return {
        "int64": pa.int64(),
        "float64": pa.float64(),
        "string": pa.string(),
        "binary": pa.binary(),
        "timestamp[us]": pa.timestamp("us"),
        "date32": pa.date32(),
    }[name]
