"""Which values fit into types other than those that staging gives.

Whether every value of a staged column fits a type is decided in the warehouse: each value is cast to the type and
back, and compared. A table that a person made with narrower types and ``type_hints="declared"`` share this.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from airflow_provider_d1.warehouses.declared_types import same_type

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect
    from airflow_provider_d1.warehouses.plan import Column

#: the warehouses' names of types, in lower case → kind. The first match counts
_KINDS = (
    ("boolean", r"bool"),
    ("zoned", r"timestamp\w*(\(\d+\))? with (local )?time zone|timestamp_?(tz|ltz)|datetime(64)?\((?!.*'utc').*'"),
    ("timestamp", r"timestamp|datetime"),
    ("date", r"date(32)?$"),
    ("decimal", r"decimal|numeric|number|bignumeric|newdecimal"),
    ("float", r"float|real|double"),
    ("integer", r"u?(tiny|small|medium|big|huge)?int(eger|\d+)?\b|byteint|short|long$|byte$"),
    ("text", r"(n?var|bp)?char|character|(tiny|medium|long)?text|string|fixedstring|enum|set\b|clob"),
    ("binary", r"bytea|bytes|varbyte|(var)?binary|(tiny|medium|long)?blob"),
    ("json", r"json"),
)
#: staged type → the kinds of types that have values of the same meaning
_MEANS_THE_SAME = {
    "int64": ("boolean", "integer", "decimal", "float", "text"),
    "float64": ("integer", "decimal", "float", "text"),
    "string": ("text", "integer", "decimal", "date", "timestamp", "boolean", "json", ""),
    "binary": ("binary",),
    "timestamp[us]": ("timestamp", "zoned", "text"),
    "date32": ("date", "timestamp", "text"),
}


class Casts(Protocol):
    """What a warehouse says of casts."""

    @property
    def dialect(self) -> Dialect:
        """Its types."""

    def cast(self, name: str, old: str, new: str) -> str:
        """An expression that gives a value of the staged type ``old`` the type ``new``."""

    def exactly(self, value: str, type_name: str) -> str:
        """A value in a form in which ``=`` distinguishes all values."""


@dataclass(frozen=True, slots=True)
class Fit:
    """How a staged value gets into a type.

    :param value: an expression for it there.
    :param misfit: a condition that is true where the value would not be the same one.
    :param prepare: statements that come before both.
    """

    value: str
    misfit: str
    prepare: Sequence[str] = ()


def kind_of(native: str) -> str:
    """The kind of a warehouse's type; empty for one that is none of the known kinds."""
    name = re.sub(r"^(lowcardinality\(|nullable\()+", "", native.lower())
    name = name.rstrip(")") if "(" not in name else name
    return next((kind for kind, pattern in _KINDS if re.match(pattern, name)), "")


def old_type(dialect: Dialect, native: str) -> str:
    """What :func:`converted` and the engines' ``alter_column`` call a type of the warehouse's catalogue."""
    kind = kind_of(native)
    return dialect.known_types.get(native.lower()) or (kind if kind in ("boolean", "decimal", "json") else "string")


def kind_in(column: Column, native: str) -> str:
    """What a type is used as in a column: what its declared type asks for, if it asks for this one."""
    hint = column.hint
    return hint.kind if hint is not None and same_type(hint.type, native) else kind_of(native)


def fit(
    warehouse: Casts,
    value: str,
    staged: str,
    native: str,
    kind: str = "",
    cast: Callable[[str], str] | None = None,
) -> Fit:
    """How a staged value gets into a type, in plain SQL.

    :param value: an expression for it.
    :param kind: what the type is used as; by default what it is.
    :param cast: casts an expression to the type; by default as the dialect does.
    """
    dialect, kind = warehouse.dialect, kind or kind_of(native)
    if native.lower() in dialect.zoned:
        kind = "zoned"
    if kind not in _MEANS_THE_SAME[staged] or (kind == "zoned" and not dialect.zoned_in_utc):
        return Fit(value, f"{value} IS NOT NULL")
    if kind == "boolean" and staged == "int64":
        return Fit(f"({value} <> 0)", f"{value} NOT IN (0, 1)")
    text = warehouse.cast(value, "", "string")
    source, compared = value, staged
    if kind == "decimal" and staged == "float64":
        source = text  # its shortest text: a cast of the double itself may round
    elif kind == "text" and staged != "string":
        source, compared = warehouse.cast(value, staged, "string"), "string"
    native_value = (
        cast(source) if cast else dialect.try_cast.format(value=source, type=native, literal=dialect.literal(native))
    )
    held = {"date": "date32", "timestamp": "timestamp[us]"}.get(kind, "")
    back = native_value if held == compared else warehouse.cast(native_value, held, compared)
    expected = source if compared != staged else value
    one, other = (warehouse.exactly(each, compared) for each in (back, expected))
    misfit = f"{value} IS NOT NULL AND ({back} IS NULL OR {one} <> {other})"
    if staged == "float64" and kind in ("integer", "decimal"):
        misfit += f" OR {value} = 0 AND {text} LIKE '-%'"  # there is no -0.0 in these
    length = re.search(r"\((\d+)\)", native)
    if kind == "text" and dialect.text_length and length is not None:
        misfit += f" OR {dialect.text_length.format(value=source)} > {length[1]}"
    return Fit(native_value, misfit)


def converted(warehouse: Casts, name: str, old: str, new: str) -> str:
    """The value of a column in the wider type ``new``, also where ``old`` is the kind of a native type."""
    if old == "boolean":
        number = f"CASE WHEN {name} THEN 1 WHEN NOT {name} THEN 0 END"
        number = warehouse.cast(number, "", "int64")
        return number if new == "int64" else warehouse.cast(number, "int64", new)
    if old == "decimal":
        real = warehouse.cast(name, "", "float64")
        return real if new == "float64" else warehouse.cast(real, "float64", new)
    return warehouse.cast(name, old, new)
