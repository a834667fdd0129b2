"""Several loads at once in one process, of which the test decides when each runs its next statement.

Every load logs a statement before it runs it: there it waits until it is its turn.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any


class Interleaving(logging.Handler):
    """A context manager; ``start`` loads inside it, then let them run step by step. At its end all run freely.

    :param blocked: seconds after which a statement counts as waiting for a lock that another load holds. On a busy
        machine a slow one may count too: then the next load's turn comes while it runs.
    """

    def __init__(self, blocked: float = 10.0) -> None:
        super().__init__(logging.INFO)
        self.blocked = blocked
        self.condition = threading.Condition()
        self.threads: dict[str, threading.Thread] = {}
        self.at: dict[str, str] = {}
        self.ended: dict[str, Any] = {}
        self.granted: set[str] = set()
        self.free = False

    def createLock(self) -> None:  # noqa: N802 - logging's name
        """No lock of its own: one load waits in ``emit`` while another one logs."""
        self.lock = None

    def __enter__(self) -> Interleaving:
        logger = logging.getLogger("airflow_provider_d1.warehouses")
        self._level = logger.level
        logger.setLevel(logging.INFO)
        logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        with self.condition:
            self.free = True
            self.condition.notify_all()
        for thread in self.threads.values():
            thread.join()
        logger = logging.getLogger("airflow_provider_d1.warehouses")
        logger.removeHandler(self)
        logger.setLevel(self._level)

    def emit(self, record: logging.LogRecord) -> None:
        name = threading.current_thread().name
        if name not in self.threads:
            return
        with self.condition:
            self.at[name] = record.getMessage()
            self.condition.notify_all()
            self.condition.wait_for(lambda: self.free or name in self.granted)
            self.granted.discard(name)
            self.at.pop(name)

    def start(self, name: str, load: Callable[[], Any]) -> None:
        """Begin a load and let it run to its first statement."""

        def run() -> None:
            try:
                result: Any = load()
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                result = error
            with self.condition:
                self.ended[name] = result
                self.condition.notify_all()

        self.threads[name] = threading.Thread(target=run, name=name)
        self.threads[name].start()
        self._wait(name)

    def step(self, name: str) -> bool:
        """Let a load run one statement; False when it has ended."""
        if name in self.ended:
            return False
        with self.condition:
            if name in self.at:
                self.granted.add(name)
                self.condition.notify_all()
                self.condition.wait_for(lambda: name not in self.granted, self.blocked)
        self._wait(name)
        return True

    def run_until(self, name: str, reached: Callable[[str], bool]) -> None:
        """Let a load run until the statement that it is about to run is the one looked for."""
        while name not in self.ended and not (name in self.at and reached(self.at[name])):
            self.step(name)

    def finish(self, name: str) -> Any:
        """Let a load run to its end, and return what it returned or raised."""
        while self.step(name):
            pass
        return self.ended[name]

    def _wait(self, name: str) -> None:
        """Until the load waits for its turn, has ended, or is held up by another one."""
        with self.condition:
            self.condition.wait_for(lambda: name in self.at or name in self.ended, self.blocked)
