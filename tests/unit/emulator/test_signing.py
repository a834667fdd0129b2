from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qsl, urlsplit

import botocore.session
import pytest
from botocore.config import Config

from airflow_provider_d1.emulator.signing import R2Error, Signer

NOW = datetime(2026, 11, 22, 12, 0, 0, 900_000, tzinfo=UTC)
HOUR = timedelta(hours=1)
PATH = "/bucket/x 1.sql"


def check(signer: Signer, url: str, at: datetime = NOW, method: str = "GET", **changes: str) -> None:
    parts = urlsplit(url)
    signer.check(method, "h:1", PATH, {**dict(parse_qsl(parts.query)), **changes}, at)


def test_a_signed_url_opens_for_an_hour() -> None:
    signer = Signer()
    url = signer.sign("http://h:1", PATH, NOW, HOUR)
    check(signer, url)
    check(signer, url, NOW + HOUR - timedelta(seconds=1))
    with pytest.raises(R2Error) as expired:
        check(signer, url, NOW.replace(microsecond=0) + HOUR)
    assert (expired.value.status, expired.value.code) == (403, "ExpiredRequest")


def test_the_url_looks_like_r2_s() -> None:
    url = Signer("key").sign("http://h:1", PATH, NOW, HOUR)
    query = dict(parse_qsl(urlsplit(url).query))
    assert urlsplit(url).path == "/bucket/x%201.sql"
    assert re.fullmatch(r"[0-9a-f]{64}", query.pop("X-Amz-Signature"))
    assert query == {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Content-Sha256": "UNSIGNED-PAYLOAD",
        "X-Amz-Credential": "key/20261122/auto/s3/aws4_request",
        "X-Amz-Date": "20261122T120000Z",
        "X-Amz-Expires": "3600",
        "X-Amz-SignedHeaders": "host",
        "x-id": "GetObject",
    }


def test_amazon_s_own_signature_is_accepted() -> None:
    client = botocore.session.get_session().create_client(
        "s3",
        "auto",
        endpoint_url="http://h:1",
        aws_access_key_id="key",
        aws_secret_access_key="secret",
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
    url = client.generate_presigned_url("get_object", {"Bucket": "bucket", "Key": "x 1.sql"}, ExpiresIn=3600)
    check(Signer("key", "secret"), url, datetime.now(UTC))
    with pytest.raises(R2Error, match="signature"):
        check(Signer("key", "another secret"), url, datetime.now(UTC))


@pytest.mark.parametrize(
    "change",
    [{"X-Amz-Expires": "7200"}, {"X-Amz-Date": "20261122T130000Z"}, {"X-Amz-Signature": "0" * 64}, {"extra": "1"}],
)
def test_a_changed_url_is_refused(change: dict[str, str]) -> None:
    signer = Signer()
    with pytest.raises(R2Error) as refused:
        check(signer, signer.sign("http://h:1", PATH, NOW, HOUR), **change)
    assert (refused.value.status, refused.value.code) == (403, "SignatureDoesNotMatch")


def test_only_get_is_signed() -> None:
    signer = Signer()
    with pytest.raises(R2Error, match="signature"):
        check(signer, signer.sign("http://h:1", PATH, NOW, HOUR), method="HEAD")


def test_another_signer_s_url_and_no_signature_at_all() -> None:
    url = Signer().sign("http://h:1", PATH, NOW, HOUR)
    with pytest.raises(R2Error, match="signature"):
        check(Signer(), url)
    with pytest.raises(R2Error) as refused:
        Signer().check("GET", "h:1", PATH, {}, NOW)
    assert (refused.value.status, refused.value.code) == (400, "InvalidArgument")
