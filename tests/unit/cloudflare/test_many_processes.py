"""Several processes share one token and do not know of each other: the real driver and limiters in virtual time."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from dataclasses import replace

import pytest

from airflow_provider_d1.cloudflare.export import run_export
from airflow_provider_d1.cloudflare.models import D1Export, ExportRequest
from airflow_provider_d1.cloudflare.rate_limit import RateLimiter
from airflow_provider_d1.exceptions import D1Error
from tests.unit.cloudflare.d1_fakes import LiveExports, LoopClock, Reply, connected, error, run


class RateLimitedD1(LiveExports):
    """Enforces 1,200 calls in sliding five minutes as Cloudflare does: past it, every call fails for five minutes."""

    limit = 1200
    block = 300

    def __init__(self, seconds: float, *, headers: bool) -> None:
        super().__init__(seconds)
        self.latency = 0.1
        self.headers = headers
        self.counted: deque[float] = deque()
        self.blocked_until = 0.0
        self.blocks = 0
        self.most_at_once = 0

    async def reply(self, *request: object) -> Reply | Exception:
        now = asyncio.get_running_loop().time()
        while self.counted and self.counted[0] <= now - 300:
            self.counted.popleft()
        if now >= self.blocked_until and len(self.counted) >= self.limit:
            self.blocks += 1
            self.blocked_until = now + self.block
        if now < self.blocked_until:
            return Reply(
                error(971, "throttled"), 429, {"retry-after": str(max(1, round(self.blocked_until - now + 0.5)))}
            )
        self.counted.append(now)
        left, reset = self.limit - len(self.counted), round(self.counted[0] + 300 - now)
        reply = await super().reply(*request)
        assert isinstance(reply, Reply)
        self.most_at_once = max(self.most_at_once, len(self.exports))
        fields = {"ratelimit": f'"default";r={left};t={reset}', "ratelimit-policy": f'"default";q={self.limit};w=300'}
        return replace(reply, headers=fields if self.headers else {})


class Outcome:
    """What became of the exports of all processes."""

    def __init__(self, server: RateLimitedD1) -> None:
        self.server = server
        self.done: list[D1Export] = []
        self.failed: list[D1Error] = []
        self.seconds = 0.0

    def __str__(self) -> str:
        server = self.server
        return (
            f"blocks={server.blocks} done={len(self.done)} failed={len(self.failed)} seconds={self.seconds:.0f}"
            f" starts={server.count('start')} most_at_once={server.most_at_once} calls={len(server.calls)}"
        )


def simulate(processes: int, exports: int, *, headers: bool, seconds: float = 180, seed: int = 1) -> Outcome:
    """Each process has a client and a limiter of its own and begins all its exports at once, with default settings."""
    outcome = Outcome(RateLimitedD1(seconds, headers=headers))

    async def process(number: int) -> None:
        limiter = RateLimiter(1000, LoopClock(), random.Random(seed * 1000 + number))
        async with connected(outcome.server, limiter=limiter, short_cut=True) as client:

            async def task() -> None:
                try:
                    outcome.done.append(await run_export(client, ExportRequest("shop")))
                except D1Error as failure:
                    outcome.failed.append(failure)

            await asyncio.gather(*(task() for _ in range(exports)))

    async def main() -> None:
        await asyncio.gather(*(process(number) for number in range(processes)))
        outcome.seconds = asyncio.get_running_loop().time()

    run(main())
    print(processes, "x", exports, "headers" if headers else "no headers", outcome)
    return outcome


SCENARIOS = [(2, 50), (4, 25), (40, 1), (1, 300)]


@pytest.mark.parametrize(("processes", "exports"), SCENARIOS)
def test_processes_that_share_a_token_share_its_capacity(processes: int, exports: int) -> None:
    outcome = simulate(processes, exports, headers=True)
    assert outcome.failed == []
    assert len(outcome.done) == processes * exports
    assert outcome.server.blocks <= 1


@pytest.mark.parametrize(("processes", "exports"), SCENARIOS)
def test_without_headers_they_learn_from_a_block(processes: int, exports: int) -> None:
    outcome = simulate(processes, exports, headers=False)
    assert outcome.failed == []
    assert len(outcome.done) == processes * exports
    assert outcome.server.blocks <= 2
