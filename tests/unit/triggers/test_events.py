"""The trigger's one event: what goes in comes out, and nothing else does."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from airflow_provider_d1 import exceptions
from airflow_provider_d1.cloudflare.models import D1Export, ExportOptions, SkippedObject
from airflow_provider_d1.triggers import events

EXPORT = D1Export(
    database_id="11111111-2222-3333-4444-555555555555",
    database_name="shop",
    account_id="a" * 32,
    bookmark="00000001",
    filename="shop.sql",
    sealed_url="d1seal1.1.x",
    expires_at=datetime(2026, 11, 22, 13, tzinfo=UTC),
    started_at=datetime(2026, 11, 22, 12, tzinfo=UTC),
    completed_at=datetime(2026, 11, 22, 12, 0, 30, tzinfo=UTC),
    polls=9,
    restarts=1,
    options=ExportOptions(tables=("users",), no_data=True),
    skipped=(SkippedObject("search", "virtual table"),),
)


def test_a_finished_export_crosses_as_plain_json() -> None:
    event = json.loads(json.dumps(events.success(EXPORT)))
    assert event["status"] == "success"
    assert events.exported(event) == EXPORT


@pytest.mark.parametrize(
    "error",
    [
        exceptions.D1VirtualTableError("has fts5"),
        exceptions.D1ExportLostError("lost four times"),
        exceptions.D1AuthenticationError("bad token", status=401, code=10000),
        exceptions.D1ApiError("teapot", status=418, retryable=True),
        exceptions.D1ConfigurationError("no account_id"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_crosses_with_class_text_and_whether_a_retry_helps(error: exceptions.D1Error) -> None:
    event = json.loads(json.dumps(events.failure(error)))
    assert event["status"] == "error"
    assert event["error"] == type(error).__name__
    with pytest.raises(type(error), match=str(error)) as raised:
        events.exported(event)
    assert raised.value.retryable is error.retryable


def test_a_timeout_has_a_status_of_its_own() -> None:
    event = events.failure(exceptions.D1ExportTimeoutError("not done after 10 s"))
    assert event == {"status": "timeout", "message": "not done after 10 s"}
    with pytest.raises(exceptions.D1ExportTimeoutError, match="10 s"):
        events.exported(event)


def test_the_text_of_a_foreign_exception_stays_behind() -> None:
    event = events.failure(RuntimeError("https://r2.example/x?X-Amz-Signature=secret"))
    assert "secret" not in json.dumps(event)
    assert event["retryable"] is True
    with pytest.raises(exceptions.D1Error, match="RuntimeError"):
        events.exported(event)


@pytest.mark.parametrize(
    "event",
    [
        None,
        "success",
        {},
        {"status": "done"},
        {"status": "success"},
        {"status": "success", "export": None},
        {"status": "success", "export": {"database_id": "x"}},
        {"status": "success", "export": {**EXPORT.to_dict(), "polls": "many"}},
        {"status": "error"},
        {"status": "timeout"},
    ],
    ids=str,
)
def test_a_malformed_event_is_an_error_of_this_package(event: object) -> None:
    with pytest.raises(exceptions.D1Error) as raised:
        events.exported(event)
    assert str(raised.value)
    assert EXPORT.sealed_url not in str(raised.value)
