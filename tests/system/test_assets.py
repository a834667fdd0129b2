"""A DAG that is scheduled by an asset loads the run that emitted the event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.airflow import FINAL, wait_until
from tests.system.environment import TIMEOUT

if TYPE_CHECKING:
    from tests.system.environment import Environment


def test_each_staged_run_is_loaded_by_the_asset_that_it_updates(environment: Environment) -> None:
    with environment.scenario("asset") as scenario:
        airflow = environment.airflow
        scenario.emulator.faults.export_seconds = 0
        warehouse = {"conn_type": "duckdb", "host": str(airflow.folder / "asset.duckdb")}
        airflow.set_connection("asset_warehouse", warehouse)

        def loads() -> list[dict[str, Any]]:
            found = airflow.request("GET", "/dags/asset_load/dagRuns?order_by=run_after")["dag_runs"]
            return [run for run in found if run["state"] in FINAL]

        for number in (1, 2):
            run = scenario.run()
            scenario.succeeds(run)
            staged = airflow.xcom("asset", run, "stage")
            wait_until(lambda number=number: len(loads()) >= number, "the scheduled DAG has run", TIMEOUT)
            load = loads()[-1]
            assert load["run_type"] == "asset_triggered"
            assert load["state"] == "success", airflow.log("asset_load", load["dag_run_id"])[-6000:]
            loaded = airflow.xcom("asset_load", load["dag_run_id"], "load")
            assert loaded["manifest"] == staged["manifest"]
            assert loaded["rows"] == staged["rows"] == 5
