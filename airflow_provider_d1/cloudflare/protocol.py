"""The D1 REST API as pure functions: requests are built here and answers are read here; nothing is sent.

Cloudflare wraps every answer in ``{"success", "errors", "messages", "result", "result_info"}``. What a failure means is read
from all of it, because HTTP status and code alone do not tell: a busy database, an SQL error and a code update of D1 all
come as code 7500.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

from airflow_provider_d1.cloudflare.models import Database
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1DatabaseNotFoundError,
    D1RateLimitError,
)

MIB = 1024 * 1024
#: more than any control answer needs; a longer one is cut off before it is parsed
MAX_ANSWER_BYTES = 4 * MIB
#: rows are data: a query may answer with more
MAX_QUERY_ANSWER_BYTES = 64 * MIB
DATABASES_PER_PAGE = 1000

BUSY = "Currently processing a long-running export"
#: failures that pass by themselves, in Cloudflare's words (besides HTTP 408, 429 and 5xx)
TRANSIENT = (
    "D1 DB reset because its code was updated",
    "Network connection lost",
    "caused object to be reset",
    "Cannot resolve D1 DB due to transient issue on remote node",
    "D1 DB is overloaded",
)
CODE_BAD_ROUTE = 7003
_AUTHENTICATION_CODES = frozenset({10000, 9109, 9106, 9103, 6003, 6111, 1000})
_NOT_FOUND_CODES = frozenset({7404, CODE_BAD_ROUTE})
_READ_ONLY = re.compile(r"\s*(select|values|explain|pragma\s+\w+\s*(\([^)]*\))?\s*;?\s*$)", re.IGNORECASE)
_URL_QUERY = re.compile(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]*", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Request:
    """One API call.

    ``repeatable`` says that sending it twice does no more than sending it once. ``max_answer_bytes`` bounds what is read.
    """

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    repeatable: bool = True
    max_answer_bytes: int = MAX_ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: status, header fields with lower-case names, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A request, and what reads its answer (raising :class:`D1ApiError` for a failure)."""

    request: Request
    read: Callable[[Answer], Any]


@dataclass(frozen=True, slots=True)
class Envelope:
    """A body taken out of Cloudflare's wrapper. ``failures`` are ``(code, message)`` pairs."""

    success: bool
    result: Any
    failures: tuple[tuple[int | None, str], ...]
    result_info: Mapping[str, Any]

    @property
    def message(self) -> str:
        """All failures in one line."""
        return "; ".join(text for _, text in self.failures)


# --- requests ---------------------------------------------------------------------------------------------------------


def database_path(account_id: str, database_id: str, action: str = "") -> str:
    """``/accounts/…/d1/database/…``, with whatever the names hold kept inside their path segment."""
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


def raw(account_id: str, database_id: str, sql: str, params: Sequence[Any] | None = None) -> Request:
    """Run one SQL statement; rows come as arrays beside their column names, so duplicate names survive."""
    body: dict[str, Any] = {"sql": sql}
    if params:
        body["params"] = list(params)
    return Request(
        "POST",
        database_path(account_id, database_id, "raw"),
        body=body,
        repeatable=is_read_only(sql),
        max_answer_bytes=MAX_QUERY_ANSWER_BYTES,
    )


def is_read_only(sql: str) -> bool:
    """True for one statement that surely changes nothing; in doubt False."""
    return bool(_READ_ONLY.match(sql)) and ";" not in sql.rstrip().removesuffix(";")


# --- answers ----------------------------------------------------------------------------------------------------------


def read_envelope(answer: Answer) -> Envelope:
    """Take an answer out of its wrapper.

    :raises D1ApiError: for a body that is no such wrapper (an HTML error page, cut JSON, a redirect); it may be retried.
    """
    if 300 <= answer.status < 400:
        raise D1ApiError(
            f"the D1 API answered with a redirect (HTTP {answer.status}), which is never followed because the request"
            " carries the token; check the host of the connection",
            status=answer.status,
            retryable=False,
        )
    try:
        body = json.loads(answer.body)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        if answer.status in (401, 403, 404, 429):
            raise failure(answer, ())
        # A gateway's page, or JSON that was cut on its way: neither says that D1 refused anything.
        raise D1ApiError(
            f"the D1 API answered HTTP {answer.status} with {_kind_of(answer)} instead of JSON",
            status=answer.status,
            retryable=answer.status in (200, 202, 408) or answer.status >= 500,
        )
    info = body.get("result_info")
    return Envelope(
        success=body.get("success") is True,
        result=body.get("result"),
        failures=_failures(body.get("errors")),
        result_info=info if isinstance(info, dict) else {},
    )


def read_result(answer: Answer) -> Any:  # noqa: ANN401 - JSON
    """The ``result`` of a successful answer.

    :raises D1ApiError: and its subclasses, for anything else.
    """
    return _successful(answer).result


def _successful(answer: Answer) -> Envelope:
    envelope = read_envelope(answer)
    if not envelope.success or answer.status >= 400:
        raise failure(answer, envelope.failures)
    return envelope


@dataclass(frozen=True, slots=True)
class DatabasePage:
    """One page of a listing; ``total`` is None where the API does not say."""

    databases: tuple[Database, ...]
    total: int | None


def read_databases(answer: Answer) -> DatabasePage:
    """Read an answer to :func:`list_databases`."""
    envelope = _successful(answer)
    items = envelope.result if isinstance(envelope.result, list) else []
    total = envelope.result_info.get("total_count")
    return DatabasePage(
        databases=tuple(_database(item) for item in items if isinstance(item, dict) and item.get("uuid")),
        total=total if isinstance(total, int) else None,
    )


def read_database(answer: Answer) -> Database:
    """Read an answer to :func:`get_database`."""
    result = read_result(answer)
    if not isinstance(result, dict) or not result.get("uuid"):
        raise _unexpected("the database's uuid")
    return _database(result)


def read_raw(answer: Answer) -> tuple[list[str], list[list[Any]]]:
    """Read an answer to :func:`raw`: column names and rows."""
    result = read_result(answer)
    first = result[0] if isinstance(result, list) and result else result
    if not isinstance(first, dict):
        raise _unexpected("a query result")
    if first.get("success") is False:
        raise failure(answer, ((None, text_of(first.get("error")) or "the query failed"),))
    results = first.get("results")
    if not isinstance(results, dict):
        return [], []
    return [str(column) for column in results.get("columns") or []], [list(row) for row in results.get("rows") or []]


def failure(answer: Answer, failures: Sequence[tuple[int | None, str]]) -> D1ApiError:
    """The error that an unsuccessful answer means.

    :param answer: for its status and header fields.
    :param failures: ``(code, message)`` pairs from its body, the decisive one first.
    """
    status = answer.status
    code = failures[0][0] if failures else None
    words = "; ".join(text for _, text in failures) or f"HTTP {status}"
    said = f"{words} (HTTP {status}" + (f", code {code})" if code is not None else ")")
    codes = {code for code, _ in failures}
    if status == 429:
        if is_overloaded(words):
            return D1RateLimitError(f"D1 is overloaded: {said}", code=code, retry_after=retry_after(answer))
        return D1RateLimitError(
            f"Cloudflare's request limit is used up: {said}", code=code, retry_after=retry_after(answer)
        )
    if status in (404, 400) and codes & _NOT_FOUND_CODES or status == 404:
        return D1DatabaseNotFoundError(f"not found: {said}", status=status, code=code)
    if status == 401 or codes & _AUTHENTICATION_CODES or status == 403:
        return D1AuthenticationError(
            f"Cloudflare refused the credentials: {said}. The token may be wrong or expired, lack the D1 right (Edit, for"
            " exports), or belong to another account than account_id",
            status=status,
            code=code,
        )
    return D1ApiError(
        f"D1 answered: {said}",
        status=status,
        code=code,
        retryable=status in (408,) or status >= 500 or is_transient(words),
    )


def is_busy(message: str) -> bool:
    """True when the database is being exported, by whomever."""
    return BUSY in message


def is_transient(message: str) -> bool:
    """True for a failure that passes by itself."""
    return any(words in message for words in TRANSIENT) or is_busy(message)


def is_overloaded(message: str) -> bool:
    """True when D1 itself is overloaded, which is not the token's request limit though both are HTTP 429."""
    return "overloaded" in message


def retry_after(answer: Answer) -> float | None:
    """Seconds to wait as the ``retry-after`` field says, None without a usable one.

    A date is held against the answer's own ``date``, so that a wrong clock on either side does not matter.
    """
    value = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return float(value)
    until, now = http_date(value), http_date(answer.headers.get("date", ""))
    return None if until is None or now is None else max(0.0, until - now)


def http_date(value: str) -> float | None:
    """An HTTP date as seconds since the epoch, None when it is none."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def text_of(value: object) -> str:
    """One line of what the API wrote, without the query of any URL in it (it may be signed), at most 500 characters."""
    if value is None or value == "":
        return ""
    if isinstance(value, dict):
        value = value.get("message") or value.get("error") or json.dumps(value)
    elif isinstance(value, list):
        value = "; ".join(text_of(item) for item in value)
    text = " ".join(_URL_QUERY.sub(r"\1?…", str(value)).split())
    return text if len(text) <= 500 else f"{text[:500]}…"


def _failures(errors: object) -> tuple[tuple[int | None, str], ...]:
    if isinstance(errors, (str, dict)):
        errors = [errors]
    if not isinstance(errors, list):
        return ()
    found = []
    for item in errors:
        code = item.get("code") if isinstance(item, dict) else None
        found.append((code if isinstance(code, int) else None, text_of(item)))
    return tuple(found)


def _database(item: Mapping[str, Any]) -> Database:
    size, tables = item.get("file_size"), item.get("num_tables")
    return Database(
        uuid=str(item["uuid"]),
        name=str(item.get("name") or item["uuid"]),
        file_size=size if isinstance(size, int) else None,
        num_tables=tables if isinstance(tables, int) else None,
    )


def _kind_of(answer: Answer) -> str:
    if "html" in answer.headers.get("content-type", "") or answer.body.lstrip()[:1] == b"<":
        return "an HTML page"
    return "something broken" if answer.body else "an empty body"


def _unexpected(missing: str) -> D1ApiError:
    return D1ApiError(f"the D1 API's answer lacks {missing}", status=200, retryable=True)
