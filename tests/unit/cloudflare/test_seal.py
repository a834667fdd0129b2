"""The seal around a signed URL."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_d1.cloudflare.seal import seal, unseal, url_expiry
from airflow_provider_d1.exceptions import D1SealError, D1SignedUrlExpiredError
from tests.unit.cloudflare.d1_fakes import SIGNED_URL, TOKEN

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def test_what_was_sealed_opens_with_the_same_token() -> None:
    assert unseal(seal(SIGNED_URL, TOKEN), TOKEN) == SIGNED_URL
    assert unseal(seal(SIGNED_URL, f"{TOKEN}\n"), TOKEN) == SIGNED_URL


def test_the_sealed_form_reveals_nothing_and_is_never_the_same() -> None:
    first, second = seal(SIGNED_URL, TOKEN, expires_at=NOON), seal(SIGNED_URL, TOKEN, expires_at=NOON)
    assert first != second
    raw = first.encode() + base64.urlsafe_b64decode(first.split(".")[-1])
    assert all(word not in raw for word in (b"https", b"Signature", b"5e3c7e7", TOKEN.encode()))
    assert first.isascii()
    assert first.split() == [first]


def test_another_token_does_not_open_it() -> None:
    with pytest.raises(D1SealError, match="different token") as caught:
        unseal(seal(SIGNED_URL, TOKEN), "another token")
    assert not caught.value.retryable
    assert caught.value.__context__ is None


def test_an_expired_url_has_its_own_error() -> None:
    sealed = seal(SIGNED_URL, TOKEN, expires_at=NOON)
    assert unseal(sealed, TOKEN, now=NOON - timedelta(seconds=1)) == SIGNED_URL
    with pytest.raises(D1SignedUrlExpiredError, match="2026-11-22 12:00:00 UTC"):
        unseal(sealed, TOKEN, now=NOON)


def test_a_later_expiry_cannot_be_written_onto_it() -> None:
    magic, expiry, box = seal(SIGNED_URL, TOKEN, expires_at=NOON).split(".")
    with pytest.raises(D1SealError):
        unseal(f"{magic}.{int(expiry) + 3600}.{box}", TOKEN, now=NOON - HOUR)


@pytest.mark.parametrize(
    "damaged", ["", "***", "d1seal1", "d1seal1.1.", "d1seal1.x.AAAA", "d1seal1.9.ä", "d1seal1.1.AAAA", SIGNED_URL]
)
def test_a_malformed_seal_is_distinguished_from_a_wrong_token(damaged: str) -> None:
    with pytest.raises(D1SealError, match="not a sealed URL"):
        unseal(damaged, TOKEN)


@given(st.data())
def test_no_changed_byte_goes_unnoticed(data: st.DataObject) -> None:
    sealed = seal(SIGNED_URL, TOKEN, expires_at=NOON)
    head, box = sealed.rsplit(".", 1)
    raw = bytearray(base64.urlsafe_b64decode(box))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(D1SealError):
        unseal(f"{head}.{base64.urlsafe_b64encode(raw).decode()}", TOKEN, now=NOON - HOUR)


@pytest.mark.parametrize(
    ("url", "expiry"),
    [
        ("https://x/?X-Amz-Date=20261122T113000Z&X-Amz-Expires=600", NOON - timedelta(minutes=20)),
        ("https://x/?x-amz-expires=60&x-amz-date=20261122T120000Z", NOON + timedelta(seconds=60)),
        ("https://x/?X-Amz-Date=20261122T113000Z", NOON + HOUR),
        ("https://x/?X-Amz-Date=yesterday&X-Amz-Expires=600", NOON + HOUR),
        ("https://x/?X-Amz-Date=20261122T113000Z&X-Amz-Expires=99999999999999", NOON + HOUR),
        ("https://x/y", NOON + HOUR),
    ],
)
def test_the_expiry_is_the_urls_own_or_an_hour(url: str, expiry: datetime) -> None:
    assert url_expiry(url, NOON) == expiry
