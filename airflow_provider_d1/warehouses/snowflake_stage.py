"""What staged files are called in a Snowflake external stage, whose URL may have a path below the bucket."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from airflow_provider_d1.exceptions import D1ConfigurationError

#: scheme of a stage's URL, or of a staged file's → the store
_STORES = {
    **dict.fromkeys(("s3", "s3a", "s3gov", "s3china", "s3compat"), "S3"),
    **dict.fromkeys(("gs", "gcs"), "Google Cloud Storage"),
    **dict.fromkeys(("azure", "abfs", "abfss", "az", "adl", "wasb", "wasbs"), "Azure"),
}


def described_url(stage: str, rows: Iterable[Sequence[Any]]) -> str:
    """The URL of an external stage from the rows of ``DESC STAGE``.

    :raises D1ConfigurationError: for an internal stage.
    """
    for _, name, _, value, *_ in rows:
        if str(name).upper() == "URL" and value:
            text = str(value)
            url = json.loads(text)[0] if text.startswith("[") else text
            if url:
                return str(url)
    raise D1ConfigurationError(
        f"stage {stage!r} is an internal stage, expected an external one whose URL is the bucket or a folder in it; "
        "without stage the worker uploads the files"
    )


def names_in_stage(stage: str, url: str | None, uris: Sequence[str]) -> list[str]:
    """The files' names relative to the stage's URL.

    :param url: None where it is not known, and taken for the bucket's own.
    :raises D1ConfigurationError: for a file that is not below the URL.
    """
    place = None if url is None else _place(url)
    names = []
    for uri in uris:
        found = _place(uri)
        if found is None:
            raise D1ConfigurationError(
                f"stage {stage!r} is an external stage, and {uri} is not in S3, Google Cloud Storage or Azure; without "
                "stage the worker uploads the files"
            )
        store, bucket, key = found
        if place is None:
            names.append(key)
            continue
        folder = f"{place[2].strip('/')}/" if place[2].strip("/") else ""
        if (store, bucket) != place[:2] or not key.startswith(folder):
            raise D1ConfigurationError(
                f"stage {stage!r} has the URL {url}, and {uri} is not below it; name a stage for that bucket, or none: "
                "then the worker uploads the files"
            )
        names.append(key.removeprefix(folder))
    return names


def _place(uri: str) -> tuple[str, str, str] | None:
    """Store, bucket (container) and key of a stage's URL or a file's URI; None for another scheme.

    The account of an Azure container is not compared: staged files' URIs do not have it.
    """
    scheme, _, rest = uri.partition("://")
    store = _STORES.get(scheme.lower())
    if store is None:
        return None
    host, _, key = rest.partition("/")
    if scheme.lower() in ("azure", "s3compat"):
        bucket, _, key = key.partition("/")  # the host is the account's, or the store's
        return store, bucket, key
    user, at, host = host.rpartition("@")
    # container@account.dfs.core.windows.net; elsewhere an Airflow connection is before the @
    return store, (user if at and store == "Azure" and "." in host else host), key
