from __future__ import annotations

import asyncio

import orjson
import pytest

from ohlcv_pipeline.vendors.base import Answer, Request
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed
from ohlcv_pipeline.vendors.transport import UnlimitedBudget
from ohlcv_pipeline_tests.vendors.wire import NOW, Clock, Reply, ask, line

OK = Reply(body=b"[1]")
X = Request("coinbase", "/x")


def read_json(answer: Answer) -> object:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise malformed("expected JSON") from error


class TestRecoveryFromA429:
    def test_sends_one_probe_and_the_others_only_after_it_succeeded(self) -> None:
        async def storm() -> tuple[list[int], int, int]:
            in_flight: list[int] = []
            clock = Clock()
            limited_until = NOW + 30
            refused = 0

            def reply(target: str) -> Reply:
                nonlocal refused
                in_flight.append(wire.vendor.in_flight)
                if clock.now < limited_until:
                    refused += 1
                    return Reply(429)
                return Reply(body=b"[1]", pause=0.005)

            async with line(reply, clock=clock, concurrency=4) as wire:
                await asyncio.gather(*(wire.transport.get(X, read_json) for _ in range(12)))
            return in_flight, refused, len(in_flight)

        in_flight, refused, asked = asyncio.run(storm())
        assert refused <= 4, "only what was in flight when the first 429 came"
        assert asked == refused + 12
        assert in_flight[refused] == 1, "the probe goes alone"
        assert in_flight[refused + 1] == 1, "the next one only when the probe has been answered"

    def test_keeps_the_others_waiting_while_probes_fail(self) -> None:
        async def storm() -> tuple[list[int], list[int]]:
            statuses = iter([429, 503, 429, 200])
            seen: list[int] = []
            in_flight: list[int] = []

            def reply(target: str) -> Reply:
                status = next(statuses, 200)
                seen.append(status)
                in_flight.append(wire.vendor.in_flight)
                return Reply(status, b"[1]", {"Retry-After": "5"})

            async with line(reply, concurrency=1) as wire:
                await asyncio.gather(*(wire.transport.get(X, read_json) for _ in range(3)))
            return seen, in_flight

        seen, in_flight = asyncio.run(storm())
        assert seen == [429, 503, 429, 200, 200, 200]
        assert set(in_flight) == {1}


class TestBudget:
    def test_is_asked_before_every_attempt_with_the_weight(self) -> None:
        taken: list[tuple[str, int]] = []

        class Counting(UnlimitedBudget):
            def take(self, vendor: str, weight: int, now: float) -> float:
                taken.append((vendor, weight))
                return 0.75 if len(taken) == 1 else 0.0

        request = Request("binance", "/x", weight=2)
        heard = ask(Reply(503), OK, request=request, name="binance", budget=Counting(), requests_per_second=5.0)
        assert taken == [("binance", 2)] * 3
        assert heard.waits == [0.75, 2]

    def test_is_not_asked_when_both_limits_are_lifted(self) -> None:
        class Forbidden(UnlimitedBudget):
            def take(self, vendor: str, weight: int, now: float) -> float:
                raise AssertionError("asked")

        assert ask(OK, budget=Forbidden()).value == b"[1]"

    def test_a_block_by_another_process_is_waited_for(self) -> None:
        budget = UnlimitedBudget()
        budget.drain("coinbase", NOW + 11)
        assert ask(OK, budget=budget, weight_per_minute=100).waits == [11]

    def test_a_later_block_is_not_shortened(self) -> None:
        budget = UnlimitedBudget()
        budget.drain("coinbase", 50.0)
        budget.drain("coinbase", 20.0)
        assert budget.blocked_until("coinbase", 0.0) == 50.0

    def test_no_more_requests_are_out_than_the_concurrency(self) -> None:
        async def many() -> int:
            async with line([Reply(body=b"[1]", pause=0.002)], concurrency=3) as wire:
                await asyncio.gather(*(wire.transport.get(X, read_json) for _ in range(20)))
                return wire.vendor.most_in_flight

        assert asyncio.run(many()) == 3


class TestTheBreaker:
    def test_opens_after_five_spent_requests_and_sends_nothing(self) -> None:
        async def outage() -> tuple[VendorError, int, bool]:
            async with line([Reply(503)], attempts=1) as wire:
                for _ in range(5):
                    with pytest.raises(VendorError):
                        await wire.transport.get(X, read_json)
                with pytest.raises(VendorError) as refused:
                    await wire.transport.get(X, read_json)
                return refused.value, len(wire.vendor.asked), wire.transport.breaker.closed

        error, asked, closed = asyncio.run(outage())
        assert (error.code, error.remedy) == (Code.VENDOR_UNAVAILABLE, Remedy.STOP_VENDOR)
        assert asked == 5
        assert not closed

    def test_lets_one_probe_through_after_the_cool_down_and_closes_on_its_success(self) -> None:
        async def outage() -> tuple[int, bool]:
            async with line([Reply(503)] * 5 + [Reply(body=b"[1]", pause=0.02)], attempts=1) as wire:
                for _ in range(5):
                    with pytest.raises(VendorError):
                        await wire.transport.get(X, read_json)
                wire.clock.now += 60
                results = await asyncio.gather(
                    *(wire.transport.get(X, read_json) for _ in range(4)), return_exceptions=True
                )
                refused = sum(isinstance(result, VendorError) for result in results)
                return refused, wire.transport.breaker.closed

        assert asyncio.run(outage()) == (3, True)

    def test_does_not_count_429s(self) -> None:
        async def limited() -> bool:
            async with line([Reply(429)], attempts=1) as wire:
                for _ in range(9):
                    with pytest.raises(VendorError):
                        await wire.transport.get(X, read_json)
                return wire.transport.breaker.closed

        assert asyncio.run(limited())

    def test_counts_a_request_once_however_often_it_was_tried(self) -> None:
        assert ask(Reply(503)).line.transport.breaker.closed

    def test_an_answer_in_between_starts_the_count_again(self) -> None:
        async def flaky() -> bool:
            async with line(([Reply(503)] * 4 + [OK]) * 3, attempts=1) as wire:
                for _ in range(15):
                    await asyncio.gather(wire.transport.get(X, read_json), return_exceptions=True)
                return wire.transport.breaker.closed

        assert asyncio.run(flaky())
