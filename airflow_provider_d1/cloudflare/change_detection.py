"""Detect whether a database has changed since it was staged, without an export.

The bookmark of Time Travel moves with each write, but may also move without one. So two states with the same
bookmark are the same; where the bookmarks differ, the row counts and CREATE statements of the tables can be compared.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import sql_calls, time_travel
from airflow_provider_d1.cloudflare.insert_rows import quoted
from airflow_provider_d1.cloudflare.messages import Call
from airflow_provider_d1.cloudflare.sql_parameters import Statement

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.lookup import Plan

_TABLES = "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND sql IS NOT NULL ORDER BY rowid"
_INTERNAL = re.compile(r"(sqlite|_cf)_", re.IGNORECASE)
#: the beginning of a CREATE statement, which D1's exporter rewrites
_BEGINNING = re.compile(r"CREATE\s+TABLE\s+(?:IF\s+NOT\s+EXISTS\s+)?", re.IGNORECASE)
_QUOTES = re.compile(r"[\"'`\[\];]")


@dataclass(frozen=True, slots=True)
class StagedState:
    """The state of a database when it was staged.

    :param bookmark: None when it is unknown.
    :param tables: rows and CREATE statement of each table; None to compare the bookmark only.
    :param all_tables: whether ``tables`` are all tables of the database.
    :param skipped: tables that the run has skipped.
    """

    bookmark: str | None
    tables: Mapping[str, tuple[int, str]] | None = None
    all_tables: bool = True
    skipped: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        tables = None if self.tables is None else {name: list(table) for name, table in self.tables.items()}
        return {
            "bookmark": self.bookmark,
            "tables": tables,
            "all_tables": self.all_tables,
            "skipped": list(self.skipped),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StagedState:
        """Read what :meth:`to_dict` wrote."""
        tables = data["tables"]
        return cls(
            bookmark=data["bookmark"],
            tables=None if tables is None else {name: (int(rows), str(sql)) for name, (rows, sql) in tables.items()},
            all_tables=bool(data["all_tables"]),
            skipped=tuple(data["skipped"]),
        )


@dataclass(frozen=True, slots=True)
class Change:
    """Whether a database has changed, its present bookmark, and the reason for the answer."""

    changed: bool
    bookmark: str
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"changed": self.changed, "bookmark": self.bookmark, "reason": self.reason}


def detect_change(account_id: str, database_id: str, staged: StagedState) -> Plan[Change]:
    """Compare a database with its staged state, by one call, or by three where the tables are compared."""
    bookmark: str = yield Call(time_travel.bookmark_request(account_id, database_id), time_travel.read_bookmark)
    if bookmark == staged.bookmark:
        return Change(False, bookmark, "the bookmark is that of the staged run")
    if staged.tables is None:
        return Change(True, bookmark, f"the bookmark is not that of the staged run ({staged.bookmark})")
    (found,) = yield Call(sql_calls.request(account_id, database_id, [Statement(_TABLES)]), sql_calls.read_results)
    present = {str(name): str(sql) for name, sql in found.rows if not _INTERNAL.match(str(name))}
    if staged.all_tables:
        new = [name for name in present if name not in staged.tables and not _is_skipped(name, staged.skipped)]
        if new:
            return Change(True, bookmark, f"table {new[0]!r} is new")
    for name, (_, sql) in staged.tables.items():
        if name not in present:
            return Change(True, bookmark, f"table {name!r} was dropped")
        if _normalized(sql) != _normalized(present[name]):
            return Change(True, bookmark, f"table {name!r} has another CREATE statement")
    names = list(staged.tables)
    counts = [Statement(f"SELECT count(*) AS n FROM {quoted(name)}") for name in names]  # noqa: S608 - quoted
    position = 0
    for batch in sql_calls.batches(counts):
        results = yield Call(sql_calls.request(account_id, database_id, batch), sql_calls.read_results)
        for name, result in zip(names[position : position + len(batch)], results, strict=True):
            rows, before = int(result.rows[0][0]), staged.tables[name][0]
            if rows != before:
                return Change(True, bookmark, f"table {name!r} has {rows} rows, {before} in the staged run")
        position += len(batch)
    return Change(False, bookmark, "the bookmark moved, but tables and row counts are those of the staged run")


def _is_skipped(name: str, skipped: tuple[str, ...]) -> bool:
    """Whether a table is a skipped virtual table or one of its shadow tables."""
    return any(name == each or name.startswith(f"{each}_") for each in skipped)


def _normalized(sql: str) -> str:
    return _QUOTES.sub("", _BEGINNING.sub("", sql.strip())).strip()
