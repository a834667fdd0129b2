"""Errors of a real Postgres: which of them end in a retry, and that a retry then succeeds."""

from __future__ import annotations

import threading
from typing import Any

import pyarrow as pa
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import postgres as postgres_loader
from tests.integration.warehouses.staged import write_staged
from tests.integration.warehouses.warehouse_engines import CONN_ID, Postgres

ROWS = pa.table({"id": [1, 2, 3]})

TRANSIENT = {
    "08006": "connection failure",
    "25006": "read-only transaction: a standby",
    "40001": "serialization failure",
    "40P01": "deadlock detected",
    "53100": "disk full",
    "53200": "out of memory",
    "53300": "too many connections",
    "55P03": "lock not available",
    "57014": "query canceled",
    "57P01": "admin shutdown",
    "57P03": "cannot connect now",
    "58030": "I/O error",
    "XX000": "internal error",
    "F0000": "a class that is not known here",
}
PERMANENT = {
    "0A000": "feature not supported",
    "22003": "numeric value out of range",
    "22P02": "invalid text representation",
    "23502": "not null violation",
    "23503": "foreign key violation",
    "23505": "unique violation",
    "28000": "invalid authorization",
    "42501": "insufficient privilege",
    "42601": "syntax error",
    "42703": "undefined column",
    "42P01": "undefined table",
    "54000": "program limit exceeded",
}


@pytest.fixture
def engine(request, monkeypatch) -> Postgres:
    engine = Postgres(request.getfixturevalue("postgres"))
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
    return engine


@pytest.fixture
def manifest(tmp_path) -> str:
    return write_staged(tmp_path, {"users": ROWS})


@pytest.mark.parametrize("state", [*TRANSIENT, *PERMANENT])
def test_an_error_is_retried_unless_it_would_come_again(engine, schema, load_staged, manifest, state) -> None:
    """A trigger on the last table that a load writes to raises what the server might."""
    load_staged(manifest)
    quoted = engine.quoted(schema)
    engine.execute(
        f"CREATE FUNCTION {quoted}.fail() RETURNS trigger LANGUAGE plpgsql "
        f"AS $$BEGIN RAISE EXCEPTION 'it is {state}' USING ERRCODE = '{state}'; END$$"
    )
    engine.execute(f"CREATE TRIGGER fail BEFORE INSERT ON {quoted}._d1_loads EXECUTE FUNCTION {quoted}.fail()")
    expected: type[Exception] = AirflowFailException if state in PERMANENT else D1WarehouseError
    with pytest.raises(expected, match=f"it is {state}") as failure:
        load_staged(manifest)
    if state in TRANSIENT:
        assert failure.value.retryable
    engine.execute(f"DROP TRIGGER fail ON {quoted}._d1_loads")
    assert load_staged(manifest)["rows"] == 3


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_a_connection_that_is_cut_in_the_middle(
    engine, schema, load_staged, manifest, mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = postgres_loader.staged_batches

    def cutting(*arguments: Any):
        yield from whole(*arguments)
        engine.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'COPY%'")

    with monkeypatch.context() as patch:
        patch.setattr(postgres_loader, "staged_batches", cutting)
        with pytest.raises(D1WarehouseError) as failure:
            load_staged(manifest, mode=mode)
    assert failure.value.retryable
    assert load_staged(manifest, mode=mode)["rows"] == 3


def test_first_loads_into_one_new_schema_at_once_do_not_fail_permanently(engine, schema, load_staged, manifest) -> None:
    failures: list[BaseException] = []

    def load() -> None:
        try:
            load_staged(manifest)
        except BaseException as error:  # noqa: BLE001 - looked at below
            failures.append(error)

    workers = [threading.Thread(target=load) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert not failures
    assert len(engine.loads(schema)) == 4
