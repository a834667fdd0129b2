"""One exchange with the API as plain values: request, response, and how to read the response."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_d1.cloudflare.credentials import Secret

MIB = 1024 * 1024
#: more than any control response needs; a longer one is refused before it is parsed
MAX_ANSWER_BYTES = 4 * MIB
#: the result of a query may be longer
MAX_QUERY_ANSWER_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Request:
    """One API call.

    ``idempotent`` says that sending it twice has the same effect as sending it once. ``max_answer_bytes`` is the
    longest response that is read.
    """

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    idempotent: bool = True
    max_answer_bytes: int = MAX_ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class Response:
    """Status, header fields with lower-case names, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    secret: Secret = field(default=Secret(), repr=False)  # the token that was sent; removed from messages


@dataclass(frozen=True, slots=True)
class Call:
    """A request, and the function that reads its response (raising :class:`D1ApiError` for a failure)."""

    request: Request
    read: Callable[[Response], Any]
