"""The worker dies while it stages: the retry finishes the work with the same export and leaves nothing half done."""

from __future__ import annotations

import signal

import pytest

from harness.airflow import wait_until
from harness.s3_faults import Fault
from tests.system.night import BIG, HUGE, PATIENCE, Bed, Night


def killed(bed: Bed, run: str) -> None:
    """Kill the process in which the task runs, and wait until the retry runs."""
    assert bed.tries(run) == 1
    bed.airflow.task_process(bed.name, run, "stage").send_signal(signal.SIGKILL)
    wait_until(lambda: bed.tries(run) == 2, "the second try begins", PATIENCE)


def whole(bed: Bed, run: str) -> list[str]:
    """Wait for the retry's good end; the keys of the parts that it has staged."""
    manifest = bed.succeeds(run)
    (table,) = manifest["tables"]
    assert table["rows"] == 20000
    assert bed.exports() == len(bed.calls("export_start")) == 1  # the retry did not block the database again
    assert bed.tries(run) == 2
    return [file["uri"].removeprefix(f"s3://{bed.bucket}/") for file in table["files"]]


@pytest.mark.parametrize(("name", "held"), [("early", r"0[3-9]|[1-9]\d"), ("late", r"29|[3-9]\d")])
def test_a_worker_is_killed_while_it_uploads_a_part(night: Night, name: str, held: str) -> None:
    with night.bed(f"worker_killed_{name}", BIG) as bed, bed.reader() as seen:
        hold = Fault("PUT", f"part-000({held})", "hold")
        bed.proxy.faults.append(hold)
        run = bed.run()
        assert hold.reached.wait(PATIENCE)
        before = [key for key in bed.objects() if "/part-" in key]
        killed(bed, run)
        hold.times = 0
        hold.release.set()
        parts = whole(bed, run)
        # about a tenth or nine tenths of them stood when it died
        assert round(10 * len(before) / len(parts)) == {"early": 1, "late": 9}[name]
        assert set(before).isdisjoint(parts)
    assert seen == ["nothing", "all of it"]


def test_a_worker_is_killed_in_the_middle_of_a_multipart_upload(night: Night) -> None:
    with night.bed("worker_killed_multipart", HUGE) as bed, bed.reader() as seen:
        hold = Fault("PUT", "partNumber=2", "hold")
        bed.proxy.faults.append(hold)
        run = bed.run()
        assert hold.reached.wait(PATIENCE)
        killed(bed, run)
        assert bed.uploads()  # nobody but the retry knows of them
        hold.times = 0
        hold.release.set()
        manifest = bed.succeeds(run)  # having looked for such uploads
        assert manifest["dump"]["bytes"] == manifest["files"][0]["bytes"] > 24_000_000
        assert bed.exports() == len(bed.calls("export_start")) == 1
        assert bed.tries(run) == 2
    assert seen == ["nothing", "all of it"]


def test_a_worker_is_killed_between_the_last_part_and_the_manifest(night: Night) -> None:
    with night.bed("worker_killed_before_manifest", BIG) as bed, bed.reader() as seen:
        hold = Fault("PUT", "_manifest.json", "hold", times=1)
        bed.proxy.faults.append(hold)
        run = bed.run()
        assert hold.reached.wait(PATIENCE)
        before = [key for key in bed.objects() if "/part-" in key]
        killed(bed, run)
        hold.release.set()
        assert len(before) == len(whole(bed, run))
    assert seen == ["nothing", "all of it"]


def test_a_task_that_is_cleared_after_its_success_exports_again(night: Night) -> None:
    with night.bed("cleared_when_done") as bed:
        run = bed.run()
        first = bed.succeeds(run)
        assert night.kept_states(bed.name) == []  # what was kept for a retry is deleted when there will be none
        night.airflow.clear(bed.name, run, "stage")
        wait_until(lambda: bed.exports() == 2, "the cleared task exports again", PATIENCE)
        second = bed.succeeds(run)
        assert second["source"]["bookmark"] != first["source"]["bookmark"]
        assert second["tables"][0]["rows"] == 3
        assert len(bed.calls("export_start")) == 2
        assert night.kept_states(bed.name) == []
