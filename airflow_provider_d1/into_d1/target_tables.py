"""What replacing a table's rows would do to other tables of the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare import sql_calls
from airflow_provider_d1.cloudflare.insert_rows import quoted
from airflow_provider_d1.cloudflare.sql_parameters import Statement
from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.validation import fold_case

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client

#: tables with foreign keys; D1's own tables refuse to be described
_CHILDREN = (
    "SELECT name FROM sqlite_schema WHERE type = 'table' AND sql LIKE '%REFERENCES%'"
    " AND name NOT LIKE '\\_cf\\_%' ESCAPE '\\' ORDER BY name"
)
#: actions that change the referencing rows when those that they reference are deleted
_ACTIONS = ("CASCADE", "SET NULL", "SET DEFAULT")


def check_replaceable(client: D1Client, database_id: str, tables: Sequence[str]) -> None:
    """Refuse to delete a table's rows if that changes a table whose rows are not replaced.

    :raises D1ConfigurationError: names both tables.
    """
    replaced = {fold_case(name) for name in tables}
    children = [str(row["name"]) for row in client.query(database_id, _CHILDREN)]
    others = [name for name in children if fold_case(name) not in replaced]
    found = iter(others)
    for batch in sql_calls.batches([Statement(f"PRAGMA foreign_key_list({quoted(name)})") for name in others]):
        for result in client.execute(database_id, batch):
            child = next(found)
            for row in result.as_dicts():
                if fold_case(row["table"]) in replaced and row["on_delete"].upper() in _ACTIONS:
                    raise D1ConfigurationError(
                        f"table {child!r} references {row['table']!r} with ON DELETE {row['on_delete']}, so replacing"
                        f" the rows of {row['table']!r} would change it. Load both, or use mode='append'."
                    )
