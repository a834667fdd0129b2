from __future__ import annotations

import threading
import uuid
from datetime import UTC, datetime

import httpx
import pytest

from airflow_provider_d1.emulator.exports import BUSY, BUSY_START, LOST
from airflow_provider_d1.emulator.server import Emulator


def error(answer: httpx.Response) -> tuple[int, int, str]:
    body = answer.json()
    assert (body["success"], body["result"], body["messages"]) == (False, None, [])
    (only,) = body["errors"]
    return answer.status_code, only["code"], only["message"]


def test_list_pages(api) -> None:
    path = f"/accounts/{api.emulator.account_id}/d1/database"
    first = api.call("GET", path, params={"per_page": 10}).json()
    third = api.call("GET", path, params={"per_page": 10, "page": 3}).json()
    assert first["result_info"] == {"count": 10, "page": 1, "per_page": 10, "total_count": 23}
    assert third["result_info"] == {"count": 3, "page": 3, "per_page": 10, "total_count": 23}
    assert first["result"][0] == {
        "uuid": api.emulator.database_id("shop"),
        "name": "shop",
        "version": "production",
        "created_at": first["result"][0]["created_at"],
        "jurisdiction": None,
    }


def test_the_name_is_a_search(api) -> None:
    path = f"/accounts/{api.emulator.account_id}/d1/database"
    found = api.call("GET", path, params={"name": "OTHER1"}).json()["result"]
    assert [database["name"] for database in found] == ["other1", *(f"other1{n}" for n in range(10))]


@pytest.mark.parametrize("query", [{"per_page": 9}, {"per_page": 10001}, {"page": 0}, {"page": "two"}])
def test_bad_pages(api, query) -> None:
    assert error(api.call("GET", f"/accounts/{api.emulator.account_id}/d1/database", params=query))[:2] == (400, 7400)


def test_get(api) -> None:
    result = api.call("GET", api.path("small")).json()["result"]
    assert (result["name"], result["num_tables"], result["uuid"]) == ("small", 1, api.emulator.database_id("small"))
    assert result["file_size"] > 0


def test_query_and_raw(api) -> None:
    sql = "SELECT id, name, name AS id FROM users WHERE id >= ?1 ORDER BY users.id"
    objects = api.query("small", sql, 1).json()["result"]
    assert objects[0]["results"] == [{"id": "Ada", "name": "Ada"}, {"id": None, "name": None}]
    assert objects[0]["success"] is True
    assert objects[0]["meta"]["changes"] == 0
    rows = api.query("small", sql, 1, raw=True).json()["result"][0]["results"]
    assert rows == {"columns": ["id", "name", "id"], "rows": [[1, "Ada", "Ada"], [2, None, None]]}


def test_batch(api) -> None:
    batch = {"batch": [{"sql": "SELECT 1 AS a"}, {"sql": "SELECT ?1 AS b", "params": ["x"]}]}
    answer = api.call("POST", api.path("small", "/query"), json=batch).json()["result"]
    assert [result["results"] for result in answer] == [[{"a": 1}], [{"b": "x"}]]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"sql": "SELEC 1"}, (400, 7500, 'near "SELEC": syntax error at offset 0: SQLITE_ERROR')),
        ({"sql": "SELECT 1", "params": [0] * 101}, (400, 7500, "too many SQL variables: SQLITE_ERROR")),
        ({"sql": "SELECT 1 --" + "x" * 100_000}, (400, 7500, "statement too long: SQLITE_TOOBIG")),
        ({"sql": "SELECT 1", "params": {}}, (400, 7400)),
        ({"sql": "SELECT 1", "params": "x"}, (400, 7400)),
        ({"statement": "SELECT 1"}, (400, 7400)),
        ([], (400, 7400)),
        (None, (400, 7400)),
    ],
)
def test_bad_queries(api, body, expected) -> None:
    answer = api.call("POST", api.path("small", "/query"), json=body)
    assert error(answer)[: len(expected)] == expected


def test_bookmarks(api) -> None:
    def bookmark(**params: str) -> str:
        path = api.path("small", "/time_travel/bookmark")
        return str(api.call("GET", path, params=params).json()["result"]["bookmark"])

    before = bookmark()
    assert bookmark() == before == api.start("small")
    assert api.finish("small", before).json()["result"]["at_bookmark"] == before
    assert bookmark(timestamp="2026-01-01") <= before
    moment = datetime.now(UTC).isoformat()
    api.query("small", "CREATE TABLE moved(a)")
    after = bookmark()
    assert after > before
    assert bookmark(timestamp=moment) == before
    assert bookmark(timestamp="4102444800") == after
    api.emulator.faults.moving_bookmarks = True
    assert bookmark() != bookmark()
    restored = api.call("POST", api.path("small", "/time_travel/restore"), params={"bookmark": before}).json()
    assert restored["result"]["bookmark"] == restored["result"]["bookmark"] > after
    assert api.query("small", "SELECT * FROM moved").status_code == 400
    undo = {"bookmark": restored["result"]["previous_bookmark"]}
    api.call("POST", api.path("small", "/time_travel/restore"), params=undo)
    assert api.query("small", "DROP TABLE moved").status_code == 200


@pytest.mark.parametrize(
    ("params", "code"),
    [({"bookmark": "x"}, 7500), ({}, 7400), ({"timestamp": "yesterday"}, 7400), ({"timestamp": "9" * 30}, 7400)],
)
def test_what_cannot_be_restored(api, params: dict[str, str], code: int) -> None:
    answer = api.call("POST", api.path("small", "/time_travel/restore"), params=params)
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, code)


def test_restore_to_a_timestamp(api) -> None:
    moment = datetime.now(UTC).isoformat()
    api.query("small", "CREATE TABLE later(a)")
    answer = api.call("POST", api.path("small", "/time_travel/restore"), params={"timestamp": moment})
    assert answer.status_code == 200
    assert api.query("small", "SELECT * FROM later").status_code == 400


def test_two_exports_of_an_unchanged_database_are_two_files(api) -> None:
    first, second = api.signed_url("small", tables=["users"]), api.signed_url("small", no_data=True)
    assert "INSERT" in api.plain.get(first).text
    assert "INSERT" not in api.plain.get(second).text


def test_meta_of_every_answer(api) -> None:
    for sql, expected in (
        ("SELECT * FROM users", {"changes": 0, "rows_read": 2, "rows_written": 0, "changed_db": False}),
        ("UPDATE users SET name = name", {"changes": 2, "rows_written": 2, "changed_db": True}),
        ("INSERT INTO users VALUES (77, 'x')", {"changes": 1, "last_row_id": 77, "rows_written": 1}),
        ("DELETE FROM users WHERE id = 77", {"changes": 1, "rows_written": 1}),
    ):
        for raw in (False, True):
            if raw and not sql.startswith("SELECT"):
                continue
            (result,) = api.query("small", sql, raw=raw).json()["result"]
            assert result["meta"].keys() >= {"changes", "last_row_id", "rows_read", "rows_written", "duration"}
            assert expected.items() <= result["meta"].items()


def test_an_export_from_start_to_end(api) -> None:
    started = api.export("shop")
    assert started.status_code == 202
    body = started.json()
    bookmark = body["result"]["at_bookmark"]
    filename = f"shop-{bookmark}.sql"
    assert body == {
        "success": True,
        "errors": [],
        "messages": [],
        "result": {
            "success": True,
            "type": "export",
            "at_bookmark": bookmark,
            "status": "active",
            "messages": [f"Generating {filename}"],
        },
    }
    complete = api.finish("shop", bookmark)
    assert complete.status_code == 200
    result = complete.json()["result"]
    assert (result["status"], result["at_bookmark"], result["result"]["filename"]) == ("complete", bookmark, filename)
    assert result["messages"][-1] == f"Finished uploading {filename} in 4 parts."
    assert api.plain.get(result["result"]["signed_url"]).content.startswith(b"PRAGMA defer_foreign_keys=TRUE;\nCREATE")
    again = api.export("shop", bookmark)
    assert (again.status_code, again.json()["result"]) == (200, {"success": False, "error": LOST})


def test_export_options(api) -> None:
    url = api.signed_url("small", no_schema=True, tables=["users"])
    assert api.plain.get(url).text.split("\n") == [
        "PRAGMA defer_foreign_keys=TRUE;",
        """INSERT INTO "users" ("id","name") VALUES(1,'Ada');""",
        """INSERT INTO "users" ("id","name") VALUES(2,NULL);""",
    ]
    assert api.plain.get(api.signed_url("small", tables=["USERS"])).text == "PRAGMA defer_foreign_keys=TRUE;"
    assert "INSERT" not in api.plain.get(api.signed_url("small", no_data=True)).text


@pytest.mark.parametrize(
    "body",
    [
        {"current_bookmark": "x"},
        {"output_format": "sql"},
        {"output_format": "polling", "dump_options": []},
        {"output_format": "polling", "dump_options": {"tables": "users"}},
        {"output_format": "polling", "dump_options": {"tables": [1]}},
        {"output_format": "polling", "dump_options": {"no_data": "yes"}},
        {"output_format": "polling", "current_bookmark": 7},
        None,
    ],
)
def test_bad_exports(api, body) -> None:
    assert error(api.call("POST", api.path("small", "/export"), json=body))[:2] == (400, 7400)


def test_while_an_export_runs_nothing_else_does(api) -> None:
    api.emulator.faults.export_seconds = 1e9
    bookmark = api.start("small")
    for raw in (False, True):
        assert error(api.query("small", "SELECT 1", raw=raw)) == (400, 7500, BUSY)
    assert api.export("small").json()["result"] == {"success": False, "error": BUSY_START}
    assert api.call("GET", api.path("small")).status_code == 200
    assert api.query("shop", "SELECT 1").status_code == 200  # other databases are not affected
    assert api.export("small", bookmark).status_code == 202
    api.emulator.faults.lost_exports = 1
    assert api.export("small", bookmark).json()["result"] == {"success": False, "error": LOST}
    assert api.query("small", "SELECT 1").status_code == 200


def test_fts5_fails_and_locks(api) -> None:
    assert api.query("fts", "SELECT count(*) AS n FROM docs_fts('hello')").json()["result"][0]["results"] == [{"n": 1}]
    assert api.plain.get(api.signed_url("fts", tables=["docs"])).status_code == 200
    failed = api.finish("fts", api.start("fts"))
    assert failed.status_code == 200
    assert failed.json()["result"] == {
        "success": False,
        "error": "D1 Export error: cannot export databases with Virtual Tables (fts5)",
    }
    assert error(api.query("fts", "SELECT 1")) == (400, 7500, BUSY)
    assert api.export("fts").json()["result"] == {"success": False, "error": BUSY_START}
    api.emulator.faults.virtual_table_lock_seconds = 0
    assert api.query("fts", "SELECT 1").status_code == 200
    api.emulator.faults.virtual_tables_always_fail = True
    assert "Virtual Tables" in api.finish("fts", api.start("fts", tables=["docs"])).json()["result"]["error"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Authorization": "Bearer wrong"}, (401, 10000, "Authentication error")),
        ({"Authorization": "TOKEN"}, (400, 6003, "Invalid request headers")),
        ({"Authorization": ""}, (400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")),
        ({"Authorization": "", "X-Auth-Key": "TOKEN"}, (401, 10000, "Authentication error")),
        ({"Authorization": "", "X-Auth-Key": "wrong", "X-Auth-Email": "user@example.com"}, (401, 10000)),
        ({"Authorization": "", "X-Auth-Key": "TOKEN", "X-Auth-Email": "other@example.com"}, (401, 10000)),
    ],
)
def test_bad_credentials(api, headers, expected) -> None:
    headers = {name: api.emulator.token if value == "TOKEN" else value for name, value in headers.items()}
    for path in (api.path("small"), "/user/tokens/verify"):
        assert error(api.call("GET", path, headers=headers))[: len(expected)] == expected


def test_a_global_api_key(api) -> None:
    headers = {"Authorization": "", "X-Auth-Key": api.emulator.token, "X-Auth-Email": api.emulator.email}
    assert api.call("GET", api.path("small"), headers=headers).status_code == 200


def test_verify(api) -> None:
    answer = api.call("GET", "/user/tokens/verify").json()
    assert (answer["success"], answer["result"]["status"]) == (True, "active")
    assert answer["messages"][0]["message"] == "This API Token is valid and active"
    assert api.call("GET", f"/accounts/{api.emulator.account_id}/tokens/verify").json() == answer


def test_a_token_that_a_user_owns() -> None:
    with Emulator(account_owned_token=False) as emulator:
        headers = {"Authorization": f"Bearer {emulator.token}"}
        assert httpx.get(f"{emulator.url}/user/tokens/verify", headers=headers).status_code == 200
        owned = httpx.get(f"{emulator.url}/accounts/{emulator.account_id}/tokens/verify", headers=headers)
        assert error(owned) == (401, 1000, "Invalid API Token")


def test_a_token_that_the_account_owns() -> None:
    with Emulator(account_owned_token=True) as emulator:
        headers = {"Authorization": f"Bearer {emulator.token}"}
        mine = f"{emulator.url}/accounts/{emulator.account_id}/tokens/verify"
        assert httpx.get(mine, headers=headers).status_code == 200
        assert error(httpx.get(f"{emulator.url}/user/tokens/verify", headers=headers))[:2] == (401, 1000)
        other = f"{emulator.url}/accounts/{'0' * 32}/tokens/verify"
        assert error(httpx.get(other, headers=headers))[:2] == (401, 1000)


def test_wrong_places(api) -> None:
    account = api.emulator.account_id
    call = api.call
    assert error(call("GET", f"/accounts/{'0' * 32}/d1/database"))[:2] == (403, 9109)
    assert error(call("GET", "/accounts/mine/d1/database"))[:2] == (404, 7003)
    assert error(call("GET", f"/accounts/{account}/d1/database/small"))[:2] == (404, 7003)
    assert error(call("GET", f"/accounts/{account}/d1/database/{uuid.uuid4()}"))[:2] == (404, 7404)
    assert error(call("GET", f"/accounts/{account}/d1")) == (
        404,
        7003,
        f"Could not route to /accounts/{account}/d1, perhaps your object identifier is invalid?",
    )
    assert error(call("DELETE", api.path("small")))[:2] == (404, 7003)


def test_calls_are_written_down_before_they_are_answered(api) -> None:
    bookmark = api.start("small")
    api.export("small", bookmark)
    api.query("small", "SELECT 1")
    api.call("GET", "/nowhere", params={"a": "b"})
    kinds = [(call.kind, call.method) for call in api.emulator.calls]
    assert kinds == [("export_start", "POST"), ("export_poll", "POST"), ("query", "POST"), ("unknown", "GET")]
    start, poll, query, unknown = api.emulator.calls
    assert start.path == api.path("small", "/export")
    assert poll.body["current_bookmark"] == bookmark
    assert query.body == {"sql": "SELECT 1", "params": []}
    assert (unknown.path, unknown.query, unknown.body, unknown.status) == ("/nowhere", {"a": "b"}, None, 404)
    assert start.time < poll.time < query.time
    assert api.emulator.calls.of("query", "unknown") == [query, unknown]
    assert api.emulator.calls[:2] == [start, poll]


def test_no_token_in_the_log(api) -> None:
    api.query("small", "SELECT 1")
    api.signed_url("small")
    assert api.emulator.token not in repr(api.emulator.calls)


def test_any_name_will_do() -> None:
    name = "../a b/ü?#.sql"
    with Emulator(databases={name: "CREATE TABLE t(a)"}, faults={"complete_at_start": True}) as emulator:
        path = f"{emulator.url}/accounts/{emulator.account_id}/d1/database/{emulator.database_id(name)}/export"
        headers = {"Authorization": f"Bearer {emulator.token}"}
        done = httpx.post(path, json={"output_format": "polling"}, headers=headers).json()["result"]["result"]
        assert done["filename"].startswith("-a-b-sql-")
        assert "CREATE TABLE t(a)" in httpx.get(done["signed_url"]).text


def test_many_clients_at_once(api) -> None:
    answers: list[int] = []

    def ask(number: int) -> None:
        answers.append(api.query("shop", f"SELECT {number} AS n").json()["result"][0]["results"][0]["n"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == list(range(30))
    assert len(api.emulator.calls) == 30
