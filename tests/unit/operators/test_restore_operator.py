"""The restore operator: back to a bookmark or a moment, once, and undone by its result."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ConfigurationError
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.operators.d1_restore import D1RestoreOperator

TASK = {"task_id": "restore"}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"shop": "CREATE TABLE t (a);"}) as emulator:
        definition = {
            "conn_type": "d1",
            "host": emulator.url,
            "password": emulator.token,
            "schema": "shop",
            "extra": {"account_id": emulator.account_id},
        }
        monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
        yield emulator


def rows() -> list[tuple[Any, ...]]:
    return D1Hook().get_records("SELECT a FROM t ORDER BY a")


def test_a_restore_and_its_undoing(emulator: Emulator) -> None:
    hook = D1Hook()
    bookmark = hook.get_bookmark()
    hook.run("INSERT INTO t VALUES (1)")
    latest = hook.get_bookmark()
    result = D1RestoreOperator(**TASK, bookmark=bookmark).execute({})
    assert result == {
        "database_id": emulator.database_id("shop"),
        "database_name": "shop",
        "bookmark": hook.get_bookmark(),
        "previous_bookmark": latest,
    }
    assert rows() == []
    D1RestoreOperator(**TASK, bookmark=result["previous_bookmark"]).execute({})
    assert rows() == [(1,)]


@pytest.mark.parametrize("rendered", [False, True])
def test_a_restore_to_a_timestamp(emulator: Emulator, rendered: bool) -> None:
    D1Hook().run("INSERT INTO t VALUES (1)")
    time.sleep(0.05)
    moment = datetime.now(UTC)
    time.sleep(0.05)
    D1Hook().run("INSERT INTO t VALUES (2)")
    operator = D1RestoreOperator(**TASK, timestamp="{{ ts }}" if rendered else moment)
    if rendered:
        operator.timestamp = moment.isoformat()
    operator.execute({})
    assert rows() == [(1,)]


def test_a_restore_whose_answer_is_lost_is_not_repeated(emulator: Emulator) -> None:
    bookmark = D1Hook().get_bookmark()
    emulator.faults.set({"html_errors": 1, "only": "restore"})
    with pytest.raises(AirflowFailException, match=rf"response to the restore was lost.*its bookmark was {bookmark}"):
        D1RestoreOperator(**TASK, bookmark=bookmark).execute({})
    assert len([call for call in emulator.calls if call.kind == "restore"]) == 1


def test_a_bookmark_that_d1_does_not_know(emulator: Emulator) -> None:
    with pytest.raises(AirflowFailException, match="database 'shop', connection 'd1_default'"):
        D1RestoreOperator(**TASK, database="shop", bookmark="nothing").execute({})


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"bookmark": "b", "timestamp": "2026-11-27T02:00:00Z"},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-11-27T02:00:00"},
        {"timestamp": datetime(2026, 11, 27)},  # noqa: DTZ001
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any]) -> None:
    with pytest.raises(D1ConfigurationError):
        D1RestoreOperator(**TASK, **arguments)
