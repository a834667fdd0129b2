"""Whole exports against a scripted D1, in virtual time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from itertools import pairwise
from typing import Any

import httpx
import pytest

from airflow_provider_d1.cloudflare.export import run_export
from airflow_provider_d1.cloudflare.models import D1Export, ExportOptions, ExportRequest
from airflow_provider_d1.cloudflare.seal import unseal
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1ConfigurationError,
    D1ConnectionError,
    D1DatabaseNotFoundError,
    D1ExportBusyError,
    D1ExportError,
    D1ExportLostError,
    D1ExportTimeoutError,
    D1TableNotFoundError,
    D1VirtualTableError,
)
from tests.unit.cloudflare.d1_fakes import (
    ACCOUNT,
    BUSY,
    EPOCH,
    HTML_502,
    LOST,
    QUERY_BUSY,
    RESET,
    SIGNED_URL,
    TOKEN,
    UUID,
    FakeD1,
    LiveExports,
    Reply,
    active,
    complete,
    connected,
    error,
    inner,
    ok,
    run,
)


def export(fake: FakeD1, *, timeout: float = 3600.0, progress: list[str] | None = None, **options: Any) -> D1Export:
    """Run an export of ``shop`` against the fake."""

    async def main() -> D1Export:
        async with connected(fake) as client:
            request = ExportRequest(**{"database": "shop", **options})
            report = None if progress is None else progress.append
            try:
                return await run_export(client, request, deadline=EPOCH + timeout, on_progress=report)
            finally:
                fake.ended = asyncio.get_running_loop().time()

    return run(main())


def gaps(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


# --- the way it should go


def test_an_export_from_start_to_sealed_url() -> None:
    fake = FakeD1([active(), active("bm-1", 2, 1), complete(after=0.25)])
    result = export(fake)
    assert (result.database_id, result.database_name, result.account_id) == (UUID, "shop", ACCOUNT)
    assert (result.bookmark, result.filename) == ("bm-1", "x.sql")
    assert (result.polls, result.restarts, result.skipped) == (2, 0, ())
    assert unseal(result.sealed_url, TOKEN, now=result.completed_at) == SIGNED_URL
    assert SIGNED_URL not in json.dumps(result.to_dict())
    assert result.started_at.timestamp() == EPOCH
    assert result.unavailable_seconds == 0.75
    assert result.expires_at == result.completed_at + timedelta(hours=1)
    assert [call.kind for call in fake.calls] == ["list", "query", "start", "poll", "poll"]


def test_every_poll_repeats_the_options_and_carries_the_latest_bookmark() -> None:
    fake = FakeD1([active("bm-1"), active("bm-2"), complete("bm-2")])
    export(fake, no_schema=True, tables=("users",))
    bodies = [call.body for call in fake.calls if call.kind in ("start", "poll")]
    assert {json.dumps(body["dump_options"]) for body in bodies} == {
        '{"no_schema": true, "no_data": false, "tables": ["users"]}'
    }
    assert all(body["output_format"] == "polling" for body in bodies)
    assert [body.get("current_bookmark") for body in bodies] == [None, "bm-1", "bm-2"]


def test_a_uuid_is_looked_up_directly() -> None:
    fake = FakeD1([complete()])
    assert export(fake, database=UUID.upper()).database_name == "shop"
    assert fake.count("get") == 1
    assert fake.count("list") == 0


def test_the_start_may_answer_complete() -> None:
    fake = FakeD1([complete()])
    result = export(fake)
    assert (result.polls, fake.count("poll")) == (0, 0)


def test_the_first_poll_follows_the_start_at_once() -> None:
    fake = FakeD1([active(), complete()])
    export(fake)
    assert fake.times("poll")[0] == fake.times("start")[0]


def test_a_minute_costs_at_most_25_calls() -> None:
    fake = LiveExports(60)
    result = export(fake)
    assert len(fake.calls) <= 25
    assert result.unavailable_seconds <= 65


def test_the_end_is_noticed_within_two_and_a_half_seconds_on_average() -> None:
    late = []
    for duration in (number / 2 + 0.1 for number in range(120)):
        fake = LiveExports(duration)
        fake.latency = 0.1  # part of the delay, and of each gap
        late.append(export(fake).unavailable_seconds - duration)
        assert len(fake.calls) <= 25
    assert max(late) <= 5.2
    assert sum(late) / len(late) <= 2.5


def test_a_constant_poll_interval() -> None:
    fake = LiveExports(60)
    export(fake, poll_interval=10)
    assert gaps(fake.times("poll")) == [10.0] * 6


# --- the signed URL's hour


def test_the_expiry_is_read_from_the_url_in_cloudflares_time() -> None:
    # Cloudflare's clock is two hours ahead of ours: the URL must work for ten minutes from now, not for two hours more.
    url = "https://r2.example/x.sql?X-Amz-Date=20261118T125650Z&X-Amz-Expires=600&X-Amz-Signature=1"
    reply = complete(url=url)
    headers = {"date": "Wed, 18 Nov 2026 12:56:50 GMT"}
    result = export(FakeD1([Reply(reply.body, headers=headers)]))
    assert abs((result.expires_at - result.completed_at).total_seconds() - 600) < 2


def test_a_url_that_was_just_handed_out_is_never_taken_for_dead() -> None:
    url = "https://r2.example/x.sql?X-Amz-Date=20200101T000000Z&X-Amz-Expires=3600&X-Amz-Signature=1"
    result = export(FakeD1([complete(url=url)]))
    assert result.expires_at == result.completed_at + timedelta(hours=1)


# --- gaps


@pytest.mark.parametrize("latency", [0.0, 0.4, 3.0, 6.0, 9.0])
def test_no_gap_exceeds_five_seconds_and_one_request(latency: float) -> None:
    fake = LiveExports(90)
    fake.latency = latency
    result = export(fake)
    assert max(gaps(fake.times("poll"))) <= max(5.0, latency) + 1e-6
    assert (fake.cancelled, result.restarts) == (0, 0)


def test_no_gap_exceeds_ten_seconds_when_polls_fail_in_every_way() -> None:
    class Troubled(LiveExports):
        """Every other poll fails: refused, cut, slower than any poll may be."""

        def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
            reply = super().answer(kind, query, body)
            bad = (RESET, HTML_502, Reply(b'{"succ'), Reply(reply.body if isinstance(reply, Reply) else b"", after=60))
            done = isinstance(reply, Reply) and b"signed_url" in json.dumps(reply.body).encode()
            number = self.count("poll")
            return bad[number // 2 % 4] if kind == "poll" and number % 2 and not done else reply

    fake = Troubled(120)
    result = export(fake)
    assert max(gaps(fake.times("poll"))) <= 10
    assert (fake.cancelled, result.restarts) == (0, 0)


def test_a_poll_without_response_times_out_before_d1_cancels() -> None:
    fake = FakeD1([active(), active(after=1000), complete()])
    result = export(fake)
    assert gaps(fake.times("poll")) == [9.5]
    assert result.polls == 2


# --- lost


def test_a_lost_export_is_started_again() -> None:
    progress: list[str] = []
    fake = FakeD1([active("bm-1"), active("bm-1"), LOST, active("bm-2"), complete("bm-2")])
    result = export(fake, progress=progress)
    assert (result.restarts, result.polls, result.bookmark) == (1, 3, "bm-2")
    assert any("starting again" in line for line in progress)
    assert result.started_at.timestamp() == EPOCH + fake.times("start")[0]


def test_a_tiny_database_that_ends_before_the_first_poll_may_need_a_restart() -> None:
    result = export(FakeD1([active("bm-1"), LOST, active("bm-2"), complete("bm-2")]))
    assert (result.restarts, result.polls) == (1, 2)


def test_restarts_used_up() -> None:
    fake = FakeD1([active(), LOST] * 4)
    with pytest.raises(D1ExportLostError) as caught:
        export(fake, max_restarts=3)
    assert fake.count("start") == 4
    assert caught.value.retryable


def test_a_lost_completion_response_costs_a_restart() -> None:
    fake = FakeD1([active(), RESET, LOST, active("bm-2"), complete("bm-2")])
    assert export(fake).restarts == 1


# --- busy


def test_another_export_is_waited_out() -> None:
    progress: list[str] = []
    fake = FakeD1([BUSY, BUSY, BUSY, active(), complete()])
    result = export(fake, progress=progress)
    assert result.restarts == 0
    assert all(1 < gap <= 5 for gap in gaps(fake.times("start")))
    assert sum("another export" in line for line in progress) == 1
    assert result.started_at.timestamp() == EPOCH + fake.times("start")[-1]


def test_a_database_busy_before_the_start_is_waited_out_too() -> None:
    fake = FakeD1([complete()])
    fake.query_script = [QUERY_BUSY] * 20
    assert export(fake).restarts == 0
    assert gaps(fake.times("query")) == [5.0] * 20


@pytest.mark.parametrize("where", ["query", "start"])
def test_busy_until_the_deadline(where: str) -> None:
    fake = FakeD1([BUSY] * 100)
    if where == "query":
        fake.query_script = [QUERY_BUSY] * 1000
    with pytest.raises(D1ExportBusyError, match="shop") as caught:
        export(fake, timeout=60)
    assert caught.value.retryable
    assert 50 < fake.calls[-1].at < 60
    assert len(fake.calls) < 20


@pytest.mark.parametrize("lost_answer", [RESET, HTML_502, Reply(b"{", status=200), active(after=100)])
def test_the_orphan_of_an_unanswered_start_is_waited_out(lost_answer: Reply | Exception) -> None:
    fake = FakeD1([lost_answer, BUSY, BUSY, BUSY, active(), complete()])
    result = export(fake)
    assert gaps(fake.times("start"))[0] > 1
    assert (result.restarts, result.polls) == (0, 1)


def test_two_exports_of_one_database() -> None:
    class OneAtATime(LiveExports):
        def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
            return BUSY if kind == "start" and self.exports else super().answer(kind, query, body)

    fake = OneAtATime(20)

    async def main() -> list[D1Export]:
        async with connected(fake) as client:
            request = ExportRequest("shop", timeout=600)
            return await asyncio.gather(*(run_export(client, request) for _ in range(2)))

    first, second = run(main())
    assert (first.restarts, second.restarts, fake.cancelled) == (0, 0, 0)


# --- the deadline


def test_past_the_deadline() -> None:
    fake = LiveExports(1000)
    with pytest.raises(D1ExportTimeoutError, match="polls") as caught:
        export(fake, timeout=30)
    assert caught.value.retryable
    assert 29 <= fake.calls[-1].at <= 30


def test_an_end_at_the_deadline_is_still_found() -> None:
    assert export(LiveExports(29.5), timeout=30).polls > 1


def test_a_deadline_in_the_past_starts_nothing() -> None:
    fake = FakeD1([complete()])
    with pytest.raises(D1ExportTimeoutError):
        export(fake, timeout=-1)
    assert fake.count("start") == 0


def test_nothing_is_started_at_the_deadline() -> None:
    fake = FakeD1([HTML_502] * 100)
    with pytest.raises(D1ExportTimeoutError):
        export(fake, timeout=40)
    assert fake.times("start")[-1] < 40


# --- refusals


def test_a_virtual_table_is_found_before_anything_is_started() -> None:
    fake = FakeD1(schema="CREATE TABLE docs(id); CREATE VIRTUAL TABLE docs_fts USING fts5(body);")
    with pytest.raises(D1VirtualTableError, match="docs_fts"):
        export(fake)
    assert fake.count("start", "poll") == 0


def test_skipping_virtual_tables_exports_and_reports_the_others() -> None:
    progress: list[str] = []
    fake = FakeD1([complete()], schema="CREATE TABLE docs(id); CREATE VIRTUAL TABLE docs_fts USING fts5(body);")
    result = export(fake, on_virtual_table="skip", progress=progress)
    assert result.options == ExportOptions(("docs",))
    assert {item.name for item in result.skipped} >= {"docs_fts", "docs_fts_data"}
    assert any("docs_fts" in line for line in progress)


def test_a_response_to_another_query_is_not_a_schema() -> None:
    fake = FakeD1()
    other = ok([{"success": True, "results": {"columns": ["ok"], "rows": [[1]]}}])
    fake.query_script = [Reply(other)]
    with pytest.raises(D1ApiError, match="schema query"):
        export(fake)
    assert fake.count("start") == 0


def test_a_wrong_table_name_is_found_before_anything_is_started() -> None:
    fake = FakeD1()
    with pytest.raises(D1TableNotFoundError, match="did you mean 'users'"):
        export(fake, tables=("USERS",))
    assert fake.count("start") == 0


def test_a_wrong_database_name_is_answered_with_the_near_one() -> None:
    fake = FakeD1()
    with pytest.raises(D1DatabaseNotFoundError, match="did you mean 'shop'"):
        export(fake, database="shopp")


def test_a_table_that_vanishes_during_the_export_is_noticed() -> None:
    class Vanishing(FakeD1):
        def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
            if kind == "start":
                self.database.execute("DROP TABLE users")
            return super().answer(kind, query, body)

    with pytest.raises(D1TableNotFoundError, match="users"):
        export(Vanishing([complete()], schema="CREATE TABLE users(id); CREATE TABLE t(id);"), tables=("users", "t"))


@pytest.mark.parametrize("failure", [HTML_502, RESET, QUERY_BUSY, Reply(b"", after=1000)])
def test_a_failed_verification_does_not_fail_the_export(failure: Reply | Exception) -> None:
    class Silent(FakeD1):
        def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
            return failure if kind == "query" and self.count("start") else super().answer(kind, query, body)

    progress: list[str] = []
    fake = Silent([complete()])
    result = export(fake, tables=("users",), progress=progress)
    assert any("could not check" in line for line in progress)
    assert fake.ended - fake.times("start")[0] <= 31
    assert result.polls == 0


def test_a_token_revoked_in_the_middle() -> None:
    fake = FakeD1([active(), active(), Reply(error(10000, "Authentication error"), status=401)])
    with pytest.raises(D1AuthenticationError):
        export(fake)


def test_an_inner_failure() -> None:
    with pytest.raises(D1ExportError, match="disk on fire"):
        export(FakeD1([active(), inner("disk on fire")]))


def test_a_code_update_of_d1_is_survived() -> None:
    reset = Reply(error(7500, "D1 DB reset because its code was updated."), status=500)
    fake = FakeD1([reset, active(), reset, complete()])
    assert export(fake).restarts == 0


def test_without_a_network_it_fails_within_minutes() -> None:
    class Dead(FakeD1):
        def answer(self, *_: Any) -> Reply | Exception:
            return httpx.ConnectError("[Errno -2] Name or service not known")

    fake = Dead()
    with pytest.raises(D1ConnectionError, match="Name or service not known"):
        export(fake)
    assert fake.calls[-1].at < 180


# --- the request limit


def limited(seconds: int) -> Reply:
    return Reply(error(971, "throttled"), status=429, headers={"retry-after": str(seconds)})


def test_a_five_minute_block_is_waited_out_and_the_lost_export_started_again() -> None:
    fake = FakeD1([active(), limited(300), LOST, active("bm-2"), complete("bm-2")])
    result = export(fake)
    assert result.restarts == 1
    assert max(gaps([call.at for call in fake.calls])) >= 300


def test_a_start_is_repeated_after_the_retry_after_of_a_503() -> None:
    fake = FakeD1([Reply(error(7009, "upstream"), 503, headers={"retry-after": "40"}), active(), complete()])
    export(fake)
    assert gaps(fake.times("start")) == [40.0]


def test_a_block_before_the_start_is_waited_out() -> None:
    fake = FakeD1([limited(300), complete()])
    assert export(fake).restarts == 0
    assert gaps(fake.times("start"))[0] >= 300


@pytest.mark.parametrize("script", [[limited(300)], [active(), limited(300)]])
def test_a_block_longer_than_the_deadline_ends_at_once(script: list[Reply]) -> None:
    fake = FakeD1(script)
    with pytest.raises(D1ExportTimeoutError, match="300 s"):
        export(fake, timeout=120)
    assert fake.calls[-1].at < 5


def test_a_block_during_the_look_ups_that_is_longer_than_the_deadline() -> None:
    fake = FakeD1()
    fake.query_script = [limited(300)]
    with pytest.raises(D1ExportTimeoutError):
        export(fake, timeout=120)


def test_a_later_request_limit_holds_back_every_call_of_the_token() -> None:
    fake = FakeD1([limited(100), complete()])

    async def main() -> None:
        async with connected(fake) as client:
            task = asyncio.create_task(run_export(client, ExportRequest("shop", timeout=600)))
            await asyncio.sleep(1)
            await client.list_databases()
            await task

    run(main())
    assert min(at for at in fake.times("list")[1:]) >= 100


# --- progress


def test_progress_reports_parts_not_polls() -> None:
    class Parts(LiveExports):
        def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
            reply = super().answer(kind, query, body)
            if isinstance(reply, Reply) and reply.status == 202:
                return active(reply.body["result"]["at_bookmark"], self.count("poll") + 1)
            return reply

    progress: list[str] = []
    fake = Parts(120)
    export(fake, progress=progress)
    lines = [line for line in progress if "parts uploaded" in line]
    assert 3 <= len(lines) <= 8 < fake.count("poll")
    assert lines == sorted(lines, key=lambda line: int(line.split()[3].strip(",")))


def test_repeated_errors_are_reported_once() -> None:
    progress: list[str] = []
    export(FakeD1([active(), *[limited(2)] * 4, *[RESET] * 4, complete()]), progress=progress)
    assert sum("retrying" in line for line in progress) == 1


def test_progress_names_the_database_and_no_secret() -> None:
    progress: list[str] = []
    export(FakeD1([BUSY, RESET, active(), LOST, active(), complete()]), progress=progress)
    assert len(progress) >= 4
    assert all(line.startswith("shop: ") for line in progress)
    assert not any(TOKEN in line or "Signature" in line for line in progress)


# --- arguments


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"tables": ()}, "tables"),
        ({"on_virtual_table": "ignore"}, "on_virtual_table"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"poll_interval": 10.1}, "poll_interval"),
        ({"poll_interval": float("nan")}, "poll_interval"),
        ({"tables": "users"}, "tables"),
        ({"timeout": 0}, "timeout"),
        ({"queue_timeout": -1}, "queue_timeout"),
        ({"max_restarts": -1}, "max_restarts"),
    ],
)
def test_a_value_that_cannot_work_is_refused_at_once(options: dict[str, Any], field: str) -> None:
    with pytest.raises(D1ConfigurationError, match=field):
        ExportRequest("shop", **options)


def test_a_cancelled_export_gives_its_place_back() -> None:
    fake = LiveExports(100)

    async def main() -> None:
        async with connected(fake) as client:
            task = asyncio.create_task(run_export(client, ExportRequest("shop", timeout=600)))
            await asyncio.sleep(10)
            assert client.limiter.running
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert not client.limiter.running
            polls = fake.count("poll")
            await asyncio.sleep(60)
            assert fake.count("poll") == polls

    run(main())


def test_errors_of_the_api_say_what_happened() -> None:
    with pytest.raises(D1ApiError, match="7400") as caught:
        export(FakeD1([Reply(error(7400, "bad body"), status=400)]))
    assert (caught.value.status, caught.value.code, caught.value.message) == (400, 7400, str(caught.value))
