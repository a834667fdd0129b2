"""While D1 exports, no task instance runs: a real triggerer process holds the export."""

from __future__ import annotations

import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.definitions import dag as dag_module

from harness.process import running
from tests.integration.dag_runs import run_dag

if TYPE_CHECKING:
    from airflow_provider_d1.emulator.server import Emulator
    from harness.seaweed import S3Server

EXPORT_SECONDS = 4.0


@pytest.fixture
def triggerer(airflow_db: Path, emulator: Emulator, tmp_path: Path) -> Iterator[None]:
    """``airflow triggerer`` beside the session's metadata database."""
    log = tmp_path / "triggerer.log"
    command = [Path(sys.executable).parent / "airflow", "triggerer", "--skip-serve-logs"]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with running(command, log=log, ready=lambda: b"Starting the triggerer" in log.read_bytes(), env=env, timeout=120):
        yield


@contextmanager
def sampled(database: Path, emulator: Emulator) -> Iterator[list[dict[str, Any]]]:
    """Look into the metadata database over and over while the emulator's export runs."""
    samples: list[dict[str, Any]] = []
    done = threading.Event()

    def exporting() -> bool:
        calls = [call for call in emulator.calls if call.kind in ("export_start", "export_poll")]
        return bool(calls) and calls[-1].status == 202  # 202: it is running

    def look() -> None:
        with closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
            while not done.wait(0.1):
                if not exporting():
                    continue
                states = [
                    s for (s,) in connection.execute("SELECT state FROM task_instance WHERE state IS NOT 'success'")
                ]
                held = connection.execute("SELECT count(*) FROM trigger WHERE triggerer_id IS NOT NULL").fetchone()[0]
                if exporting():
                    samples.append({"states": states, "triggers": held})

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield samples
    finally:
        done.set()
        thread.join()


@pytest.mark.usefixtures("triggerer")
def test_while_the_export_runs_the_task_is_deferred_and_nothing_runs(
    airflow_db: Path, emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    inline = dag_module._run_task
    # dag.test() would run the trigger itself; here the triggerer has to
    monkeypatch.setattr(dag_module, "_run_task", lambda **arguments: inline(**arguments | {"run_triggerer": False}))
    emulator.faults.export_seconds = EXPORT_SECONDS
    with closing(sqlite3.connect(airflow_db / "airflow.db")) as connection, connection:
        connection.execute("DELETE FROM task_instance")  # of other tests' failed runs

    with sampled(airflow_db / "airflow.db", emulator) as samples:
        run = run_dag("d1_to_s3")

    assert run.state == "success"
    assert run.results["stage", -1]["rows"] == 5
    assert len(samples) >= 3
    assert {tuple(sample["states"]) for sample in samples} == {("deferred",)}
    assert all(sample["triggers"] == 1 for sample in samples)
    assert len([call for call in emulator.calls if call.kind == "export_poll"]) >= 3
