"""Run a coroutine from synchronous code, whether or not the thread has a running event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def run_coroutine(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``start()`` and return its result.

    A running event loop cannot wait for a second coroutine, so in a thread that has one the coroutine runs in
    another thread, and the caller's loop is blocked until it ends. When the wait is interrupted, as by the signal that
    ends an Airflow task, the coroutine is cancelled and awaited.

    :param start: returns the coroutine.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(start())

    running: Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[T]]] = Future()
    result: Future[T] = Future()

    async def main() -> None:
        task = asyncio.ensure_future(start())
        running.set_result((asyncio.get_running_loop(), task))
        try:
            result.set_result(await task)
        except BaseException as error:  # noqa: BLE001 - re-raised in the thread that waits
            result.set_exception(error)

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="d1-coroutine", daemon=True)
    thread.start()
    try:
        return result.result()
    except BaseException:
        if not result.done():
            loop, task = running.result()
            loop.call_soon_threadsafe(task.cancel)
        raise
    finally:
        thread.join()
