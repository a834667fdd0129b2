"""A triggerer that takes over learns how often the export was begun before."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk.execution_time.xcom import XCom

from airflow_provider_d1.triggers.runs import KEY, begin_count, begun_before

TASK = SimpleNamespace(dag_id="d", task_id="t", run_id="r", map_index=-1, try_number=1)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[Any, ...], Any]:
    """XComs as the supervisor keeps them."""
    values: dict[tuple[Any, ...], Any] = {}

    async def aset(key: str, value: Any, **place: Any) -> None:
        values[(key, *place.values())] = value

    async def aget_one(*, key: str, **place: Any) -> Any:
        return values.get((key, *place.values()))

    monkeypatch.setattr(XCom, "aset", aset)
    monkeypatch.setattr(XCom, "aget_one", aget_one)
    return values


async def test_each_run_finds_those_before_it(stored: dict[tuple[Any, ...], Any]) -> None:
    assert [await begun_before(TASK) for _ in range(3)] == [0, 1, 2]
    assert stored == {(KEY, "d", "t", "r", -1): 3}


async def test_mapped_tasks_are_counted_apart(stored: dict[tuple[Any, ...], Any]) -> None:
    await begun_before(TASK)
    assert await begun_before(SimpleNamespace(**{**vars(TASK), "map_index": 4})) == 0


async def test_something_else_under_the_key_counts_as_nothing(stored: dict[tuple[Any, ...], Any]) -> None:
    stored[KEY, "d", "t", "r", -1] = {"not": "a number"}
    assert await begun_before(TASK) == 0


async def test_an_xcom_that_cannot_be_reached_costs_no_export() -> None:
    assert await begun_before(TASK) == 0  # no supervisor here


async def test_the_worker_begins_the_count(stored: dict[tuple[Any, ...], Any]) -> None:
    def xcom_push(key: str, value: Any) -> None:
        stored[key, "d", "t", "r", -1] = value

    begin_count({"ti": SimpleNamespace(xcom_push=xcom_push)})
    assert stored == {(KEY, "d", "t", "r", -1): 0}
    assert await begun_before(TASK) == 0


@pytest.mark.parametrize("context", [{}, {"ti": None}, {"ti": object()}])
def test_a_count_that_cannot_begin_costs_no_export(context: dict[str, Any]) -> None:
    begin_count(context)


async def test_dag_test_has_no_task_instance() -> None:
    assert await begun_before(None) == 0
