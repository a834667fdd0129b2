"""The signed upload of an import: it stores an R2 object and returns its MD5 as the ETag."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_d1.emulator.signed_downloads import r2_error
from airflow_provider_d1.emulator.signing import R2Error, Signer

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from airflow_provider_d1.emulator.bucket import Bucket
    from airflow_provider_d1.emulator.faults import Faults

UPLOAD_PREFIX = "/d1-sqlio-incoming"


def upload_path(key: str) -> str:
    """The path of an upload's URL."""
    return f"{UPLOAD_PREFIX}/{key}"


class SignedUploads:
    """The ASGI application behind the signed upload URLs.

    :param bucket: stores the files.
    :param signer: checks the URLs.
    :param faults: the failures to simulate.
    """

    def __init__(self, bucket: Bucket, signer: Signer, faults: Faults) -> None:
        self._bucket = bucket
        self._signer = signer
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        try:
            response = await self._put(request)
        except R2Error as error:
            response = r2_error(error)
        await response(scope, receive, send)

    async def _put(self, request: Request) -> Response:
        path = unquote(request.url.path)
        self._signer.check(
            request.method, request.headers["host"], path, request.query_params, datetime.now(UTC), signed_method="PUT"
        )
        file = self._bucket.new_file()
        digest = hashlib.md5(usedforsecurity=False)
        with file.open("wb") as target:
            async for piece in request.stream():
                digest.update(piece)
                target.write(piece)
        if self._faults.take("upload_errors"):
            file.unlink()
            raise R2Error(500, "InternalError", "We encountered an internal error. Please try again.")
        self._bucket.put(path.removeprefix(f"{UPLOAD_PREFIX}/"), file, digest.hexdigest())
        return Response(status_code=200, headers={"etag": f'"{digest.hexdigest()}"'})
