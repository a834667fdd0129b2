"""Open a signed URL without giving anything away: https only, no other credential, no redirect followed unseen."""

from __future__ import annotations

import ssl
from http.client import HTTPException, HTTPResponse
from typing import cast
from urllib.error import URLError
from urllib.parse import urljoin, urlsplit
from urllib.request import HTTPHandler, HTTPSHandler, OpenerDirector, ProxyHandler, Request

from airflow_provider_d1.cloudflare.credentials import USER_AGENT, allowed_scheme
from airflow_provider_d1.cloudflare.transport import ssl_context
from airflow_provider_d1.exceptions import D1DownloadError


def check_url(url: str) -> None:
    """Refuse a URL that would be sent in the clear, or with a credential besides its signature.

    :raises D1DownloadError: for http (loopback excepted), a user name or password in it, or no URL at all.
    """
    try:
        parts = urlsplit(url)
        usable = url.isascii() and url.isprintable() and " " not in url and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise D1DownloadError("the signed URL is malformed", retryable=False)
    if parts.username is not None or parts.password is not None:
        raise D1DownloadError("the signed URL holds a user name or password, which is never sent", retryable=False)
    if not allowed_scheme(parts):
        raise D1DownloadError("the signed URL must be https (http is for loopback only)", retryable=False)


def redirected(url: str, location: str) -> str:
    """Where a redirect leads.

    :param url: the one that was opened.
    :param location: the answer's header field, which may be relative.
    :raises D1DownloadError: where :func:`check_url` would, and for a redirect that leaves https.
    """
    try:
        target = urljoin(url, location)
    except ValueError:
        target = ""
    check_url(target)
    if urlsplit(url).scheme == "https" and urlsplit(target).scheme != "https":
        raise D1DownloadError("the signed URL redirects away from https, which is not followed", retryable=False)
    return target


def open_url(url: str, headers: dict[str, str], seconds: float) -> tuple[HTTPResponse | None, str]:
    """Send one GET; the answer whatever its status, or None and what went wrong, in words without the URL.

    :param url: passed :func:`check_url`.
    :param headers: beside User-Agent and Accept-Encoding.
    :param seconds: to wait for a connection, or for the next bytes.
    :raises D1DownloadError: when the server's certificate is not trusted, which no further attempt can mend.
    """
    opener = OpenerDirector()
    opener.addheaders = [("User-Agent", USER_AGENT), ("Accept-Encoding", "identity")]
    # Only these: no redirects, no cookies, no passwords, no files. Proxies come from the environment, as with httpx,
    # but a request in the clear never leaves the machine through one.
    proxies = ProxyHandler() if urlsplit(url).scheme == "https" else ProxyHandler({})
    for handler in (proxies, HTTPHandler(), HTTPSHandler(context=ssl_context())):
        opener.add_handler(handler)
    try:
        return cast("HTTPResponse", opener.open(Request(url, headers=headers), timeout=seconds)), ""  # noqa: S310 - checked
    except (HTTPException, OSError, ValueError) as error:
        cause, problem = _cause(error), explain(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        raise D1DownloadError(f"the dump's server cannot be trusted: {problem}", retryable=False)
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
