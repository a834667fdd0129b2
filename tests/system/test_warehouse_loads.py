"""Loads that meet, a worker that is killed while it loads, and a warehouse that is: through to the rows.

The moments are drawn at random, from a seed. Loads are killed at every kind of statement, in all warehouses that run
here, in tests/integration/warehouses/test_killed_loads.py.
"""

from __future__ import annotations

import json
import os
import random
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from harness.airflow import wait_until
from harness.clickhouse import clickhouse_server
from harness.mariadb import mariadb_missing, mariadb_server
from harness.postgres import postgres_server
from harness.s3_faults import Fault, s3_proxy
from tests.system.environment import BIG, TIMEOUT, Environment, Scenario
from tests.system.test_worker import killed

if TYPE_CHECKING:
    from harness.process import Server

SEED = 20261127
#: number of rows and the sum of their keys, of ``BIG``
WHOLE = (20000, sum(range(1, 20001)))


def test_two_dag_runs_of_one_database_are_loaded_at_once(environment: Environment) -> None:
    """The first run's loads wait for their first files until one of the second run's loads has begun."""
    folder = environment.airflow.folder.parent / "two_loads"
    with (
        environment.scenario("two_loads") as scenario,
        clickhouse_server(folder) as clickhouse,
        s3_proxy(environment.s3) as proxy,
    ):
        airflow, loads = environment.airflow, ("two_loads_warehouse", "two_loads_clickhouse")
        airflow.set_connection("two_loads_clickhouse", json.loads(clickhouse.airflow_connection()))
        airflow.set_connection("two_loads_clickhouse_s3", json.loads(proxy.server.airflow_connection()))
        holds = [Fault("GET", r"part-00000\.parquet", "hold", times=1) for _ in loads]
        scenario.proxy.faults.append(holds[0])
        proxy.faults.append(holds[1])
        first = scenario.run()
        assert all(hold.reached.wait(TIMEOUT) for hold in holds)
        assert scenario.query("INSERT INTO users VALUES (4, 'Radia', 4.5)")
        second = scenario.run()

        def meets() -> bool:
            states = [airflow.task(scenario.name, second, load)["state"] for load in loads]
            return "running" in states or "success" in states

        wait_until(meets, "a load of the second run has begun", TIMEOUT)
        for hold in holds:
            hold.release.set()
        for run, rows in ((first, 3), (second, 4)):
            assert scenario.ended(run) == "success", airflow.log(scenario.name, run)[-6000:]
            assert [airflow.xcom(scenario.name, run, load)["rows"] for load in loads] == [rows, rows]
        query = "SELECT rows FROM two_loads._d1_loads ORDER BY sequence"
        with environment.postgres.connect() as connection, closing(clickhouse.connect()) as client:
            held = [connection.execute("SELECT id FROM two_loads.users ORDER BY id").fetchall()]
            recorded = [[rows for (rows,) in connection.execute(query).fetchall()]]
            held.append(list(client.query("SELECT id FROM two_loads.users ORDER BY id").result_rows))
            recorded.append([rows for (rows,) in client.query(query).result_rows])
        for ids in held:
            assert ids in ([(1,), (2,), (3,)], [(1,), (2,), (3,), (4,)])
        assert [sorted(rows) for rows in recorded] == [[3, 4], [3, 4]]
        # Postgres's loads follow each other, so its last record is of the rows that are there
        assert recorded[0][-1] == len(held[0])


def held_at_a_part(scenario: Scenario) -> tuple[str, Fault]:
    """Start a run, and wait until its load waits for one of its 32 parts; the run, and what holds the load."""
    part = random.Random(f"{SEED} {scenario.name}").randrange(30)
    hold = Fault("GET", rf"part-{part:05d}\.", "hold")
    scenario.proxy.faults.append(hold)
    run = scenario.run()
    assert hold.reached.wait(TIMEOUT)
    return run, hold


def loaded(scenario: Scenario, run: str, hold: Fault) -> None:
    """Let the load go on, and wait for its retry's good end."""
    hold.times = 0
    hold.release.set()
    assert scenario.ended(run) == "success", scenario.airflow.log(scenario.name, run)[-6000:]
    assert scenario.attempts(run, "load") == 2
    assert scenario.airflow.xcom(scenario.name, run, "load")["rows"] == WHOLE[0]


def test_a_worker_is_killed_while_it_loads(environment: Environment) -> None:
    with environment.scenario("load_killed", BIG) as scenario:
        run, hold = held_at_a_part(scenario)
        killed(scenario, run, "load")
        with environment.postgres.connect() as connection:
            assert connection.execute("SELECT to_regclass('load_killed.big')").fetchall() == [(None,)]
            loaded(scenario, run, hold)
            assert connection.execute("SELECT count(*), sum(id) FROM load_killed.big").fetchall() == [WHOLE]
            assert connection.execute("SELECT rows FROM load_killed._d1_loads").fetchall() == [WHOLE[:1]]


@pytest.mark.parametrize("warehouse", ["postgres", "mysql"])
def test_the_warehouse_is_restarted_while_it_is_loaded(environment: Environment, warehouse: str) -> None:
    name = f"restarted_{warehouse}"
    if warehouse == "mysql" and (missing := mariadb_missing()) is not None:
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)
    start: Any = {"postgres": postgres_server, "mysql": mariadb_server}[warehouse]
    with environment.scenario(name, BIG) as scenario, start(environment.airflow.folder.parent / name) as server:
        environment.airflow.set_connection(f"{name}_warehouse", json.loads(server.airflow_connection()))
        run, hold = held_at_a_part(scenario)
        process: Server = server.process
        process.kill()
        process.start()
        loaded(scenario, run, hold)
        with closing(server.connect()) as connection, closing(connection.cursor()) as cursor:
            cursor.execute(f"SELECT count(*), sum(id) FROM {name}.big")
            assert [tuple(map(int, row)) for row in cursor.fetchall()] == [WHOLE]
            cursor.execute(f"SELECT table_name FROM {name}._d1_loads")
            assert list(cursor.fetchall()) in ([("big",)], [["big"]])
