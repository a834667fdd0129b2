"""The signed download: an R2 object with XML errors, Range, ETag, and simulated failures."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_d1.emulator import broken_connections
from airflow_provider_d1.emulator.request_log import Log, RecordedDownload
from airflow_provider_d1.emulator.signing import R2Error, Signer

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from airflow_provider_d1.emulator.bucket import Bucket, StoredObject
    from airflow_provider_d1.emulator.faults import Faults
    from airflow_provider_d1.emulator.virtual_clock import VirtualClock

PREFIX = "/d1-sqlio-outgoing"
_PIECE = 1 << 20
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
#: ``changed_body`` replaces digits of a dump by others, without changing its length
_OTHER_DIGITS = bytes.maketrans(b"0123456789", b"1234567890")


def object_path(key: str) -> str:
    """The path of an object's URL."""
    return f"{PREFIX}/{key}"


@dataclass(frozen=True, slots=True)
class DownloadPlan:
    """What is sent: bytes ``begin`` to ``end`` of the object, of which the client receives those before ``stop``."""

    status: int
    begin: int
    end: int
    stop: int
    headers: dict[str, str]


class SignedDownloads:
    """The ASGI application behind the signed URLs.

    :param bucket: the objects.
    :param signer: checks the URLs.
    :param clock: for the log.
    :param faults: the failures to simulate.
    :param log: records each request.
    """

    def __init__(
        self, bucket: Bucket, signer: Signer, clock: VirtualClock, faults: Faults, log: Log[RecordedDownload]
    ) -> None:
        self._bucket = bucket
        self._signer = signer
        self._clock = clock
        self._faults = faults
        self._log = log
        self._seen: Counter[str] = Counter()

    def reset(self) -> None:
        """Remove the record of requested objects."""
        self._seen.clear()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        entry = RecordedDownload(
            request.url.path,
            request.headers.get("range"),
            any(name in request.headers for name in ("authorization", "x-auth-key", "x-auth-email", "cookie")),
            self._clock.now(),
            0,
            0,
        )
        try:
            key, found = self._open(request)
            plan = self._plan(request, key, found)
        except R2Error as error:
            self._log.add(replace(entry, status=error.status))
            await r2_error(error)(scope, receive, send)
            return
        self._seen[key] += 1
        changed = self._faults.changed_body and self._seen[key] > 1
        headers = [(name.encode(), value.encode()) for name, value in plan.headers.items()]
        await send({"type": "http.response.start", "status": plan.status, "headers": headers})
        sent = 0
        try:
            async for piece in self._pieces(found.path, plan):
                sent += len(piece)
                if sent == plan.stop - plan.begin:  # the entry must be in the log before the client has the last byte
                    break
                await send(_body(piece, changed=changed, more=True))
            else:
                piece = b""
        finally:
            self._log.add(replace(entry, status=plan.status, sent=sent))
        whole = plan.stop == plan.end
        await send(_body(piece, changed=changed, more=not whole))
        if not whole:
            await broken_connections.cut(scope, receive)

    def _open(self, request: Request) -> tuple[str, StoredObject]:
        if "authorization" in request.headers:
            raise R2Error(
                400,
                "InvalidArgument",
                "Only one auth mechanism allowed; only the X-Amz-Algorithm query parameter, Signature query string"
                " parameter or the Authorization header should be specified",
            )
        path = unquote(request.url.path)
        self._signer.check(request.method, request.headers["host"], path, request.query_params, datetime.now(UTC))
        if self._faults.take("expired_urls"):
            raise R2Error(403, "ExpiredRequest", "Request has expired")
        if self._faults.take("download_errors"):
            raise R2Error(500, "InternalError", "We encountered an internal error. Please try again.")
        key = path.removeprefix(f"{PREFIX}/")
        found = self._bucket.get(key)
        if found is None:
            raise R2Error(404, "NoSuchKey", "The specified key does not exist.")
        return key, found

    def _plan(self, request: Request, key: str, found: StoredObject) -> DownloadPlan:
        faults = self._faults
        etag = found.etag
        if faults.changed_etag or (faults.changed_body and self._seen[key]):
            etag = f"{self._seen[key]:032x}"
        headers = {
            "content-type": "application/octet-stream",
            "etag": f'"{etag}"',
            "last-modified": formatdate(found.path.stat().st_mtime, usegmt=True),
        }
        if request.headers.get("if-match") not in (None, "*", headers["etag"]):
            raise R2Error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold.")
        status, begin, end = 200, 0, found.size
        if not faults.no_range:
            headers["accept-ranges"] = "bytes"
            if request.headers.get("if-range") in (None, headers["etag"]):
                span = _span(request.headers.get("range"), found.size)
                if span is not None:
                    status = 206
                    begin = min(max(span[0] + faults.range_offset_off, 0), span[1])
                    end = span[1]
                    headers["content-range"] = f"bytes {begin}-{end - 1}/{found.size}"
        stop = end
        announced = end - begin
        if faults.content_length_off:
            announced = max(0, announced + faults.content_length_off)
            stop = min(end, begin + announced)
            end = begin + announced
        if faults.take("cut_downloads"):
            at = faults.cut_download_at if faults.cut_download_at >= 0 else announced // 2
            stop = min(stop, begin + at)
        if not faults.no_content_length:
            headers["content-length"] = str(announced)
        return DownloadPlan(status, begin, end, stop, headers)

    async def _pieces(self, path: Path, plan: DownloadPlan) -> AsyncIterator[bytes]:
        pace = self._faults.download_pace
        size = min(_PIECE, max(1, pace // 20)) if pace else _PIECE
        began, sent = time.monotonic(), 0
        with path.open("rb", buffering=0) as file:
            file.seek(plan.begin)
            while sent < plan.stop - plan.begin:
                piece = file.read(min(size, plan.stop - plan.begin - sent))
                if not piece:
                    break
                yield piece
                sent += len(piece)
                if pace:
                    await asyncio.sleep(max(0.0, began + sent / pace - time.monotonic()))


def _body(piece: bytes, *, changed: bool, more: bool) -> Message:
    body = piece.translate(_OTHER_DIGITS) if changed else piece
    return {"type": "http.response.body", "body": body, "more_body": more}


def _span(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and end of a single range; None when the header is absent or of a form that servers may ignore.

    :raises R2Error: 416, the range begins after the end.
    """
    match = _RANGE.fullmatch(header or "")
    if not match or match.group(1) == match.group(2) == "":
        return None
    if not match.group(1):
        begin, end = max(0, size - int(match.group(2))), size
    else:
        begin = int(match.group(1))
        end = min(size, int(match.group(2)) + 1) if match.group(2) else size
    if begin >= size:
        raise R2Error(416, "InvalidRange", "The requested range is not satisfiable")
    return (begin, end) if begin < end else None


def r2_error(error: R2Error) -> Response:
    """The XML response for an error."""
    body = (
        '<?xml version="1.0" encoding="UTF-8"?>'
        f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
    )
    return Response(body, error.status, media_type="application/xml")
