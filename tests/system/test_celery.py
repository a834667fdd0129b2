"""D1 to S3 to a warehouse with CeleryExecutor: two workers, two triggerers, and a pool as the bound of exports."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from harness.airflow import wait_until
from harness.redis import redis_missing
from tests.system.environment import TIMEOUT

if TYPE_CHECKING:
    from tests.system.environment import Environment

WORKERS = ("celery-worker-one", "celery-worker-two")
TRIGGERERS = ("celery-triggerer-one", "celery-triggerer-two")
#: each triggerer runs two, so that without the pool all four exports would run at once
CAPACITY, SLOTS, EXPORTS = 2, 3, 4


def test_a_pool_bounds_the_exports_of_two_workers_and_two_triggerers(environment: Environment) -> None:
    if (missing := redis_missing()) is not None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(missing)
    airflow = environment.airflow
    for name in TRIGGERERS:
        airflow.start_triggerer(name, queue="celery", capacity=CAPACITY)
    for name in WORKERS:
        airflow.start_celery_worker(name, queue="celery")
    airflow.set_pool("celery_exports", SLOTS)
    seeds = {f"shop-{n}": f"CREATE TABLE t{n} (a); INSERT INTO t{n} VALUES ({n});" for n in range(EXPORTS)}
    with environment.scenario("celery", databases=seeds) as scenario:
        scenario.emulator.faults.export_seconds = 3600
        run = scenario.run()

        def exported() -> set[str]:
            """The databases that an export was started of, by the path of the call."""
            return {call.path for call in scenario.calls("export_start") if call.status == 202}

        # more than one triggerer takes, and no more than the pool has slots, even if there is capacity elsewhere
        wait_until(lambda: len(exported()) == SLOTS, "as many exports run as the pool has slots", TIMEOUT)
        time.sleep(10)
        assert len(exported()) == SLOTS
        # they end: lost, and started again as ones that are too short to be lost
        scenario.emulator.faults.set({"export_seconds": 0.2, "lost_exports": 100, "lost_after_polls": 4})
        assert scenario.ended(run) == "success", airflow.log(scenario.name, run)[-6000:]
        assert len(exported()) == EXPORTS
        for name in WORKERS:
            log = (airflow.folder / f"{name}.log").read_text(errors="replace")
            assert "execute_workload" in log, f"{name} has run a task"
        scheduler = (airflow.folder / "scheduler.log").read_text(errors="replace")
        assert [
            line for line in scheduler.splitlines() if "finished with state success, but" in line and "celery" in line
        ] == []
        for number in range(EXPORTS):
            key = f"celery/shop-{number}/_manifest.json"
            assert key in scenario.objects()
            with environment.postgres.connect() as connection:
                assert connection.execute(f'SELECT a FROM celery."t{number}"').fetchall() == [(number,)]
