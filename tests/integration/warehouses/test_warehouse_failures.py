"""What goes wrong leaves every table as it was: broken files, errors in the middle (killed: test_killed_loads.py)."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from airflow.providers.common.compat.sdk import AirflowFailException

from airflow_provider_d1.exceptions import D1Error, D1ManifestError, D1WarehouseError
from tests.integration.warehouses.staged import edit_manifest, write_staged

OLD = pa.table({"id": [1, 2], "name": ["Ada", "Grace"]})
NEW = pa.table({"id": list(range(10)), "name": [f"name {n}" for n in range(10)]})


@pytest.fixture
def standing(engine, schema, load_staged, tmp_path):
    """Two loaded tables, and a check that they are as they were, with no other table beside them."""
    folder = tmp_path / "old"
    folder.mkdir()
    load_staged(write_staged(folder, {"first": OLD, "second": OLD}, bookmark="old"))
    before = {name: (engine.columns(schema, name), engine.rows(schema, name)) for name in ("first", "second")}
    loads = engine.loads(schema)

    def check() -> None:
        assert engine.tables(schema) == {"first", "second", "_d1_loads"}
        for name, content in before.items():
            assert (engine.columns(schema, name), engine.rows(schema, name)) == content
        assert engine.loads(schema) == loads

    return check


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "new"
    folder.mkdir()
    return folder


def part(folder: Path, table: int, number: int = 0) -> Path:
    (found,) = (folder / f"t{table}").glob(f"part-{number:05d}.*")
    return found


def missing(folder: Path) -> None:
    part(folder, 1, 1).unlink()


def longer(folder: Path) -> None:
    path = part(folder, 1, 1)
    path.write_bytes(path.read_bytes() + b"x")


def other_rows(folder: Path) -> None:
    """One part has a row less than it should, another one more; the sum is right."""

    def change(manifest: Any) -> None:
        first, second = manifest["tables"][1]["files"][:2]
        first["rows"] -= 1
        second["rows"] += 1

    edit_manifest(folder, change)


def too_few_rows(folder: Path) -> None:
    def change(manifest: Any) -> None:
        manifest["tables"][1]["rows"] += 1
        manifest["tables"][1]["files"][0]["rows"] += 1

    edit_manifest(folder, change)


def wrong_sum(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["tables"][1].update(rows=11))


def damaged(folder: Path) -> None:
    path = part(folder, 1, 1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 - 20 : len(content) // 2 + 20] = bytes(40)
    content[:20] = bytes(20)
    path.write_bytes(content)


def other_columns(folder: Path) -> None:
    edit_manifest(folder, lambda manifest: manifest["tables"][1]["columns"][0].update(name="other"))


@pytest.mark.parametrize(("file_format", "mode"), [("parquet", "replace"), ("csv", "append"), ("jsonl", "replace")])
def test_broken_files(engine, load_staged, standing, tmp_path, file_format, mode) -> None:
    for accident in (missing, longer, other_rows, too_few_rows, wrong_sum, damaged, other_columns):
        folder = tmp_path / accident.__name__
        folder.mkdir()
        uri = write_staged(folder, {"first": NEW, "second": NEW}, file_format, bookmark="new", rows_in_part=5)
        accident(folder)
        if accident in (missing, longer):  # by a newer run, whose manifest the next attempt may read
            with pytest.raises(D1ManifestError, match="'second'") as gone:
                load_staged(uri, mode=mode)
            assert gone.value.retryable
            continue
        with pytest.raises(AirflowFailException, match="'second'") as failure:
            load_staged(uri, mode=mode)
        assert isinstance(failure.value.__cause__, D1ManifestError | D1WarehouseError), accident
    standing()


def test_checksums_are_compared_when_asked_for(engine, schema, load_staged, standing, folder) -> None:
    uri = write_staged(folder, {"first": OLD, "second": NEW}, bookmark="new")
    path = part(folder, 1)
    size = path.stat().st_size
    pq.write_table(NEW.set_column(1, "name", pa.array(["NAME"] * 10)), path, compression="zstd")
    path.write_bytes(path.read_bytes()[:size].ljust(size, b"\0"))
    edit_manifest(folder, lambda manifest: manifest["tables"][1]["files"][0].update(bytes=path.stat().st_size))
    with pytest.raises(D1ManifestError, match=r"second.*SHA-256") as failure:
        load_staged(uri, verify_checksums=True)
    assert failure.value.retryable
    standing()


def test_a_part_outside_the_manifests_folder_is_refused(engine, load_staged, standing, folder) -> None:
    """Who can write one prefix must not be able to load what else the worker can read."""
    uri = write_staged(folder, {"second": NEW})
    secret = folder.parent / "secret.parquet"
    secret.write_bytes(part(folder, 0).read_bytes())
    (folder / "link.parquet").symlink_to(secret)
    inside = part(folder, 0).as_uri()
    elsewhere = [secret.as_uri(), f"{folder.as_uri()}/../secret.parquet", f"{folder.as_uri()}/%2e%2e/secret.parquet"]
    for bad in (*elsewhere, (folder / "link.parquet").as_uri(), "s3://elsewhere/part.parquet"):
        edit_manifest(folder, lambda manifest, bad=bad: manifest["tables"][0]["files"][0].update(uri=bad))
        with pytest.raises(AirflowFailException, match=r"'second'.*not in the manifest's folder"):
            load_staged(uri)
    standing()
    edit_manifest(folder, lambda manifest: manifest["tables"][0]["files"][0].update(uri=inside))
    load_staged(uri)


@pytest.mark.parametrize(
    ("output", "named"),
    [
        ({"database_id": "the blog's"}, "database_id"),
        ({"bookmark": "another"}, "bookmark"),
        ({"run": "20261127T020000Z-3f9c1a"}, "run"),
    ],
)
def test_a_transfers_output_loads_that_run_and_no_other(
    engine, load_staged, standing, folder, output: dict[str, str], named: str
) -> None:
    """Two mapped tasks with one prefix: one's manifest must not be loaded for the other."""
    uri = write_staged(folder, {"first": NEW}, bookmark="new")
    with pytest.raises(AirflowFailException, match=rf"{named} .*{output[named]}"):
        load_staged({"manifest": uri, **output})
    standing()
    assert load_staged({"manifest": uri, "bookmark": "new", "run": None})["rows"] == 10


@pytest.mark.parametrize("mode", ["replace", "append"])
def test_an_error_in_the_middle(engine, schema, load_staged, standing, folder, mode, monkeypatch) -> None:
    """The record in ``_d1_loads`` comes last of all; there the server's connection breaks."""
    from airflow_provider_d1.warehouses import load_history as loads

    uri = write_staged(folder, {"first": NEW, "second": NEW.append_column("more", NEW["id"])}, bookmark="new")
    whole = loads.insert_statement
    monkeypatch.setattr(loads, "insert_statement", lambda *arguments: whole(*arguments) + " no such word")
    with pytest.raises((AirflowFailException, D1WarehouseError)):
        load_staged(uri, mode=mode)
    monkeypatch.undo()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", engine.airflow_connection())
    if engine.all_or_nothing:
        standing()
    assert engine.tables(schema) == {"first", "second", "_d1_loads"}
    load_staged(uri)
    assert len(engine.rows(schema, "second")) == 10


def test_a_prefix_that_cannot_be_held_creates_nothing(engine, load_staged, standing, folder) -> None:
    with pytest.raises(AirflowFailException, match=r"table_prefix.*choose another prefix"):
        load_staged(write_staged(folder, {"fine": NEW}), table_prefix="a\0")
    standing()


@pytest.mark.parametrize("file_format", ["parquet", "jsonl"])
def test_nul_in_text(engine, schema, load_staged, standing, folder, file_format) -> None:
    texts = pa.table({"a": ["x", "\0", None, "a\0b\0"], "b": ["\0"] * 4, "c": pa.array([b"\0"] * 4, pa.binary())})
    uri = write_staged(folder, {"first": NEW, "texts": texts}, file_format, bookmark="new", rows_in_part=3)
    if engine.holds_nul:
        load_staged(uri)
        assert sorted(engine.rows(schema, "texts"), key=repr) == sorted(rows_of(texts), key=repr)
        return
    with pytest.raises(AirflowFailException, match=r"'texts'.*'a': 2, .*'b': 4"):
        load_staged(uri)
    standing()
    result = load_staged(uri, on_nul="replace")
    assert result["tables"]["texts"]["nul_replaced"] == {"a": 2, "b": 4}
    assert engine.rows(schema, "texts") == [
        tuple(v.replace("\0", "\ufffd") if isinstance(v, str) else v for v in row) for row in rows_of(texts)
    ]


def rows_of(table: pa.Table) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in table.to_pylist()]


ODD = "pä's\"s w@rd/%41:?#"


def test_secrets_and_reasons_of_a_server_that_lets_nobody_in(engine, load_staged, folder, monkeypatch, caplog) -> None:
    caplog.set_level(logging.DEBUG)
    definition = json.loads(engine.airflow_connection()) | {"password": ODD}
    if engine.name == "clickhouse":
        definition = {"conn_type": "clickhouse", "host": "127.0.0.1", "port": 1, "password": ODD}
    if engine.name == "duckdb":
        definition = {"conn_type": "duckdb", "host": str(folder / "no such folder" / "x.duckdb")}
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", json.dumps(definition))
    uri = write_staged(folder, {"first": NEW})
    started = time.monotonic()
    # a wrong password is an error of its own in MySQL; the others' drivers don't tell it from a server that is away
    with pytest.raises(AirflowFailException if engine.name == "mysql" else D1Error, match="warehouse") as failure:
        load_staged(uri)
    assert time.monotonic() - started < 60
    assert engine.name == "mysql" or failure.value.retryable
    for text in (caplog.text, str(failure.value), repr(failure.value.__cause__)):
        assert ODD not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "upsert"}, "mode .*'upsert'"),
        ({"on_nul": "drop"}, "on_nul .*'drop'"),
        ({"tables": []}, "tables"),
        ({"schema": ""}, "schema"),
        ({"manifest": "/a/path"}, "manifest"),
        ({"manifest": {}}, "manifest"),
        ({"manifest": "file:///no/such/_manifest.json"}, "file:///no/such.*manifest not found"),
    ],
)
def test_arguments_that_cannot_work(engine, load_staged, folder, arguments, message) -> None:
    with pytest.raises((AirflowFailException, D1Error), match=message):
        load_staged(**{"manifest": write_staged(folder, {"first": NEW}), **arguments})


def test_an_unknown_connection_type_is_named_with_the_known_ones(load_staged, folder, monkeypatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "oracle"}')
    with pytest.raises(
        AirflowFailException, match=r"'warehouse'.*'oracle'.*postgres.*airflow-provider-d1\[clickhouse\]"
    ):
        load_staged(write_staged(folder, {"first": NEW}))
