"""The account, the token and the API's address that every request needs, with the type that keeps secrets out of reprs.

Error reporters (Sentry, for one) send the repr of every local variable of every frame. A token or signed URL that is a
:class:`Secret` shows as ``'***'`` there; everywhere else it is an ordinary string.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from airflow_provider_d1 import __version__
from airflow_provider_d1.exceptions import D1ConfigurationError

CLOUDFLARE_API = "https://api.cloudflare.com/client/v4"
USER_AGENT = f"airflow-provider-d1/{__version__}"
#: a shorter token is no real one, and could be a part of any word
_SHORTEST_SECRET = 8


class Secret(str):
    """An API token or a signed URL."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def redact(self, text: str) -> str:
        """The text without the secret, for a message: a server may repeat what it was sent."""
        return text.replace(self, "***") if len(self) >= _SHORTEST_SECRET else text


@dataclass(frozen=True, slots=True)
class Credentials:
    """One Cloudflare account as one token sees it.

    :param account_id: the account that owns the databases.
    :param token: an API token, or a Global API Key when ``email`` is given. Never part of a repr.
    :param email: set only with a Global API Key.
    :param base_url: the API's base, ``/client/v4`` included; https, or http on loopback.
    :param timeout: seconds to wait for a connection or for the next bytes of an answer.
    :param requests_per_5_minutes: how many calls this process may make with the token; Cloudflare's limit is 1,200
        for all users of the token together.
    :param allowed_download_hosts: hosts of dumps besides public ones, with any address.
    :raises D1ConfigurationError: when a field cannot work; the message names it, and never shows the token.
    """

    account_id: str
    token: str = field(repr=False)
    email: str | None = None
    base_url: str = CLOUDFLARE_API
    timeout: float = 30.0
    requests_per_5_minutes: int = 1000
    allowed_download_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # A newline after the token is what a secret read from a file usually ends in.
        object.__setattr__(self, "token", Secret(_header_value("password (the API token)", Secret(self.token))))
        object.__setattr__(self, "account_id", str(_header_value("account_id", self.account_id)))
        object.__setattr__(self, "email", str(_header_value("login", self.email)) if self.email else None)
        object.__setattr__(self, "base_url", _base_url(self.base_url))
        hosts = tuple(host.strip().lower() for host in self.allowed_download_hosts)
        object.__setattr__(self, "allowed_download_hosts", hosts)
        if not self.timeout > 0:
            raise D1ConfigurationError("timeout must be a number of seconds above 0")
        if self.requests_per_5_minutes < 1:
            raise D1ConfigurationError("requests_per_5_minutes must be at least 1")

    @property
    def secret(self) -> Secret:
        """The token, as what it is."""
        return Secret(self.token)

    @property
    def on_loopback(self) -> bool:
        """Whether the API is on this machine, as the emulator is."""
        return is_loopback(urlsplit(self.base_url).hostname or "")

    def headers(self) -> dict[str, str]:
        """The headers that authenticate a request; they go to ``base_url`` and nowhere else."""
        if self.email:
            return {"X-Auth-Email": self.email, "X-Auth-Key": self.token}
        return {"Authorization": f"Bearer {self.token}"}

    def fingerprint(self) -> str:
        """Identifies the token without containing it."""
        return hashlib.sha256(f"{self.base_url}\n{self.email}\n{self.token}".encode()).hexdigest()


def allowed_scheme(url: SplitResult) -> bool:
    """True for https, and for http where it does not leave the machine."""
    return bool(url.hostname) and (url.scheme == "https" or (url.scheme == "http" and is_loopback(url.hostname or "")))


def is_loopback(host: str) -> bool:
    """True for ``localhost`` and the loopback addresses; other names are not resolved, so never loopback."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _header_value(what: str, value: str) -> str:
    value = Secret(value.strip())
    if not value:
        raise D1ConfigurationError(f"{what} is empty")
    if not value.isascii() or not value.isprintable() or " " in value:
        raise D1ConfigurationError(f"{what} contains a space or a non-ASCII character")
    return value


def _base_url(value: str) -> str:
    value = value.strip() or CLOUDFLARE_API
    try:
        url = urlsplit(value)
        usable = url.hostname is not None and (url.port is None or url.port > 0)
    except ValueError:
        usable = False
    if not usable or url.query or url.fragment or url.username or url.password:
        raise D1ConfigurationError(f"host must be the API's base URL, like {CLOUDFLARE_API}")
    if not allowed_scheme(url):
        raise D1ConfigurationError("host must be an https URL (http is for loopback only)")
    return value.rstrip("/")
