"""Register secrets with Airflow's log masker, without logging them in the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from airflow.providers.common.compat.sdk import mask_secret


def mask(secret: str) -> None:
    """Register a secret with Airflow's masker."""
    with _unlogged():
        mask_secret(str(secret))


def mask_signed_url(url: str) -> None:
    """Register a signed URL and, as it may be printed separately, its signature."""
    mask(url)
    for name, value in parse_qsl(urlsplit(url).query):
        if name.lower().endswith("signature"):
            mask(value)


class _NullLogger:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def _unlogged() -> Iterator[None]:
    """Silence the log of the messages to Airflow's supervisor, which ``dag.test()`` writes at DEBUG."""
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        yield
        return
    comms: Any = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if not hasattr(comms, "log"):
        yield
        return
    log, comms.log = comms.log, _NullLogger()
    try:
        yield
    finally:
        comms.log = log
