"""The record of an import: a row of a table in D1, written by the import itself.

It is part of the import's transaction, so it exists exactly when the import was applied. Its key is a primary key: if
a response was lost and the file is run again, D1 refuses the whole file.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.import_protocol import KEY_COLUMN
from airflow_provider_d1.cloudflare.insert_rows import quoted

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client

DEFAULT_TABLE = "_d1_imports"


@dataclass(frozen=True, slots=True)
class ImportRecord:
    """The table and the key of an import's record.

    :param table: the table's name; created when it does not exist.
    :param key: the same for all attempts at one import.
    """

    table: str
    key: str

    def statements(self, file: str, sha256: str, size: int) -> list[bytes]:
        """SQL that records the import of a file."""
        table = quoted(self.table)
        values = f"{_text(self.key)},{_text(file)},{_text(sha256)},{size},strftime('%Y-%m-%dT%H:%M:%SZ')"
        return [
            f'CREATE TABLE IF NOT EXISTS {table} ("{KEY_COLUMN}" TEXT PRIMARY KEY, "file" TEXT, "sha256" TEXT,'
            ' "bytes" INTEGER, "imported_at" TEXT);'.encode(),
            f"INSERT INTO {table} VALUES({values});".encode(),
        ]

    def exists(self, client: D1Client, database_id: str) -> bool:
        """Whether the import was applied by an earlier attempt; the table must exist."""
        sql = f'SELECT 1 FROM {quoted(self.table)} WHERE "{KEY_COLUMN}" = ?'  # noqa: S608 - quoted
        return bool(client.query(database_id, sql, [self.key]))


def tables_of(client: D1Client, database_id: str) -> list[str]:
    """The names of a database's own tables and views, without SQLite's and Cloudflare's."""
    sql = (
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\' ORDER BY name"
    )
    return [str(row["name"]) for row in client.query(database_id, sql)]


def _text(value: str) -> str:
    return "'" + value.replace("\0", "").replace("'", "''") + "'"
