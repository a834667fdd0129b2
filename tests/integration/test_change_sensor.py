"""The change sensor in DAG runs: an unchanged database is skipped, and nothing is exported."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airflow_provider_d1.hooks.d1 import D1Hook
from tests.integration.dag_runs import run_dag

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.server import Emulator
    from harness.seaweed import S3Server

pytestmark = pytest.mark.usefixtures("airflow_db")


def test_only_a_changed_database_is_exported(emulator: Emulator, s3: S3Server) -> None:
    first = run_dag("stage_if_changed")
    assert first.state == "success"
    assert first.results["changed", -1]["reason"] == "no run is staged yet"
    assert first.tasks["stage", -1] == "success"

    emulator.calls.clear()
    second = run_dag("stage_if_changed")
    assert (second.tasks["changed", -1], second.tasks["stage", -1]) == ("skipped", "skipped")
    assert not [call for call in emulator.calls if call.kind.startswith("export")]

    D1Hook(database="blog").run("UPDATE posts SET title = 'Changed'")
    third = run_dag("stage_if_changed")
    assert third.results["changed", -1]["changed"] is True
    assert third.results["stage", -1]["bookmark"] == third.results["changed", -1]["bookmark"]
