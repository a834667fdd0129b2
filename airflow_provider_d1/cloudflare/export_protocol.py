"""The export endpoint as a pure state machine: requests, what a response means, and what to send next.

Its responses need care: a running export has a status that the published types do not list, a failure can be HTTP 200
with ``success: true`` in the envelope, and one message means "finished and fetched", "cancelled" and "never existed".
The transitions that imports share are in :mod:`~airflow_provider_d1.cloudflare.polled_job`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import protocol
from airflow_provider_d1.cloudflare.messages import Request, Response
from airflow_provider_d1.cloudflare.polled_job import (
    Busy,
    Failed,
    JobKind,
    Lost,
    Running,
    Send,
    Sent,
    State,
    Unclear,
    after_poll,
    after_start,
    read_message,
    read_result,
)
from airflow_provider_d1.exceptions import D1ExportError, D1ExportLostError, D1VirtualTableError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import ExportOptions, ExportRequest

NOT_EXPORTING = "Not currently exporting anything"
EXPORT = JobKind("export", "export the database", D1ExportError, D1ExportLostError)
_PART = re.compile(r"Uploaded part (\d{1,9})")


@dataclass(frozen=True, slots=True)
class Complete:
    """The dump is ready. ``url`` is a credential, and D1 may not return it a second time."""

    bookmark: str | None
    filename: str
    url: str = field(repr=False)
    parts: frozenset[int] = frozenset()


ExportAnswer = Running | Complete | Busy | Lost | Unclear | Failed


def export(account_id: str, database_id: str, options: ExportOptions, *, bookmark: str | None = None) -> Request:
    """Start an export or, with its bookmark, poll it; D1 needs all options on every poll."""
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
    return Request("POST", protocol.database_path(account_id, database_id, "export"), body=body, idempotent=False)


def read_export(answer: Response) -> ExportAnswer:
    """Read the response to a start or a poll: first the failures, outer and inner, then the status."""
    result: dict[str, Any] | ExportAnswer = read_result(answer, _from_message, _failed)
    if not isinstance(result, dict):
        return result
    status = result.get("status")
    bookmark = result.get("at_bookmark")
    bookmark = bookmark if isinstance(bookmark, str) and bookmark else None
    parts = _parts(result.get("messages"))
    if dump := _dump(result, status):
        filename = dump.get("filename")
        return Complete(bookmark, filename if isinstance(filename, str) else "", dump["signed_url"], parts)
    if status == "complete":
        return Failed(
            D1ExportError("unexpected response: the export is complete, but the signed_url of the dump is missing")
        )
    return Running(bookmark, parts)


def _dump(result: dict[str, Any], status: object) -> dict[str, Any] | None:
    """The part of a complete export's result with the URL in it; the status may be missing."""
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
    if "virtual table" in message.lower():
        return Failed(
            D1VirtualTableError(
                f"D1 refused the export: {message}. Such an attempt can leave the database locked. Pass tables=[…]"
                ' without virtual tables, or on_virtual_table="skip"'
            )
        )
    return read_message(message, EXPORT)


def _failed(message: str) -> Failed:
    return Failed(D1ExportError(f"D1 could not export the database: {message or 'no reason given'}"))


def _parts(messages: object) -> frozenset[int]:
    lines: Sequence[object] = messages if isinstance(messages, list) else ()
    return frozenset(int(found[1]) for line in lines if (found := _PART.search(str(line))))


def first_step() -> tuple[State, Send]:
    """Begin with a start."""
    return State(), Send(None, 0.0)


def step(state: State, answer: ExportAnswer, sent: Sent, request: ExportRequest) -> tuple[State, Send | Complete]:
    """The next step after a response.

    :param state: where the export stood when the request was sent.
    :param answer: the response.
    :param sent: circumstances of the request.
    :param request: what the user asked for.
    :return: the new state, and what to send next or the finished export.
    :raises D1ExportError: when it is over without a dump.
    :raises D1ApiError: when the API refuses, and a retry cannot help.
    """
    if isinstance(answer, Failed):
        raise answer.error
    if isinstance(answer, Complete):
        return replace(state, parts=state.parts | answer.parts, bookmark=answer.bookmark or state.bookmark), answer
    return after_start(state, answer) if state.bookmark is None else after_poll(state, answer, sent, request, EXPORT)
