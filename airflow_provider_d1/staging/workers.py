"""Worker threads with bounded queues between them; if one fails, all stop."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 # not an error: the error is in another thread
    """Raised in a worker when the group is shutting down."""


class Channel(Generic[T]):
    """A bounded, ordered queue that its producer can end and any thread can stop.

    A place can be reserved before its item exists. So workers may deliver in any order, and items are taken in the
    order of the reservations.

    Small items can have a smaller weight, so that more of them fit. Then a producer and a consumer wait for each other
    less often.

    :param capacity: weight of the items; while it is reached, a producer waits.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._weight = 0.0
        self._weights: deque[float] = deque()
        self._items: dict[int, T] = {}
        self._reserved = 0
        self._taken = 0
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False

    def reserve(self) -> int:
        """Reserve the next place for an item of weight 1, waiting until it is free.

        :raises Stopped: when the channel is stopped, here and below.
        """
        with self._changed:
            return self._reserve(1)

    def deliver(self, place: int, item: T) -> None:
        """Put an item into its reserved place."""
        with self._changed:
            self._wait_while(lambda: False)
            self._items[place] = item
            self._changed.notify_all()

    def put(self, item: T, weight: float = 1) -> None:
        """Reserve and deliver, in one step.

        :param weight: a power of two, so that sums are exact.
        """
        with self._changed:
            self._items[self._reserve(weight)] = item
            self._changed.notify_all()

    def end(self) -> None:
        """End the channel: nothing more will be reserved."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Discard all items; from now on every call raises :class:`Stopped`."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take items in order until the end; several threads may iterate."""
        while True:
            with self._changed:
                self._wait_while(lambda: self._taken not in self._items and not self._is_over())
                if self._is_over():
                    return
                item = self._items.pop(self._taken)
                self._taken += 1
                self._weight -= self._weights.popleft()
                self._changed.notify_all()
            yield item

    def _reserve(self, weight: float) -> int:
        self._wait_while(lambda: self._weight >= self._capacity)
        self._weight += weight
        self._weights.append(weight)
        self._reserved += 1
        return self._reserved - 1

    def _is_over(self) -> bool:
        return self._ended and self._taken == self._reserved

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        while condition() and not self._stopped:
            self._changed.wait()
        if self._stopped:
            raise Stopped


class WorkerGroup:
    """The threads of one staging run. The end of the ``with`` block waits for all of them.

    The first error in any thread, including the one with the ``with`` block, stops all others and is raised by the
    block.

    :param on_stop: called once when a failure stops the group, to interrupt threads that do not wait in a channel.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        self._on_stop = on_stop
        self._lock = threading.Lock()
        self._channels: list[Channel[object]] = []
        self._threads: list[threading.Thread] = []
        self._error: BaseException | None = None

    def channel(self, capacity: int) -> Channel[T]:
        """Return a channel that stops with this group; it is already stopped if the group has stopped."""
        made: Channel[T] = Channel(capacity)
        with self._lock:
            self._channels.append(made)  # type: ignore[arg-type] # only stop() is called on it
            if self._error is not None:
                made.stop()
        return made

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Run ``work`` in its own thread."""

        def run() -> None:
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 # raised again at the end of the with block
                self._fail(error)

        thread = threading.Thread(target=run, name=f"d1-staging-{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def __enter__(self) -> WorkerGroup:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None and not isinstance(error, Stopped):
            self._fail(error)
        try:
            self._join()
        except BaseException as interrupt:  # Ctrl-C or a task's termination, while others were working
            self._fail(interrupt)
            self._join()
            raise
        if self._error is not None and self._error is not error:
            raise self._error

    def _join(self) -> None:
        for thread in self._threads:
            thread.join()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            for channel in self._channels:
                channel.stop()
        self._on_stop()


@contextmanager
def ahead(items: Iterator[T], depth: int = 2) -> Iterator[Iterator[T]]:
    """Iterate over ``items`` in a thread of its own, at most ``depth`` items before the consumer.

    An error in it ends the iteration with :class:`Stopped`, and is what the block raises. When the block ends early, so
    does the thread, after the item that it is working on; the iterator is closed.
    """

    def work() -> None:
        try:
            for item in items:
                channel.put(item)
            channel.end()
        finally:
            if (close := getattr(items, "close", None)) is not None:
                close()

    with WorkerGroup(lambda: None) as group:
        channel: Channel[T] = group.channel(depth)
        group.start("ahead", work)
        try:
            yield iter(channel)
        finally:
            channel.stop()
