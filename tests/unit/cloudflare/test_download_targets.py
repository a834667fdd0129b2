"""Where a signed URL may lead: to public addresses, unless the connection says otherwise."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from airflow_provider_d1.cloudflare.download import Download
from airflow_provider_d1.cloudflare.download_targets import PUBLIC, AllowedTargets
from airflow_provider_d1.cloudflare.signed_url import check_url, redirected
from airflow_provider_d1.exceptions import D1DownloadError
from tests.unit.cloudflare.d1_fakes import FakeClock, credentials
from tests.unit.cloudflare.http_fakes import DUMP, Server, redirect, whole

NOT_PUBLIC = [
    "127.0.0.1",
    "127.8.8.8",
    "[::1]",
    "localhost",
    "10.0.0.5",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "[fe80::1]",
    "[fd00::1]",
    "[::ffff:10.0.0.5]",
    "[2002:0a00:0005::]",
    "224.0.0.1",
]


@pytest.mark.parametrize("host", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(host: str) -> None:
    with pytest.raises(D1DownloadError, match="not public") as caught:
        check_url(f"https://{host}/x?X-Amz-Signature=5e3c7e7", PUBLIC)
    assert not caught.value.retryable
    with pytest.raises(D1DownloadError, match="not public"):
        redirected("https://r2.example/", f"https://{host}/x", PUBLIC)


@pytest.mark.parametrize("host", ["1.1.1.1", "r2.example", "[2606:4700:4700::1111]"])
def test_a_public_address_is_permitted(host: str) -> None:
    check_url(f"https://{host}/x", PUBLIC)


@pytest.mark.parametrize("host", ["10.0.0.5", "169.254.169.254"])
def test_an_api_on_loopback_permits_loopback_only(host: str) -> None:
    with pytest.raises(D1DownloadError, match="not public"):
        check_url(f"https://{host}/x", AllowedTargets(loopback=True))


def test_a_connection_sets_the_permitted_targets() -> None:
    assert AllowedTargets.of(credentials()) == AllowedTargets(loopback=False, hosts=())
    assert AllowedTargets.of(credentials(base_url="http://127.0.0.1:8787/client/v4")).loopback
    allowed = AllowedTargets.of(credentials(allowed_download_hosts=("R2.Internal", "10.0.0.5")))
    check_url("https://10.0.0.5/x", allowed)
    assert allowed.permit("r2.internal", "192.168.1.1")
    assert not allowed.permit("other.internal", "192.168.1.1")


@pytest.fixture
def resolved(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names resolve to these addresses; connections to other than loopback fail the test."""
    addresses: list[str] = []
    connect = socket.create_connection

    def getaddrinfo(_host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses]

    def create_connection(address: tuple[str, int], *rest: Any) -> socket.socket:
        assert address[0] == "127.0.0.1"
        return connect(address, *rest)

    monkeypatch.setattr("airflow_provider_d1.cloudflare.download_targets.socket.getaddrinfo", getaddrinfo)
    monkeypatch.setattr("airflow_provider_d1.cloudflare.download_targets.socket.create_connection", create_connection)
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    return addresses


@pytest.mark.parametrize("addresses", [["10.0.0.5"], ["1.1.1.1", "127.0.0.1"]])
def test_a_name_that_resolves_to_such_an_address_is_refused(resolved: list[str], addresses: list[str]) -> None:
    resolved += addresses
    with pytest.raises(D1DownloadError, match="not public") as caught:
        Download("https://r2.example/x?X-Amz-Signature=5e3c7e7", clock=FakeClock())
    assert not caught.value.retryable


def test_a_redirect_to_such_an_address_is_not_followed() -> None:
    with Server([whole()]) as inside, Server([redirect(inside.url)]) as server:
        targets = AllowedTargets(hosts=("127.0.0.1",))
        with Download(server.url, targets=targets) as download:
            assert download.read() == DUMP
    with (
        Server([redirect("https://192.168.1.1/x")]) as hostile,
        pytest.raises(D1DownloadError, match="not public"),
    ):
        Download(hostile.url, targets=AllowedTargets(loopback=True))
