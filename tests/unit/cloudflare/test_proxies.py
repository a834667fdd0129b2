"""Proxies and certificate authorities of the environment count alike for calls of the API and for downloads."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from OpenSSL.crypto import FILETYPE_PEM, load_certificate

from airflow_provider_d1.cloudflare.client import D1Client
from airflow_provider_d1.cloudflare.credentials import Credentials
from airflow_provider_d1.cloudflare.download import Download
from airflow_provider_d1.cloudflare.download_targets import AllowedTargets
from airflow_provider_d1.cloudflare.rate_limit import RateLimiter
from airflow_provider_d1.cloudflare.transport import CA_VARIABLES, ssl_context
from airflow_provider_d1.exceptions import D1ConfigurationError, D1ConnectionError, D1DownloadError, D1Error
from tests.unit.cloudflare.d1_fakes import ACCOUNT, TOKEN, UUID, FakeClock
from tests.unit.cloudflare.http_fakes import DUMP, Server, good, redirect, refusal, self_signed, whole

LOOPBACK = AllowedTargets(loopback=True)
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY")
LISTED = good([{"uuid": UUID, "name": "shop"}])


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Neither proxies nor authorities but those that a test sets."""
    for name in (*PROXIES, *map(str.lower, PROXIES), *CA_VARIABLES):
        monkeypatch.delenv(name, raising=False)
    ssl_context.cache_clear()
    yield monkeypatch
    ssl_context.cache_clear()


def client_of(server: Server) -> D1Client:
    credentials = Credentials(ACCOUNT, TOKEN, base_url=f"{server.url.split('/x.sql')[0]}/client/v4", timeout=5.0)
    return D1Client(credentials, limiter=RateLimiter(1000), clock=FakeClock())


def test_plain_http_on_loopback_goes_through_no_proxy(environment: pytest.MonkeyPatch) -> None:
    with Server([refusal(500)]) as proxy, Server([LISTED, whole()]) as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            environment.setenv(name, f"http://127.0.0.1:{proxy.port}")
        with client_of(server) as client:
            assert client.list_databases()
        with Download(server.url, targets=LOOPBACK) as download:
            assert download.read() == DUMP
    assert proxy.requests == []


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_https_goes_through_the_proxy_of_the_environment(variable: str, environment: pytest.MonkeyPatch) -> None:
    with Server([refusal(502)]) as proxy:
        environment.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        credentials = Credentials(ACCOUNT, TOKEN, base_url="https://d1.invalid/client/v4")
        client = D1Client(credentials, limiter=RateLimiter(1000), clock=FakeClock())
        with client, pytest.raises(D1ConnectionError):
            client.query(UUID, "SELECT 1")
        with pytest.raises(D1Error):
            Download("https://r2.invalid/x?X-Amz-Signature=5e3c7e7", clock=FakeClock())
    assert {(request.method, request.target) for request in proxy.requests} == {
        ("CONNECT", "d1.invalid:443"),
        ("CONNECT", "r2.invalid:443"),
    }
    assert not any("authorization" in request.headers for request in proxy.requests)


@pytest.mark.parametrize("exception", ["127.0.0.1", "other.example,127.0.0.1", "*"])
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "ALL_PROXY"])
def test_no_proxy_is_used_for_the_hosts_of_no_proxy(
    variable: str, exception: str, environment: pytest.MonkeyPatch, trusted: ssl.SSLContext
) -> None:
    with Server([refusal(502)]) as proxy, Server([LISTED, whole()], context=trusted) as server:
        environment.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        environment.setenv("NO_PROXY", exception)
        with client_of(server) as client:
            assert [database.name for database in client.list_databases()] == ["shop"]
        with Download(server.url, targets=LOOPBACK, clock=FakeClock()) as download:
            assert download.read() == DUMP
    assert proxy.requests == []


def test_a_redirect_leaves_through_the_proxy_too(environment: pytest.MonkeyPatch, trusted: ssl.SSLContext) -> None:
    with (
        Server([refusal(502)]) as proxy,
        Server([redirect("https://r2.invalid/x?X-Amz-Signature=5e3c7e7")], context=trusted) as server,
    ):
        environment.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        environment.setenv("NO_PROXY", "127.0.0.1")
        with pytest.raises(D1Error):
            Download(server.url, targets=LOOPBACK, clock=FakeClock())
    assert {request.target for request in proxy.requests} == {"r2.invalid:443"}


def test_a_proxy_of_another_kind_is_an_error(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("HTTPS_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(D1DownloadError, match="does not name an HTTP proxy") as caught:
        Download("https://r2.invalid/x?X-Amz-Signature=5e3c7e7", clock=FakeClock())
    assert not caught.value.retryable


@pytest.fixture
def trusted(environment: pytest.MonkeyPatch, tmp_path: Path) -> ssl.SSLContext:
    """TLS for a server whose certificate ``SSL_CERT_FILE`` names as an authority."""
    context = self_signed(tmp_path / "authority.pem")
    environment.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return context


@pytest.mark.parametrize("variable", CA_VARIABLES)
@pytest.mark.parametrize("folder", [False, True], ids=["file", "folder"])
def test_authorities_of_the_environment_are_trusted_by_api_and_download(
    variable: str, folder: bool, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    context = self_signed(tmp_path / "authority.pem")
    with Server([whole()], context=context) as server:
        with client_of(server) as client, pytest.raises(D1ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
            client.list_databases()
        with pytest.raises(D1DownloadError, match="cannot be trusted"):
            Download(server.url, targets=LOOPBACK, clock=FakeClock())
    place = tmp_path / "authority.pem"
    if folder:
        place = tmp_path / "authorities"
        place.mkdir()
        (place / f"{subject_hash(tmp_path / 'authority.pem')}.0").write_bytes((tmp_path / "authority.pem").read_bytes())
    environment.setenv(variable, str(place))
    ssl_context.cache_clear()
    with Server([LISTED, whole()], context=context) as server:
        with client_of(server) as client:
            assert client.list_databases()
        with Download(server.url, targets=LOOPBACK, clock=FakeClock()) as download:
            assert download.read() == DUMP


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_a_file_of_authorities_that_is_missing_is_named(
    variable: str, environment: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    environment.setenv(variable, str(tmp_path / "missing.pem"))
    with pytest.raises(D1ConfigurationError, match=variable):
        ssl_context()
    environment.setenv(variable, certifi.where())
    assert ssl_context().get_ca_certs()


def subject_hash(certificate: Path) -> str:
    """By which OpenSSL finds an authority in a folder."""
    return f"{load_certificate(FILETYPE_PEM, certificate.read_bytes()).subject_name_hash():08x}"
