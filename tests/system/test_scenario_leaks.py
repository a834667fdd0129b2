"""The scenarios leave no secret and no temporary file anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airflow_provider_d1.storage.folder import WORK_PREFIX

if TYPE_CHECKING:
    from tests.system.environment import Environment

pytestmark = pytest.mark.afterwards

#: evidence that the search reads what it should: a part of a place's name, and text that is found there
EXPECTED = {
    ("/scheduler.log", "LocalExecutor"),
    ("/triggerer.log", "triggers currently running"),
    ("/dag-processor.log", "scenarios.py"),
    ("/api-server.log", "/api/v2/"),
    ("/dag_id=two_at_once/", "Exported: database=shop"),
    (".trigger.", "export started"),
    ("/postgres.log", "PostgreSQL"),
    ("table xcom", "d1seal1."),
    ("table rendered_task_instance_fields", "two_at_once"),
    ("table connection", "two_at_once"),
    ("database's files: ", "d1seal1."),
    ("S3 objects: ", "bookmark"),
}


def places(environment: Environment) -> dict[str, Iterator[tuple[str, bytes]]]:
    """Everything that the scenarios left behind, by kind."""
    airflow, around = environment.airflow.folder, environment.airflow.folder.parent
    return {
        "files": files(airflow),  # logs of tasks, triggers and components, temporary files, settings
        "servers' files": files(*(path for path in around.iterdir() if path != airflow)),
        "metadata database": tables(environment),
        "metadata database's files": files(data_folder(environment)),  # with what is deleted in the tables
        "S3 objects": objects(environment),
    }


def files(*folders: Path) -> Iterator[tuple[str, bytes]]:
    for folder in folders:
        for path in folder.rglob("*"):
            with suppress(FileNotFoundError):  # the servers still run
                if path.is_file():
                    yield str(path), path.read_bytes()


def data_folder(environment: Environment) -> Path:
    with environment.postgres.connect() as connection:
        connection.execute("CHECKPOINT")
        return Path(connection.execute("SHOW data_directory").fetchone()[0])


def tables(environment: Environment) -> Iterator[tuple[str, bytes]]:
    with environment.postgres.connect() as connection:
        connection.execute("SET bytea_output = 'escape'")  # a text inside a pickle stays readable
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'").fetchall()
        for (name,) in names:
            rows = connection.execute(f'SELECT t::text FROM "{name}" t').fetchall()
            yield f"table {name}", "\n".join(row for (row,) in rows).encode()


def objects(environment: Environment) -> Iterator[tuple[str, bytes]]:
    client = environment.s3.client()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=environment.bucket):
        for entry in page.get("Contents", []):
            yield entry["Key"], client.get_object(Bucket=environment.bucket, Key=entry["Key"])["Body"].read()


def test_nothing_that_is_left_holds_a_token_or_a_signed_url(environment: Environment) -> None:
    environment.wait_for_all()
    assert environment.tokens
    assert environment.signatures
    leaks = []
    missing = {*EXPECTED, *(("metadata database: ", name.split()[0]) for name in environment.tokens)}
    for kind, things in places(environment).items():
        for where, content in things:
            place = f"{kind}: {where}"
            leaks += environment.leaks_in(place, content)
            missing = {(part, words) for part, words in missing if part not in place or words.encode() not in content}
    assert leaks == []
    assert missing == set()


def test_no_temporary_file_is_left(environment: Environment) -> None:
    environment.wait_for_all()
    # three workers were killed while they staged: their retries have removed what they left
    assert [path.name for path in (environment.airflow.folder / "tmp").glob(f"{WORK_PREFIX}*")] == []


def test_no_process_was_given_a_secret(environment: Environment) -> None:
    environment.wait_for_all()
    assert len(environment.processes_seen) > len(environment.tokens)  # the children that ran the tasks were among them
    assert environment.process_leaks == set()


def test_the_search_finds_what_it_looks_for(environment: Environment) -> None:
    name, token = next(iter(environment.tokens.items()))
    assert environment.leaks_in("x", b"..." + token.encode()) == [f"the token of {name} in x"]
    for url in (
        b"?X-Amz-Signature=0123456789abcdef0123",
        b'"X-Amz-Signature": "0123456789ABCDEF"',
        b"%26X-Amz-Signature%3D0123456789abcdef",
        b"..." + next(iter(environment.signatures)).encode(),
    ):
        assert environment.leaks_in("x", url) == ["a signed URL in x"]
