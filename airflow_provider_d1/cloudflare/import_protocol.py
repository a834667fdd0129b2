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

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow_provider_d1.cloudflare import protocol
from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.cloudflare.import_models import ImportResult
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
from airflow_provider_d1.exceptions import D1ImportError, D1ImportLostError, D1UploadError

if TYPE_CHECKING:
    from airflow_provider_d1.cloudflare.import_models import ImportRequest

NOT_IMPORTING = "Not currently importing anything"
CANCELLED = "Cancelled due to no poll()"
IMPORT = JobKind("import", "import the file", D1ImportError, D1ImportLostError)
#: the key column of the table of imports; in D1's message when a file is run a second time
KEY_COLUMN = "d1_import_key"


@dataclass(frozen=True, slots=True)
class UploadRequired:
    """The file has to be uploaded to this signed URL, which is a credential."""

    filename: str
    url: Secret = field(repr=False)


@dataclass(frozen=True, slots=True)
class ImportFinished:
    """The file was applied, now or by an earlier attempt (``result.repeated``)."""

    result: ImportResult


ImportAnswer = UploadRequired | Running | ImportFinished | Busy | Lost | Unclear | Failed


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
    result: dict[str, Any] | ImportAnswer = read_result(answer, _from_message, _failed)
    if not isinstance(result, dict):
        return result
    url, filename = _text(result, "upload_url", "uploadUrl"), _text(result, "filename")
    if url and filename:
        return UploadRequired(filename, Secret(url))
    bookmark = _text(result, "at_bookmark")
    if result.get("status") == "complete":
        return ImportFinished(_result(result, bookmark))
    return Running(bookmark)


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
        return Lost()
    if f".{KEY_COLUMN}" in message:
        return ImportFinished(ImportResult(repeated=True))
    return read_message(message, IMPORT)


def _failed(message: str) -> Failed:
    return Failed(D1ImportError(f"D1 could not import the file: {message or 'no reason given'}", retryable=False))


def _text(data: dict[str, Any], *names: str) -> str | None:
    return next((value for name in names if isinstance(value := data.get(name), str) and value), None)


def _count(data: dict[str, Any], *names: str) -> int | None:
    return next((value for name in names if isinstance(value := data.get(name), int)), None)


def next_step(
    state: State, answer: ImportAnswer, sent: Sent, request: ImportRequest
) -> tuple[State, Send | ImportResult]:
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
        case Failed(error):
            raise error
        case UploadRequired():
            raise D1UploadError("D1 no longer has the uploaded file; a retry uploads it again")
        case ImportFinished(result):
            return state, result
        case _ if state.bookmark is None:
            return after_start(state, answer)
        case _:
            return after_poll(state, answer, sent, request, IMPORT)
