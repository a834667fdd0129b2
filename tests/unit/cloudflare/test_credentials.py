"""What a connection may hold."""

from __future__ import annotations

import pytest

from airflow_provider_d1.cloudflare.credentials import CLOUDFLARE_API, Credentials, is_loopback
from airflow_provider_d1.exceptions import D1ConfigurationError


def test_the_token_is_in_no_repr() -> None:
    assert "s3cret" not in repr(Credentials("acc", "s3cret"))
    assert "s3cret" not in Credentials("acc", "s3cret").fingerprint()


def test_a_token_read_from_a_file_loses_its_newline() -> None:
    assert Credentials(" acc ", "s3cret\n").headers() == {"Authorization": "Bearer s3cret"}
    assert Credentials(" acc ", "s3cret\n").account_id == "acc"


def test_a_global_key() -> None:
    assert Credentials("acc", "k", email="me@x.org").headers() == {"X-Auth-Email": "me@x.org", "X-Auth-Key": "k"}


@pytest.mark.parametrize("field", ["account_id", "token", "email"])
@pytest.mark.parametrize("value", ["a b", "a\r\nX-Evil: 1", "a\x00", "ä…"])
def test_what_no_header_can_hold_is_refused_without_being_shown(field: str, value: str) -> None:
    with pytest.raises(D1ConfigurationError) as caught:
        Credentials(**{"account_id": "acc", "token": "t", field: value})
    assert value not in str(caught.value)
    assert {"account_id": "account_id", "token": "password", "email": "login"}[field] in str(caught.value)


@pytest.mark.parametrize("field", ["account_id", "token"])
def test_what_is_missing_is_named(field: str) -> None:
    with pytest.raises(D1ConfigurationError, match="empty"):
        Credentials(**{"account_id": "acc", "token": "t", field: "  "})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("", CLOUDFLARE_API),
        ("https://gateway.example/client/v4/", "https://gateway.example/client/v4"),
        ("http://127.0.0.1:8787/client/v4", "http://127.0.0.1:8787/client/v4"),
        ("http://localhost/client/v4", "http://localhost/client/v4"),
        ("http://[::1]:8787", "http://[::1]:8787"),
    ],
)
def test_hosts_that_work(given: str, used: str) -> None:
    assert Credentials("acc", "t", base_url=given).base_url == used


@pytest.mark.parametrize(
    "value",
    [
        "http://api.cloudflare.com/client/v4",
        "http://127.0.0.1.evil.example/",
        "http://localhost.evil.example/",
        "http://0.0.0.0/",
        "ftp://127.0.0.1/",
        "api.cloudflare.com",
        "https://",
        "https://user:pw@api.example/",
        "https://api.example/?x=1",
        "https://api.example/#x",
        "https://api.example:99999/",
    ],
)
def test_hosts_that_do_not(value: str) -> None:
    with pytest.raises(D1ConfigurationError, match="host"):
        Credentials("acc", "t", base_url=value)


@pytest.mark.parametrize("change", [{"timeout": 0}, {"timeout": float("nan")}, {"requests_per_5_minutes": 0}])
def test_numbers_that_do_not(change: dict[str, float]) -> None:
    with pytest.raises(D1ConfigurationError, match=next(iter(change))):
        Credentials("acc", "t", **change)  # type: ignore[arg-type]


def test_tokens_have_different_fingerprints() -> None:
    one, other = Credentials("acc", "a"), Credentials("acc", "b")
    assert one.fingerprint() != other.fingerprint()
    assert one.fingerprint() == Credentials("acc2", "a").fingerprint()


@pytest.mark.parametrize(
    ("host", "loopback"), [("127.0.0.53", True), ("::1", True), ("LocalHost", True), ("10.0.0.1", False), ("x", False)]
)
def test_loopback(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback
