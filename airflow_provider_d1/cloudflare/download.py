"""Read a finished export's dump from its signed URL, whole or with an error, whatever the connection does.

A cut transfer goes on where it stopped if the server proves that it still serves the same bytes: HTTP 206 with exactly the range asked
for, and the strong ETag of the first answer. Otherwise it starts again from zero, and what was already handed out is read again
and compared by hash before anything new is. The URL is a credential: it is in no error, no repr and no log record, and no other
credential ever goes with it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import SplitResult, urljoin, urlsplit

import httpx

from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.credentials import USER_AGENT, allowed_scheme, is_loopback
from airflow_provider_d1.cloudflare.protocol import Answer, retry_after
from airflow_provider_d1.cloudflare.quiet import quiet
from airflow_provider_d1.cloudflare.transport import describe, ssl_context
from airflow_provider_d1.exceptions import D1DownloadError, D1SignedUrlExpiredError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: attempts in a row that bring no new byte
ATTEMPTS = 8
MAX_GAP = 15.0
MAX_REDIRECTS = 5
_ERROR_BYTES = 16 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)$")
_EXPIRED = re.compile(
    rb"<Code>\s*(ExpiredRequest|RequestExpired|ExpiredToken|AccessDenied)\s*</Code>|has expired", re.IGNORECASE
)


class Download(io.RawIOBase):
    """The dump behind a signed URL, as a readable binary stream that survives cut connections.

    ``read(n)`` returns exactly ``n`` bytes until the end, so short reads never look like an end. ``content_length`` is the dump's
    size as the server announced it, None when it did not.

    :param url: the signed URL; https, or http on loopback.
    :param timeout: seconds to wait for a connection or for the next bytes.
    :param clock: the time that waits between attempts go by.
    :param transport_options: passed to httpx's client.
    :raises D1SignedUrlExpiredError: when the URL is past its hour.
    :raises D1DownloadError: when the dump cannot be had whole.
    """

    def __init__(
        self, url: str, *, timeout: float = 60.0, clock: Clock = SYSTEM_CLOCK, **transport_options: Any
    ) -> None:
        super().__init__()
        self._url = url
        self._clock = clock
        self.content_length: int | None = None
        self._etag: str | None = None
        self._position = 0
        self._hash = hashlib.sha256()
        self._rest = memoryview(b"")
        self._chunks: Iterator[bytes] = iter(())
        self._response: httpx.Response | None = None
        self._failures = 0
        self._ended = False
        _check(urlsplit(url), None)
        self._client = httpx.Client(
            **{
                "headers": {"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                "follow_redirects": False,
                "timeout": timeout,
                "verify": ssl_context(),
                **transport_options,
            }
        )
        try:
            self._connect()
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Download at byte {self._position} of {self.content_length}>"

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` with what is at hand, at least one byte; 0 only at the verified end of the dump."""
        with memoryview(buffer).cast("B") as view:
            if not len(view):
                return 0
            if not self._rest and not self._next():
                return 0
            count = min(len(view), len(self._rest))
            view[:count] = self._rest[:count]
            self._rest = self._rest[count:]
            return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Exactly ``size`` bytes, or all that are left; fewer only at the verified end of the dump."""
        left = -1 if size is None else size
        pieces: list[memoryview] = []
        while left and (self._rest or self._next()):
            piece = self._rest if left < 0 else self._rest[:left]
            pieces.append(piece)
            self._rest = self._rest[len(piece) :]
            left -= len(piece) if left > 0 else 0
        return b"".join(pieces)

    def readall(self) -> bytes:
        """All that is left."""
        return self.read()

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            with quiet():
                self._drop()
                if "_client" in self.__dict__:
                    self._client.close()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the way through ----------------------------------------------------------------------------------------------

    def _next(self) -> bool:
        """Put the next bytes into ``_rest``; False at the verified end."""
        if self.closed:
            raise ValueError("read of a closed download")
        while not self._ended:
            chunk, problem = self._receive()
            if chunk:
                self._hash.update(chunk)
                self._position += len(chunk)
                self._failures = 0
                if self.content_length is not None and self._position > self.content_length:
                    raise D1DownloadError("the dump is longer than the server had announced")
                self._rest = memoryview(chunk)
                return True
            if problem is None and self.content_length in (None, self._position):
                self._ended = True
                self._drop()
            else:
                self._again(problem or "the connection closed early")
        return False

    def _receive(self) -> tuple[bytes, str | None]:
        """The next chunk, or b"" and what is wrong (None at a clean end)."""
        with quiet():
            try:
                return next(self._chunks, b""), None
            except (httpx.HTTPError, httpx.StreamError, OSError) as error:
                return b"", describe(error)[0]

    def _connect(self) -> None:
        """Ask for the dump from ``_position`` on, until the server gives it or there is no hope left."""
        may_resume = self._position > 0 and self._etag is not None
        while True:
            response, problem = self._request(resume=may_resume)
            if response is None:
                self._pause(problem)
            elif response.status_code == 206 and may_resume:
                if self._continues(response):
                    return
                may_resume = False  # it serves ranges, but not the one that was asked for, or of something else
            elif response.status_code == 200:
                if self._begins(response):
                    return
            elif response.status_code == 416 and may_resume:
                may_resume = False
            else:
                self._refused(response)

    def _again(self, problem: str) -> None:
        self._pause(problem)
        self._connect()

    def _pause(self, problem: str, seconds: float | None = None) -> None:
        self._drop()
        self._failures += 1
        if self._failures >= ATTEMPTS:
            raise D1DownloadError(
                f"the download broke off at byte {self._position} of {self.content_length or 'an unknown number'}, and"
                f" {self._failures} attempts in a row brought nothing more: {problem}"
            )
        self._clock.sleep(min(0.5 * 2 ** (self._failures - 1), MAX_GAP) if seconds is None else seconds)

    def _request(self, *, resume: bool) -> tuple[httpx.Response | None, str]:
        headers = {}
        if resume and self._etag is not None:
            headers = {"Range": f"bytes={self._position}-", "If-Range": self._etag}
        url = self._url
        self._drop()
        for _ in range(MAX_REDIRECTS + 1):
            with quiet():
                try:
                    response = self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
                except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
                    return None, describe(error)[0]
            self._response = response
            if response.status_code not in _REDIRECTS:
                return response, ""
            target = urljoin(url, response.headers.get("location", ""))
            self._drop()
            _check(urlsplit(target), urlsplit(url))
            url = target
        raise D1DownloadError("the signed URL redirects too often")

    def _continues(self, response: httpx.Response) -> bool:
        """True when a 206 is exactly the rest of what was delivered; then reading goes on from it."""
        found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
        if found is None or int(found[1]) != self._position or response.headers.get("etag") != self._etag:
            return False
        if self.content_length is not None and found[3] not in ("*", str(self.content_length)):
            return False
        self._listen(response)
        return True

    def _begins(self, response: httpx.Response) -> bool:
        """True when a 200 repeats what was delivered; then reading goes on behind it."""
        length = response.headers.get("content-length", "")
        announced = int(length) if length.isdecimal() else None
        if self._position and self.content_length is not None and announced not in (None, self.content_length):
            raise _changed()
        if announced is not None:
            self.content_length = announced
        self._listen(response)
        etag = response.headers.get("etag")
        self._etag = etag if etag and not etag.startswith("W/") else None
        return self._skip(self._position)

    def _skip(self, count: int) -> bool:
        """Read what was delivered already and compare it; False when the connection broke again before its end."""
        again = hashlib.sha256()
        while count:
            chunk, problem = self._receive()
            if not chunk:
                if problem is None and self.content_length is None:
                    raise _changed()
                self._pause(problem or "the connection closed early")
                return False
            known, new = chunk[:count], chunk[count:]
            again.update(known)
            count -= len(known)
            if new:
                self._chunks = _chain(new, self._chunks)
        if self._position and again.digest() != self._hash.digest():
            raise _changed()
        return True

    def _listen(self, response: httpx.Response) -> None:
        if response.headers.get("content-encoding", "identity") != "identity":
            raise D1DownloadError("the dump comes compressed although none was asked for", retryable=False)
        self._chunks = response.iter_bytes()

    def _refused(self, response: httpx.Response) -> None:
        """Wait after an answer that may get better, raise after one that will not."""
        status = response.status_code
        body, _ = self._receive_error(response)
        if status in (404, 410) or (status in (400, 401, 403) and _EXPIRED.search(body)):
            raise D1SignedUrlExpiredError(
                f"the signed URL of this export is no longer accepted (HTTP {status}): it works for an hour; export again"
            )
        if status not in (408, 429) and status < 500:
            raise D1DownloadError(f"the dump's server refused the signed URL with HTTP {status}")
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._pause(f"HTTP {status}", retry_after(Answer(status, headers, b"")))

    def _receive_error(self, response: httpx.Response) -> tuple[bytes, str | None]:
        self._chunks = response.iter_bytes()
        body = b""
        while len(body) < _ERROR_BYTES:
            chunk, problem = self._receive()
            if not chunk:
                return body, problem
            body += chunk
        return body, None

    def _drop(self) -> None:
        if "_response" in self.__dict__ and self._response is not None:
            with quiet():
                self._response.close()
            self._response = None
        self._chunks = iter(())


def _chain(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _check(url: SplitResult, origin: SplitResult | None) -> None:
    """Refuse to send a request in the clear, or with credentials besides the signature."""
    if url.username or url.password:
        raise D1DownloadError("the signed URL holds a user name or password, which is never sent", retryable=False)
    if not allowed_scheme(url):
        raise D1DownloadError("the signed URL must be https (http is for loopback only)", retryable=False)
    if (
        origin is not None
        and url.scheme == "http"
        and not (origin.scheme == "http" and is_loopback(origin.hostname or ""))
    ):
        raise D1DownloadError("a redirect away from https is not followed", retryable=False)


def _changed() -> D1DownloadError:
    return D1DownloadError("the dump changed between two attempts to download it: start the download again")
