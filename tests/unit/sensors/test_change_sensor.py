"""The change sensor: what it sees, what it cannot see, and how it waits."""

from __future__ import annotations

import asyncio
import inspect
import json
import secrets
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    TaskDeferred,
)

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1AuthenticationError, D1ConfigurationError, D1Error
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.sensors.d1_change import D1ChangeSensor
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.triggers.change_trigger import D1ChangeTrigger

SHOP = """
CREATE TABLE "users" (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO users VALUES (1, 'Ada'), (2, 'Grace');
CREATE TABLE [or'der] (id);
CREATE VIRTUAL TABLE words USING fts5(text);
"""
TASK = {"task_id": "changed"}


@pytest.fixture(scope="module")
def running() -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": SHOP, "blog": ""}) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    definition = {
        "conn_type": "d1",
        "host": running.url,
        "password": running.token,
        "schema": "shop",
        "extra": {"account_id": running.account_id},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    running.reset()
    return running


@pytest.fixture
def prefix(emulator: Emulator, tmp_path: Path) -> str:
    stage(tmp_path)
    emulator.calls.clear()
    return tmp_path.as_uri()


def stage(folder: Path, **arguments: Any) -> None:
    operator = D1ToObjectStorageOperator(
        task_id="stage", path=folder.as_uri(), on_virtual_table="skip", deferrable=False, **arguments
    )
    operator.execute({"ti": SimpleNamespace()})


def poke(prefix: str, **arguments: Any) -> Any:
    return D1ChangeSensor(**TASK, prefix=prefix, deferrable=False, **arguments).poke({})


def test_an_unchanged_database_is_neither_changed_nor_blocked(emulator: Emulator, prefix: str) -> None:
    assert not poke(prefix).is_done
    assert not poke(prefix, compare="rows").is_done
    assert {call.kind for call in emulator.calls} <= {"list", "get", "bookmark"}


def test_a_write_is_a_change(emulator: Emulator, prefix: str) -> None:
    D1Hook().run("UPDATE users SET name = 'Eve' WHERE id = 1")
    found = poke(prefix)
    assert found.is_done
    assert found.xcom_value == {
        "changed": True,
        "bookmark": D1Hook().get_bookmark(),
        "reason": found.xcom_value["reason"],
    }
    assert "the bookmark is not that of the staged run" in found.xcom_value["reason"]


def test_a_prefix_without_a_run_is_a_change(emulator: Emulator, tmp_path: Path) -> None:
    assert poke(tmp_path.as_uri()).xcom_value["reason"] == "no run is staged yet"


CHANGES = {
    "UPDATE users SET name = 'Bob' WHERE id = 2": None,  # what the docs say that it cannot see
    "INSERT INTO users VALUES (3, 'new')": "table 'users' has 3 rows, 2 in the staged run",
    "DELETE FROM users WHERE id = 3": None,
    "CREATE TABLE added (a)": "table 'added' is new",
    "DROP TABLE added": None,
    "ALTER TABLE users ADD COLUMN mail TEXT": "table 'users' has another CREATE statement",
    "ALTER TABLE users DROP COLUMN mail": None,
    "INSERT INTO words VALUES ('x')": None,  # it is not staged either
    'ALTER TABLE "or\'der" RENAME TO gone': "table 'gone' is new",
}


def test_where_bookmarks_move_rows_and_tables_decide(emulator: Emulator, prefix: str) -> None:
    emulator.faults.moving_bookmarks = True
    assert poke(prefix).is_done  # the bookmark alone says so, wrongly
    assert not poke(prefix, compare="rows").is_done
    for statement, reason in CHANGES.items():
        D1Hook().run(statement)
        found = poke(prefix, compare="rows")
        assert (found.xcom_value or {}).get("reason") == reason, statement
    D1Hook().run('ALTER TABLE gone RENAME TO "or\'der"')


def test_the_staged_tables_alone_are_compared(emulator: Emulator, tmp_path: Path) -> None:
    stage(tmp_path, tables=["users"])
    emulator.faults.moving_bookmarks = True
    D1Hook().run('INSERT INTO "or\'der" VALUES (1)')
    assert not poke(tmp_path.as_uri(), compare="rows").is_done
    D1Hook().run('DELETE FROM "or\'der"')


def test_a_dump_has_no_rows_to_compare(emulator: Emulator, tmp_path: Path) -> None:
    stage(tmp_path, file_format="sql")
    emulator.faults.moving_bookmarks = True
    assert poke(tmp_path.as_uri(), compare="rows").is_done


def test_the_prefix_of_another_database_is_refused(emulator: Emulator, prefix: str) -> None:
    with pytest.raises(D1ConfigurationError, match=r"is of database 'shop' \(.*expected 'blog'"):
        poke(prefix, database="blog")


def test_a_busy_database_has_not_changed_yet(emulator: Emulator, prefix: str) -> None:
    emulator.faults.set({"d1_errors": 9, "d1_error": "Currently processing a long-running export.", "only": "bookmark"})
    assert not poke(prefix).is_done


# --- waiting


def deferred(prefix: str, **arguments: Any) -> tuple[D1ChangeSensor, D1ChangeTrigger]:
    sensor = D1ChangeSensor(**TASK, prefix=prefix, **arguments)
    with pytest.raises(TaskDeferred) as raised:
        sensor.execute({})
    path, kwargs = raised.value.trigger.serialize()
    assert path == "airflow_provider_d1.triggers.change_trigger.D1ChangeTrigger"
    return sensor, D1ChangeTrigger(**json.loads(json.dumps(kwargs)))


async def fired(trigger: D1ChangeTrigger, statement: str | None = None) -> dict[str, Any]:
    async def events() -> list[dict[str, Any]]:
        return [event.payload async for event in trigger.run()]

    running = asyncio.create_task(events())
    if statement is not None:
        await asyncio.sleep(0.3)
        await asyncio.to_thread(D1Hook().run, statement)
    async with asyncio.timeout(60):
        (event,) = await running
    return event


@pytest.mark.parametrize("compare", ["bookmark", "rows"])
def test_the_trigger_fires_when_the_database_changes(emulator: Emulator, prefix: str, compare: str) -> None:
    sensor, trigger = deferred(prefix, poke_interval=0.1, timeout=60, compare=compare)
    event = asyncio.run(fired(trigger, 'INSERT INTO "or\'der" VALUES (9)'))
    assert sensor.execute_complete({}, event)["changed"] is True
    D1Hook().run('DELETE FROM "or\'der"')


@pytest.mark.parametrize(("soft_fail", "kind"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_a_database_that_does_not_change_in_time(
    emulator: Emulator, prefix: str, soft_fail: bool, kind: type[Exception]
) -> None:
    sensor, trigger = deferred(prefix, poke_interval=0.1, timeout=0.5, soft_fail=soft_fail)
    event = asyncio.run(fired(trigger))
    assert event["status"] == "timeout"
    with pytest.raises(kind, match="did not change before the deadline"):
        sensor.execute_complete({}, event)
    # no time at all: one comparison, and no trigger
    with pytest.raises(kind, match="has not changed"):
        D1ChangeSensor(**TASK, prefix=prefix, timeout=0, soft_fail=soft_fail).execute({})


def test_a_changed_database_needs_no_trigger(emulator: Emulator, prefix: str) -> None:
    D1Hook().run("UPDATE users SET name = 'Eve'")
    assert D1ChangeSensor(**TASK, prefix=prefix).execute({})["changed"] is True


def test_an_error_is_no_skip(emulator: Emulator, prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sensor, trigger = deferred(prefix, poke_interval=0.1, timeout=30, soft_fail=True)
    emulator.faults.no_d1_right = True
    event = asyncio.run(fired(trigger))
    for fail in (lambda: sensor.execute_complete({}, event), lambda: sensor.execute({})):
        with pytest.raises(AirflowFailException) as failed:
            fail()
        assert isinstance(failed.value.__cause__, D1AuthenticationError)
    sensor.deferrable = False
    with pytest.raises(AirflowFailException):
        sensor.execute({})
    with pytest.raises(D1Error):
        sensor.execute_complete({}, None)


def test_every_argument_but_one_is_templated() -> None:
    parameters = inspect.signature(D1ChangeSensor.__init__).parameters.values()
    names = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert names == set(D1ChangeSensor.template_fields) | {"deferrable"} == set(D1ChangeSensor.rules)


@pytest.mark.parametrize("arguments", [{"prefix": "bucket/prefix"}, {"prefix": "s3://b/p", "compare": "hash"}])
def test_arguments_that_cannot_work(arguments: dict[str, Any]) -> None:
    with pytest.raises(D1ConfigurationError):
        D1ChangeSensor(**TASK, **arguments)
