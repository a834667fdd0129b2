"""Somebody ends a task while it is deferred: the export stops by itself, because nobody polls it any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.airflow import wait_until
from tests.system.night import EXPORT_SECONDS

if TYPE_CHECKING:
    from tests.system.night import Night

FOREVER = 3600


def test_a_deferred_task_is_cleared(night: Night) -> None:
    with night.bed("cleared_while_deferred") as bed:
        bed.emulator.faults.export_seconds = FOREVER
        run = bed.run()
        bed.deferred(run)
        bed.emulator.faults.export_seconds = EXPORT_SECONDS
        night.airflow.clear(bed.name, run, "stage")
        manifest = bed.succeeds(run)
        # D1 refuses the new export until it has given up the old one, which it does 15 s after the last poll
        assert bed.exports() == 2
        starts = bed.calls("export_start")
        assert starts[-1].time - starts[0].time >= 15
        assert manifest["tables"][0]["rows"] == 3
        bed.silence()


def test_a_deferred_task_is_marked_failed(night: Night) -> None:
    with night.bed("marked_failed_while_deferred") as bed:
        bed.emulator.faults.export_seconds = FOREVER
        run = bed.run()
        bed.deferred(run)
        night.airflow.mark(bed.name, run, "stage", "failed")
        bed.abandoned()
        bed.fails(run)
        bed.nothing_staged()


def test_the_run_of_a_deferred_task_is_deleted(night: Night) -> None:
    with night.bed("run_deleted_while_deferred") as bed:
        bed.emulator.faults.export_seconds = FOREVER
        run = bed.run()
        bed.deferred(run)
        night.airflow.mark_run(bed.name, run, "failed")  # Airflow deletes no run that is under way
        night.airflow.delete_run(bed.name, run)
        wait_until(lambda: night.airflow.run_state(bed.name, run) is None, "the run is gone", 300)
        bed.abandoned()
        bed.nothing_staged()


def test_a_deferred_task_runs_out_of_time(night: Night) -> None:
    with night.bed("timed_out_while_deferred") as bed:
        bed.emulator.faults.export_seconds = FOREVER
        run = bed.run()
        assert "D1ExportTimeoutError" in bed.fails(run)
        bed.abandoned()
        bed.nothing_staged()


def test_a_short_export_ends_before_the_process_that_deferred_it(night: Night) -> None:
    """Airflow fails a resumed task when its scheduler learns only then that the deferring process has ended."""
    with night.bed("worker_lingers") as bed:
        bed.emulator.faults.export_seconds = 0.2
        run = bed.run()
        state = bed.ended(run)
        scheduler = (night.airflow.folder / "scheduler.log").read_text(errors="replace")
        assert [line for line in scheduler.splitlines() if "finished with state success, but" in line] == []
        assert state == "success", night.airflow.log(bed.name, run)[-6000:]
