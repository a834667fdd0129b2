"""Map an unsuccessful response to an error and decide whether a retry can help.

Status and code are not enough: a busy database, an SQL error and a code update of D1 all have code 7500.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Sequence
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1DatabaseNotFoundError,
    D1RateLimitError,
)

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.messages import Response

#: how D1 begins its answer while it exports a database, and while it imports into one
BUSY = "Currently processing a long-running"
#: messages of transient failures (besides HTTP 408, 429 and 5xx)
TRANSIENT = (
    "D1 DB reset because its code was updated",
    "Network connection lost",
    "caused object to be reset",
    "Cannot resolve D1 DB due to transient issue on remote node",
    "D1 DB is overloaded",
)
#: the Free plan's daily limits, for rows read and rows written
FREE_PLAN_LIMIT = "exceeded D1's free tier daily"
#: messages of permanent failures, with any status
PERMANENT = ("exceeded its CPU time limit", FREE_PLAN_LIMIT)
_FREE_PLAN_REMEDY = (
    ". No retry helps before 00:00 UTC: upgrade to the Workers Paid plan, or run the task after midnight UTC. An export"
    " counts as reading every row"
)

#: longest wait that a server may ask for, in seconds. Cloudflare's block lasts 300; a longer one is a
#: mistake, which must not block the token for the rest of the process.
MAX_RETRY_AFTER = 900.0

#: for messages of a response that has been read, from which the token was removed
_NO_SECRET = Secret()
_AUTHENTICATION_CODES = frozenset({10000, 9109, 9106, 9103, 6003, 6111, 1000})
_NOT_FOUND_CODES = frozenset({7404, 7003})
_URL_QUERY = re.compile(r"(https?://[^\s\"'<>?]+)\?[^\s\"'<>]*", re.IGNORECASE)


def failure(answer: Response, failures: Sequence[tuple[int | None, str]]) -> D1ApiError:
    """The error for an unsuccessful response.

    :param answer: the response; its status and header fields are read.
    :param failures: ``(code, message)`` pairs from its body without secrets, the most relevant first.
    """
    status = answer.status
    code = failures[0][0] if failures else None
    words = "; ".join(text for _, text in failures) or f"HTTP {status}"
    if FREE_PLAN_LIMIT in words:  # first, as it may have any status
        return D1ApiError(f"D1 answered: {with_remedy(words)}", status=status, code=code, retryable=False)
    said = f"{words} (HTTP {status}" + (f", code {code})" if code is not None else ")")
    codes = {code for code, _ in failures}
    if status == 429:
        if is_overloaded(words):
            return D1RateLimitError(f"D1 is overloaded: {said}", code=code, retry_after=retry_after(answer))
        return D1RateLimitError(
            f"Cloudflare's rate limit is exceeded: {said}", code=code, retry_after=retry_after(answer)
        )
    if status == 404 or (status < 500 and codes & _NOT_FOUND_CODES):
        return D1DatabaseNotFoundError(f"not found: {said}", status=status, code=code)
    if status == 401 or codes & _AUTHENTICATION_CODES or status == 403:
        return D1AuthenticationError(
            f"Cloudflare refused the credentials: {said}. The token may be wrong or expired, lack the D1 permission"
            " (Edit is required for exports), or belong to another account than account_id",
            status=status,
            code=code,
        )
    return D1ApiError(
        f"D1 answered: {said}",
        status=status,
        code=code,
        retryable=(status == 408 or status >= 500 or is_transient(words)) and not is_permanent(words),
        retry_after=retry_after(answer),
    )


def is_busy(message: str) -> bool:
    """True when an export or import of the database is running, this process's or another."""
    return BUSY in message


def is_transient(message: str) -> bool:
    """True for a failure that a later attempt may not have."""
    return any(words in message for words in TRANSIENT) or is_busy(message)


def is_permanent(message: str) -> bool:
    """True for a failure that every attempt would have."""
    return any(words in message for words in PERMANENT)


def with_remedy(message: str) -> str:
    """The message of a permanent failure, with what to do about it where that is known."""
    return f"{message.rstrip('.')}{_FREE_PLAN_REMEDY}." if FREE_PLAN_LIMIT in message else message


def is_overloaded(message: str) -> bool:
    """True when D1 itself is overloaded; the token's rate limit is another case of HTTP 429."""
    return "overloaded" in message


def retry_after(answer: Response, *, at_most: float = MAX_RETRY_AFTER) -> float | None:
    """Seconds to wait by the ``retry-after`` field, at most ``at_most``; None without a valid field.

    A date is compared with the response's own ``date`` where it has one, so that a wrong clock does not matter.
    """
    value = answer.headers.get("retry-after", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value):
        return min(float(value), at_most)
    until, now = http_date(value), http_date(answer.headers.get("date", ""))
    return None if until is None else min(max(0.0, until - (time.time() if now is None else now)), at_most)


def http_date(value: str) -> float | None:
    """An HTTP date as seconds since the epoch, None for anything else."""
    try:
        return parsedate_to_datetime(value).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def text_of(value: object, secret: Secret = _NO_SECRET) -> str:
    """A message of the API as one line of at most 500 characters, without the query of URLs, which may be signed.

    :param secret: the token that was sent; removed first, else a part of it could be left where the text is cut.
    """
    if value is None or value == "":
        return ""
    if isinstance(value, dict):
        value = value.get("message") or value.get("error") or json.dumps(value)
    elif isinstance(value, list):
        value = "; ".join(text_of(item, secret) for item in value)
    text = " ".join(_URL_QUERY.sub(r"\1?…", secret.redact(str(value))).split())
    return text if len(text) <= 500 else f"{text[:500]}…"
