"""Readers of a Postgres while a load runs: they see the old rows or the new ones, and wait for a swap at most."""

from __future__ import annotations

import threading
import time
from contextlib import closing

import pyarrow as pa
import pytest

from airflow_provider_d1.exceptions import D1WarehouseError
from airflow_provider_d1.warehouses import postgres as postgres_loader
from airflow_provider_d1.warehouses import postgres_publish
from tests.integration.warehouses.staged import write_staged

OLD = pa.table({"id": [1] * 100})
NEW = pa.table({"id": [2] * 3000})


@pytest.fixture
def engine(request):
    """Only Postgres: the others have no second connection here that could wait."""
    from tests.integration.warehouses.warehouse_engines import CONN_ID, Postgres

    engine = Postgres(request.getfixturevalue("postgres"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(f"AIRFLOW_CONN_{CONN_ID.upper()}", engine.airflow_connection())
        yield engine


@pytest.fixture
def manifests(tmp_path):
    result = []
    for name, content in (("old", OLD), ("new", NEW)):
        folder = tmp_path / name
        folder.mkdir()
        result.append(write_staged(folder, {"t": content}, bookmark=name))
    return result


def test_readers_see_the_old_table_until_the_new_one_is_whole(
    engine, schema, load_staged, manifests, monkeypatch
) -> None:
    old, new = manifests
    load_staged(old)
    path = engine.quoted(schema, "t")
    loading, go_on = threading.Event(), threading.Event()
    whole = postgres_loader.staged_batches

    def slowly(*arguments):
        yield from whole(*arguments)
        loading.set()
        assert go_on.wait(30)

    monkeypatch.setattr(postgres_loader, "staged_batches", slowly)
    errors = []

    def load() -> None:
        try:
            load_staged(new)
        except BaseException as error:  # noqa: BLE001 - told to the test
            errors.append(error)

    worker = threading.Thread(target=load)
    worker.start()
    assert loading.wait(30)
    # all rows have been sent; nobody waits for the load, and a snapshot from before it stays usable
    with closing(engine.server.connect(options="-c lock_timeout=1s")) as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM pg_catalog.pg_class").fetchone()
        assert engine.execute(f"SELECT count(*), min(id) FROM {path}") == [(100, 1)]
        go_on.set()
        worker.join(60)
        assert not errors
        assert reader.execute(f"SELECT count(*), min(id) FROM {path}").fetchone() == (3000, 2)
    assert engine.execute(f"SELECT count(*), min(id) FROM {path}") == [(3000, 2)]


def test_a_long_reader_does_not_make_the_others_wait(engine, schema, load_staged, manifests, monkeypatch) -> None:
    old, new = manifests
    load_staged(old)
    path = engine.quoted(schema, "t")
    monkeypatch.setattr(postgres_publish, "_READERS_TIMEOUT", "300ms")
    with closing(engine.server.connect()) as long_reader:
        with long_reader.transaction():
            long_reader.execute(f"SELECT * FROM {path}")
            worker = threading.Thread(target=load_staged, args=[new])
            worker.start()
            deadline = time.monotonic() + 30
            while not engine.execute("SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND NOT granted"):
                assert time.monotonic() < deadline, "the swap never asked for its lock"
            # the swap gives way, so a short reader gets in although the long one still reads
            with closing(engine.server.connect(options="-c lock_timeout=20s")) as reader:
                assert reader.execute(f"SELECT count(*) FROM {path}").fetchone() == (100,)
            assert worker.is_alive()
        worker.join(60)
    assert not worker.is_alive()
    assert engine.execute(f"SELECT count(*) FROM {path}") == [(3000,)]


def test_a_table_that_is_being_read_holds_up_no_other(engine, schema, load_staged, tmp_path) -> None:
    """All tables are swapped in one transaction, yet none is locked while another one is waited for."""
    manifests = []
    for name, content in (("both old", OLD), ("both new", NEW)):
        folder = tmp_path / name
        folder.mkdir()
        manifests.append(write_staged(folder, {"a": content, "z": content}, bookmark=name))
    load_staged(manifests[0])
    quiet, read = (engine.quoted(schema, name) for name in ("a", "z"))
    waiting = (
        f"SELECT (SELECT count(*) FROM pg_locks WHERE relation = '{quiet}'::regclass AND mode = 'AccessExclusiveLock' "
        f"AND granted AND pid = w.pid) FROM pg_locks w WHERE relation = '{read}'::regclass AND NOT granted"
    )
    with closing(engine.server.connect()) as long_reader:
        with long_reader.transaction():
            long_reader.execute(f"SELECT * FROM {read}")
            worker = threading.Thread(target=load_staged, args=[manifests[1]])
            worker.start()
            seen = []
            with closing(engine.server.connect()) as observer:
                deadline = time.monotonic() + 60
                while len(seen) < 20:
                    assert time.monotonic() < deadline, "the load never waited for the table that is being read"
                    seen += observer.execute(waiting).fetchall()
            assert set(seen) == {(0,)}
            assert worker.is_alive()
        worker.join(60)
    assert engine.execute(f"SELECT count(*) FROM {read}") == [(3000,)]


def test_rows_of_a_table_with_something_attached_are_replaced_under_its_readers(
    engine, schema, load_staged, manifests
) -> None:
    """Nobody waits for anybody: not the load for a reader that does not end, not a reader for the load."""
    old, new = manifests
    load_staged(old)
    path = engine.quoted(schema, "t")
    engine.execute(f"COMMENT ON TABLE {path} IS 'people read this'")
    with closing(engine.server.connect()) as reader, reader.transaction():
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute(f"SELECT count(*), min(id) FROM {path}").fetchone() == (100, 1)
        load_staged(new)
        assert reader.execute(f"SELECT count(*), min(id) FROM {path}").fetchone() == (100, 1)
        assert engine.execute(f"SELECT count(*), min(id) FROM {path}") == [(3000, 2)]


def test_what_is_attached_during_the_load_is_kept_by_the_next_attempt(
    engine, schema, load_staged, manifests, monkeypatch
) -> None:
    old, new = manifests
    load_staged(old)
    path = engine.quoted(schema, "t")
    whole = postgres_loader.staged_batches

    def attaching(*arguments):
        yield from whole(*arguments)
        engine.execute(f"COMMENT ON TABLE {path} IS 'attached'")

    with monkeypatch.context() as patch:
        patch.setattr(postgres_loader, "staged_batches", attaching)
        with pytest.raises(D1WarehouseError, match="'t' was changed while") as failure:
            load_staged(new)
    assert failure.value.retryable
    load_staged(new)
    assert engine.execute(f"SELECT obj_description('{path}'::regclass), count(*) FROM {path}") == [("attached", 3000)]


def test_two_loads_of_one_export_at_once_append_it_once(engine, schema, load_staged, manifests) -> None:
    old, new = manifests
    load_staged(old)
    results = []
    workers = [threading.Thread(target=lambda: results.append(load_staged(new, mode="append"))) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert sorted(result["skipped"] for result in results) == [False, True, True]
    assert engine.execute(f"SELECT count(*) FROM {engine.quoted(schema, 't')}") == [(3100,)]
