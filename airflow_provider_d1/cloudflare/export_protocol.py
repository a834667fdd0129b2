"""The export endpoint as a pure state machine: requests, what a response means, and what to send next.

Its responses need care: a running export has a status that the published types do not list, a failure can be HTTP 200
with ``success: true`` in the envelope, and one message means "finished and fetched", "cancelled" and "never existed".
The transitions follow from how D1 behaves: it cancels an export that was not polled for 15 seconds, announces the
end only once, can lose exports, and runs one at a time for each database.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import api_errors, protocol
from airflow_provider_d1.cloudflare.messages import Request, Response
from airflow_provider_d1.cloudflare.rate_limit import POLL_GAP
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1ExportError,
    D1ExportLostError,
    D1RateLimitError,
    D1VirtualTableError,
)
from airflow_provider_d1.validation import counted

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.models import ExportOptions, ExportRequest

NOT_EXPORTING = "Not currently exporting anything"
_PART = re.compile(r"Uploaded part (\d{1,9})")


@dataclass(frozen=True, slots=True)
class Running:
    """The export is running; ``bookmark`` is None where the response had none."""

    bookmark: str | None
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Complete:
    """The dump is ready. ``url`` is a credential, and D1 may not return it a second time."""

    bookmark: str | None
    filename: str
    url: str = field(repr=False)
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Busy:
    """Another export of this database is running, or one without polls has not yet timed out."""


@dataclass(frozen=True, slots=True)
class Lost:
    """D1 knows no such export: it was cancelled or timed out, or its end was announced before."""


@dataclass(frozen=True, slots=True)
class Unclear:
    """No response, or one that says nothing about the export: a reset, a gateway's page, a transient error of D1."""

    error: D1ApiError | D1ExportError


@dataclass(frozen=True, slots=True)
class Failed:
    """The export is over, without a dump."""

    error: D1ApiError | D1ExportError


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
    try:
        envelope = protocol.read_envelope(answer)
    except D1ApiError as error:
        return _from_error(error)
    result = envelope.result if isinstance(envelope.result, dict) else {}
    if not envelope.success or answer.status >= 400:
        said = envelope.message or _inner_error(result)
        return _from_message(said) or _from_error(api_errors.failure(answer, envelope.errors or ((None, said),)))
    # an explicit failure counts before any status, and a status of "error" before what else the answer holds
    inner = answer.secret.redact(_inner_error(result))
    status = result.get("status")
    if result.get("success") is False or inner or status == "error":
        return _from_message(inner) or Failed(
            D1ExportError(f"D1 could not export the database: {inner or 'no reason given'}")
        )
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
    if api_errors.is_busy(message):
        return Busy()
    if "virtual table" in message.lower():
        return Failed(
            D1VirtualTableError(
                f"D1 refused the export: {message}. Such an attempt can leave the database locked. Pass tables=[…]"
                ' without virtual tables, or on_virtual_table="skip"'
            )
        )
    if api_errors.is_permanent(message):
        said = api_errors.with_remedy(message)
        return Failed(D1ExportError(f"D1 could not export the database: {said}", retryable=False))
    if api_errors.is_transient(message):
        return Unclear(D1ExportError(f"D1 answered: {message}"))
    return None


def _from_error(error: D1ApiError) -> ExportAnswer:
    return Unclear(error) if error.retryable else Failed(error)


def _inner_error(result: dict[str, Any]) -> str:
    return api_errors.text_of(result.get("error")) or api_errors.text_of(result.get("errors"))


def _parts(messages: object) -> frozenset[int]:
    lines: Sequence[object] = messages if isinstance(messages, list) else ()
    return frozenset(int(found[1]) for line in lines if (found := _PART.search(str(line))))


# --- transitions ------------------------------------------------------------------------------------------------------

#: shortest gap between two polls
MIN_GAP = 0.5
#: seconds before a start is sent again: after a lost export; after no clear answer, doubling; while D1 is busy
RESTART_GAP = 1.0
MAX_RESTART_GAP = 15.0
BUSY_GAP = POLL_GAP


@dataclass(frozen=True, slots=True)
class State:
    """Where an export stands between two requests; ``bookmark`` is None while none is running.

    ``unclear`` counts unclear responses in a row. ``excused`` are those of the ``restarts`` that a rate-limit block
    caused; ``refused`` says that the rate limit refused a poll since the last clear response.
    """

    bookmark: str | None = None
    polls: int = 0
    restarts: int = 0
    excused: int = 0
    unclear: int = 0
    refused: bool = False
    busy: bool = False
    parts: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Send:
    """Send the next request after ``delay`` seconds: a start when ``bookmark`` is None, else a poll of it.

    ``refused`` says that the delay is Cloudflare's own, for the rate limit. ``readmit`` says that the rate limiter has
    to admit the export again before it is started.
    """

    bookmark: str | None
    delay: float
    refused: bool = False
    readmit: bool = False


@dataclass(frozen=True, slots=True)
class Sent:
    """The request just answered: seconds it took, the export's age at its sending, and the rate limiter's state.

    ``blocked`` says that calls were held back or refused since the last response about the export.
    """

    took: float
    age: float
    under_pressure: bool = False
    nearly_exhausted: bool = False
    blocked: bool = False


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
    return _after_start(state, answer) if state.bookmark is None else _after_poll(state, answer, sent, request)


def _after_start(state: State, answer: Running | Busy | Lost | Unclear) -> tuple[State, Send]:
    match answer:
        case Running(bookmark) if bookmark is not None:
            return replace(state, bookmark=bookmark, unclear=0, busy=False, parts=answer.parts), Send(bookmark, 0.0)
        case Busy():
            # Another export, or our own start whose response was lost: the first ends, the second times out.
            return replace(state, busy=True, unclear=0), Send(None, BUSY_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            wait = Send(None, max(seconds, RESTART_GAP), refused=True, readmit=True)
            return replace(state, unclear=state.unclear + 1, busy=False), wait
        case _:
            gap = min(2.0 * RESTART_GAP * 2 ** min(state.unclear, 10), MAX_RESTART_GAP)
            if isinstance(answer, Unclear) and isinstance(answer.error, D1ApiError):
                gap = max(gap, answer.error.retry_after or 0.0)
            return replace(state, unclear=state.unclear + 1, busy=False), Send(None, gap)


def _after_poll(
    state: State, answer: Running | Busy | Lost | Unclear, sent: Sent, request: ExportRequest
) -> tuple[State, Send]:
    match answer:
        case Lost():
            if sent.blocked or state.refused:
                # When the rate limit blocks the token, every running export is lost and begins again. So this loss
                # does not count against max_restarts, and each export has to be admitted once more.
                begun_again = State(polls=state.polls, restarts=state.restarts + 1, excused=state.excused + 1)
                return begun_again, Send(None, RESTART_GAP, readmit=True)
            if state.restarts - state.excused >= request.max_restarts:
                times = counted(state.restarts + 1, "time")
                raise D1ExportLostError(
                    f"D1 lost the export {times} (max_restarts={request.max_restarts}): it was"
                    " cancelled, or the response announcing its completion was lost"
                )
            return State(polls=state.polls, restarts=state.restarts + 1, excused=state.excused), Send(None, RESTART_GAP)
        case Unclear(D1RateLimitError(retry_after=float(seconds))):
            wait = Send(state.bookmark, max(seconds, MIN_GAP), refused=True)
            return replace(state, unclear=state.unclear + 1, refused=True), wait
        case Unclear():
            gap = min(MIN_GAP * 2 ** min(state.unclear, 10), POLL_GAP)
            return replace(state, unclear=state.unclear + 1), Send(state.bookmark, max(0.0, gap - sent.took))
        case Running():
            state = replace(
                state,
                bookmark=answer.bookmark or state.bookmark,
                unclear=0,
                refused=False,
                parts=state.parts | answer.parts,
            )
        case Busy():
            pass  # if our own export is running, go on polling; if not, the next response says that ours is lost
    return state, Send(state.bookmark, max(0.0, gap_after(sent, request.poll_interval) - sent.took))


def gap_after(sent: Sent, poll_interval: float | None) -> float:
    """Seconds between sending one poll and the next: constant, or a quarter of the age that the export will have then.

    A quarter of the *coming* age is a third of the present one. A constant gap gives way only to the rate limit.
    """
    if poll_interval is not None:
        return max(poll_interval, POLL_GAP) if sent.nearly_exhausted else poll_interval
    return POLL_GAP if sent.under_pressure else min(max(MIN_GAP, sent.age / 3), POLL_GAP)
