"""One exchange with the API as plain values: what is sent, what came back, and both tied together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from airflow_provider_d1.cloudflare.credentials import Secret

MIB = 1024 * 1024
#: more than any control answer needs; a longer one is cut off before it is parsed
MAX_ANSWER_BYTES = 4 * MIB
#: rows are data: a query may answer with more
MAX_QUERY_ANSWER_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Request:
    """One API call.

    ``idempotent`` says that sending it twice does no more than sending it once. ``max_answer_bytes`` bounds what is
    read.
    """

    method: str
    path: str
    query: Mapping[str, str | int] = field(default_factory=dict)
    body: Mapping[str, Any] | None = None
    idempotent: bool = True
    max_answer_bytes: int = MAX_ANSWER_BYTES


@dataclass(frozen=True, slots=True)
class Response:
    """What came back: status, header fields with lower-case names, and the whole body."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)
    secret: Secret = field(default=Secret(), repr=False)  # the token that was sent, to be kept out of messages


@dataclass(frozen=True, slots=True)
class Call:
    """A request, and what reads its answer (raising :class:`D1ApiError` for a failure)."""

    request: Request
    read: Callable[[Response], Any]
