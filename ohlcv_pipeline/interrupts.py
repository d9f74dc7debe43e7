"""Running a coroutine so that a signal to stop always ends it.

A handler that raises, as Dagster's does, raises wherever the interpreter happens to be. Inside a callback of the event
loop that is logged and forgotten; here the signal cancels the work, and the handler is asked once the loop has closed.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

STOPS = (signal.SIGINT, signal.SIGTERM)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, as `asyncio.run` does, and return its result.

    A signal to stop that arrives meanwhile cancels it and is delivered again afterwards, to the handler that was set
    before. Only the main thread is sent signals; elsewhere this is `asyncio.run`.
    """
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(work)
    received: list[int] = []
    handlers = {number: signal.getsignal(number) for number in STOPS}
    try:
        return asyncio.run(_stoppable(work, received))
    except asyncio.CancelledError:
        if not received:
            raise
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for first in received[:1]:
            signal.raise_signal(first)
    raise KeyboardInterrupt


async def _stoppable(work: Coroutine[Any, Any, T], received: list[int]) -> T:
    task = asyncio.ensure_future(work)

    def stop(number: int) -> None:
        received.append(number)
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in STOPS:
        loop.add_signal_handler(number, stop, number)
    return await task
