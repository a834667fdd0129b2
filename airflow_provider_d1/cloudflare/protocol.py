"""The D1 REST API as pure functions: build requests and read responses; nothing is sent.

Cloudflare wraps every response in ``{"success", "errors", "messages", "result", "result_info"}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow_provider_d1.cloudflare import api_errors
from airflow_provider_d1.cloudflare.messages import Request, Response
from airflow_provider_d1.cloudflare.models import Database
from airflow_provider_d1.exceptions import D1ApiError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.credentials import Secret

DATABASES_PER_PAGE = 1000
#: D1 lists no fewer databases on a page that is not the last
SMALLEST_PAGE = 10


@dataclass(frozen=True, slots=True)
class Envelope:
    """A body taken out of Cloudflare's wrapper. ``errors`` are ``(code, message)`` pairs."""

    success: bool
    result: Any = field(repr=False)
    errors: tuple[tuple[int | None, str], ...]
    result_info: Mapping[str, Any]

    @property
    def message(self) -> str:
        """All failures as one line."""
        return "; ".join(text for _, text in self.errors)


# --- requests ---------------------------------------------------------------------------------------------------------


def database_path(account_id: str, database_id: str, action: str = "") -> str:
    """``/accounts/…/d1/database/…``, with each name quoted as one path segment."""
    tail = f"/{action}" if action else ""
    return f"{databases_path(account_id)}/{quote(database_id, safe='')}{tail}"


def databases_path(account_id: str) -> str:
    """``/accounts/…/d1/database``."""
    return f"/accounts/{quote(account_id, safe='')}/d1/database"


def list_databases(account_id: str, *, page: int = 1, name: str | None = None) -> Request:
    """One page of the account's databases; ``name`` is a search, not a match."""
    query: dict[str, str | int] = {"page": page, "per_page": DATABASES_PER_PAGE}
    if name is not None:
        query["name"] = name
    return Request("GET", databases_path(account_id), query=query)


def get_database(account_id: str, database_id: str) -> Request:
    """One database by UUID."""
    return Request("GET", database_path(account_id, database_id))


# --- responses --------------------------------------------------------------------------------------------------------


def read_envelope(answer: Response) -> Envelope:
    """Take a response out of its wrapper.

    :raises D1ApiError: for a body without the wrapper (an HTML error page, cut JSON, a redirect).
    """
    if 300 <= answer.status < 400:
        raise D1ApiError(
            f"the D1 API answered with a redirect (HTTP {answer.status}), which is not followed because the request"
            " carries the token. Check the host of the connection",
            status=answer.status,
            retryable=False,
        )
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        if answer.status in (401, 403, 404, 429):
            raise api_errors.failure(answer, ())
        # A gateway's page, or JSON that was cut: neither means that D1 refused the request.
        raise D1ApiError(
            f"the D1 API answered HTTP {answer.status} with {_kind_of(answer)}, expected JSON",
            status=answer.status,
            retryable=answer.status in (200, 202, 408) or answer.status >= 500,
            retry_after=api_errors.retry_after(answer),
        )
    info = body.get("result_info")
    return Envelope(
        success=body.get("success") is True,
        result=_redacted(body.get("result"), answer.secret),
        errors=_errors(body.get("errors"), answer.secret),
        result_info=info if isinstance(info, dict) else {},
    )


def read_result(answer: Response) -> Any:  # noqa: ANN401 - any JSON
    """The ``result`` of a successful response.

    :raises D1ApiError: or one of its subclasses, for any other response.
    """
    return _successful(answer).result


def _successful(answer: Response) -> Envelope:
    envelope = read_envelope(answer)
    if not envelope.success or answer.status >= 400:
        raise api_errors.failure(answer, envelope.errors)
    return envelope


@dataclass(frozen=True, slots=True)
class DatabasePage:
    """One page of a listing; ``total`` is None where the API does not state it, and then a short page is the last."""

    databases: tuple[Database, ...]
    last: bool
    total: int | None


def read_databases(answer: Response) -> DatabasePage:
    """Read the response to :func:`list_databases`."""
    envelope = _successful(answer)
    items = envelope.result or []
    if not isinstance(items, list):
        raise unexpected("list of databases")
    total, size = envelope.result_info.get("total_count"), envelope.result_info.get("per_page")
    return DatabasePage(
        databases=tuple(_database(item) for item in items if isinstance(item, dict) and item.get("uuid")),
        last=total is None and len(items) < (size if isinstance(size, int) else SMALLEST_PAGE),
        total=total if isinstance(total, int) else None,
    )


def read_database(answer: Response) -> Database:
    """Read the response to :func:`get_database`."""
    result = read_result(answer)
    if not isinstance(result, dict) or not result.get("uuid"):
        raise unexpected("uuid of the database")
    return _database(result)


def _redacted(result: Any, secret: Secret) -> Any:  # noqa: ANN401 - any JSON
    """A result without the token and signed URLs in its inner errors; rows are not changed."""
    for item in result if isinstance(result, list) else [result]:
        if isinstance(item, dict):
            for name in item.keys() & {"error", "errors"}:
                item[name] = api_errors.text_of(item[name], secret)
    return result


def _errors(errors: object, secret: Secret) -> tuple[tuple[int | None, str], ...]:
    if isinstance(errors, (str, dict)):
        errors = [errors]
    if not isinstance(errors, list):
        return ()
    found = []
    for item in errors:
        code = item.get("code") if isinstance(item, dict) else None
        found.append((code if isinstance(code, int) else None, api_errors.text_of(item, secret)))
    return tuple(found)


def _database(item: Mapping[str, Any]) -> Database:
    size, tables = item.get("file_size"), item.get("num_tables")
    return Database(
        uuid=str(item["uuid"]),
        name=str(item.get("name") or item["uuid"]),
        file_size=size if isinstance(size, int) else None,
        num_tables=tables if isinstance(tables, int) else None,
    )


def _kind_of(answer: Response) -> str:
    if "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<":
        return "an HTML page"
    return "invalid JSON" if answer.body else "an empty body"


def unexpected(missing: str) -> D1ApiError:
    """The error for a response without an expected part."""
    return D1ApiError(f"unexpected response of the D1 API: {missing} missing", status=200, retryable=True)
