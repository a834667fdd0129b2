"""The worker dies while it stages: the retry finishes the work with the same export and leaves nothing half done."""

from __future__ import annotations

import signal

import pytest

from harness.airflow import wait_until
from harness.s3_faults import Fault
from tests.system.night import BIG, Bed, Night


def killed(bed: Bed, run: str) -> None:
    """Kill the process in which the task runs, and wait until the retry runs."""
    assert bed.airflow.task(bed.name, run, "stage")["try_number"] == 1
    bed.airflow.task_process(bed.name, run, "stage").send_signal(signal.SIGKILL)
    wait_until(lambda: bed.airflow.task(bed.name, run, "stage")["try_number"] == 2, "the second try begins", 90)


def clean(bed: Bed, manifest: dict) -> None:
    assert manifest["tables"][0]["rows"] == 20000
    assert len(manifest["tables"][0]["files"]) > 3
    assert bed.exports() == 1  # the retry did not block the database again


@pytest.mark.parametrize(("name", "part"), [("early", "part-00000"), ("late", "part-00003")])
def test_a_worker_is_killed_while_it_uploads_a_part(night: Night, name: str, part: str) -> None:
    with night.bed(f"worker_killed_{name}", BIG) as bed:
        hold = Fault("PUT", part, "hold", times=1)
        bed.proxy.faults.append(hold)
        run = bed.run()
        assert hold.reached.wait(180)
        assert bed.manifest() is None
        killed(bed, run)
        assert bed.manifest() is None
        hold.release.set()
        clean(bed, bed.succeeds(run))


def test_a_worker_is_killed_between_the_last_part_and_the_manifest(night: Night) -> None:
    with night.bed("worker_killed_before_manifest", BIG) as bed:
        hold = Fault("PUT", "_manifest.json", "hold", times=1)
        bed.proxy.faults.append(hold)
        run = bed.run()
        assert hold.reached.wait(180)
        parts = bed.objects()
        assert parts
        assert bed.manifest() is None
        killed(bed, run)
        hold.release.set()
        clean(bed, bed.succeeds(run))


def test_a_task_that_is_cleared_after_its_success_exports_again(night: Night) -> None:
    with night.bed("cleared_when_done") as bed:
        run = bed.run()
        first = bed.succeeds(run)
        night.airflow.clear(bed.name, run, "stage")
        wait_until(lambda: bed.exports() == 2, "the cleared task exports again", 120)
        second = bed.succeeds(run)
        assert second["source"]["bookmark"] != first["source"]["bookmark"]
        assert second["tables"][0]["rows"] == 3
