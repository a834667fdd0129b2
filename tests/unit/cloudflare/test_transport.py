"""The connections below the clients, on real sockets."""

from __future__ import annotations

import asyncio
import json
import time

import httpcore
import pytest

from airflow_provider_d1.cloudflare.credentials import Credentials
from airflow_provider_d1.cloudflare.messages import Request
from airflow_provider_d1.cloudflare.transport import AsyncTransport, SyncTransport
from airflow_provider_d1.exceptions import D1ConnectionError
from tests.unit.cloudflare.d1_fakes import ACCOUNT, TOKEN, ok
from tests.unit.cloudflare.http_fakes import Connection, Server

PING = Request("GET", "/ping")


def credentials_for(server: Server) -> Credentials:
    return Credentials(ACCOUNT, TOKEN, base_url=server.url.split("/x.sql")[0])


def test_polls_share_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Even ten seconds apart, the longest gap that a poll_interval may be."""
    body = json.dumps(ok(None)).encode()
    times: list[float] = []

    def keep_alive(request: Connection) -> None:
        with request.socket.makefile("rb") as lines:
            while True:
                times.append(time.monotonic())
                request.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                while (line := lines.readline()) != b"\r\n":
                    if not line:
                        return

    later = 0.0
    real = time.monotonic
    monkeypatch.setattr(httpcore._async.http11.time, "monotonic", lambda: real() + later)
    with Server([keep_alive]) as server:

        async def main() -> None:
            nonlocal later
            transport = AsyncTransport(credentials_for(server))
            for _ in range(3):
                assert (await transport.send(PING, 5.0, 5.0)).status == 200
                later += 10.0
            await transport.aclose()

        asyncio.run(main())
    assert len(times) == 3
    assert len(server.requests) == 1


def slow_answer(request: Connection) -> None:
    """An answer of which a byte comes now and then, so that no single wait is long."""
    request.head(200, Content_Length=10_000)
    for _ in range(400):
        request.send(b" ")
        time.sleep(0.01)


def test_a_slow_response_times_out() -> None:
    with Server([slow_answer]) as server:
        sync = SyncTransport(credentials_for(server))
        with pytest.raises(D1ConnectionError, match="timed out"):
            sync.send(PING, 5.0, 0.1)
        sync.close()

        async def main() -> None:
            transport = AsyncTransport(credentials_for(server))
            with pytest.raises(D1ConnectionError, match="timed out"):
                await transport.send(PING, 5.0, 0.1)
            await transport.aclose()

        asyncio.run(main())


def test_one_certificate_store_serves_all() -> None:
    first, second = (SyncTransport(Credentials(account, TOKEN)) for account in ("a", "b"))
    assert first._options["verify"] is second._options["verify"]
    first.close()
    second.close()
