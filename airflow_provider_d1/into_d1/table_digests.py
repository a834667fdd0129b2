"""Count the rows and compute a checksum of each table in a dump, independent of its exporter.

Exporters write the same values in several forms. So the dump is loaded into a temporary SQLite database, and the
checksum is computed over its values.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.insert_rows import quoted
from airflow_provider_d1.dump.statements import first_words
from airflow_provider_d1.exceptions import D1ImportFileError
from airflow_provider_d1.into_d1.import_file import ImportFile
from airflow_provider_d1.into_d1.sql_script import copy_script

if TYPE_CHECKING:
    from airflow_provider_d1.staging.streams import Readable


@dataclass(frozen=True, slots=True)
class TableDigest:
    """``rows`` of a table, and the SHA-256 of its CREATE statement and of all values in order of their keys."""

    rows: int
    sha256: str


class _LocalDatabase(ImportFile):
    """Runs the statements that create tables and rows, instead of collecting them."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        super().__init__(path)
        self._connection = connection

    def add_first(self, statement: bytes) -> None:
        self.add(statement)

    def add(self, statement: bytes) -> None:
        words = first_words(statement[:1000])
        if words[:1] in (["PRAGMA"], ["ANALYZE"]) or "sqlite_stat1" in " ".join(words).lower():
            return
        if words[:1] == ["CREATE"] and words[1:2] != ["TABLE"]:
            return
        try:
            self._connection.execute(statement.decode())
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise D1ImportFileError(f"the dump cannot be loaded: {error}") from None


def table_digests(dump: Readable, folder: Path, *, ignore: Collection[str] = ()) -> dict[str, TableDigest]:
    """Read a dump, and describe each of its tables.

    :param dump: SQL text, uncompressed.
    :param folder: a temporary folder, for a database of about the dump's size.
    :param ignore: names of tables to leave out.
    :raises D1ImportFileError: for a dump that cannot be loaded; it names the statement's offset.
    """
    with (
        closing(sqlite3.connect(folder / "dump.sqlite", isolation_level=None)) as connection,
        _LocalDatabase(folder / "unused", connection) as target,
    ):
        connection.text_factory = bytes
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        copy_script(dump, target)
        target.finish()
        found = connection.execute(
            "SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        ).fetchall()
        return {
            name.decode(): _digest(connection, name.decode(), sql) for name, sql in found if name.decode() not in ignore
        }


def _digest(connection: sqlite3.Connection, name: str, sql: bytes) -> TableDigest:
    columns = [
        quoted(column.decode())
        for _, column, _, _, _, _, hidden in connection.execute(f"PRAGMA table_xinfo({quoted(name)})")
        if not hidden
    ]
    # a table without a rowid has its rows in the order of its key, as a dump has them
    values = " || ',' || ".join(
        f"CASE typeof({c}) WHEN 'text' THEN 't' || hex({c}) ELSE quote({c}) END" for c in columns
    )
    digest = hashlib.sha256(sql)
    rows = 0
    for (row,) in connection.execute(f"SELECT {values} FROM {quoted(name)}"):  # noqa: S608 - quoted
        digest.update(b"\n" + row)
        rows += 1
    return TableDigest(rows, digest.hexdigest())
