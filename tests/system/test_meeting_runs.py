"""Runs that meet: in one prefix, in one warehouse, and with a token that is replaced while a task is deferred."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from harness.s3_faults import Fault
from tests.system.environment import TIMEOUT

if TYPE_CHECKING:
    from tests.system.environment import Environment


def test_two_dag_runs_of_one_database_stage_at_once(environment: Environment) -> None:
    with environment.scenario("two_runs") as scenario, scenario.reader() as seen:
        runs = [scenario.run(), scenario.run()]
        for run in runs:
            scenario.succeeds(run)
        assert scenario.exports() == 2
        results = [environment.airflow.xcom(scenario.name, run, "stage") for run in runs]
        assert len({result["run"] for result in results}) == 2
        newest = max(results, key=lambda result: result["run"])
        assert scenario.staged()["run"] == newest["run"]
        assert {key.split("/")[1] for key in scenario.objects()} == {
            "_manifest.json",
            *(result["run"] for result in results),
        }
    assert seen == ["nothing", "all of it"]


def test_a_run_is_staged_while_another_one_is_loaded(environment: Environment) -> None:
    with environment.scenario("staged_during_load") as scenario:
        hold = Fault("GET", r"part-00000\.parquet", "hold", times=1)
        scenario.proxy.faults.append(hold)
        first = scenario.run()
        assert hold.reached.wait(TIMEOUT)  # the load has begun and waits for its first file
        assert scenario.query("INSERT INTO users VALUES (4, 'Radia', 4.5)")
        second = scenario.run()
        environment.airflow.wait_for_task(scenario.name, second, "stage", "success", TIMEOUT)
        hold.release.set()
        for run in (first, second):
            assert scenario.ended(run) == "success", environment.airflow.log(scenario.name, run)[-6000:]
        loaded = [environment.airflow.xcom(scenario.name, run, "load") for run in (first, second)]
        staged = [environment.airflow.xcom(scenario.name, run, "stage") for run in (first, second)]
        assert [result["rows"] for result in staged] == [3, 4]
        assert [result["manifest"] for result in loaded] == [result["manifest"] for result in staged]
        assert [environment.airflow.task(scenario.name, run, "load")["try_number"] for run in (first, second)] == [1, 1]
        with environment.postgres.connect() as connection:
            assert connection.execute("SELECT count(*) FROM staged_during_load.users").fetchall() in ([(3,)], [(4,)])
            rows = connection.execute("SELECT rows FROM staged_during_load._d1_loads ORDER BY rows").fetchall()
        assert rows == [(3,), (4,)]


@pytest.mark.parametrize(
    ("name", "revoked"), [("token_accepted_after_rotation", False), ("token_revoked_by_rotation", True)]
)
def test_the_token_is_rotated_while_the_task_is_deferred(environment: Environment, name: str, revoked: bool) -> None:
    with environment.scenario(name) as scenario:
        scenario.emulator.faults.export_seconds = 3600
        run = scenario.run()
        scenario.deferred(run)
        token = environment.tokens[f"{name} new"] = f"secret-{secrets.token_hex(20)}"
        scenario.emulator.tokens.add(token)
        scenario.connect(token)
        if revoked:
            scenario.emulator.tokens.discard(scenario.token)
            scenario.emulator.faults.export_seconds = 1
        else:
            scenario.emulator.faults.set({"export_seconds": 1, "lost_exports": 1})
        manifest = scenario.succeeds(run)
        assert manifest["tables"][0]["rows"] == 3
        assert scenario.attempts(run) == 2
        refused = [call for call in scenario.calls("export_poll") if call.status in (401, 403)]
        assert len(refused) == (1 if revoked else 0)
        assert manifest["source"]["restarts"] == 0  # it is the retry's export that was staged
