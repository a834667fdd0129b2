"""The import's requests, the meaning of its answers, and what follows from them."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from typing import Any

import pytest

from airflow_provider_d1.cloudflare import import_protocol as protocol
from airflow_provider_d1.cloudflare.import_models import ImportRequest, ImportResult
from airflow_provider_d1.cloudflare.import_protocol import (
    ImportAnswer,
    ImportFinished,
    UploadRequired,
    next_step,
    read_import,
)
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.cloudflare.polled_job import Busy, Failed, Lost, Running, Send, Sent, State, Unclear
from airflow_provider_d1.cloudflare.sql_import import run_import
from airflow_provider_d1.exceptions import (
    D1AuthenticationError,
    D1ImportError,
    D1ImportLostError,
    D1ImportTimeoutError,
    D1UploadError,
)
from tests.unit.cloudflare.d1_fakes import EPOCH, HTML_502, RESET, UUID, FakeD1, Reply, connected, error, inner, ok, run

REQUEST = ImportRequest(UUID, "shop", "0" * 32, "x.sql")
URL = "https://bucket.r2.cloudflarestorage.com/x.sql?X-Amz-Signature=5e3c7e7"


def reply(status: str | None = None, bookmark: str | None = "bm-1", after: float = 0.0, **more: Any) -> Reply:
    result: dict[str, Any] = {"success": True, "type": "import", "at_bookmark": bookmark, "messages": []} | more
    return Reply(ok(result if status is None else {**result, "status": status}), after=after)


ACTIVE = reply("active")
COMPLETE = reply(
    "complete",
    result={
        "final_bookmark": "bm-2",
        "num_queries": 3,
        "meta": {"rows_read": 4, "rows_written": 5, "changes": 2, "size_after": 8192},
    },
)
RESULT = ImportResult("bm-2", "bm-1", 3, 4, 5, 2, 8192)
LOST = inner("Not currently importing anything.")
BUSY = inner("Currently processing a long-running import.")
AGAIN = reply("error", success=False, error="UNIQUE constraint failed: _d1_imports.d1_import_key: SQLITE_CONSTRAINT")
FREE_LIMIT = "Your account has exceeded D1's free tier daily row write limit. Upgrade to a paid plan."


def read(answer: Reply) -> ImportAnswer:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    return read_import(Response(answer.status, answer.headers, body))


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        (reply(filename="x.sql", upload_url=URL), UploadRequired("x.sql", URL)),
        (reply(filename="x.sql", uploadUrl=URL), UploadRequired("x.sql", URL)),
        (ACTIVE, Running("bm-1")),
        (reply(bookmark=None), Running(None)),
        (COMPLETE, ImportFinished(RESULT)),
        (reply("complete", result={"finalBookmark": "bm-2", "numQueries": 3}), ImportFinished(
            ImportResult("bm-2", "bm-1", 3)
        )),
        (AGAIN, ImportFinished(ImportResult(repeated=True))),
        (LOST, Lost()),
        (reply("error", success=False, error="Cancelled due to no poll() received in 15000ms."), Lost()),
        (BUSY, Busy()),
        (inner("Currently processing a long-running export."), Busy()),
        (Reply(error(7500, "Currently processing a long-running export."), status=400), Busy()),
    ],
)  # fmt: skip
def test_answers(answer: Reply, meaning: ImportAnswer) -> None:
    assert read(answer) == meaning


@pytest.mark.parametrize(
    "answer",
    [
        reply("error", success=False, error="no such table: nowhere at offset 12: SQLITE_ERROR"),
        reply("error", errors=["no such table: nowhere"]),
        reply("error"),
        inner("exceeded its CPU time limit"),
        inner(FREE_LIMIT),
        Reply(error(7500, FREE_LIMIT), status=400),
        Reply(error(7500, FREE_LIMIT), status=429),
        Reply(error(7404, "not found"), status=404),
        Reply(error(10000, "Authentication error"), status=403),
    ],
)
def test_permanent_failures(answer: Reply) -> None:
    found = read(answer)
    assert isinstance(found, Failed)
    assert not found.error.retryable
    assert ("00:00 UTC" in str(found.error)) == ("free tier" in json.dumps(answer.body))


@pytest.mark.parametrize(
    "answer", [HTML_502, inner("Network connection lost."), Reply(error(7009, "upstream unavailable"), status=500)]
)
def test_unclear_answers(answer: Reply) -> None:
    found = read(answer)
    assert isinstance(found, Unclear)
    assert found.error.retryable


def test_no_repr_shows_the_url() -> None:
    assert "Signature" not in repr(read(reply(filename="x.sql", upload_url=URL)))


def test_requests() -> None:
    def body(request: Any) -> Any:
        assert request.path == f"/accounts/acc/d1/database/{UUID}/import"
        assert not request.idempotent
        return request.body

    etag = "0" * 32
    assert body(protocol.init("acc", UUID, etag)) == {"action": "init", "etag": etag}
    assert body(protocol.begin("acc", REQUEST)) == {"action": "ingest", "etag": etag, "filename": "x.sql"}
    known = ImportRequest(UUID, "shop", etag, "")
    assert body(protocol.begin("acc", known)) == {"action": "init", "etag": etag}
    assert body(protocol.poll("acc", UUID, "bm-1")) == {"action": "poll", "current_bookmark": "bm-1"}
    assert ImportRequest.from_dict(json.loads(json.dumps(REQUEST.to_dict()))) == REQUEST
    assert ImportResult.from_dict(json.loads(json.dumps(RESULT.to_dict()))) == RESULT


def test_a_file_that_is_gone_is_uploaded_by_a_retry() -> None:
    with pytest.raises(D1UploadError, match="a retry uploads it again") as raised:
        next_step(State(), UploadRequired("x.sql", URL), Sent(0, 0), REQUEST)
    assert raised.value.retryable


# --- the driver


class FakeImports(FakeD1):
    @staticmethod
    def _kind(path: str, body: dict[str, Any]) -> str:
        if path.endswith("/import"):
            return "poll" if body["action"] == "poll" else "start"
        return FakeD1._kind(path, body)


def importing(
    script: list[Reply | Exception], *, timeout: float = 600, progress: list[str] | None = None, **changes: Any
) -> tuple[FakeImports, ImportResult]:
    fake = FakeImports(script)
    request = ImportRequest.from_dict({**REQUEST.to_dict(), **changes})

    async def main() -> ImportResult:
        async with connected(fake) as client:
            report = None if progress is None else progress.append
            try:
                return await run_import(client, request, deadline=EPOCH + timeout, on_progress=report)
            finally:
                fake.ended = asyncio.get_running_loop().time()

    return fake, run(main())


def test_an_import_from_ingest_to_the_end() -> None:
    progress: list[str] = []
    fake, result = importing([ACTIVE, ACTIVE, ACTIVE, COMPLETE], progress=progress)
    assert result == RESULT
    assert [call.body["action"] for call in fake.calls if call.kind in ("start", "poll")] == ["ingest", *["poll"] * 3]
    assert progress == ["shop: import started"]


def test_an_import_that_d1_began_at_the_announcement_is_polled() -> None:
    fake, result = importing([ACTIVE, COMPLETE], bookmark="bm-1", filename="")
    assert result == RESULT
    assert fake.count("start") == 0
    fake, result = importing([LOST, AGAIN], bookmark="bm-1", filename="")
    assert result.repeated
    assert [call.body["action"] for call in fake.calls if call.kind in ("start", "poll")] == ["poll", "init"]


def test_a_long_import_is_polled_well_within_15_seconds() -> None:
    fake, _ = importing([ACTIVE, *[ACTIVE] * 60, HTML_502, RESET, COMPLETE])
    assert max(after - before for before, after in pairwise(fake.times("start", "poll"))) <= 6
    assert fake.ended > 200


def test_a_lost_import_is_begun_again_and_may_turn_out_to_be_done() -> None:
    """The answer that announced the end was lost; the record in the file tells."""
    progress: list[str] = []
    fake, result = importing([ACTIVE, RESET, LOST, AGAIN], progress=progress)
    assert result == ImportResult(repeated=True)
    assert fake.count("start") == 2
    assert any("starting again (restart 1)" in line for line in progress)


def test_an_ingest_whose_answer_is_lost_waits_for_its_orphan() -> None:
    fake, result = importing([RESET, BUSY, BUSY, AGAIN])
    assert result.repeated
    assert fake.count("start") == 4
    assert fake.ended >= 10


def test_restarts_are_bounded() -> None:
    with pytest.raises(D1ImportLostError, match=r"lost the import 3 times \(max_restarts=2\)"):
        importing([ACTIVE, LOST] * 3, max_restarts=2)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (reply("error", error="near SELEC: syntax error"), D1ImportError),
        (Reply(error(7500, FREE_LIMIT), status=400), D1ImportError),
        (Reply(error(10000, "Authentication error"), status=403), D1AuthenticationError),
    ],
)
def test_a_refusal_ends_it_at_once(answer: Reply, kind: type[Exception]) -> None:
    with pytest.raises(kind):
        importing([ACTIVE, answer])


@pytest.mark.parametrize(("script", "words"), [([BUSY] * 20, "another import or export was running"), (
    [ACTIVE] * 100, "did not finish in time"
)])  # fmt: skip
def test_the_deadline(script: list[Reply], words: str) -> None:
    with pytest.raises(D1ImportTimeoutError, match=words):
        importing(script, timeout=60)


def test_an_import_that_the_rate_limit_lost_is_admitted_again() -> None:
    sent = Sent(took=0.1, age=10.0, blocked=True)
    after, send = next_step(State(bookmark="bm-1"), Lost(), sent, REQUEST)
    assert (after.restarts, after.excused) == (1, 1)
    assert isinstance(send, Send)
    assert (send.bookmark, send.readmit) == (None, True)


def test_a_rate_limit_block_is_waited_out_and_costs_no_restart() -> None:
    blocked = Reply(error(971, "Please wait"), status=429, headers={"retry-after": "300"})
    fake, result = importing([ACTIVE, blocked, LOST, ACTIVE, COMPLETE], timeout=2000, max_restarts=0)
    assert result == RESULT
    assert fake.ended >= 300
