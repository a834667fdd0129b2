"""Open a signed URL without giving anything away: https only, no other credential, no redirect followed unseen."""

from __future__ import annotations

import ssl
from http.client import HTTPException, HTTPResponse
from typing import cast
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, getproxies

from airflow_provider_d1.cloudflare.credentials import USER_AGENT, Secret, allowed_scheme
from airflow_provider_d1.cloudflare.download_targets import AllowedTargets, PlainHandler, RefusedTargetError, TlsHandler
from airflow_provider_d1.cloudflare.transport import ssl_context
from airflow_provider_d1.exceptions import D1DownloadError

_REFUSED = (
    "the signed URL leads to an address that is not public, which is refused. If the dumps are really there, name the"
    " host in allowed_download_hosts of the connection's extra"
)


def check_url(url: str, targets: AllowedTargets) -> None:
    """Refuse a URL that would be sent in the clear, to an address that is not public, or with a second credential.

    :raises D1DownloadError: for http (loopback excepted), a private address, a user name or password in it, or no URL.
    """
    if problem := _problem(url, targets):
        raise D1DownloadError(problem, retryable=False)


def _problem(url: str, targets: AllowedTargets) -> str:
    """What is wrong with a URL. It raises nothing, so that its variables are in no traceback."""
    try:
        parts = urlsplit(url)
        usable = url.isascii() and url.isprintable() and " " not in url and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        return "the signed URL is malformed"
    if parts.username is not None or parts.password is not None:
        return "the signed URL holds a user name or password, which is never sent"
    if not allowed_scheme(parts):
        return "the signed URL must be https (http is for loopback only)"
    return "" if targets.permit_host(parts.hostname or "") else _REFUSED


def redirected(url: str, location: str, targets: AllowedTargets) -> Secret:
    """Where a redirect leads.

    :param url: the one that was opened.
    :param location: the response's header field, which may be relative.
    :raises D1DownloadError: where :func:`check_url` would, and for a redirect that leaves https.
    """
    location = Secret(location)
    try:
        target = Secret(urljoin(url, location))
    except ValueError:
        target = Secret()
    check_url(target, targets)
    if _is_https(url) and not _is_https(target):
        raise D1DownloadError("the signed URL redirects away from https, which is not followed", retryable=False)
    return target


def _is_https(url: str) -> bool:
    return urlsplit(url).scheme == "https"


def _proxies(url: str) -> ProxyHandler:
    """The environment's proxy, as httpx takes it for the API; a request in the clear never leaves through one.

    :raises D1DownloadError: for a proxy that is no HTTP proxy.
    """
    environment = getproxies()
    proxy = environment.get("https") or environment.get("all")
    if not _is_https(url) or not proxy:
        return ProxyHandler({})
    if "://" in proxy and not proxy.startswith(("http://", "https://")):
        raise D1DownloadError("HTTPS_PROXY or ALL_PROXY names no HTTP proxy: downloads need one", retryable=False)
    return ProxyHandler({"https": proxy})


def open_url(
    url: str, headers: dict[str, str], seconds: float, targets: AllowedTargets
) -> tuple[HTTPResponse | None, str]:
    """Send one GET; the answer whatever its status, or None and what went wrong, in words without the URL.

    :param url: passed :func:`check_url`.
    :param headers: beside User-Agent and Accept-Encoding.
    :param seconds: to wait for a connection, or for the next bytes.
    :param targets: the addresses that a connection may be made to.
    :raises D1DownloadError: when the server's certificate is not trusted, which no further attempt can mend.
    """
    opener = OpenerDirector()
    opener.addheaders = [("User-Agent", USER_AGENT), ("Accept-Encoding", "identity")]
    # Only these: no redirects, no cookies, no passwords, no files.
    for handler in (_proxies(url), PlainHandler(targets), TlsHandler(targets, context=ssl_context())):
        opener.add_handler(handler)
    try:
        return cast("HTTPResponse", opener.open(Request(url, headers=headers), timeout=seconds)), ""  # noqa: S310 - checked
    except (HTTPException, OSError, ValueError) as error:
        cause, problem = _cause(error), explain(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise D1DownloadError(
            f"the dump's server cannot be trusted: {problem}. SSL_CERT_FILE names a bundle of other authorities",
            retryable=False,
        )
    if isinstance(cause, RefusedTargetError):
        raise D1DownloadError(_REFUSED, retryable=False)
    return None, problem


def explain(error: Exception) -> str:
    """What went wrong, in words that cannot hold a URL."""
    cause = _cause(error)
    if isinstance(cause, TimeoutError):
        return "no bytes in time"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate fails to verify ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__


def _cause(error: Exception) -> Exception:
    return error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
