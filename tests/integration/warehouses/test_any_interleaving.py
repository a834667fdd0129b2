"""Two loads into one table, each statement of which may run between any two of the other's.

Whatever the order is, the table then holds what some order of whole loads gives, and a load that says that it has
loaded its rows has loaded them. A load that failed may be retried, and then succeeds.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import HealthCheck, Phase, assume, example, given, settings
from hypothesis import strategies as st

from airflow_provider_d1.exceptions import D1Error
from airflow_provider_d1.transfers.staging_to_warehouse import D1StagingToWarehouseOperator
from tests.integration.warehouses.interleaving import Interleaving
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID

OLD = Counter(range(5))
ROWS = {"one": list(range(100, 112)), "other": list(range(200, 207))}
#: the other one's column is wider, so that the table has to change before an append
TABLES = {
    "one": pa.table({"id": ROWS["one"]}),
    "other": pa.table({"id": ROWS["other"]}),
    "wider": pa.table({"id": pa.array([float(i) for i in ROWS["other"]])}),
}


@pytest.fixture
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    engine = request.getfixturevalue(f"{request.param}_engine")
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
    return engine


@pytest.fixture
def staged(tmp_path: Path) -> dict[str, str]:
    uris = {}
    for name, table in {"old": pa.table({"id": sorted(OLD)}), **TABLES}.items():
        folder = tmp_path / name
        folder.mkdir()
        uris[name] = write_staged(folder, {"users": table}, bookmark=name)
    return uris


def load(uri: str, schema: str, mode: str) -> Any:
    keys = {"users": ["id"]} if mode == "merge" else None
    operator = D1StagingToWarehouseOperator(
        task_id="load", manifest=uri, conn_id=CONN_ID, schema=schema, mode=mode, keys=keys
    )
    return operator.execute({})


def outcomes(done: list[tuple[str, str]], perhaps: list[tuple[str, str]], *, standing: bool) -> Iterator[Counter[int]]:
    """What the table may hold when the loads of ``done`` succeeded and those of ``perhaps`` failed."""
    for some in ([*done, *perhaps], done, *([*done, load] for load in perhaps)):
        for order in permutations(some):
            rows, appended = (OLD.copy() if standing else Counter()), set()
            for source, mode in order:
                content = Counter(ROWS["one" if source == "one" else "other"])
                if mode == "replace":
                    rows, appended = content, {source}
                elif mode == "merge":
                    rows, appended = rows | content, appended | {source}
                elif source not in appended:
                    rows, appended = rows + content, appended | {source}
            yield rows


#: the second load begins before the first one commits, and changes rows after it
BEGUN_BEFORE = [0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0]
LOADS = st.tuples(st.sampled_from(["one", "other", "wider"]), st.sampled_from(["replace", "append", "merge"]))


@pytest.mark.parametrize(
    ("engine", "viewed"),
    [("clickhouse", False), ("clickhouse", True), ("snowflake", False), ("duckdb", False), ("postgres", False)],
    indirect=["engine"],
)
@given(one=LOADS, other=LOADS, standing=st.booleans(), schedule=st.lists(st.integers(0, 1), max_size=24))
@example(("one", "merge"), ("one", "replace"), True, BEGUN_BEFORE)
@settings(
    max_examples=10,
    deadline=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_end_is_that_of_some_order(engine, staged, viewed, one, other, standing, schedule) -> None:
    if engine.name != "postgres":
        # without a lock, two loads of one export at once are not noticed by an append (docs/warehouses.md)
        assume(one[0] != other[0] or "append" not in (one[1], other[1]))
    schema = f"Staging_{secrets.token_hex(4)}"
    if standing:
        load(staged["old"], schema, "replace")
    if standing and viewed:
        view, table = f"{engine.quoted(schema + '_views')}.ids", engine.quoted(schema, "users")
        engine.execute(f"CREATE DATABASE {engine.quoted(schema + '_views')}")
        engine.execute(f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY tuple() AS SELECT id FROM {table}")
    engine.execute("SELECT 1")  # fakesnow makes the database for the first connection, but not for two at once
    loads = {"one": one, "other": other}
    with Interleaving(blocked=0.1 if engine.name in ("postgres", "snowflake") else 30) as turns:
        for name, (source, mode) in loads.items():
            turns.start(name, lambda source=source, mode=mode: load(staged[source], schema, mode))
        for turn in schedule:
            turns.step(list(loads)[turn])
        while turns.step("one") | turns.step("other"):
            pass
    results = turns.ended

    def held() -> Counter[int]:
        tables = engine.tables(schema)
        return Counter(int(value) for (value,) in engine.rows(schema, "users")) if "users" in tables else Counter()

    failed = [name for name, result in results.items() if isinstance(result, BaseException)]
    for name in failed:
        error = results[name]
        assert isinstance(error, D1Error | AirflowFailException), repr(error)
        # a table that changes its columns while another load looks at it may be refused for good by the warehouse
        if isinstance(error, D1Error):
            assert error.retryable, repr(error)
    done = [loads[name] for name in loads if name not in failed]
    possible = list(outcomes(done, [loads[name] for name in failed], standing=standing))
    assert held() in possible, (held(), possible, results)
    assert {table for table in engine.tables(schema) if table.startswith("_d1_new_")} == set()

    for name in failed:
        if isinstance(results[name], D1Error):
            source, mode = loads[name]
            load(staged[source], schema, mode)
    retried = [loads[name] for name in failed if isinstance(results[name], D1Error)]
    lost = [loads[name] for name in failed if not isinstance(results[name], D1Error)]
    possible = list(outcomes([*done, *retried], lost, standing=standing))
    assert held() in possible, (held(), possible, results)


@pytest.mark.parametrize("engine", ["duckdb"], indirect=True)
@pytest.mark.parametrize("change", ["DELETE FROM {}", "UPDATE {} SET sequence = NULL"])
def test_two_loads_conflict_without_a_record_too(engine, staged, change) -> None:
    """A person may have emptied ``_d1_loads``, and records of earlier releases have no number."""
    load(staged["old"], "main", "replace")
    loads = engine.quoted("main", "_d1_loads")
    engine.execute(change.format(loads))
    with Interleaving(blocked=30) as turns:
        turns.start("merge", lambda: load(staged["one"], "main", "merge"))
        turns.start("replace", lambda: load(staged["one"], "main", "replace"))
        for turn in BEGUN_BEFORE:
            turns.step(("merge", "replace")[turn])
        while turns.step("merge") | turns.step("replace"):
            pass
    error = turns.ended["replace"]
    assert isinstance(error, D1Error)
    assert error.retryable
    assert sorted(int(value) for (value,) in engine.rows("main", "users")) == sorted(OLD | Counter(ROWS["one"]))
