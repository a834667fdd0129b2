"""No secret and no temporary file is left anywhere, whatever went wrong in the scenarios."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from airflow_provider_d1.staging.sinks import WORK_PREFIX

if TYPE_CHECKING:
    from tests.system.night import Night

pytestmark = pytest.mark.afterwards


def places(night: Night) -> dict[str, list[tuple[str, bytes]]]:
    """Everything that the scenarios left behind, by kind."""
    folder = night.airflow.folder
    return {
        "logs": [(str(path), path.read_bytes()) for path in folder.rglob("*.log*") if path.is_file()],
        "metadata database": list(tables(night)),
        "temp files": [(str(path), path.read_bytes()) for path in (folder / "tmp").rglob("*") if path.is_file()],
        "S3 objects": list(objects(night)),
    }


def tables(night: Night) -> Iterator[tuple[str, bytes]]:
    with night.postgres.connect() as connection:
        connection.execute("SET bytea_output = 'escape'")  # a text inside a pickle stays readable
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            rows = connection.execute(f'SELECT t::text FROM "{name}" t').fetchall()
            yield f"table {name}", "\n".join(row for (row,) in rows).encode()


def objects(night: Night) -> Iterator[tuple[str, bytes]]:
    client = night.s3.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=night.bucket):
        for entry in page.get("Contents", []):
            yield entry["Key"], client.get_object(Bucket=night.bucket, Key=entry["Key"])["Body"].read()


def test_nothing_that_is_left_holds_a_token_or_a_signed_url(night: Night) -> None:
    night.wait_for_all()
    left = places(night)
    assert night.tokens
    for kind in ("logs", "metadata database", "S3 objects"):
        assert left[kind], kind
    # the search reads what it should: every scenario's name is in the logs and the database, bookmarks are in S3
    for name in night.tokens:
        assert any(name.encode() in content for _, content in left["metadata database"]), name
    leaks = [leak for kind in left.values() for where, content in kind for leak in night.leaks_in(where, content)]
    assert leaks == []


def test_no_temporary_file_is_left(night: Night) -> None:
    night.wait_for_all()
    # three workers were killed while they staged: their retries have removed what they left
    assert [path.name for path in (night.airflow.folder / "tmp").glob(f"{WORK_PREFIX}*")] == []


def test_no_process_was_given_a_secret(night: Night) -> None:
    night.wait_for_all()
    assert len(night.processes_seen) > len(night.tokens)  # the children that ran the tasks were among them
    assert night.process_leaks == set()


def test_the_search_finds_what_it_looks_for(night: Night) -> None:
    name, token = next(iter(night.tokens.items()))
    assert night.leaks_in("x", b"..." + token.encode()) == [f"the token of {name} in x"]
    for url in (
        b"?X-Amz-Signature=0123456789abcdef0123",
        b'"X-Amz-Signature": "0123456789ABCDEF"',
        b"%26X-Amz-Signature%3D0123456789abcdef",
    ):
        assert night.leaks_in("x", url) == ["a signed URL in x"]
