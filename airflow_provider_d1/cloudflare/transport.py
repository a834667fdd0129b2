"""Send one request and read its response: the only module that imports httpx.

Responses are bounded before they are parsed, redirects are returned and not followed, and httpx's exceptions and log
records do not leave this module, as they contain whole URLs.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from airflow_provider_d1.cloudflare.credentials import USER_AGENT, Credentials
from airflow_provider_d1.cloudflare.messages import MIB, Request, Response
from airflow_provider_d1.exceptions import D1ApiError, D1ConfigurationError, D1ConnectionError

#: seconds that a connection is kept for the next request
_IDLE = 30.0


# httpx logs the whole URL of every request at INFO, and httpcore the headers of every response (a redirect's Location
# among them) at DEBUG. A signed URL is a credential, so those records are dropped at every level, with and without a
# secrets masker. Only records of our own requests are dropped, not those of other users of httpx in the process.
_ours: ContextVar[bool] = ContextVar("airflow_provider_d1_request", default=False)

#: a filter on a logger does not reach its children, so each is named
LOGGERS = (
    "httpx",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)


class _NotOurs(logging.Filter):
    def filter(self, _record: logging.LogRecord) -> bool:
        return not _ours.get()


_filter = _NotOurs()
_loggers = [logging.getLogger(name) for name in LOGGERS]


@contextmanager
def quiet() -> Iterator[None]:
    """Drop log records of httpx and httpcore inside this block, in this thread or task only."""
    for logger in _loggers:
        # Each time, as logging may have been configured again in between.
        if _filter not in logger.filters:
            logger.addFilter(_filter)
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)


#: environment variables that may name a file or folder of certificate authorities, instead of the default ones
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@functools.cache
def ssl_context() -> ssl.SSLContext:
    """One verifying context for the process: building it reads every certificate authority, some 20 ms.

    :raises D1ConfigurationError: when a variable of :data:`CA_VARIABLES` does not name certificates.
    """
    for name in CA_VARIABLES:
        if place := os.environ.get(name):
            try:
                if Path(place).is_dir():
                    return ssl.create_default_context(capath=place)
                return ssl.create_default_context(cafile=place)
            except OSError as error:
                raise D1ConfigurationError(f"{name}={place!r} contains no certificates: {error}") from None
    return httpx.create_ssl_context()


def describe(error: Exception) -> tuple[str, bool]:
    """The problem as text without any URL, and whether the request may have been sent."""
    match error:
        case httpx.ConnectTimeout() | httpx.PoolTimeout():
            return "timed out while connecting", False
        case httpx.ConnectError():
            return f"no connection: {error}", False
        case httpx.ProxyError():
            return "the proxy refused the connection", False
        case httpx.ReadTimeout() | httpx.WriteTimeout() | TimeoutError():
            return "timed out waiting for the response", True
        case httpx.RemoteProtocolError() | httpx.NetworkError():
            return "the connection was closed before the end of the response", True
        case _:
            return type(error).__name__, True


class _TransportBase:
    """What the two transports share: building requests and checking responses."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._options: dict[str, Any] = {
            "headers": {
                "User-Agent": USER_AGENT,
                "Accept": "application/json",
                # Not compressed, so that the bound on a response's size is a bound on memory.
                "Accept-Encoding": "identity",
            },
            "follow_redirects": False,
            # httpx drops an idle connection after 5 s, which would cost a TLS handshake for every poll.
            "limits": httpx.Limits(keepalive_expiry=_IDLE),
            # With a proxy from the environment the token of a loopback connection would leave the machine unencrypted.
            "trust_env": urlsplit(credentials.base_url).scheme == "https",
            "verify": ssl_context(),
        }

    def _build(self, client: httpx.Client | httpx.AsyncClient, request: Request, timeout: float) -> httpx.Request:
        content = None if request.body is None else json.dumps(request.body).encode()
        headers = self._credentials.headers()
        if content is not None:
            headers["Content-Type"] = "application/json"
        return client.build_request(
            request.method,
            self._credentials.base_url + request.path,
            params=dict(request.query),
            content=content,
            headers=headers,
            timeout=timeout,
        )

    def _collect(self, body: bytearray, chunk: bytes, bound: int) -> None:
        body += chunk
        if len(body) > bound:
            raise D1ApiError(f"the D1 API's response exceeds {bound // MIB} MiB", retryable=False)

    def _answer(self, response: httpx.Response, body: bytearray) -> Response:
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Response(response.status_code, headers, bytes(body), self._credentials.secret)

    @staticmethod
    def _refuse_compression(response: httpx.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise D1ApiError("the D1 API sent a compressed response, expected identity encoding", retryable=False)


class AsyncTransport(_TransportBase):
    """Sends requests from an event loop."""

    def __init__(self, credentials: Credentials, **options: Any) -> None:
        super().__init__(credentials)
        with quiet():
            self._client = httpx.AsyncClient(**{**self._options, **options})

    async def send(self, request: Request, seconds: float, total: float) -> Response:
        """Send one request and read its response.

        :param request: what to send.
        :param seconds: how long to wait for a connection or for the next bytes.
        :param total: seconds for the whole exchange.
        :raises D1ConnectionError: when no complete response arrived.
        :raises D1ApiError: when the response is too long or compressed.
        """
        body = bytearray()
        with quiet():
            try:
                async with asyncio.timeout(total):
                    response = await self._client.send(self._build(self._client, request, seconds), stream=True)
                    try:
                        self._refuse_compression(response)
                        async for chunk in response.aiter_bytes():
                            self._collect(body, chunk, request.max_answer_bytes)
                    finally:
                        await response.aclose()
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, OSError) as error:
                problem = describe(error)
            else:
                return self._answer(response, body)
        raise _unanswered(*problem)

    async def aclose(self) -> None:
        """Close the connections."""
        with quiet():
            await self._client.aclose()


class SyncTransport(_TransportBase):
    """Sends requests from a thread."""

    def __init__(self, credentials: Credentials, **options: Any) -> None:
        super().__init__(credentials)
        with quiet():
            self._client = httpx.Client(**{**self._options, **options})

    def send(self, request: Request, seconds: float, total: float) -> Response:
        """As :meth:`AsyncTransport.send`."""
        body = bytearray()
        end = time.monotonic() + total
        with quiet():
            try:
                response = self._client.send(self._build(self._client, request, seconds), stream=True)
                try:
                    self._refuse_compression(response)
                    for chunk in response.iter_bytes():
                        self._collect(body, chunk, request.max_answer_bytes)
                        if time.monotonic() > end:
                            raise TimeoutError
                finally:
                    response.close()
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, TimeoutError, OSError) as error:
                problem = describe(error)
            else:
                return self._answer(response, body)
        raise _unanswered(*problem)

    def close(self) -> None:
        """Close the connections."""
        with quiet():
            self._client.close()


def _unanswered(text: str, sent: bool) -> D1ConnectionError:
    return D1ConnectionError(
        f"no response from the D1 API: {text}", sent=sent, retryable="CERTIFICATE_VERIFY_FAILED" not in text
    )
