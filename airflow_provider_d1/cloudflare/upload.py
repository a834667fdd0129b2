"""Upload a file to the signed URL of an import.

The URL is a credential, as that of a download: it does not leave the process that received it, is in no error, repr or
log record, and no other credential is sent with it. It may refer to public addresses only.
"""

from __future__ import annotations

from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import tenacity

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.cloudflare.download_targets import PUBLIC, AllowedTargets
from airflow_provider_d1.cloudflare.signed_url import check_url, open_url
from airflow_provider_d1.exceptions import D1DownloadError, D1UploadError

if TYPE_CHECKING:
    from http.client import HTTPResponse

ATTEMPTS = 5
#: seconds to wait for a connection, or for the server to accept the next bytes
UPLOAD_TIMEOUT = 60.0
_BACKOFF = tenacity.wait_random_exponential(multiplier=0.5, max=20)


def upload(url: str, path: Path, md5: str, *, targets: AllowedTargets = PUBLIC, clock: Clock = SYSTEM_CLOCK) -> None:
    """Upload a file, and compare the MD5 of the stored object.

    :param url: the signed URL.
    :param path: the file.
    :param md5: its MD5, in hex.
    :param targets: the addresses that the URL may refer to.
    :raises D1UploadError: when it did not arrive completely; not retryable for a URL that is refused.
    """
    url = Secret(url)
    try:
        check_url(url, targets)
    except D1DownloadError as error:
        raise D1UploadError(str(error), retryable=False) from None

    def attempt() -> None:
        try:
            problem = _put(url, path, md5, targets)
        except D1DownloadError as error:  # an address or a certificate that is not trusted
            raise D1UploadError(str(error), retryable=False) from None
        if problem:
            raise D1UploadError(f"the file of the import could not be uploaded: {problem}")

    tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, D1UploadError) and error.retryable),
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=_BACKOFF,
        sleep=clock.sleep,
        reraise=True,
    )(attempt)


def _put(url: Secret, path: Path, md5: str, targets: AllowedTargets) -> str:
    """Upload once; returns the problem as text without the URL, or nothing."""
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(path.stat().st_size)}
    with path.open("rb") as body:
        response, problem = open_url(url, headers, UPLOAD_TIMEOUT, targets, method="PUT", body=body)
    if response is None:
        return problem
    with response:
        status = response.status
        stored = (response.headers.get("etag") or "").strip('"').lower()
        _drain(response)
    if status != 200:
        return f"the storage answered HTTP {status}"
    if not stored:
        return "the storage returned no ETag, so the upload cannot be verified"
    return "" if stored == md5 else "the stored bytes differ from the file (the ETag is not the file's MD5)"


def _drain(response: HTTPResponse) -> None:
    """Read a short body, so that the connection is closed in order."""
    try:
        response.read(10_000)
    except (HTTPException, OSError):
        return
