"""The file of an import arrives whole at its signed URL, or there is an error without the URL in it."""

from __future__ import annotations

import hashlib
import logging
import socket
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self

import pytest

from airflow_provider_d1.cloudflare.download_targets import PUBLIC, AllowedTargets
from airflow_provider_d1.cloudflare.upload import ATTEMPTS, upload
from airflow_provider_d1.exceptions import D1UploadError
from tests.unit.cloudflare.d1_fakes import FakeClock

SQL = b"SELECT 1;\n" * 50_000
MD5 = hashlib.md5(SQL, usedforsecurity=False).hexdigest()
LOOPBACK = AllowedTargets(loopback=True)


@dataclass(frozen=True)
class Answer:
    """What the storage answers; ``read`` bounds how much of the body it takes before it breaks the connection."""

    status: int = 200
    etag: str | None = MD5
    read: int | None = None


class Storage:
    """A bucket on loopback that gives each request the next answer, the last one again and again."""

    def __init__(self, *answers: Answer) -> None:
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                answer = answers[min(len(outer.requests), len(answers) - 1)]
                body = self.rfile.read(int(self.headers["content-length"]) if answer.read is None else answer.read)
                outer.requests.append((self.command, {k.lower(): v for k, v in self.headers.items()}, body))
                if answer.read is not None:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(answer.status)
                if answer.etag is not None:
                    self.send_header("ETag", f'"{answer.etag}"')
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/x.sql?X-Amz-Signature=5e3c7e7"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "import.sql"
    path.write_bytes(SQL)
    return path


def put(server: Storage, file: Path) -> FakeClock:
    clock = FakeClock()
    upload(server.url, file, MD5, targets=LOOPBACK, clock=clock)
    return clock


def test_a_file_is_put_without_any_other_credential(file: Path) -> None:
    with Storage(Answer()) as server:
        put(server, file)
    [(method, headers, body)] = server.requests
    assert (method, headers["content-length"], body) == ("PUT", str(len(SQL)), SQL)
    assert not {"authorization", "cookie", "x-auth-key"} & set(headers)


@pytest.mark.parametrize(
    "first",
    [Answer(500), Answer(503), Answer(etag="0" * 32), Answer(etag=None), Answer(read=1000)],
    ids=["500", "503", "another ETag", "no ETag", "reset"],
)
def test_what_may_pass_is_tried_again(file: Path, first: Answer) -> None:
    with Storage(first, Answer()) as server:
        clock = put(server, file)
    assert len(server.requests) == 2
    assert len(clock.slept) == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(403), "HTTP 403"),
        (Answer(307), "HTTP 307"),
        (Answer(etag="0" * 32), "the stored bytes differ"),
        (Answer(etag=None), "no ETag"),
    ],
)
def test_an_upload_that_never_arrives(file: Path, answer: Answer, words: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Storage(answer) as server, pytest.raises(D1UploadError, match=words) as raised:
        put(server, file)
    assert len(server.requests) == ATTEMPTS
    assert raised.value.retryable
    assert "5e3c7e7" not in str(raised.value) + caplog.text


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "https://169.254.169.254/x", "http://example.com/x", "nonsense"]
)
def test_a_url_that_may_not_be_used_is_refused(file: Path, url: str) -> None:
    with pytest.raises(D1UploadError) as raised:
        upload(url, file, MD5, targets=PUBLIC, clock=FakeClock())
    assert not raised.value.retryable


def test_a_name_that_leads_to_a_private_address_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", ("10.0.0.7", 443))])
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(D1UploadError, match="not public") as raised:
        upload("https://bucket.example/x", file, MD5, clock=FakeClock())
    assert not raised.value.retryable
