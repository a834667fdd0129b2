"""The download against a real server that does everything a network can do."""

from __future__ import annotations

import hashlib
import io
import threading
import tracemalloc
from typing import Any

import pytest

from airflow_provider_d1.cloudflare.download import ATTEMPTS, OVERLAP, Download
from airflow_provider_d1.cloudflare.download_targets import AllowedTargets
from airflow_provider_d1.cloudflare.signed_url import check_url, redirected
from airflow_provider_d1.exceptions import D1DownloadError, D1SignedUrlExpiredError
from tests.unit.cloudflare.d1_fakes import FakeClock
from tests.unit.cloudflare.http_fakes import (
    DUMP,
    Connection,
    Server,
    chunked,
    redirect,
    refusal,
    self_signed,
    silence,
    whole,
)

LOOPBACK = AllowedTargets(loopback=True)
EXPIRED = b"""<?xml version="1.0" encoding="UTF-8"?><Error><Code>ExpiredRequest</Code>
<Message>Request has expired</Message></Error>"""
TAG = '"33a64df5"'
PLACES = [0, 1, 8191, 65536, 500_000, len(DUMP) - 1]


def fetch(server: Server, *, step: int = 100_000, clock: FakeClock | None = None) -> bytes:
    """Everything, by ``read(step)``, holding it to its promise of full reads."""
    pieces = []
    with Download(server.url, targets=LOOPBACK, clock=clock or FakeClock()) as download:
        while piece := download.read(step):
            pieces.append(piece)
        assert download.read(1) == b""
    assert all(len(piece) == step for piece in pieces[:-1])
    return b"".join(pieces)


# --- the way it should go


def test_a_whole_dump() -> None:
    with Server([whole()]) as server:
        assert fetch(server) == DUMP
    (request,) = server.requests
    assert (request.method, request.target) == ("GET", "/x.sql?X-Amz-Signature=5e3c7e7")


def test_nothing_but_the_signature_is_sent_for_a_credential() -> None:
    with Server([whole()]) as server:
        fetch(server)
    assert set(server.requests[0].headers) == {"host", "user-agent", "accept-encoding", "connection"}
    assert server.requests[0].headers["user-agent"].startswith("airflow-provider-d1/")


@pytest.mark.parametrize("step", [1, 4096, 1 << 20])
def test_read_gives_exactly_what_is_asked_for(step: int) -> None:
    dump = DUMP[:20_000]
    with Server([whole(dump)]) as server:
        assert fetch(server, step=step) == dump


def test_it_is_a_stream_like_any_other() -> None:
    with Server([whole(etag=TAG)]) as server, Download(server.url, targets=LOOPBACK) as download:
        assert download.content_length == len(DUMP)
        assert download.readable()
        assert not download.writable()
        assert not download.seekable()
        assert download.read(0) == b""
        assert download.readinto(bytearray()) == 0
        assert io.BufferedReader(download).read() == DUMP
    assert download.closed
    with pytest.raises(ValueError, match="closed"):
        download.read(1)


def test_readinto_fills_buffers_of_any_kind() -> None:
    got = bytearray()
    with Server([whole(cut_at=123_456, etag=TAG, ranges=True), whole(etag=TAG, ranges=True)]) as server:
        with Download(server.url, targets=LOOPBACK, clock=FakeClock()) as download:
            buffer = memoryview(bytearray(70_000)).cast("H")
            while count := download.readinto(buffer):
                got += buffer.cast("B")[:count]
        assert got == DUMP


def test_all_at_once() -> None:
    with Server([whole()]) as server, Download(server.url, targets=LOOPBACK) as download:
        assert download.read(10) + download.readall() == DUMP
        assert download.read() == b""


def test_an_empty_dump() -> None:
    with Server([whole(b"")]) as server:
        assert fetch(server) == b""


@pytest.mark.parametrize("behaviour", [chunked(), whole(length=None)])
def test_a_dump_of_unannounced_length(behaviour: Any) -> None:
    with Server([behaviour]) as server:
        assert fetch(server) == DUMP


def test_memory_is_bounded_for_any_size() -> None:
    block = bytes(1 << 20)

    def large(request: Connection) -> None:
        request.head(200, Content_Length=200 << 20)
        for _ in range(200):
            request.send(block)

    with Server([large]) as server, Download(server.url, targets=LOOPBACK) as download:
        tracemalloc.start()
        total = 0
        while piece := download.read(1 << 16):
            total += len(piece)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert total == 200 << 20
    assert peak < 1 << 20


# --- cut, and the response proves that it continues where the transfer stopped


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_a_cut_transfer_is_resumed(place: int, reset: bool) -> None:
    cut = whole(cut_at=place, etag=TAG, ranges=True, reset=reset)
    with Server([cut, whole(etag=TAG, ranges=True)]) as server:
        assert fetch(server, step=8192) == DUMP
    assert len(server.requests) == 2
    if place > 8192:
        assert server.requests[1].headers["if-range"] == TAG
        start = server.ranges()[1]
        assert start is not None
        # a reset may destroy what had already arrived
        assert 0 < start <= place if reset else start == place


def test_many_cuts_are_tolerated_while_bytes_arrive() -> None:
    with Server([whole(cut_at=40_000, etag=TAG, ranges=True)]) as server:
        assert fetch(server) == DUMP
    assert len(server.requests) == len(DUMP) / 40_000
    assert server.ranges()[1:] == list(range(40_000, len(DUMP), 40_000))


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
@pytest.mark.parametrize("place", [OVERLAP + 1, 500_000, len(DUMP) - 1])
def test_without_an_etag_the_last_bytes_are_requested_again(place: int, etag: str | None) -> None:
    cut = whole(cut_at=place, etag=etag, ranges=True, offer=True)
    with Server([cut, whole(etag=etag, ranges=True, offer=True)]) as server:
        assert fetch(server, step=8192) == DUMP
    assert server.ranges() == [None, place - OVERLAP]
    assert "if-range" not in server.requests[1].headers


@pytest.mark.parametrize("change", [b"x", b""], ids=["other bytes", "another length"])
def test_different_last_bytes_or_length_mean_another_dump(change: bytes) -> None:
    other = DUMP[:499_000] + change + DUMP[499_001:]
    cut = whole(cut_at=500_000, ranges=True, offer=True)
    with (
        Server([cut, whole(other, ranges=True, offer=True)]) as server,
        pytest.raises(D1DownloadError, match="changed"),
    ):
        fetch(server)
    assert server.ranges() == [None, 500_000 - OVERLAP, None]


def test_of_the_first_few_bytes_no_range_is_worth_the_while() -> None:
    cut = whole(cut_at=OVERLAP, ranges=True, offer=True)
    with Server([cut, whole(ranges=True, offer=True)]) as server:
        assert fetch(server) == DUMP
    assert server.ranges() == [None, None]


# --- it cannot


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("etag", [None, TAG, 'W/"weak"'])
def test_a_server_that_ignores_ranges_is_read_from_the_start(place: int, etag: str | None) -> None:
    with Server([whole(cut_at=place, etag=etag), whole(etag=etag)]) as server:
        assert fetch(server) == DUMP
    assert len(server.requests) == 2


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_or_an_offer_no_range_is_asked_for(etag: str | None) -> None:
    with Server([whole(cut_at=500_000, etag=etag, ranges=True), whole(etag=etag, ranges=True)]) as server:
        assert fetch(server) == DUMP
    assert server.ranges() == [None, None]


@pytest.mark.parametrize("shift", [1, 1000])
def test_a_206_with_a_wrong_offset_is_not_believed(shift: int) -> None:
    first = whole(cut_at=500_000, etag=TAG, ranges=True)
    with Server([first, whole(etag=TAG, ranges=True, shift=shift), whole(etag=TAG)]) as server:
        assert fetch(server) == DUMP
    assert server.ranges() == [None, 500_000, None]


def _part(**fields: object) -> Any:
    """A 206 with the rest of the dump and these header fields."""

    def answer(request: Connection) -> None:
        start = request.range_start
        request.head(206, Content_Length=len(DUMP) - (start or 0), **fields)
        request.send(DUMP[start:])

    return answer


@pytest.mark.parametrize(
    "fields",
    [
        {"ETag": '"another"', "Content_Range": f"bytes 500000-{len(DUMP) - 1}/{len(DUMP)}"},
        {"Content_Range": f"bytes 500000-{len(DUMP) - 1}/{len(DUMP)}"},
        {"ETag": TAG, "Content_Range": f"bytes 500000-{len(DUMP) - 1}/{len(DUMP) + 1}"},
        {"ETag": TAG, "Content_Range": "bytes */960000"},
        {"ETag": TAG, "Content_Range": f"bytes {'9' * 5000}-{len(DUMP) - 1}/{len(DUMP)}"},
        {"ETag": TAG},
    ],
)
def test_a_206_that_cannot_be_verified_is_rejected(fields: dict[str, object]) -> None:
    with Server([whole(cut_at=500_000, etag=TAG, ranges=True), _part(**fields), whole(etag=TAG)]) as server:
        assert fetch(server) == DUMP
    assert server.ranges() == [None, 500_000, None]


def test_a_206_of_unknown_total_is_believed() -> None:
    part = _part(ETag=TAG, Content_Range=f"bytes 500000-{len(DUMP) - 1}/*")
    with Server([whole(cut_at=500_000, etag=TAG), part]) as server:
        assert fetch(server) == DUMP


def test_a_range_that_is_refused_is_asked_for_no_more() -> None:
    with Server([whole(cut_at=500_000, etag=TAG, ranges=True), refusal(416), whole(etag=TAG)]) as server:
        assert fetch(server) == DUMP
    assert server.ranges() == [None, 500_000, None]


def test_a_chunked_dump_that_was_cut() -> None:
    with Server([chunked(cut_at=333_333), chunked()]) as server:
        assert fetch(server) == DUMP


def test_cut_again_while_catching_up() -> None:
    behaviours = [whole(cut_at=500_000), whole(cut_at=100_000), whole(cut_at=700_000), whole()]
    with Server(behaviours) as server:
        assert fetch(server) == DUMP


# --- it is another dump by now


@pytest.mark.parametrize("etag", [None, '"new"'])
def test_a_dump_that_changed_between_attempts_is_refused(etag: str | None) -> None:
    changed = bytes([DUMP[0] ^ 1]) + DUMP[1:]
    with Server([whole(cut_at=500_000, etag=TAG), whole(changed, etag=etag, ranges=True)]) as server:
        with pytest.raises(D1DownloadError, match="changed between") as caught:
            fetch(server)
        assert caught.value.retryable


def test_a_change_behind_what_was_delivered_shows_in_the_length() -> None:
    with (
        Server([whole(cut_at=500_000), whole(DUMP + b"more")]) as server,
        pytest.raises(D1DownloadError, match="changed"),
    ):
        fetch(server)


def test_nothing_of_the_other_dump_is_delivered() -> None:
    changed = bytes(len(DUMP))
    got = b""
    with (
        Server([whole(cut_at=500_000), whole(changed)]) as server,
        Download(server.url, targets=LOOPBACK, clock=FakeClock()) as download,
    ):
        for _ in range(50):
            got += download.read(10_000)
        with pytest.raises(D1DownloadError):
            download.read(10_000)
    assert got == DUMP[:500_000]


def test_the_same_bytes_under_a_new_etag_are_the_same_dump() -> None:
    with Server([whole(cut_at=500_000, etag=TAG, ranges=True), whole(etag='"new"', ranges=True)]) as server:
        assert fetch(server) == DUMP


# --- wrong headers


def test_a_body_shorter_than_announced_never_looks_like_an_end() -> None:
    with Server([whole(length=len(DUMP) + 10)]) as server, pytest.raises(D1DownloadError, match="no progress"):
        fetch(server)
    assert len(server.requests) == ATTEMPTS


def test_what_is_longer_than_announced_ends_where_it_was_announced() -> None:
    with Server([whole(length=1000)]) as server:
        assert fetch(server) == DUMP[:1000]


def test_a_compressed_response_is_refused() -> None:
    with Server([refusal(200, b"\x1f\x8b", Content_Encoding="gzip")]) as server:
        with pytest.raises(D1DownloadError, match="compressed") as caught:
            fetch(server)
        assert not caught.value.retryable


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"garbage\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 200,
        b"HTTP/1.1 200 OK\r\n",  # cut inside the headers, which http.client takes for their end
        b"HTTP/1.1 200 OK\r\nx: y\r\nContent-Len",
    ],
)
def test_a_response_that_is_not_http_is_retried(head: bytes) -> None:
    with Server([lambda request: request.send(head), whole()]) as server:
        assert fetch(server) == DUMP


# --- refusals


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (403, EXPIRED),
        (401, EXPIRED),
        (400, EXPIRED),
        (403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>"),
        (404, b"<Error><Code>NoSuchKey</Code></Error>"),
        (410, b""),
    ],
)
def test_an_expired_url(status: int, body: bytes) -> None:
    with Server([refusal(status, body)]) as server, pytest.raises(D1SignedUrlExpiredError, match="again"):
        Download(server.url, targets=LOOPBACK)
    assert len(server.requests) == 1


def test_a_url_that_expires_in_the_middle() -> None:
    behaviours = [whole(cut_at=500_000, etag=TAG, ranges=True), refusal(403, EXPIRED)]
    with Server(behaviours) as server, pytest.raises(D1SignedUrlExpiredError):
        fetch(server)


@pytest.mark.parametrize(
    ("status", "body"), [(403, b"<Code>SignatureDoesNotMatch</Code>"), (400, b""), (405, b""), (204, b"")]
)
def test_another_refusal_ends_at_once(status: int, body: bytes) -> None:
    with Server([refusal(status, body)]) as server, pytest.raises(D1DownloadError, match=str(status)) as caught:
        Download(server.url, targets=LOOPBACK)
    assert not isinstance(caught.value, D1SignedUrlExpiredError)
    assert len(server.requests) == 1


@pytest.mark.parametrize("failure", [refusal(500), refusal(503), refusal(429), refusal(408), silence])
def test_transient_errors_are_waited_for(failure: Any) -> None:
    clock = FakeClock()
    with Server([failure, failure, whole()]) as server:
        assert fetch(server, clock=clock) == DUMP
    assert clock.slept == [0.5, 1.0]


def test_retry_after_is_obeyed() -> None:
    clock = FakeClock()
    with Server([refusal(503, Retry_After=7), whole()]) as server:
        fetch(server, clock=clock)
    assert clock.slept == [7.0]


def test_a_retry_after_of_an_hour_fails_the_download() -> None:
    clock = FakeClock()
    with Server([refusal(503, Retry_After=3600)]) as server, pytest.raises(D1DownloadError, match="3600 s") as caught:
        fetch(server, clock=clock)
    assert caught.value.retryable
    assert clock.slept == []


def test_an_endless_error_page_is_read_only_a_little() -> None:
    def endless(request: Connection) -> None:
        request.head(403)
        while True:
            request.send(b" " * 100_000)

    with Server([endless]) as server, pytest.raises(D1DownloadError, match="403"):
        Download(server.url, targets=LOOPBACK)


def test_a_server_that_is_gone() -> None:
    with Server([whole()]) as server:
        url = server.url
    with pytest.raises(D1DownloadError, match="refused") as caught:
        Download(url, targets=LOOPBACK, clock=FakeClock())
    assert caught.value.retryable


def test_a_server_that_stops_responding() -> None:
    release = threading.Event()

    def stalls(request: Connection) -> None:
        request.head(200, Content_Length=len(DUMP), ETag=TAG)
        request.send(DUMP[:500_000])
        release.wait(10)

    with Server([stalls, whole(etag=TAG, ranges=True)]) as server:
        timer = threading.Timer(0.3, release.set)
        timer.start()
        with Download(server.url, targets=LOOPBACK, timeout=0.2, clock=FakeClock()) as download:
            got = hashlib.sha256()
            while piece := download.read(50_000):
                got.update(piece)
        timer.join()
    assert got.hexdigest() == hashlib.sha256(DUMP).hexdigest()


# --- where it may go


def test_a_redirect_is_followed_without_other_headers() -> None:
    with Server([whole()]) as target, Server([redirect(target.url)]) as server:
        assert fetch(server) == DUMP
    assert set(target.requests[0].headers) == {"host", "user-agent", "accept-encoding", "connection"}


def test_a_relative_redirect() -> None:
    with Server([redirect("/elsewhere"), whole()]) as server:
        assert fetch(server) == DUMP
    assert server.requests[1].target == "/elsewhere"


def test_redirects_end() -> None:
    with Server([redirect("/round")]) as server, pytest.raises(D1DownloadError, match="too often"):
        Download(server.url, targets=LOOPBACK)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://bucket.example/x",
        "ftp://127.0.0.1/x",
        "file:///etc/passwd",
        "https://u:p@bucket.example/",
        "https://a b/",
    ],
)
def test_a_redirect_to_a_refused_address(target: str) -> None:
    with Server([redirect(target)]) as server, pytest.raises(D1DownloadError) as caught:
        Download(server.url, targets=LOOPBACK)
    assert not caught.value.retryable
    assert target not in str(caught.value)


def test_a_redirect_never_leaves_https() -> None:
    assert redirected("https://a.example/x", "https://b.example/y", LOOPBACK) == "https://b.example/y"
    assert redirected("http://127.0.0.1/", "http://127.0.0.1:1/", LOOPBACK) == "http://127.0.0.1:1/"
    with pytest.raises(D1DownloadError):
        redirected("https://a.example/", "http://127.0.0.1/", LOOPBACK)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://localhost/x", "http://[::1]/x", "https://r2.example/x?y=z"]
)
def test_urls_that_may_be_opened(url: str) -> None:
    check_url(url, LOOPBACK)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "x",
        "http://r2.example/x",
        "http://10.0.0.1/x",
        "file:///etc/passwd",
        "https://u@r2.example/",
        "https://:p@r2.example/",
        "https://r2.example/a b",
        "https://r2.example/ä",
        "https://r2.example:port/",
        "https:///x",
    ],
)
def test_urls_that_may_not(url: str) -> None:
    with pytest.raises(D1DownloadError) as caught:
        Download(url)
    assert not caught.value.retryable
    assert not url or url not in str(caught.value)


def test_an_untrusted_certificate_is_refused() -> None:
    with Server([whole()], context=self_signed()) as server, pytest.raises(D1DownloadError, match="trusted") as caught:
        Download(server.url, targets=LOOPBACK)
    assert server.requests == []
    assert not caught.value.retryable


class SlowClock(FakeClock):
    """Each look at it is a minute later: a server that sends a byte a minute."""

    def monotonic(self) -> float:
        self.now += 60.0
        return self.now


def test_a_slow_download_is_stopped() -> None:
    with Server([whole(DUMP[:1000])]) as server, pytest.raises(D1DownloadError, match="too slow") as caught:
        fetch(server, step=1, clock=SlowClock())
    assert caught.value.retryable


def test_a_dump_without_a_length_is_bounded_by_a_databases_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow_provider_d1.cloudflare.download.MAX_UNANNOUNCED_BYTES", 500_000)
    with Server([whole(length=None)]) as server, pytest.raises(D1DownloadError, match="longer than") as caught:
        fetch(server)
    assert not caught.value.retryable
    with Server([whole()]) as server:
        assert fetch(server) == DUMP
