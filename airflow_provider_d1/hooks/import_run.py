"""Run one import over a connection: what the trigger and the worker have in common."""

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

    :param deadline: when to give up waiting for a busy database, in epoch seconds.
    :param options: of the :class:`~airflow_provider_d1.cloudflare.import_models.ImportRequest`.
    :return: what remains to be done.
    :raises D1UploadError: when the file did not arrive whole.
    """
    from airflow_provider_d1.cloudflare.download_targets import AllowedTargets
    from airflow_provider_d1.cloudflare.import_models import ImportRequest
    from airflow_provider_d1.cloudflare.import_protocol import ImportRunning, UploadRequired
    from airflow_provider_d1.cloudflare.sql_import import announce
    from airflow_provider_d1.cloudflare.upload import upload

    request = ImportRequest(database.uuid, database.name, prepared.md5, filename="", **options)
    answer = announce(client, database.uuid, prepared.md5, deadline=deadline)
    if isinstance(answer, UploadRequired):
        mask_signed_url(answer.url)
        upload(answer.url, prepared.path, prepared.md5, targets=AllowedTargets.of(client.credentials))
        return replace(request, filename=answer.filename)
    return replace(request, bookmark=answer.bookmark) if isinstance(answer, ImportRunning) else request


async def import_uploaded(
    settings: Settings, request: ImportRequest, *, deadline: float, on_progress: Callable[[str], None]
) -> ImportResult:
    """Have D1 import an uploaded file, with a client of its own.

    :param settings: the connection.
    :param request: the file.
    :param deadline: when to give up in any case, in epoch seconds.
    :param on_progress: takes a line of text now and then.
    :raises D1Error: an error of its own class for each way in which it can fail.
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
