"""A proxy in front of the S3 server that answers, drops or holds chosen requests: S3 on a bad day."""

from __future__ import annotations

import http.client
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Literal
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from harness.seaweed import S3Server

Action = Literal["slow_down", "access_denied", "not_implemented", "drop", "hold"]

_ERRORS: dict[str, tuple[int, str, str]] = {
    "slow_down": (503, "SlowDown", "Please reduce your request rate."),
    "access_denied": (403, "AccessDenied", "Access Denied"),
    "not_implemented": (501, "NotImplemented", "A header you provided implies functionality that is not implemented."),
}


@dataclass
class Fault:
    """What happens to some requests.

    :param method: HTTP method, or a regular expression of several.
    :param path: regular expression that is searched in the path with its query (``partNumber=3``, ``_manifest``).
    :param action: ``slow_down``, ``access_denied`` and ``not_implemented`` answer S3's error; ``drop`` closes the
        connection when the request has been read, without an answer; ``hold`` waits for ``release`` first, and drops it
        then.
    :param times: how many matching requests are hit, then all pass; None for every one.
    :param header: regular expression of a header's name; only requests with such a header are hit.

    ``reached`` is set as soon as one is hit.
    """

    method: str
    path: str
    action: Action
    times: int | None = None
    header: str = ""
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


@dataclass
class S3Proxy:
    """The proxy: ``server`` is what its clients talk to, ``faults`` may change at any time, ``requests`` is its log."""

    server: S3Server
    faults: list[Fault] = field(default_factory=list)
    #: (method, path with query, status; 0 when the connection was dropped)
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hit(self, method: str, path: str, headers: Iterable[str]) -> Fault | None:
        """The fault that a request meets, counted down."""
        names = list(headers)
        with self._lock:
            for fault in self.faults:
                if fault.header and not any(re.fullmatch(fault.header, name, re.IGNORECASE) for name in names):
                    continue
                if re.fullmatch(fault.method, method) and fault.times != 0 and re.search(fault.path, path):
                    if fault.times is not None:
                        fault.times -= 1
                    return fault
        return None

    def count(self, method: str, path: str, status: int | None = None) -> int:
        """How many requests matched so far."""
        return sum(
            m == method and re.search(path, p) is not None and status in (None, s) for m, p, s in list(self.requests)
        )


@contextmanager
def s3_proxy(upstream: S3Server) -> Iterator[S3Proxy]:
    """Run a proxy in a thread on a free port of 127.0.0.1."""
    listener = _Listener(("127.0.0.1", 0), _Handler)
    listener.upstream = urlsplit(upstream.endpoint_url)
    proxy = S3Proxy(replace(upstream, endpoint_url=f"http://127.0.0.1:{listener.server_address[1]}"))
    listener.proxy = proxy
    thread = threading.Thread(target=listener.serve_forever, name="s3-proxy", daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        for fault in proxy.faults:
            fault.release.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    proxy: S3Proxy
    upstream: SplitResult


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else each answer waits 40 ms for the client's acknowledgement of its headers
    server: _Listener

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except ConnectionError:
            self.close_connection = True  # the client is gone, perhaps killed: that is what the scenario wanted

    def handle_request(self) -> None:
        body = self._body()
        proxy = self.server.proxy
        if (fault := proxy.hit(self.command, self.path, self.headers.keys())) is not None:
            self._suffer(fault)
            return
        status, headers, content = self._forward(body)
        proxy.requests.append((self.command, self.path, status))
        self._answer(status, content, headers)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_request  # noqa: N815 - the base class's names

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Be silent; ``requests`` is the log."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        chunks = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _forward(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = self.server.upstream
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        try:
            # the Host header goes on as it came: it is part of what the client signed
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() not in ("connection", "expect", "transfer-encoding", "content-length"):
                    connection.putheader(name, value)
            if body or self.command in ("PUT", "POST"):
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body or None)
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _suffer(self, fault: Fault) -> None:
        fault.reached.set()
        if fault.action == "hold":
            fault.release.wait(120)
        if fault.action not in _ERRORS:
            self.server.proxy.requests.append((self.command, self.path, 0))
            self.close_connection = True
            return
        status, code, text = _ERRORS[fault.action]
        self.server.proxy.requests.append((self.command, self.path, status))
        content = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        self._answer(status, content, [("Content-Type", "application/xml")])

    def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value  # the answer to HEAD names a length without having a body
            elif name.lower() not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
