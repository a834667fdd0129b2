"""A triggerer is terminated, killed or suspended during an export; each scenario has its own triggerers (a queue)."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from harness.airflow import wait_until
from tests.system.environment import EXPORT_SECONDS, TIMEOUT

if TYPE_CHECKING:
    from tests.system.environment import Environment

#: far longer than any scenario: such an export ends only by being lost
FOREVER = 3600


@pytest.mark.parametrize(("name", "number"), [("terminated", signal.SIGTERM), ("killed", signal.SIGKILL)])
def test_a_triggerer_ends_and_another_begins_30_seconds_later(
    environment: Environment, name: str, number: signal.Signals
) -> None:
    environment.airflow.start_triggerer(f"{name}-first", queue=name)
    with environment.scenario(f"triggerer_{name}") as scenario:
        scenario.emulator.faults.export_seconds = FOREVER
        run = scenario.run()
        scenario.deferred(run)
        # as `kill` does to the component, or as a machine that dies does to all of its processes
        environment.airflow.signal(f"{name}-first", number, tree=number is signal.SIGKILL)
        time.sleep(30)
        polls = len(scenario.calls("export_poll"))
        scenario.emulator.faults.export_seconds = EXPORT_SECONDS
        environment.airflow.start_triggerer(f"{name}-second", queue=name)
        manifest = scenario.succeeds(run)
        assert scenario.exports() == 2
        assert manifest["source"]["restarts"] == 0  # counts what D1 lost while one triggerer watched
        assert len(scenario.calls("export_start")) == 2
        # there were no polls in the meantime, and the second export finished in a handful of polls
        assert len(scenario.calls("export_poll")) - polls <= 10
        assert scenario.attempts(run) == 1


def test_a_suspended_triggerer_resumes_after_another_has_taken_over(environment: Environment) -> None:
    environment.airflow.start_triggerer("stopped-first", queue="stopped")
    with environment.scenario("triggerer_stopped") as scenario:
        scenario.emulator.faults.export_seconds = FOREVER
        run = scenario.run()
        scenario.deferred(run)
        environment.airflow.start_triggerer("stopped-second", queue="stopped")
        environment.airflow.signal("stopped-first", signal.SIGSTOP)
        starts = len(scenario.calls("export_start"))
        scenario.emulator.faults.export_seconds = 25
        wait_until(lambda: scenario.exports() == 2, "the second triggerer has taken over", TIMEOUT)
        assert starts == 1
        environment.airflow.signal("stopped-first", signal.SIGCONT)
        manifest = scenario.succeeds(run)
        # the one that woke up finds its export lost and may ask for another, which D1 refuses while one runs
        assert scenario.exports() == 2
        assert manifest["source"]["restarts"] == 0  # counts what D1 lost while one triggerer watched
        assert scenario.attempts(run) == 1
        scenario.wait_until_not_polled()
        wait_until(scenario.answers_queries, "the database answers queries again", 60)
        assert scenario.exports() == 2
