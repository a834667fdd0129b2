"""A triggerer ends, dies or sleeps in the middle of an export; each scenario has triggerers of its own (a queue)."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from harness.airflow import wait_until
from tests.system.night import EXPORT_SECONDS, PATIENCE

if TYPE_CHECKING:
    from tests.system.night import Night

#: far longer than any scenario: such an export ends only by being lost
FOREVER = 3600


@pytest.mark.parametrize(("name", "number"), [("terminated", signal.SIGTERM), ("killed", signal.SIGKILL)])
def test_a_triggerer_ends_and_another_begins_30_seconds_later(night: Night, name: str, number: signal.Signals) -> None:
    night.airflow.start_triggerer(f"{name}-first", queue=name)
    with night.bed(f"triggerer_{name}") as bed:
        bed.emulator.faults.export_seconds = FOREVER
        run = bed.run()
        bed.deferred(run)
        # as `kill` does to the component, or as a machine that dies does to all of its processes
        night.airflow.signal(f"{name}-first", number, tree=number is signal.SIGKILL)
        time.sleep(30)
        polls = len(bed.calls("export_poll"))
        bed.emulator.faults.export_seconds = EXPORT_SECONDS
        night.airflow.start_triggerer(f"{name}-second", queue=name)
        manifest = bed.succeeds(run)
        assert bed.exports() == 2
        assert manifest["source"]["restarts"] == 0  # counts what D1 lost while one triggerer watched
        assert len(bed.calls("export_start")) == 2
        # nobody polled in the meantime, and the second export finished in a handful of polls
        assert len(bed.calls("export_poll")) - polls <= 10
        assert bed.tries(run) == 1


def test_a_triggerer_sleeps_and_wakes_after_another_has_taken_over(night: Night) -> None:
    night.airflow.start_triggerer("stopped-first", queue="stopped")
    with night.bed("triggerer_stopped") as bed:
        bed.emulator.faults.export_seconds = FOREVER
        run = bed.run()
        bed.deferred(run)
        night.airflow.start_triggerer("stopped-second", queue="stopped")
        night.airflow.signal("stopped-first", signal.SIGSTOP)
        starts = len(bed.calls("export_start"))
        bed.emulator.faults.export_seconds = 25
        wait_until(lambda: bed.exports() == 2, "the second triggerer has taken over", PATIENCE)
        assert starts == 1
        night.airflow.signal("stopped-first", signal.SIGCONT)
        manifest = bed.succeeds(run)
        # the one that woke up finds its export lost and may ask for another, which D1 refuses while one runs
        assert bed.exports() == 2
        assert manifest["source"]["restarts"] == 0  # counts what D1 lost while one triggerer watched
        assert bed.tries(run) == 1
        bed.silence()
        wait_until(bed.free, "the database answers queries again", 60)
        assert bed.exports() == 2
