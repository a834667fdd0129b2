"""A real Redis server on loopback, from the program that the distribution installs (``redis-server``)."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.process import free_ports, running


def redis_missing() -> str | None:
    """What is missing to run a server here, None when everything is there."""
    return None if shutil.which("redis-server") else "no redis-server: apt-get install redis-server"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """Run a Redis that keeps its data in memory, and give its URL.

    :param folder: for its log (created).
    """
    folder.mkdir(parents=True, exist_ok=True)
    (port,) = free_ports(1)
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    log = folder / "redis.log"
    ready = b"Ready to accept connections"
    with running([*command, "--dir", str(folder)], log=log, ready=lambda: ready in log.read_bytes()):
        yield f"redis://127.0.0.1:{port}/0"
