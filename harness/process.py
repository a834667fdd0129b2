"""A server process that is started, waited for, and ended by its id."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

import psutil


def free_ports(count: int) -> list[int]:
    """Free ports on 127.0.0.1; all are opened at once so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [s.getsockname()[1] for s in sockets]
    finally:
        for s in sockets:
            s.close()


@contextmanager
def running(
    command: Sequence[str | Path],
    *,
    log: Path,
    ready: Callable[[], bool],
    timeout: float = 60,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    grace: float = 10,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` while the block runs, from the moment that ``ready()`` says so.

    :param command: program and arguments; no shell.
    :param log: file that takes the process's output.
    :param ready: asked every 50 ms; True when the server answers.
    :param timeout: seconds after which a server that is not ready counts as failed.
    :param env: the whole environment, None to inherit.
    :param user: run as this user (root only).
    :param grace: seconds between SIGTERM and SIGKILL.
    :raises RuntimeError: when the process ends early or is not ready in time; the log's end is in the text.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=None if env is None else dict(env),
            user=user,
        )
    try:
        deadline = time.monotonic() + timeout
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"{Path(command[0]).name} did not start (exit code {process.poll()}):\n{tail}")
            time.sleep(0.05)
        yield process
    finally:
        end(process, grace)


def end(process: subprocess.Popen[bytes], grace: float) -> None:
    """Terminate a process, and kill it if it is still running after ``grace`` seconds."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
    process.wait()


class Server:
    """A context manager for a server process that can be killed, as when its machine fails, and started again.

    :param start: the process, from the moment that it answers.
    """

    def __init__(self, start: Callable[[], AbstractContextManager[subprocess.Popen[bytes]]]) -> None:
        self._start = start
        self._stack = ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def start(self) -> None:
        """Start the process and return when it answers."""
        self._process = self._stack.enter_context(self._start())

    def kill(self) -> None:
        """Kill the process and all its children with SIGKILL."""
        if self._process is None:
            raise RuntimeError("the server was not started")
        process = psutil.Process(self._process.pid)
        for each in [process, *process.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        self._stack.close()
