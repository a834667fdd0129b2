"""D1's Time Travel: get the bookmark of a database's state, and restore the database to one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airflow_provider_d1.cloudflare import protocol
from airflow_provider_d1.cloudflare.messages import Request
from airflow_provider_d1.exceptions import D1ConfigurationError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.messages import Response


@dataclass(frozen=True, slots=True)
class Restored:
    """The bookmark of the database after a restore, and of the state before it, which undoes the restore."""

    bookmark: str
    previous_bookmark: str


def bookmark_request(account_id: str, database_id: str, timestamp: datetime | None = None) -> Request:
    """Request the bookmark of a point in time.

    :param timestamp: with a time zone; None for now.
    """
    query = {} if timestamp is None else {"timestamp": _text(timestamp)}
    return Request("GET", protocol.database_path(account_id, database_id, "time_travel/bookmark"), query=query)


def restore_request(
    account_id: str, database_id: str, *, bookmark: str | None = None, timestamp: datetime | None = None
) -> Request:
    """Restore a database to a bookmark or a point in time.

    Not idempotent: a repetition would also discard changes made after the first call.

    :raises D1ConfigurationError: unless exactly one of the two is given.
    """
    if (bookmark is None) == (timestamp is None) or bookmark == "":
        raise D1ConfigurationError("restore: expected either a bookmark or a timestamp.")
    query = {"bookmark": bookmark} if bookmark is not None else {"timestamp": _text(timestamp)}
    path = protocol.database_path(account_id, database_id, "time_travel/restore")
    return Request("POST", path, query=query, idempotent=False)


def read_bookmark(answer: Response) -> str:
    """Read the response to :func:`bookmark_request`."""
    return _bookmark(protocol.read_result(answer), "bookmark")


def read_restored(answer: Response) -> Restored:
    """Read the response to :func:`restore_request`."""
    result = protocol.read_result(answer)
    return Restored(_bookmark(result, "bookmark"), _bookmark(result, "previous_bookmark"))


def _bookmark(result: object, name: str) -> str:
    value = result.get(name) if isinstance(result, dict) else None
    if not isinstance(value, str) or not value:
        raise protocol.unexpected(name)
    return value


def _text(timestamp: datetime | None) -> str:
    if timestamp is None or timestamp.tzinfo is None:
        raise D1ConfigurationError(
            "timestamp: expected a datetime with a time zone; a naive one is not a fixed point in time."
        )
    return timestamp.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
