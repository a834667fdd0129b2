"""Neither the API token nor a signature gets into a log record or an exception, at any level, on real connections."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from airflow_provider_d1.cloudflare.client import AsyncD1Client, D1Client
from airflow_provider_d1.cloudflare.credentials import Credentials, Secret
from airflow_provider_d1.cloudflare.download import Download
from airflow_provider_d1.cloudflare.download_targets import AllowedTargets
from airflow_provider_d1.cloudflare.export import run_export
from airflow_provider_d1.cloudflare.export_protocol import read_export
from airflow_provider_d1.cloudflare.import_protocol import read_import
from airflow_provider_d1.cloudflare.messages import Request, Response
from airflow_provider_d1.cloudflare.models import ExportRequest
from airflow_provider_d1.cloudflare.polled_job import Failed, Unclear
from airflow_provider_d1.cloudflare.rate_limit import RateLimiter
from airflow_provider_d1.cloudflare.seal import seal, unseal
from airflow_provider_d1.cloudflare.transport import LOGGERS, SyncTransport, quiet
from airflow_provider_d1.exceptions import D1ConnectionError, D1Error
from tests.unit.cloudflare.d1_fakes import ACCOUNT, TOKEN, UUID, FakeClock, active, complete, error, inner
from tests.unit.cloudflare.http_fakes import (
    DUMP,
    Behaviour,
    Connection,
    Server,
    good,
    redirect,
    refusal,
    self_signed,
    silence,
    whole,
)
from tests.unit.error_reports import frames_of

LOOPBACK = AllowedTargets(loopback=True)
SECRETS = (TOKEN, "5e3c7e7", "X-Amz-Signature", "top-secret-place")


class Everything(logging.Handler):
    """Keeps every record as text, whatever its level."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)

    def text(self) -> str:
        return "\n".join(f"{r.name} {r.getMessage()} {r.args!r} {r.exc_info!r}" for r in self.records)


@pytest.fixture
def log() -> Iterator[Everything]:
    """All loggers at DEBUG, each of httpx's and httpcore's with a handler of its own besides the root's."""
    handler = Everything()
    loggers = [logging.getLogger(name) for name in (None, *LOGGERS, "asyncio", "urllib3", "http.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)
    yield handler
    for logger, level in zip(loggers, levels, strict=True):
        logger.removeHandler(handler)
        logger.setLevel(level)


def everything_about(error: BaseException | None) -> str:
    """All that any reporter could print of an exception: its chain (suppressed links too), attributes, tracebacks."""
    text = ""
    while error is not None:
        text += "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
        error = error.__cause__ or error.__context__
    return text


def api(replies: dict[str, list[Any]]) -> Behaviour:
    """The D1 API on a real socket: ``replies`` by the path's last part, one after the other."""

    def answer(request: Connection) -> None:
        kind = request.target.split("?")[0].rsplit("/", 1)[1]
        reply = replies[kind].pop(0)
        if reply is None:
            request.reset()
        elif callable(reply):
            reply(request)
        else:
            refusal(reply.status, json.dumps(reply.body).encode(), Connection="close")(request)

    return answer


def credentials_for(server: Server) -> Credentials:
    return Credentials(ACCOUNT, TOKEN, base_url=f"{server.url.split('/x.sql')[0]}/client/v4", timeout=5.0)


SCHEMA = [{"success": True, "results": {"columns": ["name", "type", "sql"], "rows": [["users", "table", None]]}}]
LISTED = good([{"uuid": UUID, "name": "shop"}])


def test_an_export_and_a_download_log_no_secret(log: Everything) -> None:
    with Server([whole(cut_at=500_000), whole()]) as bucket:
        replies = {
            "database": [LISTED],
            "raw": [good(SCHEMA)],
            "export": [active(), None, active(), complete(url=bucket.url)],
        }
        with Server([api(replies)]) as server:

            async def main() -> str:
                credentials = credentials_for(server)
                async with AsyncD1Client(credentials, limiter=RateLimiter(1000)) as client:
                    request = ExportRequest("shop", timeout=60)
                    result = await run_export(client, request, on_progress=logging.getLogger("task").info)
                logging.getLogger("task").debug("%r %s %s", result, result.to_dict(), credentials)
                return result.sealed_url

            assert asyncio.run(main())
        with Download(bucket.url, targets=LOOPBACK, clock=FakeClock()) as download:
            logging.getLogger("task").debug("%r", download)
            assert download.read() == DUMP
    assert "export started" in log.text()
    assert not any(secret in log.text() for secret in SECRETS)


def test_what_httpx_would_have_logged_is_there_for_others(log: Everything) -> None:
    with Server([whole(), whole()]) as server:
        with quiet():
            httpx.get(server.url)
        assert not any("httpx" in record.name or "httpcore" in record.name for record in log.records)
        httpx.get(server.url)
    assert "X-Amz-Signature" in log.text()
    assert any(record.name.startswith("httpcore") for record in log.records)


def test_a_new_logging_configuration_does_not_reveal_secrets(log: Everything) -> None:
    for name in LOGGERS:
        logging.getLogger(name).filters.clear()
    with Server([LISTED]) as server, D1Client(credentials_for(server), limiter=RateLimiter(1000)) as client:
        client.list_databases()
    assert not any("httpx" in record.name or "httpcore" in record.name for record in log.records)


def test_a_redirect_of_the_api_is_in_no_log(log: Everything) -> None:
    target = "https://elsewhere.example/top-secret-place?X-Amz-Signature=1"
    with Server([redirect(target)]) as server, pytest.raises(D1Error) as caught:
        query(server)
    assert not any(secret in log.text() + everything_about(caught.value) for secret in SECRETS)


FAILING_APIS = {
    "reset": silence,
    "garbage": lambda request: request.send(f"{TOKEN}\r\n\r\n".encode()),
    "cut": lambda request: (request.head(200, Content_Length=500), request.send(b"{"))[0],
    "echo": refusal(400, json.dumps(error(7400, f"Bearer {TOKEN}")).encode()),
    "html": refusal(502, TOKEN.encode()),
    "inner": refusal(200, json.dumps(inner(f"https://r2.example/x?X-Amz-Signature=5e3c7e7 {TOKEN}").body).encode()),
}


def export_from(server: Server) -> None:
    async def main() -> None:
        clock = FakeClock()
        async with AsyncD1Client(credentials_for(server), limiter=RateLimiter(1000), clock=clock) as client:
            await run_export(client, ExportRequest(UUID, timeout=60))

    asyncio.run(main())


def query(server: Server) -> None:
    with D1Client(credentials_for(server), limiter=RateLimiter(1000), clock=FakeClock()) as client:
        client.query(UUID, "SELECT 1")


@pytest.mark.parametrize("failing", FAILING_APIS)
@pytest.mark.parametrize("use", [export_from, query])
def test_errors_of_the_api_hold_no_secret(failing: str, use: Callable[[Server], None], log: Everything) -> None:
    with Server([FAILING_APIS[failing]]) as server, pytest.raises(D1Error) as caught:
        use(server)
    assert not _origins(caught.value) & {"httpx", "httpcore", "h11"}
    assert not any(secret in log.text() + everything_about(caught.value) for secret in SECRETS)


@pytest.mark.parametrize("read", [read_export, read_import])
@pytest.mark.parametrize(
    "message",
    ["exceeded its CPU time limit", "Network connection lost", "odd", "cannot export databases with Virtual Tables"],
)
@pytest.mark.parametrize(
    "body",
    [
        lambda said: {"success": False, "errors": [{"code": 7500, "message": said}], "result": None},
        lambda said: {"success": False, "errors": [], "result": {"error": said}},
        lambda said: {"success": False, "result": {"success": False, "errors": [{"message": said}]}},
        lambda said: {"success": True, "result": {"success": False, "error": said}},
        lambda said: {"success": True, "result": {"success": True, "status": "error", "error": said}},
    ],
)
@pytest.mark.parametrize("status", [200, 400, 500])
@pytest.mark.parametrize("before", [0, 500 - len(TOKEN) // 2])  # where a long message is cut
def test_no_error_of_a_job_holds_the_token(
    read: Callable[[Response], object], message: str, body: Callable[[str], object], status: int, before: int
) -> None:
    said = f"{message}: ".ljust(before, "-") + TOKEN
    outcome = read(Response(status, {}, json.dumps(body(said)).encode(), Secret(TOKEN)))
    assert isinstance(outcome, (Failed, Unclear))
    assert TOKEN[: len(TOKEN) // 2] not in everything_about(outcome.error)


def _origins(error: BaseException | None) -> set[str]:
    """The packages whose exceptions are in the chain."""
    chain: list[BaseException] = []
    while error is not None:
        assert error not in chain, "an exception is in its own chain"
        chain.append(error)
        error = error.__cause__ or error.__context__
    return {type(each).__module__.split(".")[0] for each in chain}


FAILING_BUCKETS = {
    "reset": silence,
    "garbage": lambda request: request.send(f"HTTP/1.1 {request.target}\r\n\r\n".encode()),
    "short": whole(length=len(DUMP) + 1),
    "refused": refusal(403, b"<Code>SignatureDoesNotMatch</Code>5e3c7e7"),
    "expired": refusal(403, b"<Code>ExpiredRequest</Code>5e3c7e7"),
    "echo": lambda request: request.head(500, X_Url=request.target),
    "redirect": redirect("http://elsewhere.example/top-secret-place?X-Amz-Signature=5e3c7e7"),
    "odd redirect": redirect("https://[top-secret-place/?X-Amz-Signature=5e3c7e7"),
}


@pytest.mark.parametrize("failing", FAILING_APIS)
@pytest.mark.parametrize("use", [export_from, query])
def test_no_frame_of_a_failing_call_holds_a_secret(failing: str, use: Callable[[Server], None]) -> None:
    with Server([FAILING_APIS[failing]]) as server, pytest.raises(D1Error) as caught:
        use(server)
    frames = frames_of(caught.value)
    assert "airflow_provider_d1" in frames
    assert not any(secret in frames for secret in SECRETS)


@pytest.mark.parametrize("failing", [*FAILING_BUCKETS, "private", "malformed"])
def test_no_frame_of_a_failing_download_holds_a_signature(failing: str) -> None:
    other = {"private": "https://10.0.0.5/?X-Amz-Signature=5e3c7e7", "malformed": "https://x y/5e3c7e7"}
    with Server([FAILING_BUCKETS.get(failing, whole())]) as server, pytest.raises(D1Error) as caught:
        Download(other.get(failing, server.url), targets=LOOPBACK, clock=FakeClock()).read()
    frames = frames_of(caught.value)
    assert "airflow_provider_d1" in frames
    assert not any(secret in frames for secret in SECRETS)


def test_no_frame_of_unsealing_or_of_bad_credentials_holds_a_secret() -> None:
    sealed = seal("https://r2.example/x?X-Amz-Signature=5e3c7e7", "another-token")
    with pytest.raises(D1Error) as unsealing:
        unseal(sealed, TOKEN)
    with pytest.raises(D1Error) as credentials:
        Credentials(ACCOUNT, Secret(TOKEN + " é"))
    for caught in (unsealing, credentials):
        frames = frames_of(caught.value)
        assert "airflow_provider_d1" in frames
        assert not any(secret in frames for secret in SECRETS)


def test_a_secret_is_a_string_that_shows_nothing() -> None:
    secret = Secret(TOKEN)
    assert secret == TOKEN
    assert TOKEN not in repr([secret, {"token": secret}])
    assert secret.redact(f"no {TOKEN}") == "no ***"


def test_a_one_letter_token_does_not_alter_responses() -> None:
    with Server([LISTED]) as server:
        credentials = replace(credentials_for(server), token="t")
        with D1Client(credentials, limiter=RateLimiter(1000)) as client:
            assert [database.name for database in client.list_databases()] == ["shop"]


def test_rows_that_hold_the_token_arrive_as_they_are() -> None:
    with Server([good([TOKEN])]) as server:
        transport = SyncTransport(credentials_for(server))
        assert TOKEN.encode() in transport.send(Request("GET", "/x"), 5.0, 5.0).body
        transport.close()


@pytest.mark.parametrize("failing", FAILING_BUCKETS)
def test_errors_of_the_download_hold_no_signature(failing: str, log: Everything) -> None:
    with Server([FAILING_BUCKETS[failing]]) as server, pytest.raises(D1Error) as caught:
        Download(server.url, targets=LOOPBACK, clock=FakeClock()).read()
    assert _origins(caught.value) == {"airflow_provider_d1"}
    assert not any(secret in log.text() + everything_about(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    "url", ["https://x y/?X-Amz-Signature=5e3c7e7", "https://ä/?X-Amz-Signature=5e3c7e7", "ftp://5e3c7e7/"]
)
def test_a_bad_url_is_not_repeated(url: str) -> None:
    with pytest.raises(D1Error) as caught:
        Download(url)
    assert not any(secret in everything_about(caught.value) for secret in SECRETS)


def test_an_untrusted_api_gets_no_token() -> None:
    with Server([whole()], context=self_signed()) as server, contextlib.ExitStack() as stack:
        client = stack.enter_context(D1Client(credentials_for(server), limiter=RateLimiter(1000)))
        with pytest.raises(D1ConnectionError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            client.list_databases()
    assert server.requests == []
    assert not caught.value.retryable
