"""Download a finished export's dump from its signed URL. A cut transfer is resumed; an incomplete one is an error.

A transfer resumes where it stopped if the response proves that the bytes are the same: HTTP 206 with exactly the
requested range and the strong ETag of the first response or, from a server with ranges but without such a tag, the same
length and the same last bytes. Otherwise it starts again from zero, and the bytes that the caller has already received
are downloaded again and compared by hash.

The URL is a credential: it is in no error, no repr and no log record, and no other credential is sent with it.
:mod:`http.client` reads the bytes directly into the caller's buffer, at about twice the speed of httpx, and logs
    nothing.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from http.client import HTTPException, HTTPResponse
from types import TracebackType
from typing import TYPE_CHECKING, Self

from airflow_provider_d1.cloudflare.api_errors import retry_after
from airflow_provider_d1.cloudflare.clock import SYSTEM_CLOCK, Clock
from airflow_provider_d1.cloudflare.credentials import Secret
from airflow_provider_d1.cloudflare.download_targets import PUBLIC, AllowedTargets
from airflow_provider_d1.cloudflare.messages import MIB, Response
from airflow_provider_d1.cloudflare.signed_url import check_url, explain, open_url, redirected
from airflow_provider_d1.exceptions import D1DownloadError, D1SignedUrlExpiredError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

#: attempts in a row without a new byte, after which the download fails
ATTEMPTS = 8
#: longest pause between two attempts, in seconds
MAX_PAUSE = 15.0
#: the longest ``retry-after`` that is waited for, in seconds; a longer one would occupy a worker slot for too long
LONGEST_WAIT = 600.0
MAX_REDIRECTS = 5
#: seconds that a transfer may wait for bytes, plus one second for each SLOWEST bytes that it has received
GRACE = 600.0
SLOWEST = 256 * 1024
#: longest dump whose length the server did not announce: the size of the largest D1 database
MAX_UNANNOUNCED_BYTES = 10 * 1024**3
#: bytes that are requested a second time where no ETag identifies the dump
OVERLAP = 4096
#: at most so many bytes of an error's body are read
_ERROR_BYTES = 16 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-\d+/(\d+|\*)$")
_EXPIRED = re.compile(
    rb"<Code>\s*(ExpiredRequest|RequestExpired|ExpiredToken|AccessDenied)\s*</Code>|has expired", re.IGNORECASE
)


class Download(io.RawIOBase):
    """The dump behind a signed URL, as a readable binary stream that survives cut connections.

    ``read(n)`` returns exactly ``n`` bytes until the end, so a short read is not mistaken for the end.
    ``content_length`` is the dump's size as the server announced it, None when it did not.

    :param url: the signed URL; https, or http on loopback.
    :param targets: the addresses besides public ones that it may refer to.
    :param timeout: seconds to wait for a connection or for the next bytes.
    :param clock: measures the pauses between attempts.
    :raises D1SignedUrlExpiredError: when the URL has expired.
    :raises D1DownloadError: when the dump cannot be downloaded completely; reading raises it too.
    """

    def __init__(
        self,
        url: str,
        *,
        targets: AllowedTargets = PUBLIC,
        timeout: float = 60.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        super().__init__()
        url = Secret(url)
        self._url = url
        self._targets = targets
        self._waited = 0.0  # seconds for bytes, pauses included
        self._received = 0
        self._timeout = timeout
        self._clock = clock
        self.content_length: int | None = None
        self._etag: str | None = None
        self._offers_ranges = False
        self._position = 0
        self._last = b""  # of what was delivered
        self._hash = hashlib.sha256()
        self._response: HTTPResponse | None = None
        self._failures = 0
        self._ended = False
        check_url(url, targets)
        self._connect()

    def __repr__(self) -> str:
        return f"<Download at byte {self._position} of {self.content_length or 'unknown'}>"

    def readable(self) -> bool:
        """Always true."""
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer``; fewer bytes only at the verified end of the dump or at a cut connection."""
        self._check_open()
        with memoryview(buffer).cast("B") as view:
            while view and not self._ended:
                count, problem = self._receive_into(view)
                if count:
                    self._delivered(view[:count])
                    return count
                self._after_body_end(problem)
        return 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Exactly ``size`` bytes, or all that are left; fewer only at the verified end of the dump."""
        self._check_open()
        left = None if size is None or size < 0 else size
        pieces: list[bytes] = []
        while left != 0 and not self._ended:
            piece, problem = self._receive(MIB if left is None else left)
            if piece:
                self._delivered(piece)
                pieces.append(piece)
                left = None if left is None else left - len(piece)
            else:
                self._after_body_end(problem)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        """All that is left."""
        return self.read()

    def close(self) -> None:
        """Close the connection."""
        if not self.closed:
            self._drop()
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Reading: exceptions of the network are turned into text, which cannot hold the URL.

    def _receive(self, size: int) -> tuple[bytes, str]:
        """Up to ``size`` of the next bytes; b"" at the body's end, with the problem where the end is unexpected."""
        if self._response is None:
            return b"", ""
        begin = self._clock.monotonic()
        try:
            # read1: one read from the connection. read(size) would wait until all of size is there, however slowly.
            piece, problem = self._response.read1(min(size, MIB)), ""
        except (HTTPException, OSError, ValueError) as error:
            piece, problem = b"", explain(error)
        self._check_bounds(begin, len(piece))
        return piece, problem

    def _receive_into(self, view: memoryview) -> tuple[int, str]:
        """As :meth:`_receive`, into a buffer."""
        if self._response is None:
            return 0, ""
        piece, problem = self._receive(len(view))
        view[: len(piece)] = piece
        return len(piece), problem

    def _check_bounds(self, begin: float, count: int) -> None:
        """Stop a transfer that is too slow, or that has more bytes than a database can hold."""
        self._waited += self._clock.monotonic() - begin
        self._received += count
        if self._waited > GRACE + self._received / SLOWEST:
            raise D1DownloadError(
                f"the download is too slow: {self._received} bytes in {self._waited:.0f} s, expected at"
                f" least {SLOWEST // 1024} KiB/s"
            )
        if self.content_length is None and self._position + count > MAX_UNANNOUNCED_BYTES:
            raise D1DownloadError(
                f"the dump has no announced length and is longer than {MAX_UNANNOUNCED_BYTES >> 30} GiB, which is more"
                " than a D1 database can hold",
                retryable=False,
            )

    def _delivered(self, piece: bytes | memoryview) -> None:
        self._hash.update(piece)
        self._position += len(piece)
        self._last = (self._last + bytes(piece[-OVERLAP:]))[-OVERLAP:]
        self._failures = 0

    def _after_body_end(self, problem: str) -> None:
        """Finish when the whole body has arrived, otherwise reconnect and get the rest."""
        # http.client takes a connection that is cut inside the headers for their end, and then finds no length and no
        # body. Even an empty database's dump holds a PRAGMA, so a dump without a byte was cut.
        whole = bool(self._position) if self.content_length is None else self.content_length == self._position
        if not problem and whole:
            self._ended = True
            self._drop()
        else:
            self._pause(problem or "the connection closed early")
            self._connect()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("read of a closed download")

    # Connecting, and checking that the dump is still the same.

    def _connect(self) -> None:
        """Request the dump from where the transfer stopped, until the server sends it or no attempt is left."""
        begin = self._resume_at()
        while True:
            response, problem = self._request(begin)
            if response is None:
                self._pause(problem)
            elif response.status == 206 and begin and self._continues(response, begin):
                return
            elif response.status in (206, 416) and begin:
                begin = 0  # not the requested range, or another file by now
            elif response.status == 200:
                if self._begins(response):
                    return
            else:
                self._refused(response)

    def _resume_at(self) -> int:
        """Where a range begins whose content can be verified; 0 where none can be."""
        if self._etag is not None:
            return self._position
        return self._position - len(self._last) if self._offers_ranges and self.content_length is not None else 0

    def _request(self, begin: int) -> tuple[HTTPResponse | None, str]:
        """The response to one request, or None and the problem."""
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        if begin and self._etag is not None:
            headers["If-Range"] = self._etag
        url = self._url
        for _ in range(MAX_REDIRECTS + 1):
            self._drop()
            self._response, problem = open_url(url, headers, self._timeout, self._targets)
            if self._response is None or self._response.status not in _REDIRECTS:
                return self._response, problem
            url = redirected(url, self._response.headers.get("location", ""), self._targets)
        raise D1DownloadError("the signed URL redirects too often")

    def _continues(self, response: HTTPResponse, begin: int) -> bool:
        """True when a 206 continues exactly where the transfer stopped."""
        found = _CONTENT_RANGE.match(response.headers.get("content-range", ""))
        if found is None or int(found[1]) != begin:
            return False
        _check_plain(response)
        if self._etag is not None:
            known = self.content_length is None or found[2] in ("*", str(self.content_length))
            return known and response.headers.get("etag") == self._etag
        if found[2] != str(self.content_length):
            return False
        again = b""
        while len(again) < len(self._last):
            piece, _ = self._receive(len(self._last) - len(again))
            if not piece:
                break
            again += piece
        return again == self._last

    def _begins(self, response: HTTPResponse) -> bool:
        """True when a 200 begins with the bytes already delivered; False when it was cut before their end."""
        _check_plain(response)
        length = response.headers.get("content-length", "")
        announced = int(length) if re.fullmatch(r"\d{1,18}", length) else None
        if self._position and self.content_length is not None and announced not in (None, self.content_length):
            raise _changed()
        self.content_length = announced if announced is not None else self.content_length
        self._offers_ranges = response.headers.get("accept-ranges", "").strip().lower() == "bytes"
        etag = response.headers.get("etag")
        self._etag = etag if etag and not etag.startswith("W/") else None
        again, left = hashlib.sha256(), self._position
        while left:
            piece, problem = self._receive(min(left, MIB))
            if not piece:
                self._pause(problem or "the connection closed early")
                return False
            again.update(piece)
            left -= len(piece)
        if self._position and again.digest() != self._hash.digest():
            raise _changed()
        return True

    def _refused(self, response: HTTPResponse) -> None:
        """Pause after a temporary refusal, raise an error for a permanent one."""
        status = response.status
        if status in (404, 410) or (status in (400, 401, 403) and self._says_expired()):
            raise D1SignedUrlExpiredError(
                f"the signed URL of this export has expired (HTTP {status}; it is valid for one hour). Run the export"
                " again"
            )
        if status not in (408, 429) and status < 500:
            raise D1DownloadError(f"the dump's server refused the signed URL with HTTP {status}")
        headers = {name: response.headers.get(name, "") for name in ("retry-after", "date")}
        asked = retry_after(Response(status, headers, b""), at_most=math.inf)
        if asked is not None and asked > LONGEST_WAIT:
            raise D1DownloadError(
                f"the dump's server answered HTTP {status} with retry-after: {asked:.0f} s, expected at"
                f" most {LONGEST_WAIT:.0f} s"
            )
        self._pause(f"HTTP {status}", asked)

    def _says_expired(self) -> bool:
        body = b""
        while len(body) < _ERROR_BYTES and (piece := self._receive(_ERROR_BYTES - len(body))[0]):
            body += piece
        return _EXPIRED.search(body) is not None

    def _pause(self, problem: str, seconds: float | None = None) -> None:
        self._drop()
        self._failures += 1
        if self._failures >= ATTEMPTS:
            raise D1DownloadError(
                f"the download stopped at byte {self._position} of {self.content_length or 'an unknown number'}; no"
                f" progress after {self._failures} attempts: {problem}"
            )
        pause = min(0.5 * 2 ** (self._failures - 1), MAX_PAUSE) if seconds is None else seconds
        self._waited += pause
        self._clock.sleep(pause)

    def _drop(self) -> None:
        response, self._response = getattr(self, "_response", None), None
        if response is not None:
            response.close()


def _check_plain(response: HTTPResponse) -> None:
    if response.headers.get("content-encoding", "identity") != "identity":
        raise D1DownloadError(
            "the dump's server sent a compressed response, expected identity encoding", retryable=False
        )


def _changed() -> D1DownloadError:
    return D1DownloadError("the dump changed between two attempts to download it. Start the download again")
