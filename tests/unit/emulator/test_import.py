"""The import: init, upload, ingest, poll."""

from __future__ import annotations

import hashlib
import itertools
from typing import Any

import pytest

from airflow_provider_d1.emulator.imports import IMPORT_BUSY, IMPORT_LOST

SQL = "CREATE TABLE brought(a, b);\nINSERT INTO brought VALUES (1, 'x');\nINSERT INTO brought VALUES (2, 'it''s;');\n"


NUMBERS = itertools.count()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def step(api, database: str, **body: object) -> dict[str, Any]:
    answer = api.call("POST", api.path(database, "/import"), json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["result"]


def upload(api, database: str, sql: str) -> tuple[str, str]:
    """Upload a file that no other test has uploaded."""
    data = f"{sql}-- {next(NUMBERS)}".encode()
    started = step(api, database, action="init", etag=md5(data))
    answer = api.plain.put(started["upload_url"], content=data)
    assert (answer.status_code, answer.headers["etag"]) == (200, f'"{md5(data)}"')
    return started["filename"], md5(data)


def poll(api, database: str, bookmark: str) -> dict[str, Any]:
    while (answer := step(api, database, action="poll", current_bookmark=bookmark)).get("status") == "active":
        pass
    return answer


def imported(api, database: str, sql: str) -> dict[str, Any]:
    filename, etag = upload(api, database, sql)
    started = step(api, database, action="ingest", etag=etag, filename=filename)
    assert (started["status"], started["type"], started["success"]) == ("active", "import", True)
    return poll(api, database, started["at_bookmark"])


@pytest.fixture
def clean(api):
    api.query("other1", "DROP TABLE IF EXISTS brought")
    return api


def rows(api) -> list[list[object]]:
    answer = api.query("other1", "SELECT * FROM brought ORDER BY a", raw=True).json()
    return answer["result"][0]["results"]["rows"] if answer["success"] else []


def test_an_import(clean) -> None:
    api = clean
    before = api.call("GET", api.path("other1", "/time_travel/bookmark")).json()["result"]["bookmark"]
    answer = imported(api, "other1", SQL)
    assert (answer["status"], answer["at_bookmark"]) == ("complete", before)
    after = api.call("GET", api.path("other1", "/time_travel/bookmark")).json()["result"]["bookmark"]
    assert answer["result"]["final_bookmark"] == after != before
    assert answer["result"]["num_queries"] == 3
    assert {"changes", "last_row_id", "rows_read", "rows_written", "duration"} <= answer["result"]["meta"].keys()
    assert rows(api) == [[1, "x"], [2, "it's;"]]
    assert step(api, "other1", action="poll", current_bookmark=before) == {"success": False, "error": IMPORT_LOST}
    assert [call.kind for call in api.emulator.calls][1:4] == ["bookmark", "import_init", "import_ingest"]


def test_a_dump_of_one_database_is_imported_into_another(clean) -> None:
    api = clean
    api.query("other18", "CREATE TABLE brought(a INTEGER PRIMARY KEY AUTOINCREMENT, b)")
    api.query("other18", "INSERT INTO brought VALUES (7, 'a\\n' || char(10)), (8, x'00ff'), (9, NULL)")
    dump = api.plain.get(api.signed_url("other18")).text
    assert imported(api, "other19", dump)["status"] == "complete"
    assert api.plain.get(api.signed_url("other19")).text == dump


def test_a_failed_import_leaves_the_database_as_it_was(clean) -> None:
    api = clean
    answer = imported(api, "other1", SQL + "INSERT INTO nowhere VALUES (1);")
    assert (answer["status"], answer["success"]) == ("error", False)
    assert "no such table: nowhere" in answer["error"]
    assert rows(api) == []
    assert imported(api, "other1", SQL)["status"] == "complete"


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("BEGIN TRANSACTION;\nCOMMIT;", "To execute a transaction"),
        (f"CREATE TABLE brought(a);\nINSERT INTO brought VALUES ('{'x' * 100_000}');", "statement too long"),
        ("CREATE TABLE brought(a);\nINSERT INTO brought VALUES ('a\0b');", "unrecognized token"),
        ("ATTACH 'x' AS y;", "not authorized"),
    ],
)
def test_what_an_import_refuses(clean, sql: str, message: str) -> None:
    answer = imported(clean, "other1", sql)
    assert answer["status"] == "error"
    assert message in answer["error"]


def test_a_file_that_was_uploaded_before_is_not_uploaded_again(clean) -> None:
    api = clean
    _, etag = upload(api, "other1", SQL)
    started = step(api, "other1", action="init", etag=etag)
    assert "upload_url" not in started
    assert poll(api, "other1", started["at_bookmark"])["status"] == "complete"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"action": "start"},
        {"action": "init"},
        {"action": "init", "etag": "x"},
        {"action": "ingest", "etag": "0" * 32},
        {"action": "poll"},
        {"action": "poll", "current_bookmark": 1},
    ],
)
def test_malformed_calls(api, body: dict[str, object]) -> None:
    answer = api.call("POST", api.path("other1", "/import"), json=body)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 7400)


def test_an_ingest_of_what_was_not_uploaded(api) -> None:
    etag = md5(b"SELECT 'never'")
    started = step(api, "other1", action="init", etag=etag)
    for filename in (started["filename"], "other.sql"):
        body = {"action": "ingest", "etag": etag, "filename": filename}
        answer = api.call("POST", api.path("other1", "/import"), json=body)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, 7500)
    altered = api.plain.put(started["upload_url"], content=b"SELECT 2")
    assert altered.headers["etag"] != f'"{etag}"'
    answer = api.call("POST", api.path("other1", "/import"), json={**body, "filename": started["filename"]})
    assert answer.status_code == 400


def test_an_upload_url_is_for_one_file_and_for_put_only(api) -> None:
    url = step(api, "other1", action="init", etag=md5(b"SELECT 'url'"))["upload_url"]
    assert api.plain.get(url).status_code == 403
    assert api.plain.put(url.replace("other", "another").replace(".sql", "x.sql"), content=b"x").status_code == 403
    api.emulator.faults.upload_errors = 1
    assert api.plain.put(url, content=b"x").status_code == 500


def test_an_import_blocks_queries_and_exports_and_other_imports(clean) -> None:
    api = clean
    api.emulator.faults.import_seconds = 1e9
    filename, etag = upload(api, "other1", SQL)
    bookmark = step(api, "other1", action="ingest", etag=etag, filename=filename)["at_bookmark"]
    assert api.query("other1", "SELECT 1").json()["errors"][0]["message"] == IMPORT_BUSY
    assert api.export("other1").json()["result"] == {"success": False, "error": IMPORT_BUSY}
    again = step(api, "other1", action="ingest", etag=etag, filename=filename)
    assert again == {"success": False, "error": IMPORT_BUSY}
    assert step(api, "other1", action="poll", current_bookmark=bookmark)["status"] == "active"
    api.emulator.faults.import_seconds = 0
    assert poll(api, "other1", bookmark)["status"] == "complete"


def test_an_import_whose_result_is_lost(clean) -> None:
    """It was run all the same, which is what makes a lost answer dangerous."""
    api = clean
    api.emulator.faults.lost_imports = 1
    assert imported(api, "other1", SQL) == {"success": False, "error": IMPORT_LOST}
    assert rows(api) == [[1, "x"], [2, "it's;"]]
