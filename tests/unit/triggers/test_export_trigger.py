"""The trigger: plain JSON in, one event out, whatever happens in between."""

from __future__ import annotations

import asyncio
import json
import secrets
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_d1.cloudflare import export as export_module
from airflow_provider_d1.cloudflare.models import D1Export, ExportRequest
from airflow_provider_d1.exceptions import D1AuthenticationError, D1ExportTimeoutError, D1VirtualTableError
from airflow_provider_d1.hooks.connection import Settings, fetch_settings
from airflow_provider_d1.triggers import single_event as trigger_module
from airflow_provider_d1.triggers.d1 import D1ExportTrigger
from airflow_provider_d1.triggers.single_event import DEFERRAL_SECONDS, deferral_seconds
from tests.unit.cloudflare.d1_fakes import FakeClock

REQUEST = {
    "database": "shop",
    "tables": ["users", "Orders"],
    "exclude_tables": None,
    "no_data": True,
    "no_schema": True,
    "on_virtual_table": "skip",
    "poll_interval": 2.5,
    "timeout": 77,
    "queue_timeout": 88,
    "max_restarts": 7,
}
ARGUMENTS = {"request": REQUEST, "deadline": 1_900_000_000.5, "d1_conn_id": "d1_other"}


@pytest.fixture
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {"conn_type": "d1", "password": "tok-123", "extra": {"account_id": "acc"}}
    monkeypatch.setenv("AIRFLOW_CONN_D1_OTHER", json.dumps(value))


def an_export() -> D1Export:
    now = datetime.now(UTC)
    return D1Export("uuid", "shop", "acc", "b1", "shop.sql", "sealed", now, now, now, polls=1, restarts=0)


async def events_of(trigger: BaseTrigger) -> list[dict[str, Any]]:
    return [event.payload async for event in trigger.run()]


def test_serialize_covers_every_argument_and_is_plain_json() -> None:
    assert set(REQUEST) == set(ExportRequest.__dataclass_fields__)
    path, kwargs = D1ExportTrigger(**ARGUMENTS).serialize()
    assert path == "airflow_provider_d1.triggers.d1.D1ExportTrigger"
    assert kwargs == ARGUMENTS
    assert json.loads(json.dumps(kwargs)) == kwargs
    assert D1ExportTrigger(**kwargs).serialize()[1] == kwargs


def test_the_keywords_of_earlier_versions_are_read() -> None:
    """A triggerer may be upgraded while tasks of the version before are deferred."""
    stored = {name: value for name, value in REQUEST.items() if name not in ("exclude_tables", "timeout")}
    trigger = D1ExportTrigger(**stored, deadline=1e9, d1_conn_id="d1_other")
    assert trigger.serialize()[1] == {"request": stored, "deadline": 1e9, "d1_conn_id": "d1_other"}


def test_nothing_secret_is_in_its_repr(connection: None) -> None:
    assert "tok-123" not in repr(D1ExportTrigger(**ARGUMENTS))


async def test_every_argument_reaches_the_driver(connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    async def run_export(client: Any, request: Any, *, deadline: float, **_: Any) -> None:
        seen.update(client=client, request=request, deadline=deadline)
        raise D1VirtualTableError("enough seen")

    monkeypatch.setattr(export_module, "run_export", run_export)
    assert await events_of(D1ExportTrigger(**ARGUMENTS)) == [
        {"status": "error", "error": "D1VirtualTableError", "message": "enough seen", "retryable": False}
    ]
    assert seen["request"].to_dict() == REQUEST
    assert seen["deadline"] == ARGUMENTS["deadline"]
    assert seen["client"].credentials.token == "tok-123"
    assert seen["client"].credentials.account_id == "acc"


async def test_a_timeout_is_an_event(connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_export(*_: Any, **__: Any) -> None:
        raise D1ExportTimeoutError("too late")

    monkeypatch.setattr(export_module, "run_export", run_export)
    assert await events_of(D1ExportTrigger(**ARGUMENTS)) == [{"status": "timeout", "message": "too late"}]


async def test_a_foreign_exception_is_an_event_without_its_text(
    connection: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    url = f"https://r2.example/x?X-Amz-Signature={secrets.token_hex(16)}"  # a traceback shows source lines

    async def run_export(*_: Any, **__: Any) -> None:
        raise RuntimeError(url)

    monkeypatch.setattr(export_module, "run_export", run_export)
    (event,) = await events_of(D1ExportTrigger(**ARGUMENTS))
    assert (event["status"], event["error"], event["retryable"]) == ("error", "RuntimeError", True)
    logged = capfd.readouterr().out
    assert "RuntimeError" in logged
    assert url[-32:] not in json.dumps(event) + logged


async def test_a_cancellation_passes_through(connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    started = asyncio.Event()

    async def run_export(*_: Any, **__: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(export_module, "run_export", run_export)
    task = asyncio.create_task(events_of(D1ExportTrigger(**ARGUMENTS)))
    async with asyncio.timeout(30):
        await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("rotated", [False, True])
async def test_a_refused_token_is_retried_where_the_connection_has_another_one_by_now(
    connection: None, monkeypatch: pytest.MonkeyPatch, rotated: bool
) -> None:
    async def run_export(*_: Any, **__: Any) -> None:
        if rotated:
            value = {"conn_type": "d1", "password": "tok-456", "extra": {"account_id": "acc"}}
            monkeypatch.setenv("AIRFLOW_CONN_D1_OTHER", json.dumps(value))
        raise D1AuthenticationError("The token was refused.", status=401)

    monkeypatch.setattr(export_module, "run_export", run_export)
    (event,) = await events_of(D1ExportTrigger(**ARGUMENTS))
    assert (event["error"], event["retryable"]) == ("D1AuthenticationError", rotated)
    assert ("another token" in event["message"]) is rotated


async def test_a_connection_that_does_not_exist_is_a_permanent_error() -> None:
    (event,) = await events_of(D1ExportTrigger(deadline=1e10, d1_conn_id="nowhere"))
    assert event["error"] == "D1ConfigurationError"
    assert "nowhere" in event["message"]
    assert event["retryable"] is False


@pytest.mark.parametrize(
    ("request_", "words"), [({"tabels": ["users"]}, "'tabels'"), ({"max_restarts": -1}, "max_restarts")]
)
async def test_a_request_that_cannot_work_is_a_permanent_error(request_: dict[str, Any], words: str) -> None:
    (event,) = await events_of(D1ExportTrigger(deadline=1e10, request=request_))
    assert (event["error"], event["retryable"]) == ("D1ConfigurationError", False)
    assert words in event["message"]


async def test_no_database_anywhere_is_a_permanent_error(connection: None) -> None:
    (event,) = await events_of(D1ExportTrigger(deadline=1e10, d1_conn_id="d1_other"))
    assert event["error"] == "D1ConfigurationError"
    assert "schema" in event["message"]


@pytest.mark.skipif(not hasattr(BaseTrigger, "on_kill"), reason="Airflow 3.3 brings on_kill")
async def test_being_killed_does_not_call_d1(connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow also calls it when a trigger only moves to another triggerer, so it must not call D1."""
    monkeypatch.setattr("airflow_provider_d1.cloudflare.client.AsyncD1Client.send", None)
    trigger = D1ExportTrigger(**ARGUMENTS)
    await trigger.on_kill()
    await trigger.cleanup()


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(
    ("export_seconds", "fired_at"), [(0.0, DEFERRAL_SECONDS), (4.0, DEFERRAL_SECONDS), (3600.0, 3600.0)]
)
async def test_it_does_not_fire_before_the_scheduler_knows_of_the_deferral(
    connection: None, monkeypatch: pytest.MonkeyPatch, export_seconds: float, fired_at: float, fails: bool
) -> None:
    clock = FakeClock()
    began = []

    async def run_export(*_: Any, **__: Any) -> Any:
        began.append(clock.now)
        clock.now += export_seconds
        if fails:
            raise D1VirtualTableError("no")
        return an_export()

    monkeypatch.setattr(export_module, "run_export", run_export)
    monkeypatch.setattr(trigger_module, "SYSTEM_CLOCK", clock)
    trigger = D1ExportTrigger(**ARGUMENTS)
    trigger.task_instance = SimpleNamespace(task_id="t")
    (event,) = await events_of(trigger)
    assert event["status"] == ("error" if fails else "success")
    assert began == [0.0]  # only the event waits
    assert clock.now == fired_at


@pytest.mark.parametrize(
    ("version", "seconds"),
    [("2.11.0", 30), ("3.0.6", 30), ("3.2.1", 30), ("3.2.2", 10), ("3.3.0rc1", 10), ("3.3.2", 10), ("4.0.0", 10)],
)
def test_an_airflow_that_fails_scheduled_tasks_gets_more_time(version: str, seconds: float) -> None:
    assert deferral_seconds(version) == seconds


async def test_the_time_in_which_airflow_gives_the_connection_does_not_count(
    connection: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FakeClock()

    async def slow(*arguments: Any) -> Settings:
        clock.now += 60
        return await fetch_settings(*arguments)

    async def run_export(*_: Any, **__: Any) -> D1Export:
        return an_export()

    monkeypatch.setattr(export_module, "run_export", run_export)
    monkeypatch.setattr(trigger_module, "SYSTEM_CLOCK", clock)
    monkeypatch.setattr("airflow_provider_d1.hooks.connection.fetch_settings", slow)
    trigger = D1ExportTrigger(**ARGUMENTS)
    trigger.task_instance = SimpleNamespace(task_id="t")
    await events_of(trigger)
    assert clock.now == 60 + DEFERRAL_SECONDS


async def test_it_fires_at_once_where_no_scheduler_runs(connection: None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_export(*_: Any, **__: Any) -> None:
        raise D1VirtualTableError("no")

    clock = FakeClock()
    monkeypatch.setattr(export_module, "run_export", run_export)
    monkeypatch.setattr(trigger_module, "SYSTEM_CLOCK", clock)
    await events_of(D1ExportTrigger(**ARGUMENTS))  # as dag.test() does, which sets no task_instance
    assert clock.slept == []
