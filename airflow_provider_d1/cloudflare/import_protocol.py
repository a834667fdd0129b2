"""The import endpoint as a pure state machine: requests, what a response means, and what to send next.

*init* announces a file by its MD5. D1 returns a signed URL for the upload or, if it already has the file,
starts the import. *ingest* starts the import of an uploaded file, *poll* returns its state. An import that is not
polled for 15 seconds is cancelled, its end is announced only once, and it is one transaction: a file that fails does
not change the database.

After a lost response it is unknown whether an import was applied. The file ensures that it is applied once: it ends
with an INSERT whose key is this import's (:mod:`~airflow_provider_d1.into_d1.import_record`), so that D1 refuses to run
it a second time.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import api_errors, protocol
from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.cloudflare.export_protocol import (
    BUSY_GAP,
    MAX_RESTART_GAP,
    MIN_GAP,
    RESTART_GAP,
    Sent,
    gap_after,
)
from airflow_provider_d1.cloudflare.import_models import ImportResult
from airflow_provider_d1.cloudflare.messages import Request, Response
from airflow_provider_d1.cloudflare.rate_limit import POLL_GAP
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1ImportError,
    D1ImportLostError,
    D1RateLimitError,
    D1UploadError,
)

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.import_models import ImportRequest

NOT_IMPORTING = "Not currently importing anything"
CANCELLED = "Cancelled due to no poll()"
#: the key column of the table of imports; in D1's message when a file is run a second time
KEY_COLUMN = "d1_import_key"


@dataclass(frozen=True, slots=True)
class UploadRequired:
    """The file has to be uploaded to this signed URL, which is a credential."""

    filename: str
    url: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportRunning:
    """The import is running; ``bookmark`` is None where the response had none."""

    bookmark: str | None


@dataclass(frozen=True, slots=True)
class ImportFinished:
    """The file was applied, now or by an earlier attempt (``result.repeated``)."""

    result: ImportResult


@dataclass(frozen=True, slots=True)
class ImportBusy:
    """Another import or an export of this database is running, or one without polls has not yet timed out."""


@dataclass(frozen=True, slots=True)
class ImportLost:
    """D1 knows no such import: it was cancelled, or its end was announced before."""


@dataclass(frozen=True, slots=True)
class ImportUnclear:
    """No response, or one that says nothing about the import."""

    error: D1ApiError | D1ImportError


@dataclass(frozen=True, slots=True)
class ImportRefused:
    """The import has failed; the database was not changed."""

    error: D1ApiError | D1ImportError


ImportAnswer = UploadRequired | ImportRunning | ImportFinished | ImportBusy | ImportLost | ImportUnclear | ImportRefused


def init(account_id: str, database_id: str, etag: str) -> Request:
    """Announce a file by its MD5."""
    return _request(account_id, database_id, {"action": "init", "etag": etag})


def begin(account_id: str, request: ImportRequest) -> Request:
    """Start the import of an uploaded file; a file that D1 already had is identified by its MD5 only."""
    if not request.filename:
        return init(account_id, request.database_id, request.etag)
    body = {"action": "ingest", "etag": request.etag, "filename": request.filename}
    return _request(account_id, request.database_id, body)


def poll(account_id: str, database_id: str, bookmark: str) -> Request:
    """Request the state of an import."""
    return _request(account_id, database_id, {"action": "poll", "current_bookmark": bookmark})


def _request(account_id: str, database_id: str, body: dict[str, Any]) -> Request:
    return Request("POST", protocol.database_path(account_id, database_id, "import"), body=body, idempotent=False)


def read_import(answer: Response) -> ImportAnswer:
    """Read a response: first the failures, outer and inner, then the upload URL, then the status."""
    try:
        envelope = protocol.read_envelope(answer)
    except D1ApiError as error:
        return _from_error(error)
    result = envelope.result if isinstance(envelope.result, dict) else {}
    if not envelope.success or answer.status >= 400:
        said = envelope.message or _inner_error(result)
        return _from_message(said) or _from_error(api_errors.failure(answer, envelope.errors or ((None, said),)))
    inner = answer.secret.redact(_inner_error(result))
    status = result.get("status")
    if result.get("success") is False or inner or status == "error":
        return _from_message(inner) or ImportRefused(
            D1ImportError(f"D1 could not import the file: {inner or 'no reason given'}", retryable=False)
        )
    url, filename = _text(result, "upload_url", "uploadUrl"), _text(result, "filename")
    if url and filename:
        return UploadRequired(filename, Secret(url))
    bookmark = _text(result, "at_bookmark")
    if status == "complete":
        return ImportFinished(_result(result, bookmark))
    return ImportRunning(bookmark)


def _result(result: dict[str, Any], bookmark: str | None) -> ImportResult:
    inner = result.get("result")
    inner = inner if isinstance(inner, dict) else {}
    meta = inner.get("meta")
    meta = meta if isinstance(meta, dict) else {}
    return ImportResult(
        bookmark=_text(inner, "final_bookmark", "finalBookmark"),
        previous_bookmark=bookmark,
        num_queries=_count(inner, "num_queries", "numQueries"),
        rows_read=_count(meta, "rows_read"),
        rows_written=_count(meta, "rows_written"),
        changes=_count(meta, "changes"),
        size=_count(meta, "size_after"),
    )


def _from_message(message: str) -> ImportAnswer | None:
    if NOT_IMPORTING in message or CANCELLED in message:
        return ImportLost()
    if f".{KEY_COLUMN}" in message:
        return ImportFinished(ImportResult(repeated=True))
    if api_errors.is_busy(message):
        return ImportBusy()
    if api_errors.is_permanent(message):
        said = api_errors.with_remedy(message)
        return ImportRefused(D1ImportError(f"D1 could not import the file: {said}", retryable=False))
    if api_errors.is_transient(message):
        return ImportUnclear(D1ImportError(f"D1 answered: {message}"))
    return None


def _from_error(error: D1ApiError) -> ImportAnswer:
    return ImportUnclear(error) if error.retryable else ImportRefused(error)


def _inner_error(result: dict[str, Any]) -> str:
    return api_errors.text_of(result.get("error")) or api_errors.text_of(result.get("errors"))


def _text(data: dict[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := data.get(name), str) and value), None)


def _count(data: dict[str, Any], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := data.get(name), int)), None)


# --- transitions ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportState:
    """Where an import stands between two requests; ``bookmark`` is None while none is running.

    ``unclear`` counts unclear responses in a row. ``refused`` says that the rate limit refused a poll since the last
    clear response.
    """

    bookmark: str | None = None
    polls: int = 0
    restarts: int = 0
    excused: int = 0
    unclear: int = 0
    refused: bool = False
    busy: bool = False


@dataclass(frozen=True, slots=True)
class ImportStep:
    """Send the next request after ``delay`` seconds: begin the import when ``bookmark`` is None, else poll it.

    ``refused`` says that the delay is Cloudflare's own, for the rate limit.
    """

    bookmark: str | None
    delay: float
    refused: bool = False


def next_step(
    state: ImportState, answer: ImportAnswer, sent: Sent, request: ImportRequest
) -> tuple[ImportState, ImportStep | ImportResult]:
    """The next step after a response.

    :param state: where the import stood when the request was sent.
    :param answer: the response.
    :param sent: circumstances of the request.
    :param request: what is imported.
    :return: the new state, and what to send next or the import's result.
    :raises D1ImportError: when the import has ended without being applied.
    :raises D1ApiError: when the API refuses, and a retry cannot help.
    """
    match answer:
        case ImportRefused(error):
            raise error
        case UploadRequired():
            raise D1UploadError("D1 no longer has the uploaded file; a retry uploads it again")
        case ImportFinished(result):
            return state, result
        case _ if state.bookmark is None:
            return _after_begin(state, answer)
        case _:
            return _after_import_poll(state, answer, sent, request)


def _after_begin(
    state: ImportState, answer: ImportRunning | ImportBusy | ImportLost | ImportUnclear
) -> tuple[ImportState, ImportStep]:
    match answer:
        case ImportRunning(bookmark) if bookmark is not None:
            return replace(state, bookmark=bookmark, unclear=0, busy=False), ImportStep(bookmark, 0.0)
        case ImportBusy():
            # Another export or import, or our own whose response was lost: the first ends, the second times out.
            return replace(state, busy=True, unclear=0), ImportStep(None, BUSY_GAP)
        case ImportUnclear(D1RateLimitError(retry_after=float(seconds))):
            step = ImportStep(None, max(seconds, RESTART_GAP), refused=True)
            return replace(state, unclear=state.unclear + 1, busy=False), step
        case _:
            gap = min(2.0 * RESTART_GAP * 2 ** min(state.unclear, 10), MAX_RESTART_GAP)
            if isinstance(answer, ImportUnclear) and isinstance(answer.error, D1ApiError):
                gap = max(gap, answer.error.retry_after or 0.0)
            return replace(state, unclear=state.unclear + 1, busy=False), ImportStep(None, gap)


def _after_import_poll(
    state: ImportState,
    answer: ImportRunning | ImportBusy | ImportLost | ImportUnclear,
    sent: Sent,
    request: ImportRequest,
) -> tuple[ImportState, ImportStep]:
    match answer:
        case ImportLost():
            # A loss caused by the rate limit does not count against max_restarts.
            excused = state.excused + (sent.blocked or state.refused)
            if excused == state.excused and state.restarts - state.excused >= request.max_restarts:
                raise D1ImportLostError(
                    f"D1 lost the import {state.restarts + 1} times (max_restarts={request.max_restarts}): it was"
                    " cancelled, or the response announcing its completion was lost"
                )
            again = ImportState(polls=state.polls, restarts=state.restarts + 1, excused=excused)
            return again, ImportStep(None, RESTART_GAP)
        case ImportUnclear(D1RateLimitError(retry_after=float(seconds))):
            step = ImportStep(state.bookmark, max(seconds, MIN_GAP), refused=True)
            return replace(state, unclear=state.unclear + 1, refused=True), step
        case ImportUnclear():
            gap = min(MIN_GAP * 2 ** min(state.unclear, 10), POLL_GAP)
            return replace(state, unclear=state.unclear + 1), ImportStep(state.bookmark, max(0.0, gap - sent.took))
        case ImportRunning(bookmark):
            state = replace(state, bookmark=bookmark or state.bookmark, unclear=0, refused=False)
        case ImportBusy():
            pass  # if our own import is running, go on polling; if not, the next response says that ours is lost
    return state, ImportStep(state.bookmark, max(0.0, gap_after(sent, request.poll_interval) - sent.took))
