"""The worker is killed while it stages: the retry stages the same export and removes what the first attempt left."""

from __future__ import annotations

import signal

import pytest

from harness.airflow import wait_until
from harness.s3_faults import Fault
from tests.system.environment import BIG, HUGE, TIMEOUT, Environment, Scenario


def killed(scenario: Scenario, run: str, task_id: str = "stage") -> None:
    """Kill the process in which the task runs, and wait until the retry runs."""
    assert scenario.attempts(run, task_id) == 1
    scenario.airflow.task_process(scenario.name, run, task_id).send_signal(signal.SIGKILL)
    wait_until(lambda: scenario.attempts(run, task_id) == 2, "the second attempt starts", TIMEOUT)


def whole(scenario: Scenario, run: str) -> list[str]:
    """Wait for the retry's good end; the keys of the parts that it has staged."""
    manifest = scenario.succeeds(run)
    (table,) = manifest["tables"]
    assert table["rows"] == 20000
    assert scenario.exports() == len(scenario.calls("export_start")) == 1  # the retry did not block the database again
    assert scenario.attempts(run) == 2
    return [file["uri"].removeprefix(f"s3://{scenario.bucket}/") for file in table["files"]]


@pytest.mark.parametrize(("name", "held"), [("early", r"0[3-9]|[1-9]\d"), ("late", r"29|[3-9]\d")])
def test_a_worker_is_killed_while_it_uploads_a_part(environment: Environment, name: str, held: str) -> None:
    with environment.scenario(f"worker_killed_{name}", BIG) as scenario, scenario.reader() as seen:
        hold = Fault("PUT", f"part-000({held})", "hold")
        scenario.proxy.faults.append(hold)
        run = scenario.run()
        assert hold.reached.wait(TIMEOUT)
        # several parts are uploaded at a time: those before the held ones may still be under way
        passed = {"early": 3, "late": 29}[name]

        def stored() -> list[str]:
            return [key for key in scenario.objects() if "/part-" in key]

        wait_until(lambda: len(stored()) >= passed, "the parts before are stored", TIMEOUT)
        before = stored()
        killed(scenario, run)
        hold.times = 0
        hold.release.set()
        parts = whole(scenario, run)
        # about a tenth or nine tenths of them stood when it died
        assert round(10 * len(before) / len(parts)) == {"early": 1, "late": 9}[name]
        assert set(before).isdisjoint(parts)
    assert seen == ["nothing", "all of it"]


def test_a_worker_is_killed_in_the_middle_of_a_multipart_upload(environment: Environment) -> None:
    with environment.scenario("worker_killed_multipart", HUGE) as scenario, scenario.reader() as seen:
        hold = Fault("PUT", "partNumber=2", "hold")
        scenario.proxy.faults.append(hold)
        run = scenario.run()
        assert hold.reached.wait(TIMEOUT)
        killed(scenario, run)
        assert scenario.uploads()  # only the retry knows of them
        hold.times = 0
        hold.release.set()
        manifest = scenario.succeeds(run)  # having looked for such uploads
        assert manifest["dump"]["bytes"] == manifest["files"][0]["bytes"] > 24_000_000
        assert scenario.exports() == len(scenario.calls("export_start")) == 1
        assert scenario.attempts(run) == 2
    assert seen == ["nothing", "all of it"]


def test_a_worker_is_killed_between_the_last_part_and_the_manifest(environment: Environment) -> None:
    with environment.scenario("worker_killed_before_manifest", BIG) as scenario, scenario.reader() as seen:
        hold = Fault("PUT", "_manifest.json", "hold", times=1)
        scenario.proxy.faults.append(hold)
        run = scenario.run()
        assert hold.reached.wait(TIMEOUT)
        before = [key for key in scenario.objects() if "/part-" in key]
        killed(scenario, run)
        hold.release.set()
        assert len(before) == len(whole(scenario, run))
    assert seen == ["nothing", "all of it"]


def test_a_task_that_is_cleared_after_its_success_exports_again(environment: Environment) -> None:
    with environment.scenario("cleared_when_done") as scenario:
        run = scenario.run()
        first = scenario.succeeds(run)
        assert (
            environment.kept_states(scenario.name) == []
        )  # what was kept for a retry is deleted when there will be none
        environment.airflow.clear(scenario.name, run, "stage")
        wait_until(lambda: scenario.exports() == 2, "the cleared task exports again", TIMEOUT)
        second = scenario.succeeds(run)
        # nothing was written in between, so the bookmark is the same
        assert second["source"]["started_at"] != first["source"]["started_at"]
        assert second["run"] != first["run"]
        assert second["tables"][0]["rows"] == 3
        assert len(scenario.calls("export_start")) == 2
        assert environment.kept_states(scenario.name) == []
