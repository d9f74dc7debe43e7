"""Work that is done side by side ends side by side."""

from __future__ import annotations

import asyncio

import pytest

from ohlcv_pipeline.vendors.failover import together


class Work:
    """Coroutines that remember how they ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    async def wait(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            # Whoever is ended may have something to put away, which takes a while.
            await asyncio.sleep(0)
            self.ended.append("wait")

    async def fail(self) -> None:
        await asyncio.sleep(0)
        raise ValueError("no")


async def number(n: int) -> int:
    for _ in range(3 - n):
        await asyncio.sleep(0)
    return n


def test_results_come_in_the_order_of_the_work() -> None:
    async def three() -> list[int]:
        return await together(number(n) for n in range(3))

    async def none() -> list[int]:
        return await together(())

    assert (asyncio.run(three()), asyncio.run(none())) == ([0, 1, 2], [])


def test_one_that_fails_ends_the_others_before_it_is_heard_of() -> None:
    work = Work()

    async def run() -> None:
        with pytest.raises(ValueError, match="no"):
            await together([work.wait(), work.fail(), work.wait()])
        assert work.ended == ["wait", "wait"]

    asyncio.run(run())


def test_being_stopped_ends_all_of_it() -> None:
    work = Work()

    async def run() -> None:
        task = asyncio.ensure_future(together([work.wait(), work.wait()]))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.ended == ["wait", "wait"]

    asyncio.run(run())
