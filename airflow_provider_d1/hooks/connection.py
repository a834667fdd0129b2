"""Read and check an Airflow connection of type ``d1``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from airflow_provider_d1.cloudflare.credentials import CLOUDFLARE_API, Credentials, Secret
from airflow_provider_d1.exceptions import D1ConfigurationError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

_EXTRA_FIELDS = ("account_id", "timeout", "requests_per_5_minutes", "allowed_download_hosts")
_CLOUDFLARE_HOSTS = ("api.cloudflare.com", "dash.cloudflare.com", "www.cloudflare.com", "cloudflare.com")


@dataclass(frozen=True, slots=True)
class Settings:
    """The credentials, and the database.

    ``database`` is a name or a UUID; None when neither the caller nor the connection specifies one.
    """

    conn_id: str
    credentials: Credentials
    database: str | None

    def database_or_fail(self) -> str:
        """Return the database.

        :raises D1ConfigurationError: when there is none.
        """
        if self.database is None:
            raise D1ConfigurationError(
                f"No database given: pass database=…, or set the schema field of connection {self.conn_id!r}."
            )
        return self.database


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of an Airflow connection that are read here.

    Airflow's ``Connection`` shows its password in its repr, and error reporters send the repr of every local variable.
    So the object is dropped before its fields are checked, which is what can fail.
    """

    conn_id: str
    login: str
    password: Secret
    schema: str
    host: str
    port: int | None
    extra: Mapping[str, Any]

    @classmethod
    def of(cls, connection: Connection, extra: Mapping[str, Any]) -> _Fields:
        return cls(
            conn_id=str(connection.conn_id),
            login=(connection.login or "").strip(),
            password=Secret((connection.password or "").strip()),
            schema=(connection.schema or "").strip(),
            host=(connection.host or "").strip(),
            port=connection.port,
            extra={name: extra.get(name) for name in _EXTRA_FIELDS},
        )


def read_settings(connection: Connection, extra: Mapping[str, Any], database: str | None = None) -> Settings:
    """Turn a connection into settings; no I/O.

    :param connection: *login* is the account ID and *password* the API token, or, for a Global API Key, *login* the
        e-mail address; *schema* is the default database; *host* the API's base URL, empty for Cloudflare's.
    :param extra: the connection's extra as a dict: ``account_id`` (where *login* is not it), ``timeout``,
        ``requests_per_5_minutes``, ``allowed_download_hosts``. Values may be strings, as a connection given as a URI
        has them.
    :param database: takes precedence over the connection's.
    :raises D1ConfigurationError: names the missing or invalid field and the expected value.
    """
    fields = _Fields.of(connection, extra)
    del connection
    return _settings(fields, database)


def _settings(fields: _Fields, database: str | None) -> Settings:  # noqa: C901 - one check for each field
    conn_id, extra = fields.conn_id, fields.extra

    def wrong(field: str, should: str) -> D1ConfigurationError:
        return D1ConfigurationError(f"Connection {conn_id!r}: {field} {should}.")

    if not fields.password:
        raise wrong("password", "is empty; it should hold a Cloudflare API token with the permission D1: Edit")
    account_id = str(extra.get("account_id") or "").strip()
    email = fields.login if "@" in fields.login else None
    if fields.login and email is None:
        if account_id and account_id != fields.login:
            raise wrong("login", "and extra field 'account_id' hold different account IDs; leave one of them empty")
        account_id = fields.login
    if not account_id:
        raise wrong(
            "login (the account ID)",
            "is empty, and so is extra field 'account_id'; one should hold the Cloudflare account's ID",
        )
    optional: dict[str, Any] = {}
    if (timeout := _number(extra.get("timeout"))) is not None:
        if not 0 < timeout < float("inf"):
            raise wrong("extra field 'timeout'", "should be a number of seconds above 0")
        optional["timeout"] = timeout
    if (requests := _number(extra.get("requests_per_5_minutes"))) is not None:
        if not 1 <= requests < float("inf") or requests != int(requests):
            raise wrong("extra field 'requests_per_5_minutes'", "should be an integer of at least 1")
        optional["requests_per_5_minutes"] = int(requests)
    if (hosts := _host_names(extra.get("allowed_download_hosts"))) is None:
        raise wrong("extra field 'allowed_download_hosts'", "should be a list of host names")
    optional["allowed_download_hosts"] = hosts
    base_url = _base_url(fields)
    if urlsplit(base_url).hostname in _CLOUDFLARE_HOSTS and base_url.rstrip("/") != CLOUDFLARE_API:
        raise wrong("host", f"should be {CLOUDFLARE_API} or empty")
    try:
        credentials = Credentials(account_id, fields.password, email=email, base_url=base_url, **optional)
    except D1ConfigurationError as error:
        raise D1ConfigurationError(f"Connection {conn_id!r}: {error}") from None
    return Settings(conn_id, credentials, (database or fields.schema).strip() or None)


async def fetch_settings(conn_id: str, database: str | None = None) -> Settings:
    """Read a connection without blocking the event loop.

    Airflow masks its secrets in the logs.

    :raises D1ConfigurationError: as :func:`read_settings`, and when there is no such connection.
    """
    from airflow.providers.common.compat.connection import get_async_connection, get_async_extra_dejson
    from airflow.providers.common.compat.sdk import AirflowNotFoundException

    try:
        connection = await get_async_connection(conn_id)
    except AirflowNotFoundException:
        raise no_connection(conn_id) from None
    fields = _Fields.of(connection, await get_async_extra_dejson(connection))
    del connection
    return _settings(fields, database)


def no_connection(conn_id: str) -> D1ConfigurationError:
    """The error for a connection that is not defined."""
    return D1ConfigurationError(
        f"Connection {conn_id!r} is not defined. Create one of type 'd1'. Triggers of `airflow dags test` cannot read"
        f" the metadata database: set the environment variable AIRFLOW_CONN_{conn_id.upper()} for them."
    )


def _number(value: object) -> float | None:
    """None for an empty field, NaN for a value that is not a number."""
    if value is None or value == "":
        return None
    try:
        return float("nan") if isinstance(value, bool) else float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return float("nan")


def _host_names(value: object) -> tuple[str, ...] | None:
    """A list of names, or a string of them between commas; None for anything else."""
    names = value.split(",") if isinstance(value, str) else value or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        return None
    return tuple(name.strip() for name in names if name.strip())


def _base_url(fields: _Fields) -> str:
    if not fields.host:
        return CLOUDFLARE_API
    url = fields.host if "://" in fields.host else f"https://{fields.host}"
    parts = urlsplit(url)
    standard = 443 if parts.scheme == "https" else 80
    if fields.port and fields.port != standard and parts.port is None:
        # a connection given as d1://http://:token@127.0.0.1:8787/… is parsed with its port in a separate field
        url = parts._replace(netloc=f"{parts.netloc}:{fields.port}").geturl()
    return url
