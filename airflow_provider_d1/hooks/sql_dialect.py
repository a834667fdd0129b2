"""Tables and columns for Airflow's SQL operators, read by PRAGMA instead of SQLAlchemy."""

from __future__ import annotations

from collections.abc import Callable
from operator import itemgetter
from typing import Any

from airflow.providers.common.sql.dialects.dialect import Dialect

from airflow_provider_d1.cloudflare.insert_rows import quoted

ReflectedColumn = dict[str, Any]


class D1Dialect(Dialect):
    """SQLite's tables and columns, read through the hook."""

    def columns(self, table: str) -> list[ReflectedColumn]:
        """The columns of a table or view, as SQLAlchemy's inspector describes them; without hidden ones.

        ``type`` is the declared type, as written in the CREATE TABLE statement. ``autoincrement`` is True for an
        ``INTEGER PRIMARY KEY``, ``computed`` for a generated column.
        """
        rows = self.hook.get_records(f"PRAGMA table_xinfo({quoted(self._name(table))})")
        keys = [row for row in rows if row[5]]
        return [
            {
                "name": name,
                "type": declared,
                "nullable": not not_null and not primary_key,
                "default": default,
                "primary_key": primary_key,
                "autoincrement": bool(primary_key) and len(keys) == 1 and declared.upper() == "INTEGER",
                "computed": hidden in (2, 3),
            }
            for _, name, declared, not_null, default, primary_key, hidden in rows
            if hidden != 1
        ]

    def get_column_names(
        self,
        table: str,
        schema: str | None = None,  # noqa: ARG002 - D1 has one schema
        predicate: Callable[[Any], bool] = lambda _column: True,
    ) -> list[str] | None:
        """The names of the columns that can be inserted; None when there is no such table."""
        names = [column["name"] for column in self.columns(table) if not column["computed"] and predicate(column)]
        return names or None

    def get_target_fields(self, table: str, schema: str | None = None) -> list[str] | None:
        """The columns to insert, without an ``INTEGER PRIMARY KEY``, which SQLite numbers."""
        return self.get_column_names(table, schema, lambda column: not column["autoincrement"])

    def get_primary_keys(self, table: str, schema: str | None = None) -> list[str] | None:  # noqa: ARG002 - as above
        """The columns of the primary key in its order; None when there is none."""
        columns = [column for column in self.columns(table) if column["primary_key"]]
        return [column["name"] for column in sorted(columns, key=itemgetter("primary_key"))] or None

    def _name(self, table: str) -> str:
        return str(self.unescape_word(table)).removeprefix("main.")
