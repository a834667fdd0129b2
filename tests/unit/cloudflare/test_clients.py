"""Both clients, each test on both, over ``httpx.MockTransport`` with a clock that passes by itself."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import httpx
import pytest

from airflow_provider_d1 import __version__
from airflow_provider_d1.cloudflare.client import AsyncD1Client, D1Client
from airflow_provider_d1.cloudflare.models import Database
from airflow_provider_d1.cloudflare.rate_limit import RateLimiter
from airflow_provider_d1.cloudflare.retry import ATTEMPTS
from airflow_provider_d1.cloudflare.sql_errors import ProgrammingError
from airflow_provider_d1.cloudflare.sql_parameters import Statement
from airflow_provider_d1.exceptions import (
    D1ApiError,
    D1AuthenticationError,
    D1ConfigurationError,
    D1ConnectionError,
    D1DatabaseNotFoundError,
    D1RateLimitError,
)
from tests.unit.cloudflare.d1_fakes import ACCOUNT, RESET, TOKEN, UUID, FakeClock, Reply, credentials, error, ok

Script = Callable[[httpx.Request], Reply | Exception]


class Ask(Protocol):
    """Calls a method of either client against a script; ``asked.requests`` has what was sent."""

    clock: FakeClock
    requests: list[httpx.Request]

    def __call__(self, script: Script | list[Reply | Exception], method: str, *args: Any, **changes: Any) -> Any: ...


class _Asked:
    def __init__(self, kind: type[D1Client] | type[AsyncD1Client]) -> None:
        self.kind = kind
        self.clock = FakeClock()
        self.requests: list[httpx.Request] = []

    def __call__(self, script: Script | list[Reply | Exception], method: str, *args: Any, **changes: Any) -> Any:
        answers = iter(script) if isinstance(script, list) else None

        def handler(request: httpx.Request) -> httpx.Response:
            self.requests.append(request)
            reply = next(answers) if answers is not None else script(request)  # type: ignore[operator]
            if isinstance(reply, Exception):
                raise reply
            return reply.response()

        options = {"clock": self.clock, "limiter": RateLimiter(1000, self.clock)}
        client = self.kind(credentials(**changes), transport=httpx.MockTransport(handler), **options)

        async def main() -> Any:
            async with client as opened:
                return await getattr(opened, method)(*args)

        if isinstance(client, AsyncD1Client):
            return asyncio.run(main())
        with client as opened:
            return getattr(opened, method)(*args)


@pytest.fixture(params=[D1Client, AsyncD1Client], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    return _Asked(request.param)


def databases(*names: str, total: int | None = None, **info: Any) -> Reply:
    items = [{"uuid": f"uuid-{name}", "name": name, "version": "production"} for name in names]
    return Reply(ok(items, result_info={"total_count": len(names) if total is None else total, **info}))


def rows(*found: list[Any], columns: tuple[str, ...] = ("n",)) -> Reply:
    return Reply(ok([{"success": True, "results": {"columns": columns, "rows": found}, "meta": {}}]))


def test_both_clients_offer_the_same() -> None:
    def public(kind: type) -> dict[str, list[str]]:
        found = inspect.getmembers(kind, inspect.isfunction)
        return {name: list(inspect.signature(f).parameters) for name, f in found if not name.startswith("_")}

    sync, asynchronous = public(D1Client), public(AsyncD1Client)
    shared = {"list_databases", "query", "execute", "get_bookmark", "restore", "verify_access", "detect_change"}
    assert {name: sync[name] for name in shared} == {name: asynchronous[name] for name in shared}
    assert {"close", "get_database", "call"} | shared == set(sync)
    assert {"aclose", "get_database", "call", "send"} | shared == set(asynchronous)


def test_httpx_is_imported_at_the_first_request_only() -> None:
    code = (
        "import sys, airflow_provider_d1.cloudflare.client, airflow_provider_d1.cloudflare.export\n"
        "assert not {'httpx', 'httpcore'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# --- what is sent


def test_every_request_names_its_sender_and_carries_the_token_in_a_header_only(ask: Ask) -> None:
    ask([databases()], "list_databases")
    (request,) = ask.requests
    assert str(request.url) == (
        f"https://api.cloudflare.com/client/v4/accounts/{ACCOUNT}/d1/database?page=1&per_page=1000"
    )
    assert request.headers["user-agent"] == f"airflow-provider-d1/{__version__}"
    assert request.headers["authorization"] == f"Bearer {TOKEN}"
    assert request.headers["accept-encoding"] == "identity"


def test_a_global_key_goes_with_its_address(ask: Ask) -> None:
    ask([databases()], "list_databases", email="me@example.com")
    (request,) = ask.requests
    assert (request.headers["x-auth-email"], request.headers["x-auth-key"]) == ("me@example.com", TOKEN)
    assert "authorization" not in request.headers


def test_another_base_is_taken_as_it_is(ask: Ask) -> None:
    ask([databases()], "list_databases", base_url="http://127.0.0.1:8787/client/v4/")
    assert ask.requests[0].url.path == f"/client/v4/accounts/{ACCOUNT}/d1/database"
    assert ask.requests[0].url.port == 8787


def test_every_wait_is_bounded(ask: Ask) -> None:
    ask([databases()], "list_databases", timeout=7.0)
    assert set(ask.requests[0].extensions["timeout"].values()) == {7.0}


# --- databases


def test_a_listing_reads_every_page(ask: Ask) -> None:
    pages = [databases(*"abcdefghij", total=21), databases(*"klmnopqrst", total=21), databases("u", total=21)]
    found = ask(pages, "list_databases")
    assert "".join(database.name for database in found) == "abcdefghijklmnopqrstu"
    assert [request.url.params["page"] for request in ask.requests] == ["1", "2", "3"]


def test_a_listing_without_totals_ends_with_a_short_page(ask: Ask) -> None:
    def page(*names: str) -> Reply:
        return Reply(ok([{"uuid": name, "name": name} for name in names]))

    assert len(ask([page(*"abcdefghij"), page("k")], "list_databases")) == 11
    assert len(ask.requests) == 2


def test_a_server_that_repeats_its_page_forever_does_not_hold_us(ask: Ask) -> None:
    assert len(ask(lambda _: databases(*"abcdefghij", total=99), "list_databases")) == 10
    assert len(ask.requests) == 2


def test_a_name_is_matched_exactly_on_any_page(ask: Ask) -> None:
    near = [f"shop{n}" for n in range(10)]
    found = ask([databases(*near, total=12), databases("Shop", "shop", total=12)], "get_database", "shop")
    assert found == Database("uuid-shop", "shop")
    assert ask.requests[0].url.params["name"] == "shop"


def test_a_wrong_name_is_answered_with_near_ones(ask: Ask) -> None:
    answers = [databases("Shop2"), databases("shop2", "Shop", "other")]
    with pytest.raises(D1DatabaseNotFoundError, match=r"no D1 database 'shop'; did you mean") as caught:
        ask(answers, "get_database", "shop")
    assert "'other'" not in str(caught.value)
    assert not caught.value.retryable


def test_a_uuid_is_asked_for_directly(ask: Ask) -> None:
    found = ask([Reply(ok({"uuid": UUID, "name": "shop", "file_size": 1}))], "get_database", UUID.upper())
    assert found == Database(UUID, "shop", 1)
    assert ask.requests[0].url.path.endswith(f"/d1/database/{UUID}")


def test_a_name_may_look_like_a_uuid(ask: Ask) -> None:
    answers = [Reply(error(7404, "not found"), 404), databases(UUID)]
    assert ask(answers, "get_database", UUID).name == UUID


def test_a_missing_name(ask: Ask) -> None:
    with pytest.raises(D1ConfigurationError, match="schema"):
        ask([], "get_database", "")


# --- queries


def test_a_query_gives_dicts_and_a_result_keeps_duplicate_columns(ask: Ask) -> None:
    assert ask([rows([1], [2])], "query", UUID, "PRAGMA p(:n)", {"n": "x"}) == [{"n": 1}, {"n": 2}]
    assert json.loads(ask.requests[0].content) == {"sql": "PRAGMA p(?1)", "params": ["x"]}
    (result,) = ask([rows([1, 2], columns=("a", "a"))], "execute", UUID, [Statement("EXPLAIN SELECT 1 a, 2 a")])
    assert (result.columns, result.rows) == (["a", "a"], [[1, 2]])


def test_several_statements_are_one_call_and_the_last_result_counts(ask: Ask) -> None:
    both = Reply(ok([{"success": True, "results": {"columns": ["n"], "rows": [[n]]}} for n in (1, 2)]))
    assert ask([both], "query", UUID, "PRAGMA a(?); PRAGMA b(?)", ["x", "y"]) == [{"n": 2}]
    assert json.loads(ask.requests[0].content) == {
        "batch": [{"sql": "PRAGMA a(?1);", "params": ["x"]}, {"sql": "PRAGMA b(?1)", "params": ["y"]}]
    }


def test_parameters_that_do_not_fit_are_not_sent(ask: Ask) -> None:
    with pytest.raises(ProgrammingError):
        ask([rows([1])], "query", UUID, "DELETE FROM t WHERE s <> :keep", ["keep"])
    assert not ask.requests


# --- retries


TRANSIENT = [
    RESET,
    httpx.ConnectError("refused"),
    httpx.ReadTimeout("slow"),
    httpx.RemoteProtocolError("cut"),
    Reply(b"<html>bad gateway</html>", 502),
    Reply(b'{"success":tr', 200),
    Reply(error(7009, "upstream"), 503),
    Reply(error(7500, "D1 DB reset because its code was updated."), 400),
    Reply(error(7500, "D1 DB is overloaded."), 429),
    Reply(error(971, "throttled"), 429, headers={"retry-after": "3"}),
    Reply(error(7400, "timeout"), 408),
]
FINAL = [
    Reply(error(7400, "bad body"), 400),
    Reply(error(7404, "not found"), 404),
    Reply(error(7003, "no route"), 400),
    Reply(error(10000, "Authentication error"), 403),
    Reply(error(9109, "no"), 401),
    Reply(error(7500, "syntax error"), 400),
    Reply(error(7500, "D1 DB exceeded its CPU time limit and was reset."), 500),
    Reply(b"", 302, headers={"location": "https://evil.example/"}),
    Reply(b"", 307, headers={"location": "/elsewhere"}),
]


@pytest.mark.parametrize("failure", TRANSIENT, ids=repr)
def test_transient_errors_are_retried(ask: Ask, failure: Reply | Exception) -> None:
    assert ask([failure, failure, rows([1])], "query", UUID, "PRAGMA p") == [{"n": 1}]
    assert len(ask.clock.slept) == 2


@pytest.mark.parametrize("refusal", FINAL, ids=repr)
def test_a_refusal_is_not(ask: Ask, refusal: Reply) -> None:
    with pytest.raises(D1ApiError):
        ask([refusal], "query", UUID, "PRAGMA p")
    assert len(ask.requests) == 1


def test_a_redirect_is_never_followed(ask: Ask) -> None:
    with pytest.raises(D1ApiError, match="redirect") as caught:
        ask([FINAL[-2]], "list_databases")
    assert len(ask.requests) == 1
    assert "evil" not in str(caught.value)


def test_attempts_end(ask: Ask) -> None:
    with pytest.raises(D1ApiError, match="502") as caught:
        ask(lambda _: Reply(b"<html>", 502), "list_databases")
    assert len(ask.requests) == ATTEMPTS
    assert caught.value.retryable
    assert all(0 <= pause <= 20 for pause in ask.clock.slept)


def test_a_wait_for_retry_after_is_not_an_attempt(ask: Ask) -> None:
    limited = Reply(error(971, "throttled"), 429, headers={"retry-after": "60"})
    ask([limited] * 8 + [databases()], "list_databases")
    assert sum(ask.clock.slept) == pytest.approx(480, abs=1)


@pytest.mark.parametrize("body", [b"<html>", error(7009, "upstream")], ids=["page", "json"])
def test_a_retry_after_of_a_503_counts_as_an_attempt(ask: Ask, body: Any) -> None:
    down = Reply(body, 503, headers={"retry-after": "25"})
    with pytest.raises(D1ApiError, match="503"):
        ask(lambda _: down, "list_databases")
    assert ask.clock.slept == [25.0] * (ATTEMPTS - 1)


def test_a_rate_limit_wait_past_the_deadline_fails(ask: Ask) -> None:
    limited = Reply(error(971, "throttled"), 429, headers={"retry-after": "700"})
    with pytest.raises(D1RateLimitError) as caught:
        ask([limited], "list_databases")
    assert caught.value.retry_after == 700
    assert ask.clock.slept == []


@pytest.mark.parametrize("failure", [RESET, httpx.ReadTimeout("slow"), Reply(b"<html>", 502)], ids=repr)
def test_a_write_that_may_have_happened_is_not_sent_twice(ask: Ask, failure: Reply | Exception) -> None:
    with pytest.raises(D1ApiError):
        ask([failure], "query", UUID, "INSERT INTO t VALUES (1)")
    assert len(ask.requests) == 1


@pytest.mark.parametrize(
    "failure",
    [
        httpx.ConnectError("refused"),
        httpx.ConnectTimeout("slow"),
        Reply(error(971, "x"), 429, headers={"retry-after": "1"}),
    ],
    ids=repr,
)
def test_a_write_that_was_not_sent_is_retried(ask: Ask, failure: Reply | Exception) -> None:
    ask([failure, rows()], "query", UUID, "INSERT INTO t VALUES (1)")
    assert len(ask.requests) == 2


def test_an_untrusted_certificate_is_not_retried(ask: Ask) -> None:
    with pytest.raises(D1ConnectionError, match="CERTIFICATE_VERIFY_FAILED"):
        ask([httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")], "list_databases")
    assert len(ask.requests) == 1


# --- answers that would hurt


class _Endless(httpx.SyncByteStream, httpx.AsyncByteStream):
    def __init__(self) -> None:
        self.sent = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.sent += 1 << 16
            yield b" " * (1 << 16)

    async def __aiter__(self) -> Any:
        for chunk in self:
            yield chunk


def test_an_endless_response_is_stopped(ask: Ask) -> None:
    body = _Endless()
    with pytest.raises(D1ApiError, match="exceeds 4 MiB"):
        ask(lambda _: _Streaming(body), "list_databases")
    assert body.sent < 5 << 20


class _Streaming(Reply):
    def __init__(self, stream: _Endless) -> None:
        super().__init__(stream)

    def response(self) -> httpx.Response:
        return httpx.Response(200, stream=self.body)


def test_deeply_nested_json_is_refused(ask: Ask) -> None:
    with pytest.raises(D1ApiError, match="expected JSON"):
        ask(lambda _: Reply(b'{"result":' + b"[" * 1_000_000), "list_databases")


def test_a_compressed_response_is_refused(ask: Ask) -> None:
    class Zipped(Reply):
        def response(self) -> httpx.Response:
            return httpx.Response(200, headers={"content-encoding": "gzip"}, stream=_Endless())

    with pytest.raises(D1ApiError, match="compressed"):
        ask(lambda _: Zipped(b""), "list_databases")


def test_an_echoed_token_reaches_no_error(ask: Ask) -> None:
    with pytest.raises(D1ApiError) as caught:
        ask([Reply(error(9109, f"token {TOKEN} is bad"), 400)], "list_databases")
    assert TOKEN not in str(caught.value)
    assert "***" in str(caught.value)


# --- is the connection any good?


def route(**replies: Reply) -> Script:
    """Response by path; what is not named here is refused."""

    def answer(request: httpx.Request) -> Reply:
        path = request.url.path.removeprefix("/client/v4")
        kinds = {
            f"/accounts/{ACCOUNT}/d1/database": "databases",
            "/user/tokens/verify": "user_verify",
            f"/accounts/{ACCOUNT}/tokens/verify": "account_verify",
            f"/accounts/{ACCOUNT}": "account",
            "/accounts": "accounts",
            "/user": "user",
        }
        return replies.get(kinds[path], Reply(error(10000, "Authentication error"), 403))

    return answer


GOOD = Reply(ok({"id": "t", "status": "active"}))


def test_access_that_works(ask: Ask) -> None:
    found = ask([databases("shop", "other", total=31), databases("shop")], "verify_access", "shop")
    assert (found.databases, found.database) == (31, Database("uuid-shop", "shop"))


def test_access_without_a_default_database(ask: Ask) -> None:
    found = ask([databases("shop")], "verify_access")
    assert (found.databases, found.database) == (1, None)


def test_a_bad_token(ask: Ask) -> None:
    with pytest.raises(D1AuthenticationError, match="does not accept the API token"):
        ask(route(), "verify_access", "shop")


def test_an_expired_token(ask: Ask) -> None:
    with pytest.raises(D1AuthenticationError, match="is expired, not active"):
        ask(route(user_verify=Reply(ok({"status": "expired"}))), "verify_access", "shop")


def test_a_bad_global_key(ask: Ask) -> None:
    with pytest.raises(D1AuthenticationError, match="Global API key"):
        ask(route(), "verify_access", "shop", email="me@example.com")


@pytest.mark.parametrize("verify", ["user_verify", "account_verify"])
def test_no_right_to_d1(ask: Ask, verify: str) -> None:
    with pytest.raises(D1AuthenticationError, match="no D1 permission") as caught:
        ask(route(**{verify: GOOD}, account=Reply(ok({"id": ACCOUNT}))), "verify_access", "shop")
    assert "wrong account" not in str(caught.value)


@pytest.mark.parametrize(
    "answers",
    [
        {"databases": Reply(error(7003, "Could not route"), 404)},
        {"databases": Reply(error(7003, "Could not route"), 400)},
        {"databases": Reply(error(9109, "Unauthorized to access requested resource"), 403), "user_verify": GOOD},
        {"user_verify": GOOD, "accounts": Reply(ok([{"id": "another"}]))},
    ],
)
def test_a_wrong_account(ask: Ask, answers: dict[str, Reply]) -> None:
    with pytest.raises(D1AuthenticationError, match="wrong account"):
        ask(route(**answers), "verify_access", "shop")


def test_an_ambiguous_refusal_names_both_reasons(ask: Ask) -> None:
    with pytest.raises(D1AuthenticationError, match=r"no D1 permission .* or account_id"):
        ask(route(user_verify=GOOD), "verify_access", "shop")


def test_a_missing_database(ask: Ask) -> None:
    with pytest.raises(D1DatabaseNotFoundError, match="did you mean 'shop'"):
        ask(lambda _: databases("shop"), "verify_access", "shpo")


def test_an_unreachable_api_fails_within_the_connections_timeout(ask: Ask) -> None:
    with pytest.raises(D1ConnectionError, match="no connection"):
        ask(lambda _: httpx.ConnectError("[Errno -2] Name or service not known"), "verify_access", timeout=5.0)
    assert ask.clock.now <= 5
