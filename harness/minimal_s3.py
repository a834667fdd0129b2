"""Two small S3 servers from PyPI that lack some of S3's calls, as many stores do.

nanio checks signatures and has multipart uploads; it ignores the conditions ``If-Match`` and ``If-None-Match``.
LocalBucket checks no signatures and knows neither ``If-Match``, ListMultipartUploads nor DeleteObjects.
"""

from __future__ import annotations

import os
import secrets
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.process import free_ports, running
from harness.seaweed import S3Server


@contextmanager
def nanio_server(folder: Path) -> Iterator[S3Server]:
    """Run nanio with its data in ``folder`` (created)."""
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}", "harness", secrets.token_hex(20))
    command = [_program("nanio"), "serve", "--data-dir", _data(folder), "--host", "127.0.0.1", "--port", str(port)]
    env = {**os.environ, "NANIO_ACCESS_KEY": server.access_key, "NANIO_SECRET_KEY": server.secret_key}
    with running(command, log=folder / "nanio.log", ready=lambda: _answers(server), env=env):
        yield server


@contextmanager
def localbucket_server(folder: Path) -> Iterator[S3Server]:
    """Run LocalBucket with its data in ``folder`` (created)."""
    (port,) = free_ports(1)
    server = S3Server(f"http://127.0.0.1:{port}", "harness", "any")
    command = [_program("localbucket"), _data(folder), "--host", "127.0.0.1", "--port", str(port)]
    with running(command, log=folder / "localbucket.log", ready=lambda: _answers(server)):
        yield server


def _data(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    return folder / "data"


def _program(name: str) -> Path:
    return Path(sys.executable).parent / name


def _answers(server: S3Server) -> bool:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(server.endpoint_url, timeout=2):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
