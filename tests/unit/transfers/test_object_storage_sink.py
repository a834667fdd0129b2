"""The object storage sink against fsspec's own in-memory store, which keeps what is written to it byte for byte."""

from __future__ import annotations

import io
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from airflow.sdk.io import attach
from fsspec.implementations.memory import MemoryFileSystem

from airflow_provider_d1.exceptions import D1StagingError
from airflow_provider_d1.staging.manifest import Source, load
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.pipeline import stage
from airflow_provider_d1.staging.sinks import FolderSink
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.transfers.object_storage_sink import ObjectStorageSink

DUMP = b"PRAGMA defer_foreign_keys=TRUE;\nCREATE TABLE t(a);\n" + b'INSERT INTO "t" ("a") VALUES(1);\n' * 100_000


@pytest.fixture(autouse=True)
def _memory_store() -> None:
    """Airflow knows an fsspec store through a provider, or, like this one, by being told."""
    for connection in (None, "a_connection"):
        attach("memory", connection, fs=MemoryFileSystem())


@pytest.fixture
def path() -> Iterator[ObjectStoragePath]:
    path = ObjectStoragePath(f"memory://bucket-{uuid.uuid4().hex}/d1/shop")
    yield path
    path.fs.store.clear()


class Breaks(io.BytesIO):
    """A stream that ends in an error after its content."""

    def read(self, size: int | None = -1, /) -> bytes:
        if data := super().read(size):
            return data
        raise OSError("the line went dead")


def test_stages_a_dump_and_reads_it_back(path: ObjectStoragePath) -> None:
    sink = ObjectStorageSink(path)
    stage(io.BytesIO(DUMP), sink, StagingOptions(file_format="sql"), Source(database_name="shop"))
    manifest = load(sink.read_bytes("_manifest.json") or b"")
    assert manifest.files[0].uri == f"memory://{path.path.lstrip('/')}/shop.sql"
    assert sink.list() == {"_manifest.json": len(sink.read_bytes("_manifest.json") or b""), "shop.sql": len(DUMP)}
    assert sink.read_bytes("shop.sql") == DUMP


def test_lists_two_levels_and_nothing_beside_the_prefix(path: ObjectStoragePath) -> None:
    sink = ObjectStorageSink(path)
    assert sink.list() == {}
    sink.put_bytes("users/part-00000.parquet", b"12345")
    sink.put_bytes("_manifest.json", b"{}")
    ObjectStorageSink(path.parent / "shop2").put_bytes("other", b"x")
    assert sink.list() == {"users/part-00000.parquet": 5, "_manifest.json": 2}


def test_a_stream_that_breaks_leaves_nothing(path: ObjectStoragePath) -> None:
    sink = ObjectStorageSink(path)
    with pytest.raises(OSError, match="the line went dead"):
        sink.put_stream("half", Breaks(DUMP))
    assert sink.list() == {}


def test_a_stopped_run_uploads_no_more(path: ObjectStoragePath) -> None:
    sink = ObjectStorageSink(path)
    sink.cancel()
    with pytest.raises(D1StagingError, match="stopped"):
        sink.put_bytes("late", b"x")
    assert sink.list() == {}


def test_fetches_and_deletes_what_is_there_and_minds_nothing_that_is_not(
    path: ObjectStoragePath, tmp_path: Path
) -> None:
    sink = ObjectStorageSink(path)
    sink.put_stream("users/part-00000.csv.gz", io.BytesIO(b"abc"))
    sink.fetch("users/part-00000.csv.gz", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"abc"
    sink.delete(["users/part-00000.csv.gz", "users/part-00001.csv.gz"])
    assert sink.list() == {}
    assert sink.read_bytes("users/part-00000.csv.gz") is None


def test_the_connection_stays_out_of_uris() -> None:
    sink = ObjectStorageSink(ObjectStoragePath("memory://a_connection@bucket/d1"))
    assert sink.uri("x").endswith("bucket/d1/x")
    assert "a_connection" not in sink.uri("x")


def test_the_operator_writes_folders_with_the_folder_sink(tmp_path: Path) -> None:
    operator = D1ToObjectStorageOperator(task_id="stage", path=tmp_path.as_uri(), database="shop")
    sink = operator.sink()
    assert isinstance(sink, FolderSink)
    assert sink.path == tmp_path


def test_the_operator_takes_any_other_store(path: ObjectStoragePath) -> None:
    operator = D1ToObjectStorageOperator(task_id="stage", path=str(path), database="shop")
    assert isinstance(operator.sink(), ObjectStorageSink)


@pytest.mark.parametrize("bad", ["bucket/prefix", "", None, 7])
def test_the_operator_wants_a_url(bad: object) -> None:
    with pytest.raises(Exception, match="path must be a URL"):
        D1ToObjectStorageOperator(task_id="stage", path=bad, database="shop")
