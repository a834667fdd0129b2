"""Two tasks want the same database at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.system.night import Night


def test_one_waits_and_both_succeed(night: Night) -> None:
    with night.bed("two_at_once") as bed:
        bed.emulator.faults.export_seconds = 10
        run = bed.run()
        assert bed.ended(run) == "success", night.airflow.log(bed.name, run)[-6000:]
        assert bed.exports() == 2
        assert [bed.tries(run, task) for task in ("one", "other")] == [1, 1]
        one, other = (night.airflow.xcom(bed.name, run, task) for task in ("one", "other"))
        assert one["bookmark"] != other["bookmark"]
        assert one["restarts"] == other["restarts"] == 0
        assert len(bed.emulator.calls) <= 60
