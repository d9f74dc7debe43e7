"""A signal to stop ends the work it finds, wherever in the event loop it arrives."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from ohlcv_pipeline import interrupts


class StoppedError(BaseException):
    """What a handler raises that is not Python's own, like Dagster's."""


@pytest.fixture(autouse=True)
def handler() -> Iterator[Any]:
    def stopped(number: int, frame: object) -> None:
        raise StoppedError(number)

    before = {number: signal.signal(number, stopped) for number in interrupts.STOPS}
    yield stopped
    for number, old in before.items():
        signal.signal(number, old)


@pytest.mark.parametrize("number", interrupts.STOPS)
def test_signal_in_a_callback_of_the_loop_ends_the_work(number: int, handler: Any) -> None:
    tidied = []

    async def work() -> None:
        asyncio.get_running_loop().call_soon(os.kill, os.getpid(), number)
        try:
            await asyncio.sleep(60)
        finally:
            tidied.append(True)

    with pytest.raises(StoppedError) as raised:
        interrupts.run(work())
    assert raised.value.args == (number,)
    assert tidied == [True]
    assert signal.getsignal(number) is handler


def test_undisturbed_work_gives_its_result_and_leaves_the_handlers(handler: Any) -> None:
    async def work() -> int:
        return 7

    assert interrupts.run(work()) == 7
    assert [signal.getsignal(number) for number in interrupts.STOPS] == [handler, handler]


def test_cancellation_that_no_signal_caused_stays_one() -> None:
    async def work() -> None:
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        interrupts.run(work())


def test_error_of_the_work_is_raised_as_it_is() -> None:
    async def work() -> None:
        raise ValueError("told")

    with pytest.raises(ValueError, match="told"):
        interrupts.run(work())


def test_outside_the_main_thread_it_runs_all_the_same() -> None:
    async def work() -> int:
        return 7

    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(interrupts.run(work())))
    thread.start()
    thread.join()
    assert results == [7]
