"""The policies in docs/object-stores.md on a real S3 server, with a user who may do exactly that, or a thing less."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_d1.exceptions import D1DumpError
from airflow_provider_d1.staging.manifest import MANIFEST_KEY, Manifest
from airflow_provider_d1.staging.options import StagingOptions
from airflow_provider_d1.staging.stage import stage
from airflow_provider_d1.storage.s3 import S3Storage
from airflow_provider_d1.warehouses.plan import Part, Table
from airflow_provider_d1.warehouses.staged_files import StagedFiles
from harness.seaweed import S3Server, s3_server
from tests.unit.staging.staged_pairs import SOURCE, assert_whole, dump_of

DOCUMENT = Path(__file__).parents[2] / "docs" / "object-stores.md"
WRITING, READING = (json.loads(block) for block in re.findall(r"```json\n(.*?)```", DOCUMENT.read_text(), re.DOTALL))
#: permission → what the document says happens without it
WITHOUT = dict(re.findall(r"^\| `(s3:\w+)` \|[^|]*\| ([^|]*) \|$", DOCUMENT.read_text(), re.MULTILINE))
REQUIRED = [permission for permission, effect in WITHOUT.items() if effect == "the task fails"]
OPTIONAL = [permission for permission in WITHOUT if permission not in REQUIRED]
KILLED = "d1/shop/20200101T000000Z-0a1b2c"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("seaweed")) as running:
        running.client().create_bucket(Bucket="lake")
        yield running


@pytest.fixture
def allow(server: S3Server) -> Iterator[Callable[..., S3Storage]]:
    """Allow the restricted user what a policy says; returns the storage as that user."""
    admin = server.client()

    def allow(policy: dict[str, Any], *, without: str | None = None) -> S3Storage:
        statements = []
        for statement in policy["Statement"]:
            actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
            actions = [action for action in actions if action != without]
            statements.append({**statement, "Action": actions, "Principal": "*"})
        admin.put_bucket_policy(Bucket="lake", Policy=json.dumps({**policy, "Statement": statements}))
        assert server.restricted is not None
        return S3Storage(server.restricted.client(), "lake", "d1/shop")

    yield allow
    admin.delete_bucket_policy(Bucket="lake")
    for entry in admin.list_objects_v2(Bucket="lake").get("Contents", ()):
        admin.delete_object(Bucket="lake", Key=entry["Key"])
    for upload in admin.list_multipart_uploads(Bucket="lake").get("Uploads", ()):
        admin.abort_multipart_upload(Bucket="lake", Key=upload["Key"], UploadId=upload["UploadId"])


def staged(storage: S3Storage, dump: bytes = dump_of("x"), **options: Any) -> Manifest:
    return stage(io.BytesIO(dump), storage, StagingOptions(**options), SOURCE, parse_threads=0)


def keys(server: S3Server) -> set[str]:
    return {entry["Key"] for entry in server.client().list_objects_v2(Bucket="lake").get("Contents", ())}


def uploads(server: S3Server) -> list[str]:
    return [upload["Key"] for upload in server.client().list_multipart_uploads(Bucket="lake").get("Uploads", ())]


def leave_killed_run(server: S3Server) -> None:
    server.client().put_object(Bucket="lake", Key=f"{KILLED}/users/part-00000.parquet", Body=b"half")
    server.client().create_multipart_upload(Bucket="lake", Key=f"{KILLED}/users/part-00001.parquet")


def test_the_document_has_a_row_for_each_permission() -> None:
    allowed = {action for statement in WRITING["Statement"] for action in statement["Action"]}
    assert allowed == set(WITHOUT)
    assert REQUIRED
    assert OPTIONAL


def test_the_policy_is_enough(server, allow, caplog: pytest.LogCaptureFixture) -> None:
    storage = allow(WRITING)
    leave_killed_run(server)
    manifests = [staged(storage, dump_of("x" * 10_000_000), keep_dump=True) for _ in range(3)]
    with pytest.raises(D1DumpError):
        staged(allow(WRITING), dump_of("y") + b"DROP TABLE users;")
    assert {key.split("/")[2] for key in keys(server)} == {MANIFEST_KEY, *(manifest.run for manifest in manifests[1:])}
    assert uploads(server) == []
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_loading_needs_less(server, allow) -> None:
    manifest = staged(allow(WRITING))
    storage = allow(READING)
    assert_whole(storage, manifest)
    (entry,) = manifest.tables
    parts = tuple(Part(file.uri, file.rows or 0, file.bytes, file.sha256) for file in entry.files)
    files = StagedFiles(storage, verify_checksums=True)
    files.check(Table("users", (), 1, parts))
    assert storage.read_bytes("none") is None
    with pytest.raises(Exception, match="AccessDenied"):
        storage.put_bytes("x", b"")


@pytest.mark.parametrize("missing", REQUIRED)
def test_a_required_permission_is_missed_loudly(allow, missing: str) -> None:
    staged(allow(WRITING))
    with pytest.raises(Exception, match=r"AccessDenied|403|Forbidden"):
        staged(allow(WRITING, without=missing))


@pytest.mark.parametrize("missing", OPTIONAL)
def test_an_optional_permission_is_missed_by_a_warning(
    server, allow, missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    storage = allow(WRITING, without=missing)
    leave_killed_run(server)
    runs = {staged(storage, keep_runs=1).run for _ in range(2)}
    if missing != "s3:AbortMultipartUpload":  # SeaweedFS takes it for a part of s3:PutObject
        assert any("could not be removed" in message for message in caplog.messages)
    before = keys(server)
    with pytest.raises(D1DumpError):
        staged(allow(WRITING, without=missing), dump_of("y") + b"DROP TABLE users;")
    left = {key.split("/")[2] for key in keys(server)}
    if missing == "s3:DeleteObject":
        assert left >= runs
    else:
        assert keys(server) == before, "the failed run has left nothing"
        assert f"{KILLED}/users/part-00000.parquet" not in before
        assert len(left & runs) == 1
