"""The types of a warehouse that the declared types of D1's columns ask for; no I/O."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_d1.warehouses.dialect import Dialect

_DECLARED = re.compile(
    r"(?P<boolean>bool(ean)?)|(?P<date>date)|(?P<timestamp>(datetime|timestamp)( ?\(\d+\))?)|(?P<json>json)"
    r"|(?P<decimal>(decimal|numeric) ?\( ?(?P<precision>\d+) ?(, ?(?P<scale>\d+) ?)?\))",
    re.IGNORECASE,
)
#: staged types of which a declared kind can be: what else a column holds is not of that kind
_DECLARED_OF = {
    "boolean": ("int64",),
    "date": ("string",),
    "timestamp": ("string",),
    "decimal": ("int64", "float64"),
    "json": ("string",),
}


@dataclass(frozen=True, slots=True)
class Hint:
    """What a column's declared type asks for.

    :param kind: ``boolean``, ``date``, ``timestamp``, ``decimal`` or ``json``.
    :param type: the warehouse's type; empty where it has none for this.
    :param reason: why the column does not get it, whatever its values; empty where the values decide.
    """

    kind: str
    type: str
    reason: str = ""


def hint_for(dialect: Dialect, declared: str, staged: str) -> Hint | None:
    """What a declared type asks for; None where it asks for nothing else than what is staged."""
    match = _DECLARED.fullmatch(" ".join(declared.split()))
    if match is None or staged in ("date32", "timestamp[us]"):
        return None
    (kind,) = (name for name in _DECLARED_OF if match[name] is not None)
    if kind not in dialect.native:
        return Hint(kind, "", dialect.no_native.get(kind, f"{dialect.name} has no type that keeps them as they are"))
    precision, scale = int(match["precision"] or 0), int(match["scale"] or 0)
    if kind == "decimal":
        digits, after, before = dialect.largest_decimal
        if not 0 < precision <= digits or scale > min(precision, after) or precision - scale > before:
            return Hint(kind, "", f"{dialect.name} has no such decimal")
    reason = "" if staged in _DECLARED_OF[kind] else f"its values are staged as {staged}"
    return Hint(kind, dialect.native[kind].format(precision=precision, scale=scale), reason)


def same_type(one: str, other: str) -> bool:
    """Whether two spellings are one type: a catalogue's case and spaces differ."""
    return _bare(one) == _bare(other)


def _bare(name: str) -> str:
    return re.sub(r"\s", "", name).lower()
