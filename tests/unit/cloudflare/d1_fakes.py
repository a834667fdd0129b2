"""A virtual clock that advances when code waits, and a D1 API that follows a script."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import json
import sqlite3
from collections.abc import Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import httpx

from airflow_provider_d1.cloudflare.client import AsyncD1Client
from airflow_provider_d1.cloudflare.clock import Clock
from airflow_provider_d1.cloudflare.credentials import Credentials
from airflow_provider_d1.cloudflare.messages import Request, Response
from airflow_provider_d1.cloudflare.rate_limit import RateLimiter

T = TypeVar("T")

EPOCH = 1_795_000_000.0
ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "v1.0-a-very-secret-token"
UUID = "6a9d1b0e-5c3f-4a52-9e0b-0123456789ab"
SIGNED_URL = "https://bucket.r2.cloudflarestorage.com/x.sql?X-Amz-Expires=3600&X-Amz-Signature=5e3c7e7"


# --- time -------------------------------------------------------------------------------------------------------------


class FakeClock(Clock):
    """A clock for one thread: sleeping moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def time(self) -> float:
        return EPOCH + self.now

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time: when nothing is to be done, its clock jumps to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self.virtual = 0.0

    def time(self) -> float:
        return self.virtual

    def _run_once(self) -> None:
        while self._scheduled and self._scheduled[0].cancelled():
            heapq.heappop(self._scheduled)._scheduled = False
            self._timer_cancelled_count -= 1
        if not self._ready and self._scheduled:
            self.virtual = max(self.virtual, self._scheduled[0].when())
        super()._run_once()


class LoopClock(Clock):
    """The virtual loop's clock."""

    def time(self) -> float:
        return EPOCH + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


# --- answers, as D1 gives them ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reply:
    """An answer, ``after`` seconds."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    after: float = 0.0

    def response(self) -> httpx.Response:
        content = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        return httpx.Response(self.status, content=content, headers=self.headers)


def ok(result: object, **more: object) -> dict[str, Any]:
    return {"success": True, "errors": [], "messages": [], "result": result, **more}


def error(code: int, message: str) -> dict[str, Any]:
    return {"success": False, "errors": [{"code": code, "message": message}], "messages": [], "result": None}


def active(bookmark: str = "bm-1", *parts: int, after: float = 0.0) -> Reply:
    messages = ["Generating x.sql", *(f"Uploaded part {part}" for part in parts)]
    result = {"success": True, "type": "export", "at_bookmark": bookmark, "status": "active", "messages": messages}
    return Reply({"success": True, "result": result}, status=202, after=after)


def complete(bookmark: str = "bm-1", url: str = SIGNED_URL, after: float = 0.0) -> Reply:
    result = {
        "success": True,
        "type": "export",
        "at_bookmark": bookmark,
        "status": "complete",
        "messages": ["Finished uploading x.sql in 4 parts."],
        "result": {"filename": "x.sql", "signed_url": url},
    }
    return Reply({"success": True, "result": result}, after=after)


def inner(message: str) -> Reply:
    """A failure as HTTP 200 with the outer ``success: true``."""
    return Reply({"success": True, "result": {"success": False, "error": message}})


LOST = inner("Not currently exporting anything.")
BUSY = inner("Currently processing a long-running export. Cannot start a new export until that completes or times out.")
QUERY_BUSY = Reply(error(7500, "Currently processing a long-running export."), status=400)
HTML_502 = Reply(b"<html><h1>502 Bad Gateway</h1></html>", status=502, headers={"content-type": "text/html"})
RESET = httpx.ReadError("connection reset by peer")


@dataclass(frozen=True)
class Call:
    """A request as the fake saw it."""

    at: float
    kind: str
    body: dict[str, Any]
    headers: dict[str, str]


class FakeD1:
    """One account with one database behind ``httpx.MockTransport``.

    The export endpoint answers by script; :class:`LiveExports` in its place behaves like D1. Queries run in SQLite.
    """

    def __init__(self, script: Iterable[Reply | Exception] = (), *, schema: str = "CREATE TABLE users(id);") -> None:
        self.calls: list[Call] = []
        self.script = list(script)
        self.query_script: list[Reply | Exception] = []
        self.latency = 0.0
        self.ended = 0.0
        self.database = sqlite3.connect(":memory:")
        self.database.executescript(schema)

    async def __call__(self, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, json.loads(request.content or b"{}")
        reply = await self.reply(path, request.url.params, body, request.headers)
        if isinstance(reply, Exception):
            raise reply
        return reply.response()

    async def reply(
        self, path: str, query: Mapping[str, Any], body: dict[str, Any], headers: Mapping[str, str]
    ) -> Reply | Exception:
        kind = self._kind(path, body)
        self.calls.append(Call(asyncio.get_running_loop().time(), kind, body, dict(headers)))
        await asyncio.sleep(self.latency)
        reply = self.answer(kind, query, body)
        if isinstance(reply, Reply):
            await asyncio.sleep(reply.after)
        return reply

    def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
        if kind in ("start", "poll"):
            return self.script.pop(0)
        if kind == "query":
            if self.query_script:
                return self.query_script.pop(0)
            cursor = self.database.execute(body["sql"])
            columns = [column[0] for column in cursor.description]
            return Reply(
                ok([{"success": True, "results": {"columns": columns, "rows": cursor.fetchall()}, "meta": {}}])
            )
        if kind == "list":
            found = [{"uuid": UUID, "name": "shop"}] if query.get("name", "shop") in "shop" else []
            return Reply(ok(found, result_info={"page": 1, "per_page": 1000, "total_count": len(found)}))
        return Reply(ok({"uuid": UUID, "name": "shop"}))

    @staticmethod
    def _kind(path: str, body: dict[str, Any]) -> str:
        if path.endswith("/export"):
            return "poll" if "current_bookmark" in body else "start"
        if path.endswith("/raw"):
            return "query"
        return "list" if path.endswith("/d1/database") else "get"

    def times(self, *kinds: str) -> list[float]:
        return [call.at for call in self.calls if call.kind in kinds]

    def count(self, *kinds: str) -> int:
        return len(self.times(*kinds))


class LiveExports(FakeD1):
    """D1's own behaviour: takes ``seconds``, cancels after 15 s without a poll, tells of the end once."""

    def __init__(self, seconds: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seconds = seconds
        self.exports: dict[str, tuple[float, float]] = {}  # bookmark → begun, last polled
        self.bookmarks = itertools.count(1)
        self.longest_gap = 0.0
        self.cancelled = 0

    def answer(self, kind: str, query: Mapping[str, Any], body: dict[str, Any]) -> Reply | Exception:
        now = asyncio.get_running_loop().time()
        if kind == "start":
            bookmark = f"bm-{next(self.bookmarks)}"
            self.exports[bookmark] = (now, now)
            return active(bookmark)
        if kind == "poll":
            begun, polled = self.exports.pop(body["current_bookmark"])
            self.longest_gap = max(self.longest_gap, now - polled)
            if now - polled > 15:
                self.cancelled += 1
                return LOST
            if now - begun >= self.seconds:
                return complete(body["current_bookmark"])
            self.exports[body["current_bookmark"]] = (begun, now)
            return active(body["current_bookmark"])
        return super().answer(kind, query, body)


def credentials(**changes: Any) -> Credentials:
    return Credentials(**{"account_id": ACCOUNT, "token": TOKEN, **changes})


class ShortCut:
    """In place of the client's transport: the same messages to the fake, without httpx, for tests of many calls."""

    def __init__(self, fake: FakeD1) -> None:
        self.fake = fake

    async def send(self, request: Request, *_: float | None) -> Response:
        reply = await self.fake.reply(request.path, request.query, dict(request.body or {}), {})
        assert isinstance(reply, Reply)
        return Response(reply.status, reply.headers, json.dumps(reply.body).encode())

    async def aclose(self) -> None:
        pass


@contextlib.asynccontextmanager
async def connected(fake: FakeD1, *, limiter: RateLimiter | None = None, short_cut: bool = False, **changes: Any):
    """An open client of the fake, in virtual time, already past what it does in a real thread at first use."""
    clock = LoopClock()
    client = AsyncD1Client(
        credentials(**changes),
        clock=clock,
        limiter=limiter or RateLimiter(100_000, clock),
        transport=httpx.MockTransport(fake),
    )
    if short_cut:
        client._opening = asyncio.get_running_loop().create_future()
        client._opening.set_result(ShortCut(fake))
    async with client:
        await client._transport()
        yield client
