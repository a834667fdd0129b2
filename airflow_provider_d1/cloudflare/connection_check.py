"""Find out why a connection does not work: bad token, wrong account, missing database or missing D1 permission."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_d1.cloudflare import lookup, protocol
from airflow_provider_d1.cloudflare.credentials import CLOUDFLARE_API
from airflow_provider_d1.cloudflare.messages import Call, Request
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1ConfigurationError,
    D1DatabaseNotFoundError,
)
from airflow_provider_d1.validation import counted

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.lookup import Plan
    from airflow_provider_d1.cloudflare.models import Database

#: "Unauthorized to access requested resource": the token has no access to anything in this account
_NO_ACCESS = 9109


_OTHER_SERVER = (
    "host: the server there is not Cloudflare's API (HTTP 404 without a code of Cloudflare's); leave host empty, or set"
    f" it to the API's base URL, {CLOUDFLARE_API}"
)


@dataclass(frozen=True, slots=True)
class Access:
    """A connection that works: how many databases it sees, and the one that was asked for."""

    databases: int
    database: Database | None

    def describe(self) -> str:
        """The result as text for the connection form."""
        databases = f"The account has {counted(self.databases, 'D1 database')}."
        found = self.database
        return databases if found is None else f"{databases} Default database: {found.name} ({found.uuid})."


def verify(account_id: str, database: str | None, *, global_key: bool) -> Plan[Access]:
    """Check token, account, D1 permission and, if named, the database.

    Only reads: whether the token may also *edit*, which exports need, shows when one is started.

    :raises D1AuthenticationError: for a bad token, a wrong account, or no D1 permission; the message says which.
    :raises D1DatabaseNotFoundError: when only the database is missing.
    :raises D1ConfigurationError: when the server is another one.
    """
    try:
        page = yield Call(protocol.list_databases(account_id), protocol.read_databases)
    except (D1AuthenticationError, D1DatabaseNotFoundError) as error:
        reason, status, code = type(error), error.status, error.code
        if code is None and status == 404 and not (yield from _is_cloudflare(global_key=global_key)):
            raise D1ConfigurationError(_OTHER_SERVER) from None
    else:
        count = len(page.databases) if page.total is None else page.total
        return Access(count, (yield from lookup.one_database(account_id, database)) if database else None)
    if reason is D1DatabaseNotFoundError:
        text = _wrong_account(account_id)
    else:
        text = yield from _refusal(account_id, code, global_key=global_key)
    raise D1AuthenticationError(text, status=status, code=code)


def _refusal(account_id: str, code: int | None, *, global_key: bool) -> Plan[str]:
    account = quote(account_id, safe="")
    # There are tokens of users and of accounts; each kind has its own verify route, and neither route covers D1.
    places = ["/user"] if global_key else ["/user/tokens/verify", f"/accounts/{account}/tokens/verify"]
    for place in places:
        identity = yield from _ask(place)
        if isinstance(identity, dict):
            break
    else:
        what = "Global API key or the e-mail" if global_key else "API token"
        return f"Cloudflare does not accept the {what}: it is wrong, expired or revoked"
    if identity.get("status", "active") != "active":
        return f"the API token is {identity['status']}, not active"
    if (yield from _ask(f"/accounts/{account}")):
        return _no_permission(account_id)
    visible = yield from _ask("/accounts")
    if (
        isinstance(visible, list)
        and visible
        and account_id not in {a.get("id") for a in visible if isinstance(a, dict)}
    ):
        return _wrong_account(account_id)
    if code == _NO_ACCESS:
        return _wrong_account(account_id)
    return f"{_no_permission(account_id)}; or account_id is not an account that the token can access"


def _is_cloudflare(*, global_key: bool) -> Plan[bool]:
    """Whether the server answers a call of a documented route as Cloudflare does."""
    try:
        yield Call(Request("GET", "/user" if global_key else "/user/tokens/verify"), protocol.read_result)
    except D1ApiError as error:
        if error.retryable:
            raise
        return error.code is not None
    return True


def _ask(path: str) -> Plan[Any]:
    try:
        result = yield Call(Request("GET", path), protocol.read_result)
    except D1ApiError as error:
        if error.retryable:
            raise
        return None
    return result


def _wrong_account(account_id: str) -> str:
    return f"wrong account: the token is valid but has no access to account_id {account_id!r}"


def _no_permission(account_id: str) -> str:
    return (
        f"the token is valid but has no D1 permission on account {account_id!r}; it needs D1: Edit (D1: Read cannot"
        " export)"
    )
