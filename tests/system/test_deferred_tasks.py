"""A task is ended from outside while it is deferred: the export ends because it is no longer polled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.airflow import wait_until
from tests.system.environment import EXPORT_SECONDS, TIMEOUT

if TYPE_CHECKING:
    from tests.system.environment import Environment

FOREVER = 3600


def test_a_deferred_task_is_cleared(environment: Environment) -> None:
    with environment.scenario("cleared_while_deferred") as scenario:
        scenario.emulator.faults.export_seconds = FOREVER
        run = scenario.run()
        scenario.deferred(run)
        scenario.emulator.faults.export_seconds = EXPORT_SECONDS
        environment.airflow.clear(scenario.name, run, "stage")
        manifest = scenario.succeeds(run)
        # D1 refuses the new export until it has cancelled the old one, 15 s after the last poll
        assert scenario.exports() == 2
        starts = scenario.calls("export_start")
        assert starts[-1].time - starts[0].time >= 15
        assert manifest["tables"][0]["rows"] == 3
        scenario.wait_until_not_polled()


def test_a_deferred_task_is_marked_failed(environment: Environment) -> None:
    with environment.scenario("marked_failed_while_deferred") as scenario:
        scenario.emulator.faults.export_seconds = FOREVER
        run = scenario.run()
        scenario.deferred(run)
        environment.airflow.mark(scenario.name, run, "stage", "failed")
        scenario.wait_until_abandoned()
        scenario.fails(run)
        scenario.nothing_staged()


def test_the_run_of_a_deferred_task_is_deleted(environment: Environment) -> None:
    with environment.scenario("run_deleted_while_deferred") as scenario:
        scenario.emulator.faults.export_seconds = FOREVER
        run = scenario.run()
        scenario.deferred(run)
        environment.airflow.mark_run(scenario.name, run, "failed")  # Airflow deletes no run that is under way
        environment.airflow.delete_run(scenario.name, run)
        wait_until(lambda: environment.airflow.run_state(scenario.name, run) is None, "the run is gone", 300)
        scenario.wait_until_abandoned()
        scenario.nothing_staged()


def test_a_deferred_task_runs_out_of_time(environment: Environment) -> None:
    with environment.scenario("timed_out_while_deferred") as scenario:
        scenario.emulator.faults.export_seconds = FOREVER
        run = scenario.run()
        assert "D1ExportTimeoutError" in scenario.fails(run)
        scenario.wait_until_abandoned()
        scenario.nothing_staged()


def test_a_short_export_ends_before_the_process_that_deferred_it(environment: Environment) -> None:
    """Airflow fails a resumed task when its scheduler learns only then that the deferring process has ended."""
    with environment.scenario("worker_lingers") as scenario:
        scenario.emulator.faults.export_seconds = 0.2
        run = scenario.run()
        wait_until(lambda: scenario.calls("export_start"), "the export has begun", TIMEOUT, every=0.1)
        (environment.airflow.folder / "tmp" / "export_begun").touch()
        state = scenario.ended(run)
        scheduler = (environment.airflow.folder / "scheduler.log").read_text(errors="replace")
        assert [line for line in scheduler.splitlines() if "finished with state success, but" in line] == []
        assert state == "success", environment.airflow.log(scenario.name, run)[-6000:]
