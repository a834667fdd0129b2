"""Object storage against fsspec's own in-memory store, which keeps what is written to it byte for byte."""

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
from airflow_provider_d1.staging.manifest import parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.folder import FolderStorage
from airflow_provider_d1.storage.object_storage import ObjectStorage
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator, storage_at

DUMP = b"PRAGMA defer_foreign_keys=TRUE;\nCREATE TABLE t(a);\n" + b'INSERT INTO "t" ("a") VALUES(1);\n' * 100_000


@pytest.fixture(autouse=True)
def _memory_store() -> None:
    """Airflow gets an fsspec store from a provider or, as here, from a registration."""
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
    storage = ObjectStorage(path)
    stage(io.BytesIO(DUMP), storage, StagingOptions(file_format="sql"), Source(database_name="shop"))
    manifest = parse_manifest(storage.read_bytes("_manifest.json") or b"")
    key = f"{manifest.run}/shop.sql"
    assert manifest.files[0].uri == f"memory://{path.path.lstrip('/')}/{key}"
    assert storage.key(manifest.files[0].uri) == key
    size = len(storage.read_bytes("_manifest.json") or b"")
    assert storage.list() == {"_manifest.json": size, f"{manifest.run}/_manifest.json": size, key: len(DUMP)}
    assert storage.read_bytes(key) == DUMP
    assert storage.folders() == [manifest.run]


def test_lists_all_levels_and_nothing_beside_the_prefix(path: ObjectStoragePath) -> None:
    storage = ObjectStorage(path)
    assert storage.list() == {}
    storage.put_bytes("users/part-00000.parquet", b"12345")
    storage.put_bytes("run/users/part-00000.parquet", b"123")
    storage.put_bytes("_manifest.json", b"{}")
    ObjectStorage(path.parent / "shop2").put_bytes("other", b"x")
    assert storage.list() == {"users/part-00000.parquet": 5, "run/users/part-00000.parquet": 3, "_manifest.json": 2}
    assert storage.list("run") == {"run/users/part-00000.parquet": 3}
    assert sorted(storage.folders()) == ["run", "users"]
    assert (storage.size("_manifest.json"), storage.size("none")) == (2, None)


def test_a_file_is_replaced_only_if_it_is_what_was_read(path: ObjectStoragePath) -> None:
    storage = ObjectStorage(path)
    assert not storage.replace("k", b"1", expected=b"0")
    assert storage.replace("k", b"1", expected=None)
    assert storage.replace("k", b"2", expected=b"1")
    assert not storage.replace("k", b"3", expected=b"1")
    assert storage.read_bytes("k") == b"2"


def test_only_files_below_the_prefix_have_a_key(path: ObjectStoragePath) -> None:
    storage = ObjectStorage(path)
    bucket = storage.uri("k").removeprefix("memory://").partition("/")[0]
    assert storage.key(storage.uri("a/k")) == "a/k"
    assert storage.key(storage.uri("k").replace(bucket, f"a_connection@{bucket}")) == "k"
    for uri in ("memory://other/d1/shop/k", storage.uri("a/../../k"), storage.uri(""), "s3://b/k"):
        assert storage.key(uri) is None


def test_a_failing_stream_leaves_no_file(path: ObjectStoragePath) -> None:
    storage = ObjectStorage(path)
    with pytest.raises(OSError, match="the line went dead"):
        storage.put_stream("half", Breaks(DUMP))
    assert storage.list() == {}


def test_a_stopped_run_uploads_no_more(path: ObjectStoragePath) -> None:
    storage = ObjectStorage(path)
    storage.cancel()
    with pytest.raises(D1StagingError, match="stopped"):
        storage.put_bytes("late", b"x")
    assert storage.list() == {}


def test_files_are_fetched_and_deleted_and_missing_ones_ignored(path: ObjectStoragePath, tmp_path: Path) -> None:
    storage = ObjectStorage(path)
    storage.put_stream("users/part-00000.csv.gz", io.BytesIO(b"abc"))
    storage.fetch("users/part-00000.csv.gz", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == b"abc"
    storage.delete(["users/part-00000.csv.gz", "users/part-00001.csv.gz"])
    assert storage.list() == {}
    assert storage.read_bytes("users/part-00000.csv.gz") is None


def test_the_connection_stays_out_of_uris() -> None:
    storage = ObjectStorage(ObjectStoragePath("memory://a_connection@bucket/d1"))
    assert storage.uri("x").endswith("bucket/d1/x")
    assert "a_connection" not in storage.uri("x")


def test_a_local_folder_is_written_by_the_folder_storage(tmp_path: Path) -> None:
    storage = storage_at(tmp_path.as_uri())
    assert isinstance(storage, FolderStorage)
    assert storage.path == tmp_path


def test_any_other_url_is_object_storage(path: ObjectStoragePath) -> None:
    assert isinstance(storage_at(str(path)), ObjectStorage)


@pytest.mark.parametrize("bad", ["bucket/prefix", "", None, 7])
def test_the_operator_wants_a_url(bad: object) -> None:
    with pytest.raises(Exception, match="path must be a URL"):
        D1ToObjectStorageOperator(task_id="stage", path=bad, database="shop")


def test_a_path_that_can_be_written_is_left_as_it_was(path: ObjectStoragePath) -> None:
    ObjectStorage(path).check_writable()
    assert ObjectStorage(path).list() == {}


@pytest.mark.parametrize("error", [PermissionError("denied"), FileNotFoundError("no bucket")])
def test_a_path_that_cannot_be_written_is_named(
    path: ObjectStoragePath, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    storage = ObjectStorage(path)
    monkeypatch.setattr(type(path.fs), "pipe_file", refuse)
    with pytest.raises(D1StagingError, match=f"cannot write to .*{error}") as raised:
        storage.check_writable()
    assert not raised.value.retryable
