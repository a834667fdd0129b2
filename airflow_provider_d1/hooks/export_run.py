"""Run one export over a connection: what the trigger and the worker have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from airflow_provider_d1.exceptions import D1ApiError, D1AuthenticationError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.models import D1Export, ExportRequest
    from airflow_provider_d1.hooks.connection import Settings


async def export_database(
    settings: Settings,
    request: ExportRequest,
    *,
    deadline: float | None = None,
    on_progress: Callable[[str], None],
) -> D1Export:
    """Export a database with a client of its own.

    :param settings: the connection; its default database is taken when the request names none.
    :param request: what to export.
    :param deadline: when to give up in any case, in epoch seconds; None for the request's own.
    :param on_progress: takes a line of text now and then.
    :raises D1Error: an error of its own class for each way in which it can fail.
    """
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.export import run_export

    request = replace(request, database=request.database or settings.database_or_fail())
    async with AsyncD1Client(settings.credentials) as client:
        try:
            return await run_export(client, request, deadline=deadline, on_progress=on_progress)
        except D1AuthenticationError as error:
            raise await _explained(client, error) from None


async def _explained(client: AsyncD1Client, error: D1AuthenticationError) -> D1AuthenticationError:
    """Say what the connection test would say: which of token, account and permission is wrong."""
    try:
        await client.verify_access()
    except D1AuthenticationError as found:
        return found
    except D1ApiError:
        return error
    return D1AuthenticationError(
        f"{error}. The token may read the account's databases; exports need the permission D1: Edit",
        status=error.status,
        code=error.code,
    )
