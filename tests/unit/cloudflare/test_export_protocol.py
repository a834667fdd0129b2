"""Each answer of the export endpoint that D1 is known to give, word for word, and what it means."""

from __future__ import annotations

import json

import pytest

from airflow_provider_d1.cloudflare import export_protocol
from airflow_provider_d1.cloudflare.export_protocol import Complete, read_export
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.cloudflare.models import ExportOptions
from airflow_provider_d1.cloudflare.polled_job import Busy, Failed, Lost, Running, Unclear
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1ConnectionError,
    D1DatabaseNotFoundError,
    D1ExportError,
    D1RateLimitError,
    D1VirtualTableError,
)

ACTIVE = (
    '{"success":true,"result":{"success":true,"type":"export","at_bookmark":"…","status":"active",'
    '"messages":["Generating x.sql","Uploaded part 2","Uploaded part 1"]}}'
)
COMPLETE = (
    '{"success":true,"result":{"success":true,"type":"export","at_bookmark":"…","status":"complete",'
    '"messages":["Finished uploading x.sql in 4 parts."],"result":{"filename":"x.sql","signed_url":"https://…"}}}'
)
OUTER_URL = (
    '{"success":true,"result":{"success":true,"status":"complete","at_bookmark":"…","filename":"x.sql",'
    '"signed_url":"https://…"}}'
)


def read(body: str | bytes, status: int = 200, **headers: str) -> export_protocol.ExportAnswer:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_export(Response(status, names, body.encode() if isinstance(body, str) else body))


def failing(message: str) -> str:
    """The failure that comes as a success."""
    return json.dumps({"success": True, "result": {"success": False, "error": message}})


def refused(code: int, message: str) -> str:
    return json.dumps(
        {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}
    )


# --- requests


def test_a_start_names_the_format_and_all_options() -> None:
    request = export_protocol.export("acc", "uuid", ExportOptions(no_data=True))
    assert (request.method, request.path) == ("POST", "/accounts/acc/d1/database/uuid/export")
    assert request.body == {
        "output_format": "polling",
        "dump_options": {"no_schema": False, "no_data": True, "tables": []},
    }
    assert not request.idempotent


def test_a_poll_repeats_them_and_adds_the_bookmark() -> None:
    request = export_protocol.export("acc", "uuid", ExportOptions(("a", "b"), no_schema=True), bookmark="bm")
    assert request.body == {
        "output_format": "polling",
        "dump_options": {"no_schema": True, "no_data": False, "tables": ["a", "b"]},
        "current_bookmark": "bm",
    }


# --- running


def test_active_comes_with_202_and_parts_out_of_order() -> None:
    assert read(ACTIVE, 202) == Running("…", frozenset({1, 2}))


def test_an_unreadable_part_number_is_ignored() -> None:
    body = {
        "success": True,
        "result": {"success": True, "at_bookmark": "b", "messages": [f"Uploaded part {'9' * 5000}"]},
    }
    assert isinstance(read(json.dumps(body), 202), Running)


def test_active_with_200_is_running_too() -> None:
    assert read(ACTIVE, 200) == Running("…", frozenset({1, 2}))


def test_a_missing_status_is_running() -> None:
    assert read('{"success":true,"result":{"success":true,"at_bookmark":"b"}}') == Running("b")


def test_a_202_without_anything_is_running() -> None:
    assert read('{"success":true,"result":null}', 202) == Running(None)


def test_an_unknown_status_counts_as_running() -> None:
    assert read('{"success":true,"result":{"success":true,"at_bookmark":"b","status":"queued"}}') == Running("b")


# --- complete


def test_the_url_is_in_the_inner_result() -> None:
    assert read(COMPLETE) == Complete("…", "x.sql", "https://…")


def test_or_where_some_documents_show_it() -> None:
    assert read(OUTER_URL) == Complete("…", "x.sql", "https://…")


def test_the_url_is_in_no_repr() -> None:
    assert "https" not in repr(read(COMPLETE))


def test_complete_without_a_url_is_a_failure_that_may_pass() -> None:
    outcome = read('{"success":true,"result":{"success":true,"status":"complete","at_bookmark":"b","result":{}}}')
    assert isinstance(outcome, Failed)
    assert outcome.error.retryable


# --- failures inside a success


def test_not_currently_exporting_is_lost() -> None:
    assert read(failing("Not currently exporting anything.")) == Lost()


def test_a_second_export_is_busy() -> None:
    message = "Currently processing a long-running export. Cannot start a new export until that completes or times out."
    assert read(failing(message)) == Busy()


@pytest.mark.parametrize("status", [400, 409, 500])
def test_busy_and_lost_also_count_as_outer_errors(status: int) -> None:
    assert read(refused(7500, "Currently processing a long-running export."), status) == Busy()
    assert read(refused(7500, "Not currently exporting anything."), status) == Lost()


@pytest.mark.parametrize("body", [COMPLETE, OUTER_URL])
def test_a_url_without_any_status_is_the_end(body: str) -> None:
    bare = body.replace('"status":"complete",', "")
    assert bare != body
    assert read(bare) == read(body)
    assert isinstance(read(bare), Complete)


def test_a_url_while_it_runs_is_not() -> None:
    assert isinstance(read(OUTER_URL.replace("complete", "active"), 202), Running)


def test_a_virtual_table_has_its_own_error() -> None:
    outcome = read(failing("D1 Export error: cannot export databases with Virtual Tables (fts5)"))
    assert isinstance(outcome, Failed)
    assert isinstance(outcome.error, D1VirtualTableError)
    assert "fts5" in str(outcome.error)
    assert not outcome.error.retryable


def test_an_unknown_inner_failure_is_a_retryable_export_error() -> None:
    outcome = read(failing("the moon is in the wrong house"))
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is D1ExportError
    assert outcome.error.retryable
    assert "the moon is in the wrong house" in str(outcome.error)


def test_status_error_with_a_string() -> None:
    outcome = read('{"success":true,"result":{"success":true,"status":"error","error":"boom","at_bookmark":"b"}}')
    assert isinstance(outcome, Failed)
    assert "boom" in str(outcome.error)


def test_status_error_with_a_list() -> None:
    outcome = read('{"success":true,"result":{"success":true,"status":"error","errors":["boom","bang"]}}')
    assert isinstance(outcome, Failed)
    assert "boom; bang" in str(outcome.error)


def test_status_error_without_a_reason() -> None:
    outcome = read('{"success":true,"result":{"status":"error"}}')
    assert isinstance(outcome, Failed)
    assert outcome.error.retryable


def test_an_inner_error_counts_before_the_status() -> None:
    body = '{"success":true,"result":{"success":false,"status":"active","error":"Not currently exporting anything."}}'
    assert read(body, 202) == Lost()


@pytest.mark.parametrize(
    "message",
    [
        "D1 DB exceeded its CPU time limit and was reset.",
        "Your account has exceeded D1's free tier daily row read limit.",
    ],
)
def test_a_limit_is_not_worth_a_retry(message: str) -> None:
    outcome = read(failing(message))
    assert isinstance(outcome, Failed)
    assert not outcome.error.retryable


@pytest.mark.parametrize(
    "message",
    [
        "D1 DB reset because its code was updated.",
        "Network connection lost.",
        "Internal error caused object to be reset.",
        "Cannot resolve D1 DB due to transient issue on remote node.",
        "D1 DB is overloaded. Requests queued for too long.",
    ],
)
def test_transient_errors_are_unclear(message: str) -> None:
    assert isinstance(read(failing(message)), Unclear)
    assert isinstance(read(refused(7500, message), 400), Unclear)


# --- failures of the call


def test_a_gateways_page_is_unclear() -> None:
    outcome = read("<!DOCTYPE html><title>502 Bad Gateway</title>", 502, content_type="text/html")
    assert isinstance(outcome, Unclear)
    assert "HTML page" in str(outcome.error)


@pytest.mark.parametrize("status", [200, 202])
def test_cut_json_is_unclear(status: int) -> None:
    assert isinstance(read(COMPLETE[:100], status), Unclear)


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 520, 524])
def test_server_errors_are_unclear(status: int) -> None:
    assert isinstance(read(refused(7009, "Upstream service unavailable"), status), Unclear)


def test_the_rate_limit_is_unclear_with_its_retry_after() -> None:
    outcome = read(refused(971, "Please wait and consider throttling"), 429, retry_after="287")
    assert isinstance(outcome, Unclear)
    assert isinstance(outcome.error, D1RateLimitError)
    assert outcome.error.retry_after == 287


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 7400, D1ApiError),
        (404, 7404, D1DatabaseNotFoundError),
        (400, 7003, D1DatabaseNotFoundError),
        (404, 7003, D1DatabaseNotFoundError),
        (401, 10000, D1AuthenticationError),
        (403, 10000, D1AuthenticationError),
        (400, 9109, D1AuthenticationError),
    ],
)
def test_a_refusal_is_final(status: int, code: int, kind: type[D1ApiError]) -> None:
    outcome = read(refused(code, "no"), status)
    assert isinstance(outcome, Failed)
    assert type(outcome.error) is kind
    assert isinstance(outcome.error, D1ApiError)
    assert not outcome.error.retryable
    assert outcome.error.code == code


def test_a_redirect_is_final() -> None:
    outcome = read("", 302, location="https://elsewhere.example/?sig=1")
    assert isinstance(outcome, Failed)
    assert not isinstance(outcome.error, D1ConnectionError)
    assert "elsewhere" not in str(outcome.error)


def test_a_signature_in_a_message_is_removed() -> None:
    outcome = read(failing("PUT https://r2.example/x.sql?X-Amz-Signature=5e3c7e7 failed"))
    assert isinstance(outcome, Failed)
    assert "5e3c7e7" not in str(outcome.error)
    assert "https://r2.example/x.sql" in str(outcome.error)
