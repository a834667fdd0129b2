"""Run one export over a connection, in the triggerer or in a worker, and open its dump."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare.models import D1Export
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1ConfigurationError,
    D1DatabaseNotFoundError,
    D1Error,
)

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.credentials import Credentials
    from airflow_provider_d1.cloudflare.download import Download
    from airflow_provider_d1.cloudflare.models import ExportRequest
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
    :param deadline: the latest end, in epoch seconds; None for the request's own.
    :param on_progress: called with progress messages.
    :raises D1Error: a subclass for each kind of failure.
    """
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.export import run_export

    request = replace(request, database=request.database or settings.database_or_fail())
    async with AsyncD1Client(settings.credentials) as client:
        try:
            return await run_export(client, request, deadline=deadline, on_progress=on_progress)
        except (D1AuthenticationError, D1DatabaseNotFoundError) as error:
            raise await _explained(client, error, settings.conn_id) from None


def open_dump(export: D1Export | Mapping[str, Any], credentials: Credentials) -> Download:
    """Open the dump of a finished export; its URL is masked in the logs.

    :param export: the export, or its dict.
    :param credentials: those that made the export.
    :raises D1ConfigurationError: when the dict is not an export.
    """
    from airflow_provider_d1.cloudflare.download import Download
    from airflow_provider_d1.cloudflare.download_targets import AllowedTargets
    from airflow_provider_d1.cloudflare.seal import unseal
    from airflow_provider_d1.hooks.masking import mask_signed_url

    if not isinstance(export, D1Export):
        try:
            export = D1Export.from_dict(export)
        except ValueError as error:
            raise D1ConfigurationError(f"export is {error}.") from None
    url = unseal(export.sealed_url, credentials.token)
    mask_signed_url(url)
    return Download(url, targets=AllowedTargets.of(credentials))


async def _explained(client: AsyncD1Client, error: D1ApiError, conn_id: str) -> D1Error:
    """The error with the connection test's result: which of host, token, account and permission is wrong."""
    try:
        await client.verify_access()
    except D1AuthenticationError as found:
        return found
    except D1ConfigurationError as found:
        return D1ConfigurationError(f"Connection {conn_id!r}: {found}")
    except D1ApiError:
        return error
    if isinstance(error, D1DatabaseNotFoundError):
        return error
    return D1AuthenticationError(
        f"{error}. The token may read the account's databases; exports need the permission D1: Edit",
        status=error.status,
        code=error.code,
    )
