"""A backup in a real S3 server, restored into an empty database, is the database that was backed up."""

from __future__ import annotations

import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from pyrage import x25519

from airflow_provider_d1.cloudflare.insert_rows import quoted
from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.operators.d1_compare import D1CompareBackupsOperator
from airflow_provider_d1.operators.d1_import import D1ImportOperator
from airflow_provider_d1.transfers.d1_to_s3 import D1ToS3Operator
from demo.seed import nycflights
from tests.integration.dag_runs import BUCKET, REPOSITORY

if TYPE_CHECKING:
    from harness.seaweed import S3Server

CORPUS = REPOSITORY / "tests" / "data" / "corpus" / "nasty.json"
#: what D1's dump does not hold as the database does: table, column and note of the value. Everything else is restored.
ALTERED_BY_D1 = {
    # integers beyond 2^53
    ("affinity", "b", "integer 9223372036854775807"),
    ("affinity", "i", "integer 9223372036854775807"),
    ("scalars", "v", "-(2^53+1)"),
    ("scalars", "v", "2^53+1"),
    ("scalars", "v", "int64 max"),
    ("scalars", "v", "int64 min"),
    ("scalars", "v", "snowflake"),
    # whole REALs in a column without a type
    ("scalars", "v", "neg zero"),
    ("scalars", "v", "real 1.0"),
    # texts that are not valid UTF-8
    ("scalars", "v", "invalid utf8 in text"),
    ("scalars", "v", "lone surrogate utf8"),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    flights = tmp_path_factory.mktemp("seed") / "flights.sqlite"
    nycflights(flights)
    databases: dict[str, Any] = {"nasty": CORPUS, "flights": flights, "nasty-restored": "", "flights-restored": ""}
    databases |= {"small": "CREATE TABLE t (v); INSERT INTO t VALUES ('plain text'), (x'00ff');", "small-restored": ""}
    with Emulator(f"tok-{secrets.token_hex(16)}", databases=databases) as emulator:
        yield emulator


@pytest.fixture
def emulator(running: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    definition = {
        "conn_type": "d1",
        "host": running.url,
        "password": running.token,
        "extra": {"account_id": running.account_id},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))
    return running


def back_up(database: str, prefix: str, **encryption: Any) -> dict[str, Any]:
    arguments = {"file_format": "sql", "compression": "zstd", "keep_runs": 30, "deferrable": False}
    return D1ToS3Operator(
        task_id="back_up", database=database, s3_bucket=BUCKET, s3_prefix=prefix, **arguments, **encryption
    ).execute({"ti": SimpleNamespace()})


def restore(backup: dict[str, Any] | str, into: str, of: str, **arguments: Any) -> dict[str, Any]:
    return D1ImportOperator(
        task_id="restore", database=into, source=backup, source_database=of, deferrable=False, **arguments
    ).execute({})


def dump(database: str) -> bytes:
    hook = D1Hook(database=database)
    with hook.download(hook.export()) as stream:
        return stream.read()


@pytest.mark.parametrize("name", ["nasty", "flights"])
def test_the_restored_database_dumps_to_the_same_bytes(emulator: Emulator, s3: S3Server, name: str) -> None:
    """D1's encoding is exact for dumps: what it has altered, it alters in the same way again."""
    backup = back_up(name, f"same-bytes/{name}")
    result = restore(backup, f"{name}-restored", name, record_table=None)
    restored = dump(f"{name}-restored")
    assert hashlib.sha256(restored).hexdigest() == result["source_sha256"]
    compared = D1CompareBackupsOperator(
        task_id="compare", first=backup, second=back_up(f"{name}-restored", f"same-bytes/{name}-restored")
    ).execute({})
    tables = D1Hook(database=name).get_records(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\'"
        " AND name NOT LIKE '\\_cf%' ESCAPE '\\'"
    )
    counts = {
        table: D1Hook(database=name).get_records(f"SELECT count(*) FROM {quoted(table)}")[0][0] for (table,) in tables
    }
    assert {table: found["rows"] for table, found in compared["tables"].items()} == counts
    if name == "flights":
        assert compared["rows"] == 367_687


def test_an_encrypted_backup_is_restored(emulator: Emulator, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the store has cannot be read without the key; the restored database dumps to the same bytes."""
    identity = x25519.Identity.generate()
    monkeypatch.setenv("AIRFLOW_CONN_AGE", json.dumps({"conn_type": "generic", "password": str(identity)}))
    recipients = {"age_recipients": [str(identity.to_public())]}
    backup = back_up("small", "encrypted/small", **recipients)
    client = s3.client()
    keys = [found["Key"] for found in client.list_objects_v2(Bucket=BUCKET, Prefix="encrypted/small/")["Contents"]]
    assert [key for key in keys if key.endswith("/small.sql.zst.age")]
    for key in keys:
        content = client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        assert content.startswith(b"age-encryption.org/v1\n" if key.endswith(".age") else b"{")
        assert b"plain text" not in content
    restore(backup, "small-restored", "small", record_table=None, age_conn_id="age")
    assert dump("small-restored") == dump("small")
    again = back_up("small-restored", "encrypted/small-restored", **recipients)
    compare = D1CompareBackupsOperator(task_id="compare", first=backup, second=again, age_conn_id="age")
    assert compare.execute({})["rows"] == 2


def values(database: str, table: str) -> dict[str, list[tuple[Any, ...]]]:
    """Column → types and values, exact even where a text is not valid UTF-8."""
    hook = D1Hook(database=database)
    columns = [row["name"] for row in hook.query(f'PRAGMA table_xinfo("{table.replace(chr(34), chr(34) * 2)}")')]
    name = table.replace('"', '""')

    def encoded(column: str) -> list[tuple[Any, ...]]:
        c = '"' + column.replace('"', '""') + '"'
        sql = f"SELECT typeof({c}), CASE typeof({c}) WHEN 'text' THEN hex({c}) ELSE quote({c}) END FROM \"{name}\""
        return hook.get_records(sql)

    return {column: encoded(column) for column in columns}


def test_the_restored_values_are_those_of_the_database_but_for_what_d1_alters(emulator: Emulator, s3: S3Server) -> None:
    if not D1Hook(database="nasty-restored").get_records("SELECT 1 FROM sqlite_schema WHERE name = 'scalars'"):
        restore(back_up("nasty", "values"), "nasty-restored", "nasty", record_table=None)
    altered = set()
    tables = [name.decode() for name in table_names(dump("nasty"))]
    assert len(tables) > 25
    for table in tables:
        ours, theirs = values("nasty-restored", table), values("nasty", table)
        notes = D1Hook(database="nasty").get_records("SELECT note FROM scalars ORDER BY id")
        for column in theirs:
            assert len(ours[column]) == len(theirs[column])
            for number, (one, other) in enumerate(zip(ours[column], theirs[column], strict=True)):
                if one != other:
                    note = notes[number][0] if table == "scalars" else f"{other[0]} {other[1][:30]}"
                    altered.add((table, column, note))
    assert altered == ALTERED_BY_D1


def table_names(sql: bytes) -> list[bytes]:
    database = sqlite3.connect(":memory:")
    database.text_factory = bytes
    for statement in sql.split(b";\n"):
        if statement.lstrip().lower().startswith(b"create") and b"TABLE" in statement.upper()[:40]:
            database.execute(statement.decode())
    return [name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE name NOT LIKE 'sqlite%'")]
