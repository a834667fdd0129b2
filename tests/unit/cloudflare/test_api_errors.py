"""What is worth a retry, and which error a refusal is."""

from __future__ import annotations

import json
import time
from email.utils import formatdate

import pytest

from airflow_provider_d1.cloudflare import protocol
from airflow_provider_d1.cloudflare.api_errors import http_date, retry_after, text_of
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1DatabaseNotFoundError,
    D1RateLimitError,
)


def error_of(status: int, *errors: dict[str, object], **headers: str) -> D1ApiError:
    body = json.dumps({"success": False, "errors": list(errors), "messages": [], "result": None}).encode()
    with pytest.raises(D1ApiError) as caught:
        protocol.read_result(Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body))
    return caught.value


def test_an_sql_error_is_permanent_with_sqlites_message() -> None:
    error = error_of(400, {"code": 7500, "message": "no such table: users: SQLITE_ERROR"})
    assert (error.status, error.code, error.retryable) == (400, 7500, False)
    assert "no such table: users" in str(error)


@pytest.mark.parametrize(
    "message",
    [
        "D1 DB reset because its code was updated.",
        "Network connection lost.",
        "Internal error in D1 storage caused object to be reset.",
        "Cannot resolve D1 DB due to transient issue on remote node.",
        "Currently processing a long-running export.",
    ],
)
def test_the_same_code_with_a_transient_message_is_retryable(message: str) -> None:
    assert error_of(400, {"code": 7500, "message": message}).retryable


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504, 522])
def test_server_errors_are_retryable(status: int) -> None:
    assert error_of(status, {"code": 7009, "message": "upstream unavailable"}).retryable


@pytest.mark.parametrize("status", [400, 500])
def test_the_cpu_limit_may_not(status: int) -> None:
    error = error_of(status, {"code": 7500, "message": "D1 DB exceeded its CPU time limit and was reset."})
    assert not error.retryable


@pytest.mark.parametrize("status", [400, 403, 429, 500])
@pytest.mark.parametrize("rows", ["read", "write"])
def test_the_free_plans_daily_limit_may_not_and_has_a_remedy(status: int, rows: str) -> None:
    message = f"Your account has exceeded D1's free tier daily row {rows} limit. Upgrade to a paid plan."
    error = error_of(status, {"code": 7500, "message": message})
    assert type(error) is D1ApiError
    assert not error.retryable
    assert "No retry helps before 00:00 UTC" in str(error)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, 7400, D1ApiError),
        (404, 7404, D1DatabaseNotFoundError),
        (200, 7404, D1DatabaseNotFoundError),
        (400, 7003, D1DatabaseNotFoundError),
        (403, 10000, D1AuthenticationError),
        (401, 10000, D1AuthenticationError),
        (400, 9109, D1AuthenticationError),
    ],
)
def test_codes_that_are_final(status: int, code: int, kind: type[D1ApiError]) -> None:
    error = error_of(status, {"code": code, "message": "no"})
    assert type(error) is kind
    assert not error.retryable


@pytest.mark.parametrize("status", [401, 403, 404, 429])
def test_a_status_is_enough_where_the_body_is_no_json(status: int) -> None:
    with pytest.raises(D1ApiError) as caught:
        protocol.read_result(Response(status, {"content-type": "text/html"}, b"<html>"))
    kinds = {
        401: D1AuthenticationError,
        403: D1AuthenticationError,
        404: D1DatabaseNotFoundError,
        429: D1RateLimitError,
    }
    assert type(caught.value) is kinds[status]


def test_several_errors_are_joined_in_one_line() -> None:
    error = error_of(400, {"code": 7400, "message": "first"}, {"code": 1, "message": "second"})
    assert "first; second (HTTP 400, code 7400)" in str(error)


@pytest.mark.parametrize("errors", ["plain text", {"message": "an object"}, [None], [3], ["a line"], None])
def test_errors_of_odd_shapes_do_no_harm(errors: object) -> None:
    body = json.dumps({"success": False, "errors": errors, "result": None}).encode()
    with pytest.raises(D1ApiError):
        protocol.read_result(Response(400, {}, body))


def test_an_overloaded_d1_is_not_the_request_limit() -> None:
    error = error_of(429, {"code": 7500, "message": "D1 DB is overloaded. Requests queued for too long."})
    assert isinstance(error, D1RateLimitError)
    assert "overloaded" in str(error)
    assert "limit" not in str(error)


# --- Retry-After


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("300", 300.0),
        ("0", 0.0),
        ("1.5", 1.5),
        (" 7 ", 7.0),
        ("", None),
        ("-3", None),
        ("soon", None),
        ("nan", None),
        ("9" * 40, None),
    ],
)
def test_retry_after_in_seconds(value: str, seconds: float | None) -> None:
    assert retry_after(Response(429, {"retry-after": value}, b"")) == seconds


def test_retry_after_as_a_date_counts_from_the_servers_own_date() -> None:
    headers = {"retry-after": "Thu, 01 Jan 1970 00:05:00 GMT", "date": "Thu, 01 Jan 1970 00:00:30 GMT"}
    assert retry_after(Response(429, headers, b"")) == 270.0


def test_a_date_in_the_past_is_now() -> None:
    headers = {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT", "date": "Thu, 01 Jan 1970 00:00:30 GMT"}
    assert retry_after(Response(429, headers, b"")) == 0.0


def test_a_retry_after_date_without_a_date_header_uses_our_clock() -> None:
    wait = retry_after(Response(429, {"retry-after": formatdate(time.time() + 800, usegmt=True)}, b""))
    assert wait is not None
    assert 700 < wait < 801


@pytest.mark.parametrize("value", ["999999999", "Fri, 01 Jan 2126 00:00:00 GMT"])
def test_an_absurd_wait_is_cut_to_fifteen_minutes(value: str) -> None:
    assert retry_after(Response(429, {"retry-after": value}, b"")) == 900.0


@pytest.mark.parametrize("value", ["", "yesterday", "32 Foo 2026", "Thu, 01 Jan 99999999 00:00:00 GMT"])
def test_no_date(value: str) -> None:
    assert http_date(value) is None


# --- words


def test_a_long_message_is_cut_and_a_page_becomes_one_line() -> None:
    assert text_of("a\n\n  b") == "a b"
    assert len(text_of("x" * 10_000)) == 501


def test_a_signed_url_loses_its_query() -> None:
    assert text_of('see "https://a.example/b?X-Amz-Signature=1&c=2" now') == 'see "https://a.example/b?…" now'
