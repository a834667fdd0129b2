"""A real HTTP server on loopback whose every byte a test writes itself."""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.unit.cloudflare.d1_fakes import ok

DUMP = b"".join(hashlib.sha256(n.to_bytes(4, "big")).digest() for n in range(30_000))  # 960,000 bytes that never repeat


@dataclass
class Connection:
    """One request and the socket to answer it on."""

    socket: socket.socket
    method: str
    target: str
    headers: dict[str, str]

    def head(self, status: int, **fields: object) -> None:
        lines = [f"HTTP/1.1 {status} X", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        self.send("\r\n".join([*lines, "", ""]).encode())

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def reset(self) -> None:
        """Close with a TCP reset instead of an orderly end."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    @property
    def range_start(self) -> int | None:
        value = self.headers.get("range")
        return None if value is None else int(value.removeprefix("bytes=").removesuffix("-"))


Behaviour = Callable[[Connection], None]


@dataclass
class Server:
    """Answers each connection with the next behaviour, the last one again and again."""

    behaviours: list[Behaviour]
    context: ssl.SSLContext | None = None
    requests: list[Connection] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    @property
    def url(self) -> str:
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://127.0.0.1:{self.port}/x.sql?X-Amz-Signature=5e3c7e7"

    def ranges(self) -> list[int | None]:
        return [request.range_start for request in self.requests]

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with contextlib.suppress(OSError), connection:
                    self._answer(connection)

    def _answer(self, raw: socket.socket) -> None:
        raw.settimeout(10)
        if self.context is not None:
            raw = self.context.wrap_socket(raw, server_side=True)
        with raw, raw.makefile("rb") as file:
            method, target, _ = file.readline().decode().split()
            headers = {}
            while (line := file.readline().decode().strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            request = Connection(raw, method, target, headers)
            self.requests.append(request)
            self.behaviours[min(len(self.requests), len(self.behaviours)) - 1](request)


def whole(
    dump: bytes = DUMP,
    *,
    cut_at: int | None = None,
    etag: str | None = None,
    length: int | None = -1,
    ranges: bool = False,
    offer: bool = False,
    reset: bool = False,
    shift: int = 0,
) -> Behaviour:
    """Serve ``dump``.

    :param cut_at: bytes of the body after which the connection ends.
    :param etag: sent when given.
    :param length: Content-Length; -1 for the true one, None for none.
    :param ranges: answer a Range with 206 where If-Range allows.
    :param offer: say that ranges can be had.
    :param reset: cut with a TCP reset.
    :param shift: the 206 begins so many bytes too late.
    """

    def answer(request: Connection) -> None:
        fields: dict[str, object] = {} if etag is None else {"ETag": etag}
        if offer:
            fields["Accept_Ranges"] = "bytes"
        body, status = dump, 200
        start = request.range_start
        if ranges and start is not None and request.headers.get("if-range") in (None, etag):
            body, status = dump[start + shift :], 206
            fields["Content_Range"] = f"bytes {start + shift}-{len(dump) - 1}/{len(dump)}"
        if length is not None:
            fields["Content_Length"] = len(body) if length == -1 else length
        request.head(status, Connection="close", **fields)
        request.send(body[:cut_at])
        if reset:
            request.reset()

    return answer


def chunked(dump: bytes = DUMP, *, cut_at: int | None = None) -> Behaviour:
    """Serve ``dump`` in chunks, without a length; cut inside a chunk."""

    def answer(request: Connection) -> None:
        request.head(200, Transfer_Encoding="chunked")
        body = b"".join(
            b"%x\r\n%b\r\n" % (len(piece), piece)
            for piece in (dump[n : n + 50_000] for n in range(0, len(dump), 50_000))
        )
        request.send((body + b"0\r\n\r\n")[:cut_at])

    return answer


def refusal(status: int, body: bytes = b"", **fields: object) -> Behaviour:
    def answer(request: Connection) -> None:
        request.head(status, Content_Length=len(body), **fields)
        request.send(body)

    return answer


def good(result: Any) -> Behaviour:
    """The API's answer of success."""
    return refusal(200, json.dumps(ok(result)).encode(), Connection="close")


def redirect(target: str) -> Behaviour:
    return refusal(302, Location=target)


def silence(request: Connection) -> None:
    """Close without a word."""
    request.reset()


def self_signed(authority: Path | None = None) -> ssl.SSLContext:
    """TLS for 127.0.0.1 with a self-signed certificate.

    :param authority: takes the certificate, for a client that is to trust it.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(certificate.public_bytes(Encoding.PEM))
        file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        if authority is not None:
            authority.write_bytes(certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(file.name)
    return context
