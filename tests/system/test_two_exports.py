"""Two tasks want the same database at the same time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.system.environment import Environment


def test_one_waits_and_both_succeed(environment: Environment) -> None:
    with environment.scenario("two_at_once") as scenario:
        scenario.emulator.faults.export_seconds = 10
        run = scenario.run()
        assert scenario.ended(run) == "success", environment.airflow.log(scenario.name, run)[-6000:]
        assert scenario.exports() == 2
        assert [scenario.attempts(run, task) for task in ("one", "other")] == [1, 1]
        one, other = (environment.airflow.xcom(scenario.name, run, task) for task in ("one", "other"))
        assert one["started_at"] != other["started_at"]  # an export each; the bookmark changes only with a write
        assert one["restarts"] == other["restarts"] == 0
        assert len(scenario.emulator.calls) <= 60
