"""Seal a signed URL so that only holders of the connection's own API token can use it.

The URL alone gives read access to the whole database for an hour, while XCom, trigger events and logs have many
readers. The key is derived (HKDF-SHA256) from the API token, which trigger and worker have; AES-256-GCM encrypts and
authenticates the URL. The time of expiry is readable, and authenticated too.
"""

from __future__ import annotations

import base64
import binascii
import os
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import D1SealError, D1SignedUrlExpiredError

_MAGIC = "d1seal1"
_SALT_BYTES = 16
_NONCE_BYTES = 12
#: how long a dump's URL is valid, where its query does not say
URL_LIFETIME = timedelta(hours=1)


def seal(url: str, token: str, *, expires_at: datetime | None = None) -> str:
    """Encrypt a signed URL under a key derived from ``token``.

    :param url: the signed URL.
    :param token: the API token of the connection that made the export.
    :param expires_at: when the URL expires; by default as its query says, or an hour from now.
    :return: printable ASCII without spaces, of the form ``d1seal1.<epoch of expiry>.<base64>``.
    """
    expiry = expires_at or url_expiry(url, datetime.now(UTC))
    head = f"{_MAGIC}.{int(expiry.timestamp())}"
    salt, nonce = os.urandom(_SALT_BYTES), os.urandom(_NONCE_BYTES)
    box = AESGCM(_key(token, salt)).encrypt(nonce, url.encode(), head.encode())
    return f"{head}.{base64.urlsafe_b64encode(salt + nonce + box).decode()}"


def unseal(sealed: str, token: str, *, now: datetime | None = None) -> Secret:
    """Open what :func:`seal` made.

    :param sealed: the sealed URL.
    :param token: the API token of the connection; it must be the one that sealed it.
    :param now: the time to compare the expiry with; by default the present.
    :raises D1SignedUrlExpiredError: when the URL has expired; only a new export returns a new one.
    :raises D1SealError: when it was sealed with another token, or is damaged.
    """
    token = Secret(token)
    head, expiry, box = _open(sealed)
    salt, nonce, text = (
        box[:_SALT_BYTES],
        box[_SALT_BYTES : _SALT_BYTES + _NONCE_BYTES],
        box[_SALT_BYTES + _NONCE_BYTES :],
    )
    try:
        url = Secret(AESGCM(_key(token, salt)).decrypt(nonce, text, head.encode()).decode())
    except (InvalidTag, ValueError):
        url = None
    if url is None:
        raise D1SealError(
            "the sealed URL of this export cannot be decrypted with this connection's API token (different token, or"
            " corrupted). Use the connection that made the export, or export again."
        )
    if (now or datetime.now(UTC)) >= expiry:
        raise D1SignedUrlExpiredError(
            f"the signed URL of this export expired at {expiry:%Y-%m-%d %H:%M:%S} UTC. Run the export again"
        )
    return url


def url_expiry(url: str, issued_at: datetime) -> datetime:
    """When a signed URL expires.

    :param url: the URL; ``X-Amz-Date`` and ``X-Amz-Expires`` in its query are used.
    :param issued_at: when it was received: the hour starts here when the URL has no dates.
    """
    query = {name.lower(): values[0] for name, values in parse_qs(urlsplit(url).query).items()}
    try:
        signed_at = datetime.strptime(query["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        return signed_at + timedelta(seconds=int(query["x-amz-expires"]))
    except (KeyError, ValueError, OverflowError):
        return issued_at + URL_LIFETIME


def _open(sealed: str) -> tuple[str, datetime, bytes]:
    try:
        magic, epoch, body = sealed.split(".")
        box = base64.urlsafe_b64decode(body.encode("ascii"))
        expiry = datetime.fromtimestamp(int(epoch), UTC)
    except (AttributeError, ValueError, OverflowError, OSError, binascii.Error):
        magic = ""
    if magic != _MAGIC or len(box) <= _SALT_BYTES + _NONCE_BYTES:
        raise D1SealError("not a sealed URL; it may have been cut or masked before it arrived here")
    return f"{magic}.{epoch}", expiry, box


def _key(token: str, salt: bytes) -> bytes:
    return HKDF(SHA256(), length=32, salt=salt, info=b"airflow-provider-d1 signed URL").derive(token.strip().encode())
