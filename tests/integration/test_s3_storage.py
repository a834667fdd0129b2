"""S3 against a real server: whole objects or none, no upload left over, two runs at once."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import io
import json
import random
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

import boto3
import pyarrow as pa
import pytest
import zstandard

from airflow_provider_d1.exceptions import D1DownloadError, D1DumpError, D1StagingError
from airflow_provider_d1.staging.formats import table_format
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, parse_manifest
from airflow_provider_d1.staging.manifest_source import Source
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.staging.staging_run import new_run_id
from airflow_provider_d1.storage.s3 import S3Storage
from harness.s3_faults import Fault, s3_proxy
from harness.seaweed import S3Server, s3_server
from tests.unit.staging.staged_pairs import check_pairs_of_processes, check_pairs_of_threads

SOURCE = Source(database_name="shop", bookmark="b-1")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("seaweed")) as running:
        yield running


@pytest.fixture
def bucket(server: S3Server) -> Iterator[str]:
    """One bucket for all, emptied after each test: every new one takes volumes that the small server does not have."""
    client = server.client()
    if not client.list_buckets()["Buckets"]:
        client.create_bucket(Bucket="lake")
    yield "lake"
    for key in everything(server, "lake"):
        client.delete_object(Bucket="lake", Key=key)
    for upload in client.list_multipart_uploads(Bucket="lake").get("Uploads", ()):
        client.abort_multipart_upload(Bucket="lake", Key=upload["Key"], UploadId=upload["UploadId"])


@pytest.fixture
def storage(server: S3Server, bucket: str) -> S3Storage:
    return S3Storage(server.client(), bucket, "/raw/shop/")


def everything(server: S3Server, bucket: str) -> set[str]:
    return {entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket).get("Contents", ())}


def dangling(server: S3Server, bucket: str) -> list[str]:
    return [upload["Key"] for upload in server.client().list_multipart_uploads(Bucket=bucket).get("Uploads", ())]


class Chopped(io.RawIOBase):
    """A source that gives short reads, as sockets do, and may fail on the way."""

    def __init__(self, content: bytes, *, fail_at: int | None = None) -> None:
        self._content = io.BytesIO(content)
        self._fail_at = fail_at
        self._random = random.Random(1)

    def read(self, size: int = -1, /) -> bytes:
        if self._fail_at is not None and self._content.tell() >= self._fail_at:
            raise D1DownloadError("cut")
        return self._content.read(min(size, self._random.randint(1, 300_000)))


@pytest.mark.parametrize(
    ("compression", "suffix", "unpack"),
    [
        (None, "", bytes),
        ("gzip", ".gz", gzip.decompress),
        ("zstd", ".zst", lambda data: zstandard.ZstdDecompressor().decompressobj().decompress(data)),
    ],
)
def test_a_dump_arrives_whole_through_short_reads(server, bucket, storage, compression, suffix, unpack) -> None:
    dump = random.Random(7).randbytes(30 << 20)  # four multipart parts, whatever the compression
    manifest = stage(Chopped(dump), storage, StagingOptions(file_format="sql", compression=compression), SOURCE)

    run = f"raw/shop/{manifest.run}"
    assert everything(server, bucket) == {f"{run}/shop.sql{suffix}", f"{run}/_manifest.json", "raw/shop/_manifest.json"}
    stored = server.client().get_object(Bucket=bucket, Key=f"{run}/shop.sql{suffix}")["Body"].read()
    assert unpack(stored) == dump
    (entry,) = manifest.files
    assert entry.uri == f"s3://{bucket}/{run}/shop.sql{suffix}"
    assert (entry.bytes, entry.sha256) == (len(stored), hashlib.sha256(stored).hexdigest())
    assert (manifest.dump.bytes, manifest.dump.sha256) == (len(dump), hashlib.sha256(dump).hexdigest())
    assert parse_manifest(storage.read_bytes(MANIFEST_KEY) or b"") == manifest


class Zeros(io.RawIOBase):
    """A source of so many bytes that are nowhere in memory."""

    def __init__(self, length: int) -> None:
        self._left = length

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        given = min(len(buffer), self._left)
        buffer[:given] = bytes(given)
        self._left -= given
        return given


def test_a_long_stream_needs_no_more_memory_than_a_few_parts(storage) -> None:
    """boto3 keeps at most ten parts of 8 MiB for a stream, and sends four of them."""
    length = 224 << 20
    tracemalloc.start()
    try:
        assert storage.put_stream("zeros", io.BufferedReader(Zeros(length), 1 << 20)) == length
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 128 << 20


@pytest.mark.parametrize("fail_at", [0, 1 << 20, 25 << 20])
def test_a_failing_source_leaves_no_object_and_no_upload(server, bucket, storage, fail_at) -> None:
    dump = random.Random(7).randbytes(30 << 20)
    with pytest.raises(D1DownloadError, match="cut"):
        stage(Chopped(dump, fail_at=fail_at), storage, StagingOptions(file_format="sql"), SOURCE)
    assert everything(server, bucket) == set()
    assert dangling(server, bucket) == []


def test_a_stored_file_that_is_too_short_is_an_error(server, bucket, monkeypatch) -> None:
    client = server.client()
    whole = client.upload_fileobj
    monkeypatch.setattr(
        client,
        "upload_fileobj",
        lambda stream, *args, **kwargs: whole(io.BytesIO(stream.read(10)), *args, **kwargs),
    )
    with pytest.raises(D1StagingError, match=r"expected [0-9]+ bytes"):
        stage(io.BytesIO(b"x" * 1000), S3Storage(client, bucket, "raw/shop"), StagingOptions(file_format="sql"), SOURCE)
    assert everything(server, bucket) == set()


def test_a_second_run_keeps_the_first_and_removes_the_one_before(server, bucket, storage) -> None:
    client = server.client()
    for key in ("raw/shop/notes.sql", "raw/shop/sub/deep/part-00000.parquet", "raw/shopping/users/part-00000.parquet"):
        client.put_object(Bucket=bucket, Key=key, Body=b"mine")
    killed = "raw/shop/20200101T000000Z-0a1b2c"
    client.put_object(Bucket=bucket, Key=f"{killed}/users/part-00000.parquet", Body=b"half")
    client.create_multipart_upload(Bucket=bucket, Key=f"{killed}/users/part-00001.parquet")
    client.create_multipart_upload(Bucket=bucket, Key="raw/shop/20200101T000000Z-3d4e5f/shop.sql")
    foreign = {
        "raw/shop/users/part-00003.parquet",
        f"raw/shop/{new_run_id()}/users/part-00003.parquet",
        "raw/shopping/20200101T000000Z-0a1b2c/users/part-00003.parquet",
    }
    for key in foreign:
        client.create_multipart_upload(Bucket=bucket, Key=key)
    strangers = everything(server, bucket) - {f"{killed}/users/part-00000.parquet"}

    options = StagingOptions(file_format="sql")
    manifests = [stage(io.BytesIO(text), storage, options, SOURCE) for text in (b"one", b"two", b"three")]

    runs = {f"raw/shop/{m.run}/{name}" for m in manifests[1:] for name in ("shop.sql", "_manifest.json")}
    assert everything(server, bucket) == strangers | runs | {"raw/shop/_manifest.json"}
    assert storage.read_bytes(f"{manifests[1].run}/shop.sql") == b"two"
    assert set(dangling(server, bucket)) == foreign


@functools.cache
def client_of(server: S3Server) -> Any:
    return server.client()


def prefix_of(server: S3Server, prefix: str, pair: int) -> S3Storage:
    return S3Storage(client_of(server), "lake", f"{prefix}/{pair}")


@pytest.mark.parametrize("check", [check_pairs_of_threads, check_pairs_of_processes])
def test_200_pairs_of_runs_never_mix(server, bucket, check: Callable[..., None]) -> None:
    check(partial(prefix_of, server, f"pairs/{check.__name__}"), 100)


def test_of_many_concurrent_replacements_one_succeeds(server, bucket, storage) -> None:
    assert not storage.replace("k", b"0", expected=b"other")
    assert storage.replace("k", b"0", expected=None)
    assert not storage.replace("k", b"1", expected=None)
    for number in range(20):
        before = storage.read_bytes("k")
        with ThreadPoolExecutor(4) as pool:
            done = [pool.submit(storage.replace, "k", f"{number} {n}".encode(), expected=before) for n in range(4)]
        assert [future.result() for future in done].count(True) == 1


def test_a_store_without_conditional_writes_is_written_unconditionally(server, bucket, monkeypatch) -> None:
    client = server.client()
    storage = S3Storage(client, bucket, "raw/shop")
    whole = client.put_object

    def put_object(**arguments: object) -> object:
        if {"IfMatch", "IfNoneMatch"} & set(arguments):
            error = {"Error": {"Code": "NotImplemented"}, "ResponseMetadata": {"HTTPStatusCode": 501}}
            raise client.exceptions.ClientError(error, "PutObject")
        return whole(**arguments)

    monkeypatch.setattr(client, "put_object", put_object)
    assert storage.replace("k", b"0", expected=None)
    assert storage.replace("k", b"1", expected=b"0")
    assert storage.read_bytes("k") == b"1"


def test_only_objects_below_the_prefix_have_a_key(storage: S3Storage) -> None:
    assert storage.key("s3://lake/raw/shop/a/b") == "a/b"
    for uri in ("s3://lake/raw/shopping/a", "s3://other/raw/shop/a", "s3://lake/raw/shop/../x", "file:///raw/shop/a"):
        assert storage.key(uri) is None


def test_replace_false_refuses_before_reading_anything(server, bucket, storage) -> None:
    stage(io.BytesIO(b"one"), storage, StagingOptions(file_format="sql"), SOURCE)
    before = everything(server, bucket)
    dump = io.BytesIO(b"two")
    with pytest.raises(D1StagingError, match="replace=False") as refused:
        stage(dump, storage, StagingOptions(file_format="sql", replace=False), SOURCE)
    assert not refused.value.retryable
    assert dump.tell() == 0
    assert everything(server, bucket) == before


@pytest.mark.parametrize("method", ["put_bytes", "replace"])
def test_a_manifest_that_cannot_be_put_takes_the_files_with_it(server, bucket, storage, monkeypatch, method) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(storage, method, refuse)
    with pytest.raises(OSError, match="no"):
        stage(io.BytesIO(b"one"), storage, StagingOptions(file_format="sql"), SOURCE)
    assert everything(server, bucket) == set()


@pytest.mark.parametrize("method", ["put_bytes", "replace"])
def test_a_lost_response_to_the_manifest_does_not_lose_the_run(server, bucket, storage, monkeypatch, method) -> None:
    whole = getattr(storage, method)

    def put_and_lose(*arguments: object, **options: object) -> None:
        whole(*arguments, **options)
        raise OSError("connection reset")

    monkeypatch.setattr(storage, method, put_and_lose)
    manifest = stage(io.BytesIO(b"one"), storage, StagingOptions(file_format="sql"), SOURCE)
    run = f"raw/shop/{manifest.run}"
    assert everything(server, bucket) == {f"{run}/shop.sql", f"{run}/_manifest.json", "raw/shop/_manifest.json"}


def test_files_are_read_back_as_stored(storage: S3Storage, tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(random.Random(3).randbytes(20 << 20))
    storage.put_file("users/part-00000.parquet", path)
    assert storage.list() == {"users/part-00000.parquet": 20 << 20}
    storage.fetch("users/part-00000.parquet", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == path.read_bytes()
    storage.delete(["users/part-00000.parquet", "never/was"])
    assert storage.list() == {}
    assert storage.read_bytes("users/part-00000.parquet") is None


@pytest.mark.parametrize(("size", "waits"), [(1000, False), (300 << 10, True)])
def test_a_small_file_is_sent_without_waiting_for_the_server(
    server: S3Server, bucket: str, tmp_path: Path, size: int, waits: bool
) -> None:
    """``Expect: 100-continue`` costs a round trip."""
    (tmp_path / "part").write_bytes(bytes(size))
    with s3_proxy(server) as proxy:
        asked = Fault("PUT", "part", "slow_down", times=1, header="expect")
        proxy.faults.append(asked)
        S3Storage(proxy.server.client(), bucket, "raw").put_file("part", tmp_path / "part")
    assert asked.reached.is_set() is waits
    assert server.client().head_object(Bucket=bucket, Key="raw/part")["ContentLength"] == size


def test_a_cancelled_storage_stops_an_upload_and_leaves_nothing(server, bucket, storage, tmp_path) -> None:
    class Cancelling(io.BytesIO):
        def readinto(self, buffer, /) -> int:
            if self.tell() > 10 << 20:
                storage.cancel()
            return super().readinto(buffer)

    with pytest.raises(D1StagingError, match="stopped"):
        storage.put_stream("shop.sql", io.BufferedReader(Cancelling(bytes(64 << 20))))
    with pytest.raises(D1StagingError, match="stopped"):
        storage.put_file("shop.sql", tmp_path / "not even read")
    assert everything(server, bucket) == set()
    assert dangling(server, bucket) == []


def test_upload_arguments_reach_every_object(server, bucket) -> None:
    storage = S3Storage(server.client(), bucket, "raw", extra_args={"Metadata": {"owner": "data"}})
    stage(io.BytesIO(bytes(20 << 20)), storage, StagingOptions(file_format="sql"), SOURCE)
    for key in everything(server, bucket):
        assert server.client().head_object(Bucket=bucket, Key=key)["Metadata"] == {"owner": "data"}


def test_the_hook_brings_its_own_arguments(server, bucket) -> None:
    class Hook:
        extra_args = {"StorageClass": "STANDARD_IA", "Metadata": {"from": "hook"}}  # noqa: RUF012 - a stand-in

        def get_conn(self) -> object:
            return server.client()

    storage = S3Storage(Hook(), bucket, "", extra_args={"Metadata": {"from": "operator"}})
    storage.put_bytes("_manifest.json", b"{}")
    head = server.client().head_object(Bucket=bucket, Key="_manifest.json")
    assert head["Metadata"] == {"from": "operator"}
    assert json.loads(storage.read_bytes("_manifest.json") or b"") == {}


def tables(rows: int, *, last: str = "") -> bytes:
    """A table that becomes real numbers half-way, in many parts, and another one."""
    half = rows // 2
    lines = ["CREATE TABLE t(id INTEGER PRIMARY KEY, v INTEGER, pad TEXT);"]
    lines += [f"INSERT INTO t VALUES({n},{n if n < half else f'{n}.5'},'{n:050}');" for n in range(rows)]
    return "\n".join([*lines, "CREATE TABLE u(x);", "INSERT INTO u VALUES(1);", last]).encode()


def small_parts(file_format: Literal["parquet", "csv", "jsonl"]) -> StagingOptions:
    return StagingOptions(file_format=file_format, max_part_bytes=30_000, keep_dump=True)


@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_tables_arrive_and_replace_each_other(server, bucket, storage, file_format) -> None:
    client = server.client()
    options = dataclasses.replace(small_parts(file_format), keep_runs=1)
    for rows in (2000, 1500):
        manifest = stage(io.BytesIO(tables(rows)), storage, options, SOURCE)
        listed = {file.uri.removeprefix(f"s3://{bucket}/"): file for file in manifest.all_files}
        assert everything(server, bucket) == {
            *listed,
            f"raw/shop/{manifest.run}/_manifest.json",
            "raw/shop/_manifest.json",
        }
        for key, file in listed.items():
            content = client.get_object(Bucket=bucket, Key=key)["Body"].read()
            assert (len(content), hashlib.sha256(content).hexdigest()) == (file.bytes, file.sha256)
        assert [table.rows for table in manifest.tables] == [rows, 1]
        assert len(manifest.tables[0].files) > 1
        assert manifest.tables[0].columns[1].type == "float64"
    assert dangling(server, bucket) == []


@pytest.mark.parametrize("file_format", ["parquet", "csv"])
def test_parquet_in_the_bucket_holds_the_rows_in_order(server, bucket, storage, file_format, tmp_path) -> None:
    manifest = stage(io.BytesIO(tables(2000)), storage, small_parts(file_format), SOURCE)
    form = table_format(small_parts(file_format))
    schema = pa.schema([("id", pa.int64()), ("v", pa.float64()), ("pad", pa.string())])
    ids: list[int] = []
    for file in manifest.tables[0].files:
        storage.fetch(file.uri.removeprefix(storage.uri("")), tmp_path / "part")
        ids += [row for rows in form.read(tmp_path / "part", schema) for row in rows["id"].to_pylist()]
    assert ids == list(range(2000))


def test_a_dump_that_breaks_half_way_leaves_the_older_run_whole(server, bucket, storage) -> None:
    stage(io.BytesIO(tables(500)), storage, small_parts("parquet"), SOURCE)
    before = everything(server, bucket)
    manifest = storage.read_bytes(MANIFEST_KEY)
    with pytest.raises(D1DumpError):
        stage(io.BytesIO(tables(2000, last="DROP TABLE t;")), storage, small_parts("parquet"), SOURCE)
    assert everything(server, bucket) == before
    assert storage.read_bytes(MANIFEST_KEY) == manifest
    assert dangling(server, bucket) == []


def test_a_bucket_that_can_be_written_is_left_as_it_was(server: S3Server, bucket: str, storage: S3Storage) -> None:
    storage.check_writable()
    assert everything(server, bucket) == set()
    assert dangling(server, bucket) == []


@pytest.mark.parametrize("what", ["bucket", "key", "secret", "credentials"])
def test_a_bucket_that_cannot_be_written_is_named_and_not_tried_again(
    server: S3Server, bucket: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    keys: dict[str, str] = {}
    if what == "bucket":
        bucket = "no-such-bucket"
    if what != "credentials":
        keys["aws_access_key_id"] = "wrong" if what == "key" else server.access_key
        keys["aws_secret_access_key"] = "wrong" if what == "secret" else server.secret_key
    client = boto3.client("s3", endpoint_url=server.endpoint_url, region_name="us-east-1", **keys)
    with pytest.raises(D1StagingError, match=rf"cannot write to s3://{bucket}/raw/shop/: ") as raised:
        S3Storage(client, bucket, "raw/shop").check_writable()
    assert not raised.value.retryable


def test_a_bucket_without_the_permission_to_write_is_named(server: S3Server, bucket: str) -> None:
    with s3_proxy(server) as proxy:
        proxy.faults.append(Fault("POST", "uploads", "access_denied"))
        with pytest.raises(D1StagingError, match="AccessDenied") as raised:
            S3Storage(proxy.server.client(), bucket, "raw").check_writable()
    assert not raised.value.retryable
