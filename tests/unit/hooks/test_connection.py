"""What a connection may look like, and what is said about one that cannot work."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Connection

from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.hooks.connection import Settings, fetch_settings, read_settings
from airflow_provider_d1.hooks.d1 import D1Hook
from tests.unit.error_reports import frames_of

ACCOUNT = "0123456789abcdef0123456789abcdef"
API = "https://api.cloudflare.com/client/v4"


def settings(database: str | None = None, **fields: Any) -> Settings:
    extra = fields.pop("extra", {"account_id": ACCOUNT})
    connection = Connection(conn_id="d1_default", conn_type="d1", **{"password": "tok-123", **fields})
    return read_settings(connection, extra, database)


def test_the_smallest_connection() -> None:
    found = settings()
    assert (found.credentials.account_id, found.credentials.token) == (ACCOUNT, "tok-123")
    assert (found.credentials.base_url, found.credentials.email) == (API, None)
    assert (found.credentials.timeout, found.credentials.requests_per_5_minutes) == (30, 1000)
    assert found.database is None


def test_every_field_is_used() -> None:
    found = settings(
        login="me@example.com",
        schema="shop",
        host="http://127.0.0.1:8787/client/v4",
        extra={"account_id": ACCOUNT, "timeout": 5, "requests_per_5_minutes": 300},
    )
    assert found.credentials.email == "me@example.com"
    assert found.credentials.base_url == "http://127.0.0.1:8787/client/v4"
    assert (found.credentials.timeout, found.credentials.requests_per_5_minutes) == (5, 300)
    assert found.database == "shop"
    assert settings(schema="shop", database="other").database == "other"


WRONG = [
    ({"password": "two tok-123 words"}, "password"),
    ({"extra": {}}, "account_id"),
    ({"login": "f" * 32, "extra": {"account_id": ACCOUNT}}, "login"),
    ({"extra": {"account_id": ACCOUNT, "timeout": "soon"}}, "timeout"),
    ({"extra": {"account_id": ACCOUNT, "requests_per_5_minutes": 0}}, "requests_per_5_minutes"),
    ({"extra": {"account_id": ACCOUNT, "allowed_download_hosts": [1]}}, "allowed_download_hosts"),
    ({"host": "http://api.example.com/client/v4"}, "host"),
    ({"host": "https://api.cloudflare.com"}, "host"),
]


@pytest.mark.parametrize(("fields", "named"), WRONG)
async def test_no_frame_of_a_wrong_connection_shows_its_password(
    fields: dict[str, Any], named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's ``Connection`` has the password in its repr."""
    definition = {"conn_type": "d1", "password": "tok-123", "extra": {"account_id": ACCOUNT}, **fields}
    assert "tok-123" in repr(Connection(conn_id="d1_default", conn_type="d1", password="tok-123"))
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    with pytest.raises(D1ConfigurationError, match=named) as in_a_task:
        D1Hook().get_client()
    with pytest.raises(D1ConfigurationError, match=named) as in_a_trigger:
        await fetch_settings("d1_default")
    for raised in (in_a_task, in_a_trigger):
        frames = frames_of(raised.value)
        assert "hooks/connection.py" in frames
        assert "tok-123" not in frames


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"password": None}, "password"),
        ({"password": "  "}, "password"),
        ({"password": "two words"}, "password"),
        ({"extra": {}}, "account_id"),
        ({"extra": {"account_id": " "}}, "account_id"),
        ({"extra": {"account_id": ACCOUNT, "timeout": "soon"}}, "timeout"),
        ({"extra": {"account_id": ACCOUNT, "timeout": 0}}, "timeout"),
        ({"extra": {"account_id": ACCOUNT, "timeout": True}}, "timeout"),
        ({"extra": {"account_id": ACCOUNT, "requests_per_5_minutes": 0}}, "requests_per_5_minutes"),
        ({"extra": {"account_id": ACCOUNT, "requests_per_5_minutes": 1.5}}, "requests_per_5_minutes"),
        ({"host": "http://api.example.com/client/v4"}, "host"),
        ({"host": "ftp://127.0.0.1"}, "host"),
    ],
)
def test_a_field_that_cannot_work_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(D1ConfigurationError, match=named) as raised:
        settings(**fields)
    assert "tok-123" not in str(raised.value)
    assert raised.value.retryable is False


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"password": None}, "password"),
        ({"password": "two words"}, "password"),
        ({"extra": {}}, "account_id"),
        ({"host": "ftp://127.0.0.1"}, "host"),
        ({"extra": {"account_id": ACCOUNT, "timeout": "soon"}}, "timeout"),
        ({"extra": {"account_id": "not ascii: é"}}, "account_id"),
    ],
)
def test_every_message_names_the_connection(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(D1ConfigurationError, match=rf"^Connection 'd1_default': .*{named}"):
        settings(**fields)


def test_the_login_holds_the_account_id_which_the_form_shows_first() -> None:
    found = settings(login=f" {ACCOUNT} ", extra={})
    assert (found.credentials.account_id, found.credentials.email) == (ACCOUNT, None)
    assert settings(login=ACCOUNT, extra={"account_id": ACCOUNT}).credentials.account_id == ACCOUNT
    with pytest.raises(D1ConfigurationError, match=r"login .*account_id"):
        settings(login="f" * 32, extra={"account_id": ACCOUNT})


def test_the_port_of_the_form_is_ignored() -> None:
    assert settings(port=443).credentials.base_url == API
    assert settings(port=443, host=API).credentials.base_url == API
    assert settings(port=443, host="api.cloudflare.com/client/v4").credentials.base_url == API
    assert settings(port=443, host="http://127.0.0.1:8787/x").credentials.base_url == "http://127.0.0.1:8787/x"


@pytest.mark.parametrize(
    "host",
    ["https://api.cloudflare.com", "api.cloudflare.com/", "https://api.cloudflare.com/client", "dash.cloudflare.com"],
)
def test_a_host_without_the_apis_path_is_named(host: str) -> None:
    with pytest.raises(D1ConfigurationError, match=r"^Connection 'd1_default': host .*/client/v4"):
        settings(host=host)


def test_the_error_for_a_missing_database_names_the_field() -> None:
    with pytest.raises(D1ConfigurationError, match=r"database=.*schema.*'d1_default'"):
        settings().database_or_fail()


@pytest.mark.parametrize(
    "definition",
    [
        json.dumps({"conn_type": "d1", "password": "t/k+3=", "schema": "shop", "extra": {"account_id": ACCOUNT}}),
        json.dumps(
            {"conn_type": "d1", "password": "t/k+3=", "schema": "shop", "extra": f'{{"account_id": "{ACCOUNT}"}}'}
        ),
        f"d1://:t%2Fk%2B3%3D@/shop?account_id={ACCOUNT}",
    ],
    ids=["json", "json-with-text-extra", "uri"],
)
def test_from_an_environment_variable(monkeypatch: pytest.MonkeyPatch, definition: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", definition)
    found = D1Hook().get_settings()
    assert (found.credentials.token, found.credentials.account_id, found.database) == ("t/k+3=", ACCOUNT, "shop")
    assert found.credentials.base_url == API


@pytest.mark.parametrize(
    ("uri", "base_url"),
    [
        ("d1://:tok@http%3A%2F%2F127.0.0.1%3A8787%2Fclient%2Fv4/shop", "http://127.0.0.1:8787/client/v4"),
        ("d1://http://:tok@127.0.0.1:8787/shop", "http://127.0.0.1:8787"),
        ("d1://:tok@d1.example.com:8443/shop", "https://d1.example.com:8443"),
    ],
)
def test_another_api_in_a_uri(monkeypatch: pytest.MonkeyPatch, uri: str, base_url: str) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", f"{uri}?account_id={ACCOUNT}&timeout=7.5&requests_per_5_minutes=60")
    found = D1Hook().get_settings()
    assert found.credentials.base_url == base_url
    assert (found.credentials.timeout, found.credentials.requests_per_5_minutes) == (7.5, 60)
    assert found.database == "shop"


def test_a_connection_survives_airflows_own_uri_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow's secrets cache keeps connections as URIs."""
    host = "http://127.0.0.1:8787/client/v4"
    first = Connection(
        conn_id="d1_default", conn_type="d1", password="t/k+3=", host=host, extra=json.dumps({"account_id": ACCOUNT})
    )
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", first.get_uri())
    assert D1Hook().get_settings().credentials == read_settings(first, first.extra_dejson).credentials


async def test_the_async_way_reads_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", f"d1://:tok@/shop?account_id={ACCOUNT}&timeout=5")
    assert await fetch_settings("d1_default") == D1Hook().get_settings()
    assert (await fetch_settings("d1_default", "other")).database == "other"


async def test_a_missing_connection_is_named() -> None:
    with pytest.raises(D1ConfigurationError, match=r"'nowhere'.*AIRFLOW_CONN_NOWHERE"):
        await fetch_settings("nowhere")
