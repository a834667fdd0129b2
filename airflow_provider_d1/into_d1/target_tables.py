"""Check whether replacing a table's rows would change other tables of the database."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client

_ACTIONS = (
    'SELECT m.name AS child, f."table" AS parent, f.on_delete AS action FROM sqlite_schema AS m,'
    " pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table'"
    " AND f.on_delete IN ('CASCADE', 'SET NULL', 'SET DEFAULT') ORDER BY 1, 2"
)


def check_replaceable(client: D1Client, database_id: str, tables: Sequence[str]) -> None:
    """Refuse to delete the rows of a table when that changes a table whose rows are not replaced.

    :raises D1ConfigurationError: names both tables.
    """
    replaced = {name.lower() for name in tables}
    for row in client.query(database_id, _ACTIONS):
        if row["parent"].lower() in replaced and row["child"].lower() not in replaced:
            raise D1ConfigurationError(
                f"table {row['child']!r} references {row['parent']!r} with ON DELETE {row['action']}, so replacing the"
                f" rows of {row['parent']!r} would change it. Load both, or use mode='append'."
            )
