"""Keep our own requests out of the logs of httpx and httpcore.

httpx logs the whole URL of every request at INFO, and httpcore the headers of every answer (a redirect's Location
among them) at DEBUG. A signed URL is a credential, so those records must not exist, whatever level a user sets and
whether or not a secrets masker runs. Only records made during our requests are dropped; other users of httpx in the
process keep theirs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ours: ContextVar[bool] = ContextVar("airflow_provider_d1_request", default=False)

#: a filter on a logger does not reach its children, so each is named
LOGGERS = (
    "httpx",
    "httpcore",
    "httpcore.connection",
    "httpcore.http11",
    "httpcore.http2",
    "httpcore.proxy",
    "httpcore.socks",
)


class _NotOurs(logging.Filter):
    def filter(self, _record: logging.LogRecord) -> bool:
        return not _ours.get()


_filter = _NotOurs()
_loggers = [logging.getLogger(name) for name in LOGGERS]


@contextmanager
def quiet() -> Iterator[None]:
    """Drop what httpx and httpcore log inside this block, in this thread or task only."""
    for logger in _loggers:
        # Each time: somebody may have set up logging anew in between.
        if _filter not in logger.filters:
            logger.addFilter(_filter)
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
