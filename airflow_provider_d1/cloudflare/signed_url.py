"""Open a signed URL safely: https only, no other credential, every redirect checked."""

from __future__ import annotations

import ssl
from http.client import HTTPException, HTTPResponse
from typing import BinaryIO, Literal, cast
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import OpenerDirector, ProxyHandler, Request, getproxies

from airflow_provider_d1.cloudflare.credentials import USER_AGENT, Secret, allowed_scheme
from airflow_provider_d1.cloudflare.download_targets import AllowedTargets, PlainHandler, RefusedTargetError, TlsHandler
from airflow_provider_d1.cloudflare.transport import ssl_context
from airflow_provider_d1.exceptions import D1DownloadError

_REFUSED = (
    "the signed URL refers to an address that is not public, which is refused. If the dumps are stored there, add the"
    " host to allowed_download_hosts in the connection's extra"
)


def check_url(url: str, targets: AllowedTargets) -> None:
    """Refuse a URL that is not encrypted, refers to an address that is not public, or holds a second credential.

    :raises D1DownloadError: for http (loopback excepted), a private address, a user name or password in it, or a
        malformed URL.
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
        return "the signed URL contains a user name or password, which is not sent"
    if not allowed_scheme(parts):
        return "the signed URL must be https (http is for loopback only)"
    return "" if targets.permit_host(parts.hostname or "") else _REFUSED


def redirected(url: str, location: str, targets: AllowedTargets) -> Secret:
    """The target of a redirect.

    :param url: the URL that was opened.
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
    """The environment's proxy, as httpx uses it for the API; an unencrypted request is never sent through one.

    :raises D1DownloadError: for a proxy that is not an HTTP proxy.
    """
    environment = getproxies()
    proxy = environment.get("https") or environment.get("all")
    if not _is_https(url) or not proxy:
        return ProxyHandler({})
    if "://" in proxy and not proxy.startswith(("http://", "https://")):
        raise D1DownloadError(
            "HTTPS_PROXY or ALL_PROXY does not name an HTTP proxy, which downloads need", retryable=False
        )
    return ProxyHandler({"https": proxy})


def open_url(
    url: str,
    headers: dict[str, str],
    seconds: float,
    targets: AllowedTargets,
    *,
    method: Literal["GET", "PUT"] = "GET",
    body: BinaryIO | None = None,
) -> tuple[HTTPResponse | None, str]:
    """Send one request; returns the response of any status, or None and the problem as text without the URL.

    :param url: a URL that :func:`check_url` accepts.
    :param headers: beside User-Agent and Accept-Encoding.
    :param seconds: to wait for a connection, or for the next bytes.
    :param targets: the addresses that a connection may be made to.
    :param body: for PUT; ``headers`` has its Content-Length.
    :raises D1DownloadError: when the server's certificate is not trusted, which no retry can change.
    """
    opener = OpenerDirector()
    opener.addheaders = [("User-Agent", USER_AGENT), ("Accept-Encoding", "identity")]
    # Only these: no redirects, no cookies, no passwords, no files.
    for handler in (_proxies(url), PlainHandler(targets), TlsHandler(targets, context=ssl_context())):
        opener.add_handler(handler)
    try:
        request = Request(url, data=body, headers=headers, method=method)  # noqa: S310 - checked
        return cast("HTTPResponse", opener.open(request, timeout=seconds)), ""
    except (HTTPException, OSError, ValueError) as error:
        cause, problem = _cause(error), explain(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise D1DownloadError(
            f"the signed URL's server cannot be trusted: {problem}. Set SSL_CERT_FILE to a bundle with its authority",
            retryable=False,
        )
    if isinstance(cause, RefusedTargetError):
        raise D1DownloadError(_REFUSED, retryable=False)
    return None, problem


def explain(error: Exception) -> str:
    """The problem as text that cannot contain a URL."""
    cause = _cause(error)
    if isinstance(cause, TimeoutError):
        return "timed out waiting for bytes"
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate fails to verify ({cause.verify_message})"
    if isinstance(cause, OSError) and cause.strerror:
        return cause.strerror
    return type(cause).__name__


def _cause(error: Exception) -> Exception:
    return error.reason if isinstance(error, URLError) and isinstance(error.reason, Exception) else error
