"""Run many export triggers in one event loop, as a triggerer does, and print what they cost as one line of JSON.

``python -m tests.system.load_triggers COUNT SPEED`` reads the connection from ``AIRFLOW_CONN_D1_LOAD``. ``SPEED`` is
how many times faster than the world's the clock of the retry policy, the limiter and the export driver runs.
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

from airflow_provider_d1.cloudflare import rate_limit
from airflow_provider_d1.cloudflare.clock import Clock
from airflow_provider_d1.cloudflare.rate_limit_headers import Limit, read_policy, read_remaining
from airflow_provider_d1.triggers.d1 import D1ExportTrigger

_SCHEDSTAT = Path("/proc/thread-self/schedstat")


def hurry(speed: float) -> None:
    """Let the package's clock run faster."""
    epoch, began = time.time(), time.monotonic()

    async def sleep_async(_: Clock, seconds: float) -> None:
        await asyncio.sleep(seconds / speed)

    Clock.monotonic = lambda _: (time.monotonic() - began) * speed
    Clock.time = lambda _: epoch + (time.monotonic() - began) * speed
    Clock.sleep_async = sleep_async
    # the server's headers count seconds of the world
    rate_limit.read_policy = lambda response: scaled(read_policy(response), speed)
    rate_limit.read_remaining = lambda response: scaled(read_remaining(response), speed)


def scaled(limit: Limit | None, speed: float) -> Limit | None:
    return None if limit is None else replace(limit, seconds=limit.seconds * speed)


class Steps:
    """How long the loop's single steps block it; time spent waiting for a processor does not count.

    A step in which the thread never gave up the processor by itself has blocked for as long as it computed, however
    long others (or the machine below this one) kept it from that. For any other, what it waited in the queue of the
    processor is taken off.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.words = ""
        self._run = asyncio.Handle._run

    def watch(self) -> None:
        def run(handle: asyncio.Handle) -> None:
            waited, switches, computed, began = self._waited(), self._switches(), time.thread_time(), time.monotonic()
            self._run(handle)
            took = time.monotonic() - began
            if took > self.longest:
                slept = self._switches() > switches
                blocked = took - (self._waited() - waited) if slept else time.thread_time() - computed
                if blocked > self.longest:
                    self.longest, self.words = blocked, f"{'slept in' if slept else 'computed'} {handle!r}"[:300]

        asyncio.Handle._run = run

    @staticmethod
    def _switches() -> int:
        return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw

    @staticmethod
    def _waited() -> float:
        """Seconds that this thread was ready to run while the machine was busy with others."""
        try:
            return int(_SCHEDSTAT.read_text().split()[1]) / 1e9
        except OSError:
            return 0.0


async def export(database: str, deadline: float) -> dict:
    async for event in D1ExportTrigger(database=database, deadline=deadline, d1_conn_id="d1_load").run():
        return event.payload
    raise AssertionError("the trigger ended without an event")


async def main(count: int) -> dict:
    # What is loaded and built once in a process is not what is measured, nor is looking through all of Airflow for
    # garbage again and again.
    await export("shop-0", Clock().time() + 3600)
    gc.collect()
    gc.freeze()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    steps = Steps()
    steps.watch()
    deadline = Clock().time() + 100_000
    payloads = await asyncio.gather(*(export(f"shop-{number}", deadline) for number in range(1, count + 1)))
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "succeeded": sum(payload["status"] == "success" for payload in payloads),
        "restarts": sum(payload.get("export", {}).get("restarts", 0) for payload in payloads),
        "failures": [payload.get("message") for payload in payloads if payload["status"] != "success"][:3],
        "longest_step": round(steps.longest, 4),
        "in": steps.words,
        "memory_kb": after,
        "memory_growth_kb": after - before,
    }


if __name__ == "__main__":
    hurry(float(sys.argv[2]))
    print(json.dumps(asyncio.run(main(int(sys.argv[1])))))
