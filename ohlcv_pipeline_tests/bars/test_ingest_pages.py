"""Ingestion from a vendor that cuts a fetch into pages by token: the real adapter, over HTTP on loopback."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
import orjson
import pytest

from ohlcv_pipeline.bars.ingest import Outcome, ingest
from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import from_us
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.registry import adapter
from ohlcv_pipeline_tests.bars.vendor import AAPL, MINUTE, NEW_YORK, new_store, order, step, utc
from ohlcv_pipeline_tests.vendors.wire import Clock, Reply, line

NOW = utc("2025-11-20 23:00")
OPEN = "2025-11-20 14:30"


@pytest.fixture
def store(tmp_path: Any) -> Store:
    return new_store(tmp_path, NEW_YORK.name)


class Pages:
    """Answers with the bars of some minutes that were asked for, `rows` of them on a page.

    `shift` is by how many rows each page after the first begins too late, as if rows before it had gone meanwhile.
    """

    def __init__(self, minutes: Micros, rows: int, extra: dict[str, Any], shift: int = 0) -> None:
        self.minutes, self.rows, self.extra, self.shift = minutes, rows, extra, shift
        self.asked: list[tuple[datetime, datetime, int]] = []

    def __call__(self, target: str) -> Reply:
        params = {name: value[0] for name, value in parse_qs(urlsplit(target).query).items()}
        start, end = (datetime.fromisoformat(params[name]) for name in ("start", "end"))
        place = int(params.get("page_token", 0))
        self.asked.append((start, end, place))
        bars = [self._bar(minute) for minute in self.minutes.tolist() if start <= from_us(minute) <= end]
        more = str(place + self.rows) if place + self.rows < len(bars) else None
        first = place + (self.shift if place else 0)
        bars = bars[first : first + self.rows]
        return Reply(body=orjson.dumps({"bars": {"AAPL": bars} if bars else {}, "next_page_token": more}))

    def _bar(self, minute: int) -> dict[str, Any]:
        row = {
            "t": f"{from_us(minute):%Y-%m-%dT%H:%M:%SZ}",
            "o": 3,
            "h": 4,
            "l": 2,
            "c": 3.5,
            "v": 10,
            "n": 2,
            "vw": 3.1,
        }
        return row | self.extra


def fill(store: Store, pages: Pages) -> Outcome:
    async def run() -> Outcome:
        clock = Clock(NOW.timestamp())
        async with line(pages, name="alpaca", clock=clock, key_id="x", key="x") as wire:
            sources = {"alpaca": Source(adapter("alpaca"), wire.transport)}
            wanted = order(["2025-11-20"], market=NEW_YORK, instruments=[AAPL])
            return await ingest(wanted, store, sources, lambda: NOW, 100_000)

    return asyncio.run(run())


def without(*places: int) -> Micros:
    """Return the minutes of the session but those at some places."""
    return np.delete(step(OPEN, 390), places)


def absent(store: Store) -> list[tuple[str, datetime]]:
    return [(row["cause"], row["bucket_start"]) for row in store.reader.absent("us_equities", MINUTE).to_pylist()]


def test_pages_make_one_session(store: Store) -> None:
    outcome = fill(store, Pages(step(OPEN, 390), 100, {}))
    assert (outcome.rows, outcome.failed, outcome.drift) == (390, {}, set())
    assert outcome.requests == 4


def test_a_hole_within_a_page_is_without_trades_and_asked_for_once(store: Store) -> None:
    pages = Pages(without(150, 151), 100, {})
    outcome = fill(store, pages)
    assert outcome.rows == 388
    assert {cause for cause, _ in absent(store)} == {"no_trades"}
    assert outcome.requests == 4


def test_a_hole_between_two_pages_proves_nothing_until_one_page_holds_both_of_its_sides(store: Store) -> None:
    # The second page begins with what is the 102nd minute of the session.
    pages = Pages(without(100), 100, {})
    outcome = fill(store, pages)
    assert outcome.requests == 5
    hole = utc("2025-11-20 16:10")
    start, end, place = pages.asked[-1]
    assert (start < hole < end, place) == (True, 0)
    assert absent(store) == [("no_trades", hole)]


@pytest.mark.parametrize("shift", [-3, 3], ids=["repeated", "lost"])
def test_part_c_29_rows_that_shift_between_two_pages_are_neither_stored_twice_nor_lost(
    store: Store, shift: int
) -> None:
    pages = Pages(step(OPEN, 390), 200, {}, shift)
    outcome = fill(store, pages)
    (cell,) = store.reader.manifest("us_equities", MINUTE).to_pylist()
    assert (cell["rows"], cell["no_trades_rows"], cell["complete"]) == (390, 0, True)
    assert sum(map(len, outcome.duplicates.values())) == max(0, -shift)
    # What lies between two pages is asked for again by its time, not by its place.
    assert [place for *_, place in pages.asked] == [0, 200] + [0] * (shift > 0)


def test_a_new_field_of_the_vendor_is_told_and_costs_nothing(store: Store) -> None:
    outcome = fill(store, Pages(step(OPEN, 390), 400, {"auction": True}))
    assert outcome.drift == {"alpaca bars: new field 'auction' (true or false)"}
    assert outcome.rows == 390
