"""What a dump's CREATE TABLE says about a table, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow_provider_d1.dump.affinity import Affinity


@dataclass(frozen=True, slots=True)
class DeclaredColumn:
    """A column that the dump has values for.

    :param name: as declared, without quotes.
    :param declared_type: as ``PRAGMA table_xinfo`` gives it, empty when there is none.
    :param affinity: SQLite's affinity.
    :param primary_key: 1-based position in the primary key, 0 when not part of it.
    :param nullable: False for NOT NULL, an INTEGER PRIMARY KEY, and any primary key WITHOUT ROWID or in a STRICT table.
    :param rowid_alias: the INTEGER PRIMARY KEY, in which SQLite would replace a NULL by a new number.
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
    :param columns: the stored columns in declared order; they are what INSERTs hold.
    :param generated: names of generated columns, which no dump holds.
    :param strict: the table is STRICT.
    :param without_rowid: the table is WITHOUT ROWID.
    """

    name: str
    ddl: str
    columns: tuple[DeclaredColumn, ...]
    generated: tuple[str, ...] = ()
    strict: bool = False
    without_rowid: bool = False
