"""The API as an ASGI application: faults, rate limit, authentication and the request log around each route."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response

from airflow_provider_d1.emulator import broken_connections
from airflow_provider_d1.emulator.authentication import Authenticator, no_route
from airflow_provider_d1.emulator.envelopes import D1_ERROR, NO_ROUTE, THROTTLED, ApiError
from airflow_provider_d1.emulator.request_log import CallLog, RecordedCall
from airflow_provider_d1.emulator.routes import ApiCall, MatchedRoute, Routes

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from airflow_provider_d1.emulator.faults import Faults
    from airflow_provider_d1.emulator.server_rate_limit import ServerRateLimit
    from airflow_provider_d1.emulator.virtual_clock import VirtualClock

API_PREFIX = "/client/v4"
UNKNOWN = "unknown"
_LOST_ANSWERS = {
    "export_start": "lost_start_answers",
    "export_poll": "lost_poll_answers",
    "import_ingest": "lost_import_answers",
    "import_poll": "lost_import_answers",
}
_HTML = (
    "<!DOCTYPE html>\n<html><head><title>{status}: Bad gateway</title></head>"
    "<body><h1>Error {status}</h1><p>cloudflare</p></body></html>\n"
)


class ConnectionLostError(Exception):
    """The caller gets no response: the connection is reset."""


class ApiApp:
    """The API as an ASGI application: each call passes faults, rate limit and credential check, in this order.

    :param routes: handles the call.
    :param access: checks the credential.
    :param limit: counts the calls.
    :param clock: emulator time.
    :param faults: the failures to simulate.
    :param log: records each call.
    """

    def __init__(
        self,
        routes: Routes,
        access: Authenticator,
        limit: ServerRateLimit,
        clock: VirtualClock,
        faults: Faults,
        log: CallLog,
    ) -> None:
        self._routes = routes
        self._access = access
        self._limit = limit
        self._clock = clock
        self._faults = faults
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        began = self._clock.now()
        body = _json(await request.body())
        path = request.url.path.removeprefix(API_PREFIX)
        call = ApiCall(path, request.query_params, body, f"http://{request.headers['host']}")
        route = self._routes.find(request.method, path, body)
        response: Response | None
        try:
            response = await self._answer(request.headers, call, route)
        except ConnectionLostError:
            response = None
        status = response.status_code if response else 0
        kind = route.kind if route else UNKNOWN
        self._log.add(RecordedCall(kind, request.method, path, dict(request.query_params), body, began, status))
        if response is None:
            await broken_connections.reset(scope, receive)
        else:
            await response(scope, receive, send)

    async def _answer(self, headers: Mapping[str, str], call: ApiCall, route: MatchedRoute | None) -> Response:
        faults = self._faults
        kind = route.kind if route else UNKNOWN
        hit = not faults.only or kind in faults.only.split(",")
        if hit and faults.slow_seconds:
            await asyncio.sleep(self._clock.real(faults.slow_seconds))
        if hit and faults.take("reset_connections"):
            raise ConnectionLostError
        credential = headers.get("authorization") or headers.get("x-auth-key", "")
        allowance = self._limit.spend(credential, self._clock.now())
        limits = self._limit.headers(allowance, self._clock.speed)
        if hit and faults.take("html_errors"):
            return Response(_HTML.format(status=faults.html_status), faults.html_status, media_type="text/html")
        try:
            if allowance.wait > 0:
                raise ApiError(429, THROTTLED, "Please wait and consider throttling your request speed")
            if hit and faults.take("overloaded"):
                raise ApiError(429, D1_ERROR, "D1 DB is overloaded. Requests queued for too long.")
            if hit and faults.take("d1_errors"):
                raise ApiError(500, D1_ERROR, faults.d1_error)
            self._access.authenticate(headers)
            if route is None:
                raise ApiError(404, NO_ROUTE, no_route(call.path))
            status, body = await route.handler(call, **route.arguments)
        except ApiError as error:
            status, body = error.status, error.body()
        if status < 300 and kind in _LOST_ANSWERS and faults.take(_LOST_ANSWERS[kind]):
            raise ConnectionLostError
        content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
        if hit and faults.take("truncated_json"):
            content = content[: len(content) // 2]
        return Response(content, status, limits, media_type="application/json")


def _json(body: bytes) -> object:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return None
