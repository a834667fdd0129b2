"""A table as a dump's CREATE TABLE declares it, and how SQLite reads and compares names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.validation import fold_case

if TYPE_CHECKING:
    from airflow_provider_d1.dump.affinity import Affinity


@dataclass(frozen=True, slots=True)
class DeclaredColumn:
    """A column for which the dump has values.

    :param name: as declared, without quotes.
    :param declared_type: as ``PRAGMA table_xinfo`` gives it, empty when there is none.
    :param affinity: SQLite's affinity.
    :param primary_key: 1-based position in the primary key, 0 when not part of it.
    :param nullable: False for NOT NULL, an INTEGER PRIMARY KEY, and any primary key WITHOUT ROWID or in a STRICT table.
    :param rowid_alias: the INTEGER PRIMARY KEY, where SQLite replaces NULL by a new number.
    :param default: SQL of the DEFAULT clause, None when there is none.
    """

    name: str
    declared_type: str
    affinity: Affinity
    primary_key: int = 0
    nullable: bool = True
    rowid_alias: bool = False
    default: str | None = None


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A table that the dump creates.

    :param name: without quotes.
    :param ddl: the CREATE TABLE statement as the dump has it, without the final semicolon.
    :param columns: the stored columns in declared order; INSERTs have values for these.
    :param generated: names of generated columns, for which dumps have no values.
    :param strict: the table is STRICT.
    :param without_rowid: the table is WITHOUT ROWID.
    """

    name: str
    ddl: str
    columns: tuple[DeclaredColumn, ...]
    generated: tuple[str, ...] = ()
    strict: bool = False
    without_rowid: bool = False


def unquote(name: bytes) -> bytes:
    """Return a name without its quotes; a bare name is not changed."""
    opening = name[:1]
    if opening == b"[":
        return name[1:-1]
    if opening in (b'"', b"'", b"`"):
        return name[1:-1].replace(opening * 2, opening)
    return name


def is_internal(name: str) -> bool:
    """Return whether a table is SQLite's or Cloudflare's own; such tables are not staged."""
    folded = fold_case(name)
    return folded == "sqlite_sequence" or folded.startswith(("sqlite_stat", "_cf_"))
