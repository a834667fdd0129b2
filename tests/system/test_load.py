"""Two hundred exports deferred at once in one event loop, under one token, with the rate limit on.

Everybody's clock runs twice as fast: the emulator's, and in the process of the triggers that of the retry policy,
the limiter and the export driver. All seconds below are the emulator's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from airflow_provider_d1.emulator.server import Emulator

if TYPE_CHECKING:
    from tests.system.environment import Environment

COUNT = 200
SPEED = 2
EXPORT_SECONDS = 20


def test_two_hundred_exports_at_once(environment: Environment) -> None:
    home = environment.airflow.folder.with_name("load")
    home.mkdir()
    seeds = {f"shop-{number}": "CREATE TABLE t (a); INSERT INTO t VALUES (1);" for number in range(COUNT + 1)}
    faults = {"export_seconds": EXPORT_SECONDS, "rate_limit": 1200, "rate_window_seconds": 300}
    with Emulator(token="load-token-" + "x" * 20, databases=seeds, faults=faults, speed=SPEED) as emulator:
        connection = {
            "conn_type": "d1",
            "host": emulator.url,
            "password": emulator.token,
            "extra": {"account_id": emulator.account_id},
        }
        command = [sys.executable, "-m", "tests.system.load_triggers", str(COUNT), str(SPEED)]
        settings = {"AIRFLOW_HOME": str(home), "AIRFLOW_CONN_D1_LOAD": json.dumps(connection), "NO_PROXY": "*"}
        finished = subprocess.run(
            command, env={**os.environ, **settings}, capture_output=True, text=True, timeout=900, check=False
        )
        assert finished.returncode == 0, finished.stderr[-3000:]
        report = json.loads(finished.stdout.splitlines()[-1])
        calls = list(emulator.calls)
    starts = [call for call in calls if call.kind == "export_start"]
    polls: dict[str, list[float]] = {}
    for call in calls:
        if call.kind == "export_poll":
            polls.setdefault(call.body["current_bookmark"], []).append(call.time)
    gaps = [later - earlier for times in polls.values() for earlier, later in pairwise(sorted(times))]
    print(f"{report} calls={len(calls)} longest gap={max(gaps):.2f} most at once={most_at_once(polls)}")

    assert report["succeeded"] == COUNT, report
    assert [call.status for call in calls if call.status == 429] == []
    assert report["restarts"] == 0
    assert len(starts) == len(polls) == COUNT + 1  # each waited its turn before it started, and started once
    assert max(gaps) <= 10
    assert report["longest_step"] <= 0.1, report
    assert most_in_window([call.time for call in calls], 300) <= 1000


def most_at_once(polls: dict[str, list[float]]) -> int:
    spans = [(min(times), max(times)) for times in polls.values()]
    return max(sum(begin <= moment <= end for begin, end in spans) for moment, _ in spans)


def most_in_window(times: list[float], window: float) -> int:
    times = sorted(times)
    return max(sum(begin <= time < begin + window for time in times[index:]) for index, begin in enumerate(times))
