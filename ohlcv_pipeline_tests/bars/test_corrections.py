"""Reading sessions again: which, how little of an unchanged one, and that a corrected one is found."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pytest

from ohlcv_pipeline.bars.corrections import Due, Found, Round, due, same_days
from ohlcv_pipeline.bars.rollup import roll_up
from ohlcv_pipeline.frames import bars_from_columns
from ohlcv_pipeline.lake.history import History
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import DAY_US, Market, to_us
from ohlcv_pipeline.vendors.base import Answer, Request
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    DAY,
    MINUTE,
    NEW_YORK,
    Floats,
    T,
    Vendor,
    count,
    fill,
    listed,
    refuse,
    series,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 05:30")
WINDOW = [f"2025-11-{day}" for day in range(16, 21)]
SINCE = utc("2025-11-16")
TWENTY = [
    listed(BTC, symbol=f"C{n:02}", vendor_symbols={"coinbase": f"C{n:02}-USD"}, listing_start=SINCE) for n in range(20)
]


@dataclass
class Summing(Vendor):
    """A vendor whose days sum up its minutes; `late` adds to close and volume of a minute after the fact."""

    days_sum_minutes: ClassVar[bool] = True
    late: dict[tuple[str, int], tuple[float, float]] = field(default_factory=dict)

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        _, symbol, interval = request.path.split("/")
        start, end = int(request.params["start"]), int(request.params["end"])
        self.asked.append((symbol, start, end))
        await asyncio.sleep(0)
        self.fail(symbol, start, end)
        buckets = np.arange(start, end, MINUTE.step_us)
        minutes = bars_from_columns(buckets, self.minutes(symbol, buckets))
        bars = minutes if interval == "minute" else roll_up(minutes, "1d")
        rows = zip(*(bars[name].to_pylist() for name in ("open", "high", "low", "close", "volume")), strict=True)
        starts = bars["bucket_start"].cast(pa.int64()).to_pylist()
        body = orjson.dumps([[at, *row] for at, row in zip(starts, rows, strict=True)])
        answer = Answer(request, f"memory://{request.path}", 200, {}, body, self.received_at)
        return decode(answer), answer

    def minutes(self, symbol: str, buckets: Floats) -> Floats:
        values = series(symbol, MINUTE, buckets)
        for (of, at), (close, volume) in self.late.items():
            if of == symbol and buckets[0] <= at <= buckets[-1]:
                place = int(np.searchsorted(buckets, at))
                values[3, place] += close
                values[4, place] += volume
        return values


def reread(store: Store, vendor: Vendor, sessions: Due, market: Market = CRYPTO, *others: Vendor) -> Found:
    vendor.asked.clear()
    sources = {each.name: each.source for each in (vendor, *others)}
    return asyncio.run(Round(market, TWENTY, sessions, "reread", store, sources, lambda: NOW, 200_000).run())


@pytest.fixture
def held(store: Store) -> tuple[Store, Summing, int]:
    """Return a lake with five days of twenty symbols, their vendor, and how many requests the minutes took."""
    vendor = Summing()
    minutes = fill(store, WINDOW, [vendor], NOW, instruments=TWENTY, batch_rows=200_000)
    fill(store, ["2025-11"], [vendor], NOW, instruments=TWENTY, interval=DAY)
    assert count(store, "crypto.ohlcv_minute") == 20 * 5 * 1440
    return store, vendor, minutes.requests


def test_an_unchanged_window_of_five_days_costs_a_request_a_symbol(held: tuple[Store, Summing, int]) -> None:
    store, vendor, full = held
    head = count(store, "file_seals")
    found = reread(store, vendor, Due(WINDOW, []))
    assert (found.cells, found.reread, found.changed, found.failed) == (100, 0, [], {})
    assert found.requests == len(vendor.asked) == 20
    assert full == 20 * 24
    assert found.requests <= 0.05 * full
    assert (count(store, "bar_revisions"), count(store, "file_seals")) == (0, head)


def test_one_late_trade_is_found_and_both_versions_are_told(held: tuple[Store, Summing, int]) -> None:
    store, vendor, _ = held
    bucket = us("2025-11-18 14:31")
    vendor.late["C07", bucket] = (0.01, 0.5)
    found = reread(store, vendor, Due(WINDOW, []))
    assert (found.reread, found.requests, found.failed) == (1, 20 + 5, {})
    assert [(row["symbol"], row["partition"]) for row in found.changed if row["interval"] == "minute"] == [
        ("C07", "2025-11-18")
    ]
    assert [row["partition"] for row in found.changed if row["interval"] == "day"] == ["2025-11"]
    history = History(store.reader)
    (told,) = history.revisions("crypto", MINUTE, [i.symbol for i in TWENTY], us(WINDOW[0]), us("2025-11-21"))
    assert (told["symbol"], to_us(told["bucket_start"]), told["cause"]) == ("C07", bucket, "late_correction")
    assert told["new_close"] - told["old_close"] == pytest.approx(0.01)
    assert told["new_volume"] - told["old_volume"] == pytest.approx(0.5)
    (day,) = history.revisions("crypto", DAY, ["C07"], us(WINDOW[0]), us("2025-11-21"))
    assert day["new_volume"] - day["old_volume"] == pytest.approx(0.5)
    again = reread(store, vendor, Due(WINDOW, []))
    assert (again.reread, again.changed) == (0, [])


def test_what_the_day_bar_cannot_show_is_found_when_the_whole_session_is_read(
    held: tuple[Store, Summing, int],
) -> None:
    store, vendor, _ = held
    vendor.late["C03", us("2025-11-18 14:31")] = (0.01, 0.0)
    assert reread(store, vendor, Due(WINDOW, [])).changed == []
    found = reread(store, vendor, Due([], ["2025-11-18"]))
    assert found.reread == 20
    assert [(row["symbol"], row["interval"]) for row in found.changed] == [("C03", "minute")]


def test_a_vendor_that_does_not_answer_proves_nothing(held: tuple[Store, Summing, int]) -> None:
    store, vendor, _ = held

    def fail(symbol: str, start: int, end: int) -> None:
        if symbol == "C01":
            raise refuse()

    vendor.fail = fail
    found = reread(store, vendor, Due(WINDOW[-1:], []))
    assert found.failed == {"C01": "vendor_unavailable"}
    assert found.reread == 1
    assert count(store, "bar_revisions") == 0


def test_a_lower_ranked_vendor_replaces_nothing(held: tuple[Store, Summing, int]) -> None:
    store, _, _ = held
    other = Summing(name="kraken", omits_empty_buckets=False, late={("C01", us("2025-11-20 10:00")): (0.05, 1.0)})
    instruments = [listed(i, vendor_symbols={"kraken": i.symbol}) for i in TWENTY[:2]]
    sources = {"kraken": other.source}
    asked = Round(CRYPTO, instruments, Due([], WINDOW[-1:]), "reread", store, sources, lambda: NOW, 200_000)
    assert asyncio.run(asked.run()).changed == []
    assert count(store, "bar_revisions") == 0


def test_what_was_never_stored_is_not_fetched(store: Store) -> None:
    vendor = Summing()
    found = reread(store, vendor, Due(WINDOW, WINDOW[:1]))
    assert (found.cells, found.requests, vendor.asked) == (0, 0, [])


def test_days_are_the_same_when_only_the_order_of_summing_differs() -> None:
    buckets = step("2025-11-18", 1440)
    values = series("BTC", MINUTE, buckets)
    minutes = bars_from_columns(buckets, values)
    day = np.array([[values[0, 0]], [values[1].max()], [values[2].min()], [values[3, -1]], [values[4, ::-1].sum()]])
    start = np.array([us("2025-11-18")])
    assert same_days(bars_from_columns(start, day), minutes) == {us("2025-11-18")}
    for place in range(5):
        other = day.copy()
        other[place] *= 1.00001
        assert same_days(bars_from_columns(start, other), minutes) == set()
    assert same_days(bars_from_columns(start + DAY_US, day), minutes) == set()


@pytest.mark.parametrize(
    ("market", "now", "look", "whole"),
    [
        (CRYPTO, "2025-11-21 05:30", ["2025-11-20", "2025-11-18"], ["2025-11-14"]),
        (CRYPTO, "2024-01-04 05:30", ["2024-01-03", "2024-01-01"], []),
        # Friday's session on Saturday; nothing on Sunday and Monday; Thanksgiving and its half day.
        (NEW_YORK, "2025-11-22 05:30", ["2025-11-21", "2025-11-19"], ["2025-11-13"]),
        (NEW_YORK, "2025-11-23 05:30", [], []),
        (NEW_YORK, "2025-11-24 05:30", [], []),
        (NEW_YORK, "2025-11-28 05:30", [], []),
        (NEW_YORK, "2025-11-29 05:30", ["2025-11-28", "2025-11-25"], ["2025-11-19"]),
    ],
)
def test_sessions_are_due_one_three_and_seven_sessions_after_they_ended(
    market: Market, now: str, look: list[str], whole: list[str]
) -> None:
    found = due(market, utc(now))
    assert (list(found.look), list(found.whole)) == (look, whole)
    assert bool(found) is bool(look)


def test_every_session_is_due_exactly_three_times() -> None:
    ticks = [utc("2025-09-01 05:30") + timedelta(days=day) for day in range(90)]
    seen = [key for tick in ticks for found in [due(NEW_YORK, tick)] for key in (*found.look, *found.whole)]
    sessions = NEW_YORK.partition_keys(MINUTE, us("2025-09-15"), us("2025-11-15"))
    assert {seen.count(key) for key in sessions} == {3}
