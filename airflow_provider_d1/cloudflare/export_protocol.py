"""The export endpoint's requests and answers, as pure functions.

Its answers are odd: a running export has a status that the published types do not list, a failure can come as HTTP
200 with ``success: true`` outside, and the same message means "finished and fetched", "cancelled" and "never
existed".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import failures, protocol
from airflow_provider_d1.cloudflare.messages import Answer, Request
from airflow_provider_d1.exceptions import D1ApiError, D1ExportError, D1VirtualTableError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import ExportOptions

NOT_EXPORTING = "Not currently exporting anything"
_PART = re.compile(r"Uploaded part (\d{1,9})")


@dataclass(frozen=True, slots=True)
class Running:
    """The export goes on; ``bookmark`` is None where the answer had none."""

    bookmark: str | None
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Complete:
    """The dump is there. ``url`` is a credential; D1 may never tell it again."""

    bookmark: str | None
    filename: str
    url: str = field(repr=False)
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Busy:
    """Another export of this database is running, or one that nobody polls has yet to time out."""


@dataclass(frozen=True, slots=True)
class Lost:
    """D1 knows no such export: cancelled, timed out, or its end was already told."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """No answer, or one that tells nothing about the export: a reset, a gateway's page, a passing trouble of D1."""

    error: D1ApiError | D1ExportError


@dataclass(frozen=True, slots=True)
class Failed:
    """The export is over, without a dump."""

    error: D1ApiError | D1ExportError


ExportAnswer = Running | Complete | Busy | Lost | Unclear | Failed


def export(account_id: str, database_id: str, options: ExportOptions, *, bookmark: str | None = None) -> Request:
    """Start an export or, with its bookmark, poll it; D1 wants all options again on every poll."""
    body: dict[str, Any] = {
        "output_format": "polling",
        "dump_options": {
            "no_schema": options.no_schema,
            "no_data": options.no_data,
            "tables": list(options.tables or ()),
        },
    }
    if bookmark is not None:
        body["current_bookmark"] = bookmark
    return Request("POST", protocol.database_path(account_id, database_id, "export"), body=body, repeatable=False)


def read_export(answer: Answer) -> ExportAnswer:
    """What an answer to a start or a poll means: first the failures, outer and inner, then the status."""
    try:
        envelope = protocol.read_envelope(answer)
    except D1ApiError as error:
        return _from_error(error)
    result = envelope.result if isinstance(envelope.result, dict) else {}
    if not envelope.success or answer.status >= 400:
        said = envelope.message or _inner_error(result)
        return _from_message(said) or _from_error(failures.failure(answer, envelope.errors or ((None, said),)))
    # an explicit failure counts before any status, and a status of "error" before what else the answer holds
    inner = _inner_error(result)
    status = result.get("status")
    if result.get("success") is False or inner or status == "error":
        return _from_message(inner) or Failed(
            D1ExportError(f"D1 could not export the database: {inner or 'it gave no reason'}")
        )
    bookmark = result.get("at_bookmark")
    bookmark = bookmark if isinstance(bookmark, str) and bookmark else None
    parts = _parts(result.get("messages"))
    if dump := _dump(result, status):
        filename = dump.get("filename")
        return Complete(bookmark, filename if isinstance(filename, str) else "", dump["signed_url"], parts)
    if status == "complete":
        return Failed(D1ExportError("D1 said that the export is complete but gave no URL for the dump"))
    return Running(bookmark, parts)


def _dump(result: dict[str, Any], status: object) -> dict[str, Any] | None:
    """The part of a complete export's result with the URL in it; a status may be missing here as elsewhere."""
    if status not in ("complete", None):
        return None
    inner = result.get("result")
    for place in (inner if isinstance(inner, dict) else {}, result):
        if isinstance(place.get("signed_url"), str) and place["signed_url"]:
            return place
    return None


def _from_message(message: str) -> ExportAnswer | None:
    if NOT_EXPORTING in message:
        return Lost()
    if failures.is_busy(message):
        return Busy()
    if "virtual table" in message.lower():
        return Failed(
            D1VirtualTableError(
                f"D1 refused the export: {message}. Such an attempt can leave the database locked; name the tables to"
                ' export, or use on_virtual_table="skip"'
            )
        )
    if failures.is_permanent(message):
        return Failed(D1ExportError(f"D1 could not export the database: {message}", retryable=False))
    if failures.is_transient(message):
        return Unclear(D1ExportError(f"D1 answered: {message}"))
    return None


def _from_error(error: D1ApiError) -> ExportAnswer:
    return Unclear(error) if error.retryable else Failed(error)


def _inner_error(result: dict[str, Any]) -> str:
    return failures.text_of(result.get("error")) or failures.text_of(result.get("errors"))


def _parts(messages: object) -> frozenset[int]:
    lines: Sequence[object] = messages if isinstance(messages, list) else ()
    return frozenset(int(found[1]) for line in lines if (found := _PART.search(str(line))))
