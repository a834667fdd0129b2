"""Run a coroutine to its end from code that is not async, whatever the calling thread is doing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")


def run_coroutine(start: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run ``start()`` and return its result.

    In a thread whose event loop is running it runs in a thread of its own, as a running loop cannot be entered twice;
    the caller's loop stands still meanwhile. When the wait is broken off (a task's end signal raises in the main
    thread), the coroutine is cancelled and waited for.

    :param start: makes the coroutine.
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
        except BaseException as error:  # noqa: BLE001 - everything belongs to the thread that waits
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
