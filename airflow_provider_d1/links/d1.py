"""The link from an export's task to its database in Cloudflare's dashboard."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from airflow.providers.common.compat.sdk import BaseOperatorLink

if TYPE_CHECKING:
    from airflow.sdk.types import TaskInstanceKey

DASHBOARD = "https://dash.cloudflare.com"


def database_page(account_id: str, database_id: str) -> str:
    """The dashboard's page about a database."""
    return f"{DASHBOARD}/{quote(account_id, safe='')}/workers/d1/databases/{quote(database_id, safe='')}"


class D1DatabaseLink(BaseOperatorLink):
    """The exported database in Cloudflare's dashboard.

    Airflow asks for the link in the worker at the end of the task, so the operator itself knows the answer: no lookup.
    """

    name = "D1 database"

    def get_link(self, operator: object, *, ti_key: TaskInstanceKey) -> str:  # noqa: ARG002 - Airflow's signature
        """Return the address, "" for a task that has not exported anything."""
        return str(getattr(operator, "database_page", ""))
