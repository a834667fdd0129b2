"""Check a database's schema before its export is started: pure functions over the rows of the schema.

D1 exports an empty dump, without an error, for a table that does not exist, and refuses a database with a virtual
table in a way that has left databases locked for hours. Both are visible in ``sqlite_schema``, which is therefore read
before an export is started.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from airflow_provider_d1.cloudflare.models import EXCLUDED, ExportOptions, ExportRequest, SkippedObject
from airflow_provider_d1.exceptions import D1TableNotFoundError, D1VirtualTableError
from airflow_provider_d1.validation import fold_case, suggest

SCHEMA_QUERY = (
    "SELECT name, type, CASE WHEN sql LIKE 'CREATE VIRTUAL TABLE%' THEN sql END AS sql"
    " FROM sqlite_schema WHERE type IN ('table', 'view') ORDER BY rowid"
)
#: module → what it appends to a virtual table's name for the ordinary tables in which it keeps its data
_SHADOWS = {
    "fts3": ("content", "segments", "segdir", "docsize", "stat"),
    "fts4": ("content", "segments", "segdir", "docsize", "stat"),
    "fts5": ("data", "idx", "content", "docsize", "config"),
    "rtree": ("node", "rowid", "parent"),
    "rtree_i32": ("node", "rowid", "parent"),
    "geopoly": ("node", "rowid", "parent"),
}
_MODULE = re.compile(r"\bUSING\s+[\"'`\[]?(\w+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Schema:
    """The tables of a database by kind, in schema order; ``shadows`` maps to the virtual table that each belongs to."""

    tables: tuple[str, ...]
    virtual: Mapping[str, str]
    shadows: Mapping[str, str]
    views: frozenset[str] = frozenset()


def read_schema(rows: Iterable[Mapping[str, Any]]) -> Schema:
    """Sort the rows of :data:`SCHEMA_QUERY`; SQLite's and D1's own tables are left out, as D1's exporter does."""
    objects = [(str(row["name"]), str(row["type"]), row.get("sql")) for row in rows]
    virtual = {name: _module(str(sql)) for name, _, sql in objects if sql and _is_virtual(str(sql))}
    owner = {
        fold_case(f"{name}_{suffix}"): name for name, module in virtual.items() for suffix in _SHADOWS.get(module, ())
    }
    plain = [name for name, kind, _ in objects if kind == "table" and name not in virtual and not _internal(name)]
    return Schema(
        tables=tuple(name for name in plain if fold_case(name) not in owner),
        virtual=virtual,
        shadows={name: owner[fold_case(name)] for name in plain if fold_case(name) in owner},
        views=frozenset(name for name, kind, _ in objects if kind == "view"),
    )


def decide(request: ExportRequest, schema: Schema) -> tuple[ExportOptions, tuple[SkippedObject, ...]]:
    """Which tables to request from D1.

    :param request: what the user asked for.
    :param schema: the database's tables.
    :return: the options to send, and the skipped tables. The options list the tables when any table is skipped.
    :raises D1TableNotFoundError: when a name in ``tables`` or ``exclude_tables`` is not exactly that of a table, and
        when nothing is left to export.
    :raises D1VirtualTableError: when a virtual table prevents the export, or no other table is left.
    """
    excluded = set(_known_names(request.exclude_tables or (), schema, "exclude_tables"))
    excluded |= {name for name, owner in schema.shadows.items() if owner in excluded}
    wanted = None if request.tables is None else _known_names(request.tables, schema, "tables")
    unfit = {name: f"virtual table ({module})" for name, module in schema.virtual.items()}
    unfit |= {name: f"shadow table of {owner}" for name, owner in schema.shadows.items()}
    blocking = [name for name in unfit if name not in excluded and (wanted is None or name in wanted)]
    if blocking and request.on_virtual_table != "skip":
        # a shadow table is not named beside its virtual table
        virtual = [name for name in blocking if schema.shadows.get(name) not in blocking]
        named = ", ".join(f"{name} ({unfit[name]})" for name in virtual)
        raise D1VirtualTableError(
            f"cannot export {named}; no export was started. Pass exclude_tables to leave it out, or"
            ' on_virtual_table="skip" to leave out all virtual tables'
        )
    if not blocking and not excluded:
        return replace(request.options, tables=wanted), ()
    rest = tuple(
        name for name in (schema.tables if wanted is None else wanted) if name not in unfit and name not in excluded
    )
    if not rest:
        left_out = ", ".join([*blocking, *excluded])
        kind = D1VirtualTableError if blocking else D1TableNotFoundError
        raise kind(f"no tables left to export without {left_out}")
    known = (*schema.tables, *unfit)
    skipped = [SkippedObject(name, EXCLUDED) for name in known if name in excluded]
    skipped += [SkippedObject(name, unfit[name]) for name in blocking]
    return replace(request.options, tables=rest), tuple(skipped)


def check_still_there(options: ExportOptions, schema: Schema) -> None:
    """Check after an export that its tables still exist: D1 leaves a dropped table out of the dump without an error.

    :raises D1TableNotFoundError: when a table of an explicit list is gone.
    """
    gone = [name for name in options.tables or () if name not in schema.tables]
    if gone:
        raise D1TableNotFoundError(
            f"tables dropped or renamed during the export, which may be missing from the dump: {', '.join(gone)}"
        )


def _known_names(names: Iterable[str], schema: Schema, argument: str) -> tuple[str, ...]:
    """The names without repetitions, each of them a table's."""
    known = {*schema.tables, *schema.virtual, *schema.shadows}
    missing = [name for name in names if name not in known]
    if missing:
        hints = [
            f"{name!r} is a view" if name in schema.views else f"{name!r}{suggest(name, known)}" for name in missing
        ]
        raise D1TableNotFoundError(f"{argument}: no such table (names are case-sensitive): {', '.join(hints)}")
    return tuple(dict.fromkeys(names))


def _is_virtual(sql: str) -> bool:
    return sql[:20].upper() == "CREATE VIRTUAL TABLE"


def _module(sql: str) -> str:
    found = _MODULE.search(sql)
    return found[1].lower() if found else "unknown"


def _internal(name: str) -> bool:
    return fold_case(name).startswith(("sqlite_", "_cf_"))
