from __future__ import annotations

import hashlib

import httpx
import pytest

from airflow_provider_d1.emulator.exports import BUSY, BUSY_START, LOST
from airflow_provider_d1.emulator.server import Emulator


def code(answer: httpx.Response) -> tuple[int, int]:
    return answer.status_code, answer.json()["errors"][0]["code"]


def test_html_errors(api) -> None:
    api.emulator.faults.set({"html_errors": 2, "html_status": 504})
    for _ in range(2):
        answer = api.query("small", "SELECT 1")
        assert (answer.status_code, answer.headers["content-type"]) == (504, "text/html; charset=utf-8")
        assert "504" in answer.text
    assert api.query("small", "SELECT 1").status_code == 200


def test_truncated_json(api) -> None:
    api.emulator.faults.truncated_json = 1
    answer = api.query("small", "SELECT 1")
    assert answer.status_code == 200
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        answer.json()
    assert api.query("small", "SELECT 1").json()["success"]


def test_reset_connections_have_no_effect(api) -> None:
    api.emulator.faults.reset_connections = 1
    with pytest.raises(httpx.ReadError):
        api.query("small", "CREATE TABLE never(a)")
    assert [(call.kind, call.status) for call in api.emulator.calls] == [("query", 0)]
    assert (
        api.query("small", "SELECT name FROM sqlite_schema WHERE name = 'never'").json()["result"][0]["results"] == []
    )


def test_a_lost_answer_to_start_leaves_an_orphan(api) -> None:
    api.emulator.faults.set({"lost_start_answers": 1, "export_seconds": 1e9})
    with pytest.raises(httpx.ReadError):
        api.export("other0")
    assert api.export("other0").json()["result"] == {"success": False, "error": BUSY_START}


def test_a_lost_complete_response_is_not_repeated(api) -> None:
    bookmark = api.start("small")
    while api.query("small", "SELECT 1").status_code != 200:
        pass  # until the dump is there
    api.emulator.faults.lost_poll_answers = 1
    with pytest.raises(httpx.ReadError):
        api.export("small", bookmark)
    assert api.export("small", bookmark).json()["result"] == {"success": False, "error": LOST}


def test_an_error_response_is_not_lost(api) -> None:
    api.emulator.faults.lost_start_answers = 1
    assert api.call("POST", api.path("small", "/export"), json={}).status_code == 400
    assert api.emulator.faults.lost_start_answers == 1


def test_lost_exports(api) -> None:
    api.emulator.faults.lost_exports = 1
    assert api.finish("small", api.start("small")).json()["result"] == {"success": False, "error": LOST}
    assert api.signed_url("small")


def test_busy(api) -> None:
    api.emulator.faults.busy_seconds = 1e9
    assert api.export("small").json()["result"] == {"success": False, "error": BUSY_START}
    assert api.query("small", "SELECT 1").json()["errors"][0]["message"] == BUSY
    api.emulator.faults.busy_seconds = 0
    assert api.query("small", "SELECT 1").status_code == 200


def test_failures_of_the_export(api) -> None:
    api.emulator.faults.set({"start_error": "not now", "export_error_times": 1})
    failed = api.export("small")
    assert (failed.status_code, failed.json()["success"]) == (200, True)
    assert failed.json()["result"] == {"success": False, "error": "not now"}
    api.emulator.faults.reset()

    api.emulator.faults.export_error = "D1 DB reset because its code was updated."
    failed = api.finish("small", api.start("small"))
    assert failed.json()["result"] == {"success": False, "error": "D1 DB reset because its code was updated."}
    api.emulator.faults.reset()

    api.emulator.faults.export_status_error = "Network connection lost."
    bookmark = api.start("small")
    assert api.finish("small", bookmark).json()["result"] == {
        "success": False,
        "type": "export",
        "at_bookmark": bookmark,
        "status": "error",
        "error": "Network connection lost.",
        "messages": [],
    }


def test_complete_at_start(api) -> None:
    api.emulator.faults.complete_at_start = True
    answer = api.export("shop")
    assert (answer.status_code, answer.json()["result"]["status"]) == (200, "complete")


def test_a_table_that_disappears(api) -> None:
    api.query("other2", "CREATE TABLE gone(a); CREATE TABLE kept(a)")
    api.emulator.faults.drop_table = "gone"
    dump = api.plain.get(api.signed_url("other2")).text
    assert "kept" in dump
    assert "gone" not in dump


def test_the_rate_limit_and_its_block(api) -> None:
    api.emulator.faults.set({"rate_limit": 2, "rate_window_seconds": 1e6})
    answers = [api.call("GET", "/user/tokens/verify") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429]
    assert answers[1].headers["ratelimit"].startswith('"default";r=0;t=')
    assert answers[1].headers["ratelimit-policy"] == '"default";q=2;w=1000'
    assert "retry-after" not in answers[1].headers
    assert code(answers[2]) == (429, 971)
    assert 900 < int(answers[2].headers["retry-after"]) <= 1000  # a million seconds, a thousand times as fast
    other = {"Authorization": "Bearer another"}
    assert code(api.call("GET", "/user/tokens/verify", headers=other)) == (401, 10000)


def test_reset_restores_the_initial_state(api) -> None:
    api.finish("fts", api.start("fts"))
    api.emulator.faults.export_seconds = 1e9
    api.start("small")
    api.emulator.faults.set({"rate_limit": 0, "rate_window_seconds": 1e6})
    assert api.query("small", "SELECT 1").status_code == 429
    assert api.plain.post(f"{api.emulator.origin}/_emulator/reset").status_code == 204
    assert len(api.emulator.calls) == 0
    for name in ("small", "fts"):
        assert api.query(name, "SELECT 1").status_code == 200


def test_a_block_on_demand(api) -> None:
    api.emulator.faults.blocked_seconds = 1e6
    answer = api.query("small", "SELECT 1")
    assert code(answer) == (429, 971)
    assert int(answer.headers["retry-after"]) > 900
    api.emulator.faults.blocked_seconds = 0
    assert api.query("small", "SELECT 1").status_code == 200


def test_an_overloaded_d1_is_not_the_rate_limit(api) -> None:
    api.emulator.faults.overloaded = 1
    answer = api.query("small", "SELECT 1")
    assert code(answer) == (429, 7500)
    assert "retry-after" not in answer.headers
    assert api.query("small", "SELECT 1").status_code == 200


def test_d1_errors(api) -> None:
    api.emulator.faults.set({"d1_errors": 1, "d1_error": "Network connection lost."})
    assert code(api.query("small", "SELECT 1")) == (500, 7500)
    assert api.query("small", "SELECT 1").status_code == 200


def test_a_token_revoked_on_the_way(api) -> None:
    api.emulator.faults.revoked_after = 2
    statuses = [api.call("GET", "/user/tokens/verify").status_code for _ in range(4)]
    assert statuses == [200, 200, 401, 401]


def test_a_token_without_a_right_to_d1(api) -> None:
    api.emulator.faults.no_d1_right = True
    assert api.call("GET", "/user/tokens/verify").status_code == 200
    assert code(api.query("small", "SELECT 1")) == (403, 10000)


def test_faults_for_some_calls_only(api) -> None:
    api.emulator.faults.set({"html_errors": 1, "only": "get,export_poll"})
    assert api.query("small", "SELECT 1").status_code == 200
    bookmark = api.start("small")
    assert api.export("small", bookmark).status_code == 502
    assert api.finish("small", bookmark).json()["result"]["status"] == "complete"


def test_slow_answers(api) -> None:
    api.emulator.faults.slow_seconds = 1e9
    with pytest.raises(httpx.ReadTimeout):
        api.call("GET", "/user/tokens/verify", timeout=0.2)


def test_control_route(api) -> None:
    control = f"{api.emulator.origin}/_emulator"
    assert api.plain.get(f"{control}/faults").json() == api.emulator.faults.to_dict()
    patched = api.plain.patch(f"{control}/faults", json={"no_range": True, "export_seconds": 2})
    assert (patched.json()["no_range"], api.emulator.faults.export_seconds) == (True, 2.0)
    refused = api.plain.patch(f"{control}/faults", json={"nonsense": 1})
    assert refused.status_code == 400
    assert "unknown fault 'nonsense'" in refused.json()["error"]
    assert api.plain.patch(f"{control}/faults", content="[").status_code == 400
    assert api.plain.patch(f"{control}/faults", content="7").status_code == 400
    assert api.plain.delete(f"{control}/faults").json()["no_range"] is False
    api.query("small", "SELECT 1")
    logs = api.plain.get(f"{control}/calls").json()
    assert [call["kind"] for call in logs["calls"]] == ["query"]
    assert api.plain.delete(f"{control}/calls").json() == {"calls": [], "downloads": []}
    assert len(api.emulator.calls) == 0
    assert api.plain.get(f"{control}/databases").json()["small"] == api.emulator.database_id("small")
    assert api.plain.post(f"{control}/faults").status_code == 405
    assert api.plain.get(f"{api.emulator.url}/_emulator/faults").status_code == 400  # it is no part of the API


def test_faults_from_the_constructor() -> None:
    with Emulator(faults={"no_d1_right": True, "export_parts": "7"}) as emulator:
        assert (emulator.faults.no_d1_right, emulator.faults.export_parts) == (True, 7)
    with pytest.raises(ValueError, match="unknown fault 'nonsense'"):
        Emulator(faults={"nonsense": 1})


def test_stopping_does_not_wait_for_a_slow_answer() -> None:
    with Emulator(faults={"slow_seconds": 1e9}) as emulator, pytest.raises(httpx.ReadTimeout):
        httpx.get(f"{emulator.url}/user/tokens/verify", timeout=0.2)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{emulator.url}/user/tokens/verify", timeout=2)


def test_the_daily_limit_of_the_free_plan(api) -> None:
    """Exports read rows too; at the end of the limit everything that reads is refused, and no retry helps."""
    message = (
        "Your account has exceeded D1's free tier daily row read limit."
        " Upgrade to a paid plan or wait until tomorrow (midnight UTC) to continue."
    )
    api.emulator.faults.free_row_reads = 5
    assert api.query("small", "SELECT * FROM users").status_code == 200
    assert api.emulator.faults.free_row_reads == 3
    bookmark = api.start("small")
    assert api.emulator.faults.free_row_reads <= 1
    api.finish("small", bookmark)
    api.query("small", "SELECT * FROM users")
    assert api.emulator.faults.free_row_reads == 0
    for answer in (
        api.query("small", "SELECT 1"),
        api.query("small", "SELECT 1", raw=True),
        api.export("small"),
        api.call("POST", api.path("small", "/import"), json={"action": "init", "etag": "0" * 32}),
    ):
        assert (answer.status_code, answer.json()["errors"]) == (400, [{"code": 7500, "message": message}])
    api.emulator.faults.free_row_reads = -1
    assert api.query("small", "SELECT 1").status_code == 200


@pytest.mark.parametrize("kind", ["import_ingest", "import_poll"])
def test_an_import_call_whose_answer_is_lost(api, kind: str) -> None:
    sql = f"SELECT '{kind}';".encode()
    etag = hashlib.md5(sql, usedforsecurity=False).hexdigest()
    path = api.path("small", "/import")
    started = api.call("POST", path, json={"action": "init", "etag": etag}).json()["result"]
    api.plain.put(started["upload_url"], content=sql)
    ingest = {"action": "ingest", "etag": etag, "filename": started["filename"]}
    if kind == "import_poll":
        bookmark = api.call("POST", path, json=ingest).json()["result"]["at_bookmark"]
        ingest = {"action": "poll", "current_bookmark": bookmark}
    api.emulator.faults.lost_import_answers = 1
    with pytest.raises(httpx.HTTPError):
        api.call("POST", path, json=ingest)
    assert api.emulator.faults.lost_import_answers == 0
