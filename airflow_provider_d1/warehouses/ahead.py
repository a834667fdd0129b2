"""Work done ahead in a thread, so that the next block is ready when the warehouse has taken this one."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@contextmanager
def ahead(items: Iterator[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate over ``items`` in a thread of its own, at most ``depth`` items before the consumer.

    An error in it is raised where the consumer asks for the next item. When the block ends early, so does the thread,
    after the item that it is working on; the iterator is closed.
    """
    work = _Work(items, depth)
    work.thread.start()
    try:
        yield work.results()
    finally:
        work.stop.set()
        work.thread.join()


@dataclass(frozen=True, slots=True)
class _Item(Generic[T]):
    value: T


class _Work(Generic[T]):
    """The thread, and the queue from it to the consumer: items, then what ended it (None for the end of the items)."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self.items = items
        self.ready: queue.Queue[_Item[T] | BaseException | None] = queue.Queue(depth)
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run, name="d1-load-ahead", daemon=True)

    def results(self) -> Iterator[T]:
        while (entry := self.ready.get()) is not None:
            if isinstance(entry, BaseException):
                raise entry
            yield entry.value

    def _run(self) -> None:
        ending: BaseException | None = None
        try:
            for item in self.items:
                if not self._put(_Item(item)):
                    break
        except BaseException as error:  # noqa: BLE001 - it is raised again, in the consumer's thread
            ending = error
        finally:
            close = getattr(self.items, "close", None)
            if close is not None:
                close()
        self._put(ending)

    def _put(self, entry: _Item[T] | BaseException | None) -> bool:
        while not self.stop.is_set():
            try:
                self.ready.put(entry, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
