"""The request limiter: arithmetic by itself, then many exports at once against a server that counts."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from dataclasses import replace

import pytest

from airflow_provider_d1.cloudflare.client import limiter_for
from airflow_provider_d1.cloudflare.export import run_export
from airflow_provider_d1.cloudflare.messages import Response
from airflow_provider_d1.cloudflare.models import ExportRequest
from airflow_provider_d1.cloudflare.rate_limit import EXPORT_CALLS, RateLimiter, Slot
from airflow_provider_d1.exceptions import D1ExportTimeoutError, D1RateLimitError
from tests.unit.cloudflare.d1_fakes import (
    EPOCH,
    FakeClock,
    LiveExports,
    LoopClock,
    Reply,
    connected,
    credentials,
    error,
    run,
)


def answer(status: int = 200, body: bytes = b"", **headers: str) -> Response:
    return Response(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)


def settled(limit: int, clock: FakeClock) -> RateLimiter:
    """A limiter past its first response, which said nothing of other callers."""
    limiter = RateLimiter(limit, clock)
    limiter.observe(answer())
    return limiter


def calls_until_refused(limiter: RateLimiter) -> int:
    return next(count for count in range(10_000) if limiter.take() > 0)


def admit(limiter: RateLimiter) -> Slot:
    slot = limiter.enqueue()
    assert limiter.admit(slot) == 0.0
    return slot


def exports_until_refused(limiter: RateLimiter, gap: float = 5.0) -> int:
    return next(count for count in range(1000) if limiter.admit(limiter.enqueue(gap)) > 0)


# --- single calls


def test_calls_are_counted_over_five_minutes_and_a_part_is_kept() -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    assert calls_until_refused(limiter) == 950
    clock.now = 299.9
    assert limiter.take() > 0
    clock.now = 300.0
    assert limiter.take() == 0.0


def test_calls_of_an_admitted_export_go_before_others() -> None:
    limiter = RateLimiter(1000, FakeClock())
    calls_until_refused(limiter)
    assert limiter.take(priority=True) == 0.0


# --- what the server says


@pytest.mark.parametrize(
    "headers",
    [
        {"ratelimit": '"default";r=0;t=30'},
        {"ratelimit": "limit=1200, remaining=0, reset=30"},
        {"x_ratelimit_remaining": "0", "x_ratelimit_reset": "30"},
    ],
)
def test_no_call_is_sent_when_the_server_has_none_left(headers: dict[str, str]) -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    limiter.observe(answer(**headers))
    assert limiter.take(priority=True) == 30.0
    clock.now = 30.0
    assert limiter.take(priority=True) == 0.0


def test_calls_that_others_made_with_the_token_count_too() -> None:
    limiter = RateLimiter(1000, FakeClock())
    limiter.observe(answer(ratelimit='"default";r=100;t=200', ratelimit_policy='"default";q=1200;w=300'))
    assert calls_until_refused(limiter) == 40
    assert limiter.take(priority=True) == 0.0


@pytest.mark.parametrize("policy", ['"default";q=100;w=60', "100;w=60"])
def test_a_smaller_limit_of_the_server_counts_over_its_own_window(policy: str) -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    limiter.observe(answer(ratelimit_policy=policy))
    assert calls_until_refused(limiter) == 95
    clock.now = 60.0
    assert limiter.take() == 0.0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "nonsense",
        '"default"',
        '"default";r=x;t=y',
        '"default";q=0;w=0',
        "9" * 5000,
        f'"default";r={"9" * 5000};t=9;q={"9" * 5000};w=9',
    ],
    ids=lambda value: value[:30],
)
def test_header_fields_of_another_form_do_no_harm(value: str) -> None:
    limiter = RateLimiter(1000, FakeClock())
    limiter.observe(
        answer(ratelimit=value, ratelimit_policy=value, x_ratelimit_remaining=value, x_ratelimit_reset=value)
    )
    assert calls_until_refused(limiter) == 950


def test_an_epoch_for_the_reset_is_not_taken_for_a_span() -> None:
    limiter = RateLimiter(1000, FakeClock())
    limiter.observe(answer(x_ratelimit_remaining="0", x_ratelimit_reset="1795000000"))
    assert limiter.take() == 0.0


def test_a_refusal_blocks_all_calls_of_the_token() -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    limiter.observe(answer(429, retry_after="300"))
    assert limiter.take(priority=True) == 300.0
    assert limiter.admit(limiter.enqueue()) > 0
    clock.now = 300.0
    assert limiter.take() == 0.0


def test_an_overloaded_d1_blocks_no_calls() -> None:
    limiter = RateLimiter(1000, FakeClock())
    limiter.observe(answer(429, b'{"errors":[{"message":"D1 DB is overloaded."}]}', retry_after="300"))
    assert limiter.take() == 0.0


@pytest.mark.parametrize(
    "response",
    [
        answer(429, retry_after="999999999"),
        answer(ratelimit='"default";r=0;t=99999999'),
        answer(x_ratelimit_remaining="0", x_ratelimit_reset="86400"),
    ],
)
def test_an_absurd_wait_closes_the_token_for_fifteen_minutes_at_most(response: Response) -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    limiter.observe(response)
    clock.now = 899.0
    assert limiter.take() > 0
    clock.now = 900.0
    assert limiter.take() == 0.0


def test_a_refusal_without_retry_after_waits_a_second() -> None:
    limiter = RateLimiter(1000, FakeClock())
    limiter.observe(answer(429, retry_after="0"))
    assert limiter.take(priority=True) == 1.0


# --- other processes


def counted(limiter: RateLimiter, used: int) -> None:
    """A response to one call, after ``used`` of 1,200 calls."""
    limiter.observe(answer(ratelimit=f'"default";r={1200 - used};t=300', ratelimit_policy='"default";q=1200;w=300'))


def start(limiter: RateLimiter, used: int) -> tuple[Slot, float]:
    """Admit an export and look its database up, when all processes have made ``used`` calls; what confirm says."""
    slot = limiter.enqueue()
    assert limiter.admit(slot) == 0.0
    limiter.take(priority=True)
    counted(limiter, used)
    return slot, limiter.confirm(slot)


def test_a_process_alone_with_its_token_starts_at_once() -> None:
    limiter = RateLimiter(1000, FakeClock())
    assert start(limiter, 1)[1] == 0.0
    assert start(limiter, 2)[1] == 0.0


def test_before_the_first_response_one_export_looks_what_others_do() -> None:
    limiter = RateLimiter(1000, FakeClock())
    admit(limiter)
    assert limiter.admit(limiter.enqueue()) > 0


def test_an_export_does_not_start_on_what_others_use() -> None:
    """Others make 4 calls a second, the whole limit, which the level of the server's count does not show yet."""
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    counted(limiter, 100)
    clock.now = 8.0
    slot, wait = start(limiter, 132)
    assert 5 <= wait <= 120
    clock.now = 308.0
    counted(limiter, 100)
    clock.now = 318.0
    counted(limiter, 100)
    assert limiter.confirm(slot) == 0.0


def test_among_others_exports_start_one_after_the_other() -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    for clock.now in (0.0, 5.0, 10.0):
        counted(limiter, 200)
    assert start(limiter, 201)[1] == 0.0
    waiting = limiter.enqueue()
    for clock.now in (12.0, 16.0, 19.9):
        counted(limiter, 203)
        assert limiter.admit(waiting) > 0
    clock.now = 30.0
    counted(limiter, 205)
    assert limiter.admit(waiting) == 0.0


def test_a_single_call_counts_what_others_have_used() -> None:
    limiter = RateLimiter(1000, FakeClock())
    counted(limiter, 1100)
    assert calls_until_refused(limiter) == 40


def test_a_new_fixed_window_does_not_reset_the_estimate_of_others() -> None:
    clock = FakeClock()
    limiter = RateLimiter(1000, clock)
    for clock.now, used in ((0.0, 900), (5.0, 920), (10.0, 3)):
        counted(limiter, used)
    assert limiter._others.calls(clock.now) == 920


def test_slots_outlive_a_block() -> None:
    clock = FakeClock()
    limiter = settled(1000, clock)
    running = [admit(limiter) for _ in range(12)]
    limiter.observe(answer(429, retry_after="300"))
    clock.now = 301.0
    assert limiter.take(priority=True) == 0.0
    assert limiter.running == set(running)


def test_after_a_block_without_headers_a_process_keeps_to_its_share() -> None:
    clock = FakeClock()
    limiter = settled(1000, clock)
    for _ in range(300):
        limiter.take(priority=True)
    limiter.observe(answer(429, retry_after="300"))
    exports = 0
    for step in range(2000):
        clock.now = 300.0 + step / 2
        slot = limiter.enqueue()
        if limiter.admit(slot) == 0.0 and limiter.confirm(slot) == 0.0:
            exports += 1
        elif not slot.confirmed:
            limiter.release(slot)
        for each in limiter.running:
            limiter.renew(each)
    assert exports == 3  # 61 n + 14 <= 0.9 * 240


def test_a_slot_that_was_queued_again_goes_before_those_that_never_ran() -> None:
    limiter = settled(120, FakeClock())
    first = admit(limiter)
    second = limiter.enqueue()
    limiter.requeue(first)
    assert limiter.admit(second) > 0
    assert limiter.admit(first) == 0.0


# --- exports


@pytest.mark.parametrize(
    ("limit", "gap", "young", "all_in_all"), [(1000, 5.0, 12, 14), (1200, 5.0, 14, 17), (1000, 10.0, 20, 28)]
)
def test_as_many_exports_are_admitted_as_can_be_polled_for_five_minutes(
    limit: int, gap: float, young: int, all_in_all: int
) -> None:
    clock = FakeClock()
    limiter = settled(limit, clock)
    slots = []
    for clock.now in (0.0, 25.0, 50.0, 75.0):  # exports past their first polls need less capacity, and more of them fit
        while len(slots) < 100 and limiter.admit(slot := limiter.enqueue(gap)) == 0.0:
            slots.append(slot)
        limiter.release(slot)
        for each in slots:
            limiter.renew(each)
        if clock.now == 0.0:
            assert len(slots) == young
    assert len(slots) == all_in_all
    calls = (300 / gap + 1) * len(slots) + EXPORT_CALLS  # as in docs/reliability.md
    assert calls <= 0.9 * limit < calls + 300 / gap + 1


@pytest.mark.parametrize(("gap", "count"), [(10, 20), (5, 12), (1, 2), (0.1, 1)])
def test_exports_that_poll_more_often_need_more_capacity(gap: float, count: int) -> None:
    assert exports_until_refused(settled(1000, FakeClock()), gap) == count


@pytest.mark.parametrize(("running", "fits"), [(6, True), (7, False)])
def test_capacity_is_checked_over_the_whole_coming_window(running: int, fits: bool) -> None:
    """600 calls count now, none in 300 s; but 500 still do in 249 s, when eight exports have made 400 polls more."""
    clock = FakeClock()
    limiter = settled(1000, clock)
    slots = [admit(limiter) for _ in range(running)]
    for clock.now, calls in ((0.0, 100), (50.0, 0), (100.0, 0), (150.0, 0), (200.0, 500), (250.0, 0)):
        for _ in range(calls):
            assert limiter.take(priority=True) == 0.0
        for slot in slots:
            limiter.renew(slot)
    assert (limiter.admit(limiter.enqueue()) == 0.0) is fits


def test_the_first_to_come_is_the_first_to_go() -> None:
    limiter = settled(120, FakeClock())
    running = admit(limiter)
    first, second = limiter.enqueue(), limiter.enqueue()
    assert limiter.admit(second) > 0
    limiter.release(running)
    assert limiter.admit(second) > 0
    assert limiter.admit(first) == 0.0


def test_calls_already_made_reduce_the_capacity() -> None:
    clock = FakeClock()
    limiter = settled(1000, clock)
    while limiter.take() == 0.0:
        pass
    slot = limiter.enqueue()
    assert limiter.admit(slot) > 0
    for clock.now in range(0, 301, 50):
        waited = limiter.admit(slot)
    assert waited == 0.0


def test_a_limit_too_small_for_one_export_still_admits_one() -> None:
    limiter = settled(20, FakeClock())
    assert exports_until_refused(limiter) == 1


def test_no_export_starts_on_what_others_have_left_of_the_servers_count() -> None:
    clock = FakeClock()
    limiter = settled(1000, clock)
    limiter.observe(answer(ratelimit='"default";r=100;t=50', ratelimit_policy='"default";q=1200;w=300'))
    slot = limiter.enqueue()
    assert limiter.admit(slot) > 0
    clock.now = 49.9
    assert limiter.admit(slot) > 0
    clock.now = 50.0
    assert limiter.admit(slot) == 0.0


def test_a_small_limit_of_the_server_still_admits_an_export() -> None:
    limiter = settled(1000, FakeClock())
    limiter.observe(answer(ratelimit='"default";r=9;t=50', ratelimit_policy='"default";q=10;w=50'))
    assert exports_until_refused(limiter) == 1


def test_many_tiny_exports_one_after_the_other_keep_within_the_limit() -> None:
    clock = FakeClock()
    limiter = settled(1000, clock)
    made: deque[float] = deque()
    for _ in range(600):
        slot = limiter.enqueue()
        while (wait := limiter.admit(slot)) > 0:
            clock.sleep(wait)
        for _ in range(5):
            assert limiter.take(priority=True) == 0.0
            made.append(clock.now)
        limiter.release(slot)
        while made[0] <= clock.now - 300:
            made.popleft()
        assert len(made) <= 900 + EXPORT_CALLS


def test_a_slot_that_is_not_renewed_is_released() -> None:
    clock = FakeClock()
    limiter = settled(120, clock)
    admit(limiter)
    limiter.enqueue()
    waiting = limiter.enqueue()
    for clock.now in range(0, 60, 5):
        assert limiter.admit(waiting) > 0
    clock.now = 61.0
    assert limiter.admit(waiting) == 0.0


def test_scarce_calls_are_noticed() -> None:
    clock = FakeClock()
    limiter = settled(100, clock)
    assert not limiter.under_pressure
    for _ in range(51):
        limiter.take()
    assert limiter.under_pressure
    assert not limiter.nearly_exhausted
    for _ in range(25):
        limiter.take()
    assert limiter.nearly_exhausted
    clock.now = 300.0
    assert not limiter.under_pressure
    limiter.enqueue()
    assert limiter.under_pressure


# --- one limiter for all


def test_a_token_has_one_limiter_which_does_not_keep_the_token() -> None:
    assert limiter_for(credentials()) is limiter_for(credentials(account_id="f" * 32))
    assert limiter_for(credentials()) is not limiter_for(credentials(token="another"))


def test_connections_of_one_token_share_a_limiter_and_the_lowest_of_their_limits() -> None:
    generous, strict = credentials(token="shared"), credentials(token="shared", requests_per_5_minutes=100)
    limiter = limiter_for(generous)
    assert limiter_for(strict) is limiter
    assert limiter_for(generous) is limiter
    assert calls_until_refused(limiter) == 95


def test_an_unused_limit_expires_after_an_hour() -> None:
    clock = FakeClock()
    limiter = RateLimiter(100, clock)
    clock.now = 3601.0
    limiter.use_limit(1000)
    assert calls_until_refused(limiter) == 950


def test_threads_share_it_without_losing_count() -> None:
    limiter = RateLimiter(10_000, FakeClock())
    taken: list[int] = []

    def spend() -> None:
        taken.append(sum(limiter.take() == 0.0 for _ in range(700)))

    threads = [threading.Thread(target=spend) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 9500


def test_event_loops_in_different_threads_share_it() -> None:
    limiter = RateLimiter(10_000)
    done: list[int] = []

    def export_in_a_loop_of_its_own() -> None:
        async def main() -> None:
            fake = LiveExports(0)
            async with connected(fake, limiter=limiter) as client:
                await run_export(client, ExportRequest("shop", queue_timeout=60))
                done.append(len(fake.calls))

        run(main())

    threads = [threading.Thread(target=export_in_a_loop_of_its_own) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [4] * 4
    assert len(limiter._calls) == 16
    assert not limiter.running


# --- whole exports


class Counting(LiveExports):
    """Enforces the limit as Cloudflare does: past it, every call fails for five minutes."""

    def __init__(self, seconds: float, limit: int = 1200, *, tells: bool = True) -> None:
        super().__init__(seconds)
        self.limit = limit
        self.tells = tells
        self.window: deque[float] = deque()
        self.blocked_until = 0.0
        self.refused = 0

    async def reply(self, *request: object) -> Reply | Exception:
        now = asyncio.get_running_loop().time()
        while self.window and self.window[0] <= now - 300:
            self.window.popleft()
        if now >= self.blocked_until and len(self.window) >= self.limit:
            self.blocked_until = now + 300
        if now < self.blocked_until:
            self.refused += 1
            return Reply(error(971, "throttled"), 429, {"retry-after": str(round(self.blocked_until - now))})
        self.window.append(now)
        reply = await super().reply(*request)
        assert isinstance(reply, Reply)
        left, reset = self.limit - len(self.window), round(self.window[0] + 300 - now)
        headers = {"ratelimit": f'"default";r={left};t={reset}', "ratelimit-policy": f'"default";q={self.limit};w=300'}
        return replace(reply, headers=headers if self.tells else {})


async def export_many(
    fake: Counting, count: int, *, limit: int = 1000, days: float = 1, gap: float | None = None
) -> None:
    async with connected(fake, limiter=RateLimiter(limit, LoopClock()), short_cut=True) as client:
        requests = [
            run_export(client, ExportRequest("shop", queue_timeout=days * 86400, poll_interval=gap))
            for _ in range(count)
        ]
        exports = await asyncio.gather(*requests)
    assert all(export.restarts == 0 for export in exports)


@pytest.mark.parametrize("seconds", [0, 30])
def test_200_exports_at_once_meet_no_refusal_and_no_gap_over_ten_seconds(seconds: float) -> None:
    fake = Counting(seconds)
    fake.latency = 0.2
    run(export_many(fake, 200))
    assert fake.refused == 0
    assert fake.longest_gap <= 10
    assert fake.cancelled == 0


@pytest.mark.parametrize(("gap", "count"), [(0.1, 1), (0.1, 3), (1, 5), (10, 30)])
def test_a_constant_poll_interval_counts_its_polls(gap: float, count: int) -> None:
    fake = Counting(400)
    run(export_many(fake, count, gap=gap))
    assert fake.refused == 0
    assert fake.longest_gap <= 10 + 1e-6


def test_exports_start_only_when_they_can_be_polled() -> None:
    fake = Counting(60)
    run(export_many(fake, 40))
    assert fake.times("start")[0] == 0.0
    assert fake.times("start")[-1] > 60


def test_a_limit_that_others_use_too_is_kept() -> None:
    fake = Counting(30, limit=400)
    run(export_many(fake, 60, limit=1000))
    assert fake.refused == 0


def test_waiting_for_admission_ends_at_the_deadline() -> None:
    fake = LiveExports(1000)
    lines: list[str] = []

    async def main() -> None:
        async with connected(fake, limiter=RateLimiter(80, LoopClock())) as client:
            first = asyncio.create_task(run_export(client, ExportRequest("shop", timeout=900)))
            await asyncio.sleep(1)
            with pytest.raises(D1ExportTimeoutError, match="not started"):
                await run_export(client, ExportRequest("shop", queue_timeout=60), on_progress=lines.append)
            first.cancel()

    run(main())
    assert fake.count("start") == 1
    assert len(lines) == 1
    assert "rate-limit capacity" in lines[0]


def test_a_call_without_capacity_waits_and_then_fails_with_the_reason() -> None:
    async def main() -> None:
        fake = LiveExports(0)
        async with connected(fake, limiter=RateLimiter(4, LoopClock())) as client:
            for _ in range(3):
                await client.list_databases()
            with pytest.raises(D1RateLimitError, match="exhausted"):
                await client.get_database("shop", deadline=EPOCH + 100)
            assert asyncio.get_running_loop().time() < 101
            await client.list_databases()
            assert fake.calls[-1].at >= 300

    run(main())
