"""The import operator: a file or a backup into D1, applied once, or refused before anything is written."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import inspect
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import zstandard
from airflow.providers.common.compat.sdk import AirflowFailException, TaskDeferred

from airflow_provider_d1.emulator.server import Emulator
from airflow_provider_d1.exceptions import D1ApiError, D1ConfigurationError, D1ImportError
from airflow_provider_d1.hooks.d1 import D1Hook
from airflow_provider_d1.operators.d1_import import D1ImportOperator, open_source
from airflow_provider_d1.storage.folder import FolderStorage
from airflow_provider_d1.transfers.d1_to_object_storage import D1ToObjectStorageOperator
from airflow_provider_d1.triggers.import_trigger import D1ImportTrigger

SHOP = """
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT);
INSERT INTO users VALUES (1, 'Ada'), (2, 'a' || char(10) || 'b'), (3, 'NUL' || char(0) || '!');
CREATE TABLE "order" (id INTEGER PRIMARY KEY AUTOINCREMENT, user REFERENCES users, raw BLOB);
INSERT INTO "order" VALUES (7, 3, zeroblob(150000)), (9, 1, x'00ff');
CREATE INDEX by_user ON "order" (user);
CREATE VIEW names AS SELECT name FROM users;
"""
SCRIPT = "CREATE TABLE notes (note TEXT);\nINSERT INTO notes VALUES ('one');\nINSERT INTO notes VALUES ('two');\n"
TASK = {"task_id": "task"}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    databases = {"shop": SHOP, "other": "CREATE TABLE kept (id);", "fresh": ""}
    with Emulator(f"tok-{secrets.token_hex(16)}", databases=databases) as emulator:
        connect(emulator, monkeypatch)
        yield emulator


def connect(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    definition = {
        "conn_type": "d1",
        "host": emulator.url,
        "password": emulator.token,
        "schema": "fresh",
        "extra": {"account_id": emulator.account_id},
    }
    monkeypatch.setenv("AIRFLOW_CONN_D1_DEFAULT", json.dumps(definition))


def context(run_id: str = "run", max_tries: int = 2) -> dict[str, Any]:
    ti = SimpleNamespace(dag_id="dag", task_id="task", run_id=run_id, map_index=-1, max_tries=max_tries)
    return {"ti": ti}


def completed(operator: D1ImportOperator, context_: dict[str, Any] | None = None) -> dict[str, Any]:
    """Through the trigger, as a task does it."""
    try:
        return operator.execute(context_ or context())
    except TaskDeferred as deferred:
        path, kwargs = deferred.trigger.serialize()
        assert path == "airflow_provider_d1.triggers.import_trigger.D1ImportTrigger"
        trigger = D1ImportTrigger(**json.loads(json.dumps(kwargs)))

    async def events() -> list[Any]:
        return [event.payload async for event in trigger.run()]

    (event,) = asyncio.run(events())
    return operator.execute_complete(context_ or context(), json.loads(json.dumps(event)))


def imports(emulator: Emulator) -> list[str]:
    return [call.kind for call in emulator.calls if call.kind.startswith("import")]


@pytest.fixture
def backup(emulator: Emulator, tmp_path: Path) -> dict[str, Any]:
    folder = tmp_path / "backup"
    stage = D1ToObjectStorageOperator(
        **TASK, database="shop", path=folder.as_uri(), file_format="sql", compression="zstd", deferrable=False
    )
    return stage.execute(context())


@pytest.mark.parametrize("packed", [None, "gzip", "zstd"])
@pytest.mark.parametrize("deferrable", [True, False])
def test_a_file_is_imported(emulator: Emulator, tmp_path: Path, packed: str | None, deferrable: bool) -> None:
    pack = {None: bytes, "gzip": gzip.compress, "zstd": zstandard.compress}[packed]
    file = tmp_path / "script.sql"
    file.write_bytes(pack(SCRIPT.encode()))
    before = D1Hook().get_bookmark()
    result = completed(D1ImportOperator(**TASK, source=str(file), deferrable=deferrable))
    assert D1Hook().get_records("SELECT note FROM notes ORDER BY rowid") == [("one",), ("two",)]
    assert result | {"bytes": 0, "size": 0} == {
        "database_id": emulator.database_id("fresh"),
        "database_name": "fresh",
        "manifest": None,
        "source": file.as_uri(),
        "source_bytes": len(SCRIPT),
        "source_sha256": hashlib.sha256(SCRIPT.encode()).hexdigest(),
        "bytes": 0,
        "bookmark": D1Hook().get_bookmark(),
        "previous_bookmark": before,
        "num_queries": 5,
        "rows_read": 0,
        "rows_written": 3,
        "changes": 3,
        "size": 0,
        "repeated": False,
    }
    ((recorded, sha256, size),) = D1Hook().get_records("SELECT file, sha256, bytes FROM _d1_imports")
    assert (recorded, sha256, size) == (file.as_uri(), result["source_sha256"], len(SCRIPT))
    assert imports(emulator)[:2] == ["import_init", "import_ingest"]
    D1Hook().restore(result["previous_bookmark"])
    assert D1Hook().get_records("SELECT count(*) FROM sqlite_schema WHERE name = 'notes'") == [(0,)]


def test_a_retry_imports_nothing_again(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text("CREATE TABLE IF NOT EXISTS n (a);\nINSERT INTO n VALUES (1);")
    operator = D1ImportOperator(**TASK, source=str(tmp_path / "script.sql"))
    first = completed(operator)
    emulator.calls.clear()
    again = completed(operator)
    assert (first["repeated"], again["repeated"], again["num_queries"]) == (False, True, None)
    assert imports(emulator) == []
    assert D1Hook().get_records("SELECT count(*) FROM n") == [(1,)]
    # a cleared task and another run import
    assert not completed(operator, context(max_tries=5))["repeated"]
    assert not completed(operator, context(run_id="another"))["repeated"]
    assert D1Hook().get_records("SELECT count(*) FROM n") == [(3,)]


@pytest.mark.parametrize("fault", ["lost_imports", "lost_import_answers"])
def test_a_lost_answer_does_not_apply_a_file_twice(emulator: Emulator, tmp_path: Path, fault: str) -> None:
    """The import is done while D1 forgets it, or the answer to ingest or poll is lost."""
    (tmp_path / "script.sql").write_text("CREATE TABLE IF NOT EXISTS n (a);\nINSERT INTO n VALUES (1);")
    emulator.faults.set({fault: 1})
    result = completed(D1ImportOperator(**TASK, source=str(tmp_path / "script.sql")))
    assert D1Hook().get_records("SELECT count(*) FROM n") == [(1,)]
    assert result["repeated"] or fault != "lost_imports"


def test_an_upload_that_a_try_left_is_not_sent_again(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text(SCRIPT)
    operator = D1ImportOperator(**TASK, source=str(tmp_path / "script.sql"))
    with pytest.raises(TaskDeferred):  # and the trigger never runs
        operator.execute(context())
    assert imports(emulator) == ["import_init"]
    assert not D1Hook().get_records("SELECT 1 FROM sqlite_schema WHERE name = 'notes'")
    completed(operator)
    assert D1Hook().get_records("SELECT count(*) FROM notes") == [(2,)]


def test_a_failed_import_leaves_the_database_as_it_was(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text(SCRIPT + "INSERT INTO nowhere VALUES (1);")
    with pytest.raises(AirflowFailException, match=r"database 'fresh'.*no such table: nowhere"):
        completed(D1ImportOperator(**TASK, database="fresh", source=str(tmp_path / "script.sql")))
    assert D1Hook().get_records("SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'") == []


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (SCRIPT + "BEGIN;", r"script.sql: byte \d+: .*refuses BEGIN"),
        ("CREATE VIEW v AS SELECT '" + "x" * 100_000 + "';", "at most 100,000 bytes"),
        ("", "the file is empty"),
        ("SELECT 'cut", "it is truncated"),
    ],
)
def test_what_d1_would_refuse_is_not_sent(emulator: Emulator, tmp_path: Path, script: str, words: str) -> None:
    (tmp_path / "script.sql").write_text(script)
    with pytest.raises(AirflowFailException, match=words):
        completed(D1ImportOperator(**TASK, source=str(tmp_path / "script.sql")))
    assert imports(emulator) == []


def test_a_file_that_does_not_exist(emulator: Emulator, tmp_path: Path) -> None:
    with pytest.raises(AirflowFailException, match=r"nothing.sql: file not found"):
        completed(D1ImportOperator(**TASK, source=str(tmp_path / "nothing.sql")))
    assert imports(emulator) == []


def test_a_cut_compressed_file(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql.gz").write_bytes(gzip.compress(SCRIPT.encode())[:-20])
    with pytest.raises(AirflowFailException, match="truncated or damaged"):
        completed(D1ImportOperator(**TASK, source=str(tmp_path / "script.sql.gz")))
    assert imports(emulator) == []


def test_without_a_record_the_database_has_only_the_file(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text(SCRIPT)
    completed(D1ImportOperator(**TASK, source=str(tmp_path / "script.sql"), record_table=None))
    names = D1Hook().get_records("SELECT name FROM sqlite_schema WHERE name NOT LIKE '\\_cf%' ESCAPE '\\'")
    assert names == [("notes",)]


def test_a_trigger_that_runs_again_applies_the_file_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The first triggerer stops while D1 imports; the second waits for the end of that import, or for its timeout."""
    (tmp_path / "script.sql").write_text("CREATE TABLE IF NOT EXISTS n (a);\nINSERT INTO n VALUES (1);")
    with Emulator(f"tok-{secrets.token_hex(16)}", databases={"fresh": ""}, cancel_after=2.0) as emulator:
        connect(emulator, monkeypatch)
        with pytest.raises(TaskDeferred) as deferred:
            D1ImportOperator(**TASK, source=str(tmp_path / "script.sql")).execute(context())
        emulator.faults.import_seconds = 1.0
        _, kwargs = deferred.value.trigger.serialize()

        async def main() -> Any:
            first = asyncio.create_task(first_event(D1ImportTrigger(**kwargs)))
            await asyncio.to_thread(wait_for_ingest, emulator)
            first.cancel()
            return await first_event(D1ImportTrigger(**kwargs))

        event = asyncio.run(main())
        emulator.faults.import_seconds = 0.0
        assert event["status"] == "success"
        assert D1Hook().get_records("SELECT count(*) FROM n") == [(1,)]


async def first_event(trigger: D1ImportTrigger) -> Any:
    (event,) = [event.payload async for event in trigger.run()]
    return event


def wait_for_ingest(emulator: Emulator) -> None:
    deadline = time.monotonic() + 30
    while not [call for call in emulator.calls if call.kind == "import_ingest"] and time.monotonic() < deadline:
        time.sleep(0.05)


# --- backups


def dump(database: str) -> bytes:
    hook = D1Hook(database=database)
    with hook.download(hook.export()) as stream:
        return stream.read()


def test_a_restored_backup_dumps_to_the_same_bytes(emulator: Emulator, backup: dict[str, Any]) -> None:
    """Foreign keys against their order, sequences, NULs and rows beyond D1's statement length included."""
    completed(D1ImportOperator(**TASK, source=backup, source_database="shop", record_table=None))
    assert dump("fresh") == dump("shop")


def test_a_restored_backup_has_the_record_besides(emulator: Emulator, backup: dict[str, Any]) -> None:
    operator = D1ImportOperator(**TASK, source=backup["manifest"], source_database=emulator.database_id("shop"))
    completed(operator)
    D1Hook().run('DROP TABLE "_d1_imports"')
    assert dump("fresh") == dump("shop")


def test_a_retried_restore_finds_its_own_tables(emulator: Emulator, backup: dict[str, Any]) -> None:
    operator = D1ImportOperator(**TASK, source=backup, source_database="shop")
    completed(operator)
    assert completed(operator)["repeated"]


def refused(operator: D1ImportOperator, emulator: Emulator, words: str) -> None:
    emulator.calls.clear()
    with pytest.raises(AirflowFailException, match=words):
        completed(operator)
    assert imports(emulator) == []


def test_a_backup_of_another_database_is_refused(emulator: Emulator, backup: dict[str, Any]) -> None:
    words = r"is a backup of database 'shop' \(.*expected "
    refused(D1ImportOperator(**TASK, source=backup), emulator, words + "'fresh'")
    refused(D1ImportOperator(**TASK, source=backup, source_database="other"), emulator, words + "'other'")
    into_itself = D1ImportOperator(**TASK, database="shop", source=backup)
    refused(into_itself, emulator, "database 'shop' is not empty, it has 3 tables and views")


def test_a_database_with_tables_is_refused_unless_allowed(emulator: Emulator, backup: dict[str, Any]) -> None:
    arguments = {**TASK, "database": "other", "source": backup, "source_database": "shop"}
    refused(D1ImportOperator(**arguments), emulator, r"database 'other' is not empty.*\(kept\).*require_empty=False")
    completed(D1ImportOperator(**arguments, require_empty=False))
    assert D1Hook(database="other").get_records("SELECT count(*) FROM users") == [(3,)]


def test_a_file_into_a_database_that_must_be_empty(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text(SCRIPT)
    operator = D1ImportOperator(**TASK, database="other", source=str(tmp_path / "script.sql"), require_empty=True)
    refused(operator, emulator, "is not empty")


@pytest.mark.parametrize("harm", ["changed", "cut", "missing", "another dump"])
def test_a_backup_that_is_not_whole_is_refused(
    emulator: Emulator, backup: dict[str, Any], tmp_path: Path, harm: str
) -> None:
    path = tmp_path / "backup" / backup["run"]
    [file] = path.glob("*.zst")
    content = file.read_bytes()
    if harm == "changed":
        file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif harm == "cut":
        file.write_bytes(content[:-1])
    elif harm == "missing":
        file.unlink()
    else:  # the manifest describes the stored file, but another dump
        manifest = json.loads((path / "_manifest.json").read_text())
        other = zstandard.ZstdCompressor().compress(b"CREATE TABLE users (id);")
        file.write_bytes(other)
        manifest["files"][0] |= {"bytes": len(other), "sha256": hashlib.sha256(other).hexdigest()}
        (path / "_manifest.json").write_text(json.dumps(manifest))
    words = {
        "changed": "its SHA-256 differs from the manifest",
        "cut": rf"has {len(content) - 1} bytes, expected {len(content)} as in the manifest",
        "missing": "file not found",
        "another dump": "contains a dump of 24 bytes",
    }[harm]
    refused(D1ImportOperator(**TASK, source=backup, source_database="shop"), emulator, words)


def test_a_manifest_that_leads_elsewhere_is_refused(emulator: Emulator, backup: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "backup" / backup["run"] / "_manifest.json"
    manifest = json.loads(path.read_text())
    manifest["files"][0]["uri"] = "file:///etc/passwd"
    path.write_text(json.dumps(manifest))
    refused(D1ImportOperator(**TASK, source=backup, source_database="shop"), emulator, "not in the manifest's folder")


def test_a_manifest_of_tables_is_no_backup(emulator: Emulator, tmp_path: Path) -> None:
    stage = D1ToObjectStorageOperator(**TASK, database="shop", path=tmp_path.as_uri(), deferrable=False)
    staged = stage.execute(context())
    refused(D1ImportOperator(**TASK, source=staged, source_database="shop"), emulator, "lists no SQL dump")


def test_a_kept_dump_is_a_backup(emulator: Emulator, tmp_path: Path) -> None:
    stage = D1ToObjectStorageOperator(**TASK, database="shop", path=tmp_path.as_uri(), keep_dump=True, deferrable=False)
    staged = stage.execute(context())
    completed(D1ImportOperator(**TASK, source=staged["latest"], source_database="shop", record_table=None))
    assert dump("fresh") == dump("shop")


# --- arguments and secrets


def test_the_free_plans_limit_fails_the_task_at_once(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text(SCRIPT)
    emulator.faults.free_row_reads = 0
    with pytest.raises(AirflowFailException, match=r"free tier daily .*No retry helps before 00:00 UTC"):
        completed(D1ImportOperator(**TASK, source=str(tmp_path / "script.sql")))


def test_the_upload_url_is_in_nothing_that_airflow_stores(
    emulator: Emulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(0)
    (tmp_path / "script.sql").write_text(SCRIPT)
    with pytest.raises(TaskDeferred) as deferred:
        D1ImportOperator(**TASK, source=str(tmp_path / "script.sql")).execute(context())
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("uvicorn")]
    stored = json.dumps(deferred.value.trigger.serialize()) + "".join(logged)
    assert "Signature" not in stored
    assert emulator.token not in stored


@pytest.mark.parametrize("event", [None, {}, {"status": "success"}, {"status": "success", "import": {"x": 1}}])
def test_an_event_of_another_form(emulator: Emulator, event: Any) -> None:
    with pytest.raises(D1ImportError):
        D1ImportOperator(**TASK, source="x.sql").execute_complete(context(), event)


def test_every_argument_but_one_is_templated() -> None:
    names = set()
    for kind in D1ImportOperator.__mro__[:2]:
        parameters = inspect.signature(kind.__init__).parameters.values()
        names |= {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    assert names == set(D1ImportOperator.template_fields) | {"deferrable"} == set(D1ImportOperator.rules)


@pytest.mark.parametrize(
    "arguments",
    [
        {"source": ""},
        {"source": "x", "timeout": 0},
        {"source": "x", "poll_interval": 11},
        {"source": "x", "require_empty": 1},
    ],
)
def test_arguments_that_cannot_work(arguments: dict[str, Any]) -> None:
    with pytest.raises(D1ConfigurationError):
        D1ImportOperator(**TASK, **arguments)


def test_source_database_is_for_backups(emulator: Emulator, tmp_path: Path) -> None:
    (tmp_path / "script.sql").write_text(SCRIPT)
    operator = D1ImportOperator(**TASK, source=str(tmp_path / "script.sql"), source_database="shop")
    refused(operator, emulator, "source_database is for backups")


def test_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for source in (str(tmp_path / "a b.sql"), (tmp_path / "a b.sql").as_uri()):
        storage, key = open_source(source, None)
        assert isinstance(storage, FolderStorage)
        assert (storage.uri(key), key) == ((tmp_path / "a b.sql").as_uri(), "a b.sql")
    monkeypatch.setenv("AIRFLOW_CONN_MINE", '{"conn_type": "aws"}')
    storage, key = open_source("s3://mine@bucket/a/b.sql", "aws_default")
    assert (storage.uri(key), storage.hook.aws_conn_id) == ("s3://bucket/a/b.sql", "mine")
    with pytest.raises(D1ConfigurationError, match="has no file name"):
        open_source("s3://bucket/a/", None)


def test_a_query_that_is_refused_for_the_day_is_not_retried(emulator: Emulator) -> None:
    emulator.faults.free_row_reads = 0
    emulator.calls.clear()
    with pytest.raises(D1ApiError, match="00:00 UTC") as raised:
        D1Hook().query("SELECT 1")
    assert not raised.value.retryable
    assert len([call for call in emulator.calls if call.kind == "raw"]) == 1
