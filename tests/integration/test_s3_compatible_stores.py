"""S3-compatible stores without some calls: staging works without them, and logs what it cannot remove."""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

from airflow_provider_d1.exceptions import D1DumpError, D1StagingError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest, parse_manifest
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.s3 import S3Storage
from harness.minimal_s3 import localbucket_server, nanio_server
from harness.s3_faults import Fault, s3_proxy
from harness.seaweed import S3Server, s3_server
from tests.unit.staging.staged_pairs import SOURCE, assert_whole, dump_of, stage_pair

SERVERS: dict[str, Callable[..., Any]] = {
    "seaweedfs": s3_server,
    "nanio": nanio_server,
    "localbucket": localbucket_server,
}
#: larger than a single request may be, and not compressible
LARGE = "".join(random.Random(3).choices("0123456789abcdef", k=24 << 20))


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with SERVERS[request.param](tmp_path_factory.mktemp(request.param)) as running:
        running.client().create_bucket(Bucket="lake")
        yield running


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    return request.node.name.translate(str.maketrans("[]", "--"))


@pytest.fixture
def storage(server: S3Server, prefix: str) -> S3Storage:
    return S3Storage(server.client(), "lake", prefix)


def staged(storage: S3Storage, text: str = "x", **options: Any) -> Manifest:
    return stage(io.BytesIO(dump_of(text)), storage, StagingOptions(**options), SOURCE, parse_threads=0)


def runs_in(storage: S3Storage) -> set[str]:
    return {key.partition("/")[0] for key in storage.list()} - {MANIFEST_KEY}


def pointer(storage: S3Storage) -> Manifest:
    return parse_manifest(storage.read_bytes(MANIFEST_KEY) or b"")


def test_runs_are_staged_replaced_and_read(storage: S3Storage, tmp_path: Path) -> None:
    storage.check_writable()
    assert storage.list() == {}
    manifests = [staged(storage, LARGE, keep_dump=True, keep_runs=1, compression="none"), staged(storage, keep_runs=1)]
    assert runs_in(storage) == {manifests[1].run}
    assert pointer(storage) == manifests[1]
    assert_whole(storage, manifests[1])
    (file,) = manifests[1].tables[0].files
    storage.fetch(storage.key(file.uri) or "", tmp_path / "part")
    assert (tmp_path / "part").stat().st_size == file.bytes
    assert storage.size(storage.key(file.uri) or "") == file.bytes
    assert storage.size("none") is None


def test_a_large_file_arrives_whole(storage: S3Storage) -> None:
    manifest = staged(storage, LARGE, file_format="sql")
    assert manifest.files[0].bytes > 24 << 20
    assert_whole(storage, manifest)


def test_a_failed_run_leaves_no_file(storage: S3Storage) -> None:
    with pytest.raises(D1DumpError):
        stage(io.BytesIO(dump_of(LARGE) + b"DROP TABLE users;"), storage, StagingOptions(), SOURCE, parse_threads=0)
    assert storage.list() == {}


def test_pairs_of_runs_stay_whole(server: S3Server, prefix: str) -> None:
    """Without conditional writes the older of the two may end at the prefix; each is whole all the same."""
    client = server.client()
    for pair in range(20):
        new_storage = partial(S3Storage, client, "lake", f"{prefix}/{pair}")
        manifests = stage_pair(new_storage, (f"one {pair}", f"two {pair}"))
        for manifest in manifests:
            assert_whole(new_storage(), manifest)
        assert pointer(new_storage()) in manifests


def test_a_store_that_refuses_checksums_is_named(server: S3Server, prefix: str) -> None:
    with s3_proxy(server) as proxy:
        proxy.faults.append(Fault("PUT|POST", "", "not_implemented", header=r"x-amz-(checksum|sdk-checksum)-.*"))
        with pytest.raises(D1StagingError, match="request_checksum_calculation") as refused:
            S3Storage(proxy.server.client(), "lake", prefix).check_writable()
        assert not refused.value.retryable
        # as config_kwargs of the AWS connection
        config = Config(
            request_checksum_calculation="when_required", response_checksum_validation="when_required", proxies={}
        )
        client = boto3.client(
            "s3",
            endpoint_url=proxy.server.endpoint_url,
            aws_access_key_id=server.access_key,
            aws_secret_access_key=server.secret_key,
            region_name="us-east-1",
            config=config,
        )
        storage = S3Storage(client, "lake", prefix)
        storage.check_writable()
        for text in ("one", LARGE):
            manifest = staged(storage, text, keep_dump=True, keep_runs=1)
        assert_whole(storage, manifest)
        assert runs_in(storage) == {manifest.run}


@pytest.mark.parametrize(
    ("method", "path", "header"),
    [
        ("PUT", "_manifest.json", "if-(none-)?match"),
        ("POST", r"\?delete", ""),
        ("GET", r"\?uploads", ""),
        ("DELETE", "uploadId", ""),
    ],
    ids=["conditional-writes", "DeleteObjects", "ListMultipartUploads", "AbortMultipartUpload"],
)
def test_a_call_that_the_store_lacks_is_done_without(
    server: S3Server, prefix: str, method: str, path: str, header: str, caplog: pytest.LogCaptureFixture
) -> None:
    with s3_proxy(server) as proxy:
        missing = Fault(method, path, "not_implemented", header=header)
        proxy.faults.append(missing)
        storage = S3Storage(proxy.server.client(), "lake", prefix)
        storage.check_writable()
        for _ in range(2):
            manifest = staged(storage, keep_runs=1)
        assert missing.reached.is_set()
        assert pointer(storage) == manifest
        assert runs_in(storage) == {manifest.run}
    lists_no_uploads = "uploads" in path or "localbucket" in prefix
    assert any("could not be removed" in message for message in caplog.messages) is lists_no_uploads
