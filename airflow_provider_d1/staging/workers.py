"""Worker threads with bounded queues between them; when one fails, all stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")


class Stopped(Exception):  # noqa: N818 # no error of its own: the error is elsewhere
    """The group was stopped while this thread worked or waited."""


class Channel(Generic[T]):
    """A bounded queue that keeps an order, can be ended by its producer and stopped by any thread.

    An item's place can be reserved before the item is there, so that workers may deliver in any order what is taken out
    in the order of the reservations.

    :param capacity: how many places may be taken at once; a producer waits for a free one.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: dict[int, T] = {}
        self._reserved = 0
        self._taken = 0
        self._changed = threading.Condition()
        self._ended = False
        self._stopped = False

    def reserve(self) -> int:
        """Take the next place, waiting until one is free.

        :raises Stopped: when the channel is stopped, here and below.
        """
        with self._changed:
            self._wait_while(lambda: self._reserved - self._taken >= self._capacity)
            self._reserved += 1
            return self._reserved - 1

    def deliver(self, place: int, item: T) -> None:
        """Put an item into its reserved place."""
        with self._changed:
            self._wait_while(lambda: False)
            self._items[place] = item
            self._changed.notify_all()

    def put(self, item: T) -> None:
        """Reserve and deliver."""
        self.deliver(self.reserve(), item)

    def end(self) -> None:
        """Say that nothing more will be reserved."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def stop(self) -> None:
        """Drop what waits, and turn away everybody, now and later."""
        with self._changed:
            self._stopped = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        """Take items in order until the end; several threads may share them."""
        while True:
            with self._changed:
                self._wait_while(lambda: self._taken not in self._items and not self._is_over())
                if self._is_over():
                    return
                item = self._items.pop(self._taken)
                self._taken += 1
                self._changed.notify_all()
            yield item

    def _is_over(self) -> bool:
        return self._ended and self._taken == self._reserved

    def _wait_while(self, condition: Callable[[], bool]) -> None:
        while condition() and not self._stopped:
            self._changed.wait()
        if self._stopped:
            raise Stopped


class WorkerGroup:
    """The threads of one staging run. Leaving the ``with`` block waits for them; none outlives it.

    The first error, in whichever thread (the one in the ``with`` block included), stops all others; it is what the
    block raises.

    :param on_stop: called once when a failure stops the group, to interrupt what waits elsewhere than in a channel.
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
        """Run ``work`` in a thread of its own."""

        def run() -> None:
            try:
                work()
            except Stopped:
                pass
            except BaseException as error:  # noqa: BLE001 # it is raised again where the group is waited for
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
        except BaseException as interrupt:  # Ctrl-C or a task's termination, while the others were at work
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
