"""Have Airflow hide a secret in its logs, without telling the logs about it first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from airflow.providers.common.compat.sdk import mask_secret


def mask(secret: str) -> None:
    """Register a secret with Airflow's masker."""
    with _unlogged():
        mask_secret(secret)


def mask_signed_url(url: str) -> None:
    """Register a signed URL: whole, and its signature, which may be printed without the rest."""
    mask(url)
    for name, value in parse_qsl(urlsplit(url).query):
        if name.lower().endswith("signature"):
            mask(value)


class _Silence:
    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


@contextmanager
def _unlogged() -> Iterator[None]:
    """Silence the line to Airflow's supervisor: in ``dag.test()`` it logs at DEBUG each message, this one in clear."""
    try:
        from airflow.sdk.execution_time import task_runner
    except ImportError:  # Airflow 2
        yield
        return
    line: Any = getattr(task_runner, "SUPERVISOR_COMMS", None)
    if not hasattr(line, "log"):
        yield
        return
    log, line.log = line.log, _Silence()
    try:
        yield
    finally:
        line.log = log
