"""Upload and run one import over a connection, in the triggerer or in a worker."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.exceptions import D1AuthenticationError
from airflow_provider_d1.hooks.masking import mask_signed_url

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.client import D1Client
    from airflow_provider_d1.cloudflare.import_models import ImportRequest, ImportResult
    from airflow_provider_d1.cloudflare.models import Database
    from airflow_provider_d1.hooks.connection import Settings
    from airflow_provider_d1.into_d1.prepare import PreparedImport


def upload_import(
    client: D1Client, database: Database, prepared: PreparedImport, *, deadline: float, **options: Any
) -> ImportRequest:
    """Announce a prepared file and upload it. Its URL, a credential, does not leave this function.

    :param deadline: the latest end of the wait for a busy database, in epoch seconds.
    :param options: of the :class:`~airflow_provider_d1.cloudflare.import_models.ImportRequest`.
    :return: the import to run.
    :raises D1UploadError: when the file did not arrive completely.
    """
    from airflow_provider_d1.cloudflare.download_targets import AllowedTargets
    from airflow_provider_d1.cloudflare.import_models import ImportRequest
    from airflow_provider_d1.cloudflare.import_protocol import UploadRequired
    from airflow_provider_d1.cloudflare.polled_job import Running
    from airflow_provider_d1.cloudflare.sql_import import announce
    from airflow_provider_d1.cloudflare.upload import upload

    request = ImportRequest(database.uuid, database.name, prepared.md5, filename="", **options)
    answer = announce(client, database.uuid, prepared.md5, deadline=deadline)
    if isinstance(answer, UploadRequired):
        mask_signed_url(answer.url)
        upload(answer.url, prepared.path, prepared.md5, targets=AllowedTargets.of(client.credentials))
        return replace(request, filename=answer.filename)
    return replace(request, bookmark=answer.bookmark) if isinstance(answer, Running) else request


async def import_uploaded(
    settings: Settings, request: ImportRequest, *, deadline: float, on_progress: Callable[[str], None]
) -> ImportResult:
    """Run the import of an uploaded file, with a client of its own.

    :param settings: the connection.
    :param request: the file.
    :param deadline: the latest end, in epoch seconds.
    :param on_progress: called with progress messages.
    :raises D1Error: a subclass for each kind of failure.
    """
    from airflow_provider_d1.cloudflare.client import AsyncD1Client
    from airflow_provider_d1.cloudflare.sql_import import run_import

    async with AsyncD1Client(settings.credentials) as client:
        try:
            return await run_import(client, request, deadline=deadline, on_progress=on_progress)
        except D1AuthenticationError as error:
            raise D1AuthenticationError(
                f"{error}. Imports need the permission D1: Edit", status=error.status, code=error.code
            ) from None
