"""Which addresses a signed URL may refer to.

The URL comes from a response, and its content is stored in a bucket. Without a check a forged response could make the
worker read services of its own network: loopback, link-local (cloud metadata) and private addresses.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPResponse, HTTPSConnection
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.request import HTTPHandler, HTTPSHandler, Request

from airflow_provider_d1.cloudflare.credentials import Credentials, is_loopback


class RefusedTargetError(OSError):
    """The host has an address that a signed URL may not refer to."""


@dataclass(frozen=True, slots=True)
class AllowedTargets:
    """The addresses besides public ones that a signed URL may refer to.

    :param loopback: loopback addresses: where the connection's own host is one, as with the emulator.
    :param hosts: names or addresses, in lower case, with any address.
    """

    loopback: bool = False
    hosts: Collection[str] = ()

    @classmethod
    def of(cls, credentials: Credentials) -> AllowedTargets:
        """The targets of a connection."""
        return cls(credentials.on_loopback, credentials.allowed_download_hosts)

    def permit_host(self, host: str) -> bool:
        """Whether a URL may name the host; a name still has to resolve to permitted addresses."""
        if host.lower() == "localhost":
            return self.loopback or "localhost" in self.hosts
        try:
            ip_address(host)
        except ValueError:
            return True
        return self.permit(host, host)

    def permit(self, host: str, address: str) -> bool:
        """Whether a connection to ``address``, which ``host`` resolves to, is allowed."""
        if host.lower() in self.hosts:
            return True
        if self.loopback and is_loopback(address):
            return True
        return _is_public(address)


PUBLIC = AllowedTargets()


def _is_public(address: str) -> bool:
    ip = ip_address(address.split("%", maxsplit=1)[0])
    # An IPv6 form of an IPv4 address is checked as that IPv4 address.
    if isinstance(ip, IPv6Address):
        ip = ip.ipv4_mapped or ip.sixtofour or ip
    return ip.is_global and not ip.is_multicast


def _connect(
    targets: AllowedTargets, address: tuple[str, int], timeout: float, source: tuple[str, int] | None = None
) -> socket.socket:
    """As :func:`socket.create_connection`, but to a checked address: the name is resolved only once."""
    host, port = address
    found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    if not all(targets.permit(host, each) for each in found):
        raise RefusedTargetError
    failure: OSError | None = None
    for each in found:
        try:
            return socket.create_connection((each, port), timeout, source)
        except OSError as error:
            failure = error
    raise failure or OSError("the host has no address")


class _PlainConnection(HTTPConnection):
    def __init__(self, host: str, *, targets: AllowedTargets, **options: Any) -> None:
        super().__init__(host, **options)
        self._create_connection = partial(_connect, targets)


class _TlsConnection(HTTPSConnection):
    def __init__(self, host: str, *, targets: AllowedTargets, **options: Any) -> None:
        super().__init__(host, **options)
        self._targets = targets

    def connect(self) -> None:
        if self._tunnel_host is None:  # type: ignore[attr-defined]
            self._create_connection = partial(_connect, self._targets)
        # A proxy is chosen by the deployment and may have a private address; it resolves the target's name itself.
        super().connect()


class PlainHandler(HTTPHandler):
    """Opens http URLs on permitted addresses."""

    def __init__(self, targets: AllowedTargets) -> None:
        super().__init__()
        self._targets = targets

    def http_open(self, req: Request) -> HTTPResponse:
        """Open a connection; called by urllib."""
        return self.do_open(partial(_PlainConnection, targets=self._targets), req)


class TlsHandler(HTTPSHandler):
    """Opens https URLs on permitted addresses."""

    def __init__(self, targets: AllowedTargets, **options: Any) -> None:
        super().__init__(**options)
        self._targets = targets
        self._tls = options["context"]

    def https_open(self, req: Request) -> HTTPResponse:
        """Open a connection; called by urllib."""
        return self.do_open(partial(_TlsConnection, targets=self._targets), req, context=self._tls)
