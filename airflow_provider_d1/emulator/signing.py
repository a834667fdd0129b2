"""Signed download URLs: AWS's query signature, version 4, as R2 returns them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

_ALGORITHM = "AWS4-HMAC-SHA256"
_REGION = "auto"
_TIME = "%Y%m%dT%H%M%SZ"
_REQUIRED = ("X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-SignedHeaders")


class R2Error(Exception):
    """An error response of R2: HTTP status, error code and message."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs and checks URLs with one pair of keys, created for each emulator."""

    access_key: str = field(default_factory=lambda: secrets.token_hex(16))
    secret: str = field(default_factory=lambda: secrets.token_hex(32), repr=False)

    def sign(self, origin: str, path: str, now: datetime, lifetime: timedelta, method: str = "GET") -> str:
        """A URL that opens ``path`` until ``lifetime`` has passed.

        :param origin: ``http://host:port``.
        :param path: the object's path, unquoted.
        :param now: aware time; the signature counts whole seconds.
        :param lifetime: whole seconds.
        :param method: GET for a download, PUT for an upload.
        """
        stamp = now.astimezone(UTC).strftime(_TIME)
        query = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD",
            "X-Amz-Credential": f"{self.access_key}/{stamp[:8]}/{_REGION}/s3/aws4_request",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(int(lifetime.total_seconds())),
            "X-Amz-SignedHeaders": "host",
            "x-id": "GetObject" if method == "GET" else "PutObject",
        }
        query["X-Amz-Signature"] = self._signature(method, origin.split("://", 1)[1], path, query)
        return f"{origin}{quote(path)}?{urlencode(sorted(query.items()), quote_via=quote)}"

    def check(
        self,
        method: str,
        host: str,
        path: str,
        query: Mapping[str, str],
        now: datetime,
        *,
        signed_method: str = "GET",
    ) -> None:
        """Check a request.

        :param method: the request's.
        :param host: the request's Host header.
        :param path: unquoted.
        :param query: the URL's parameters.
        :param now: aware time.
        :param signed_method: what URLs of this kind are signed for.
        :raises R2Error: unsigned, altered or expired.
        """
        if "X-Amz-Signature" not in query or any(name not in query for name in _REQUIRED):
            raise R2Error(400, "InvalidArgument", "Authorization")
        unsigned = {name: value for name, value in query.items() if name != "X-Amz-Signature"}
        right = hmac.compare_digest(self._signature(signed_method, host, path, unsigned), query["X-Amz-Signature"])
        if method != signed_method or not right:
            raise R2Error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided."
                " Check your secret access key and signing method.",
            )
        signed_at = datetime.strptime(query["X-Amz-Date"], _TIME).replace(tzinfo=UTC)
        if now >= signed_at + timedelta(seconds=int(query["X-Amz-Expires"])):
            raise R2Error(403, "ExpiredRequest", "Request has expired")

    def _signature(self, method: str, host: str, path: str, query: Mapping[str, str]) -> str:
        canonical = "\n".join(
            (
                method,
                quote(path),
                "&".join(f"{quote(k, safe='')}={quote(v, safe='')}" for k, v in sorted(query.items())),
                f"host:{host}",
                "",
                "host",
                "UNSIGNED-PAYLOAD",
            )
        )
        stamp = query.get("X-Amz-Date", "")
        scope = f"{stamp[:8]}/{_REGION}/s3/aws4_request"
        to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
        key = f"AWS4{self.secret}".encode()
        for part in (stamp[:8], _REGION, "s3", "aws4_request"):
            key = hmac.digest(key, part.encode(), "sha256")
        return hmac.new(key, to_sign.encode(), "sha256").hexdigest()
