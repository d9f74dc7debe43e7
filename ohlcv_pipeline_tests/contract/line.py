"""The way from a vendor's HTTP answer to the lake, without an orchestrator and without real waits.

Small windows on a day on which the sandbox's venues have no outage of their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from ohlcv_pipeline.bars.ingest import Outcome, ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.report import Entry, report
from ohlcv_pipeline.markets import Instrument, Interval, Market, market
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.vendors import transport
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.registry import adapter
from ohlcv_pipeline.vendors.transport import HttpTransport, UnlimitedBudget
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.vendors.wire import Clock

NOW = datetime(2026, 6, 10, 5, 0, 30, tzinfo=UTC)
TODAY, YESTERDAY = "2026-06-10", "2026-06-09"
MARKET_OF = {"coinbase": "crypto", "kraken": "crypto", "binance": "crypto_usdt", "binance_archive": "crypto_usdt"}
EXPECTED = 298
"""Minutes of today that are due at NOW: one page of Coinbase, and within what Kraken still has."""


def alone(vendor: str) -> dict[str, Any]:
    """Return the arguments that make a vendor the only one of its market."""
    return {"of": MARKET_OF[vendor], "vendors": [vendor]}


@dataclass
class Delivery:
    """What an ingest came to: its outcome, each attempt at each vendor, and the waits in between."""

    line: Line
    order: Order
    outcome: Outcome
    attempts: list[transport.Outcome]
    waits: list[float]

    @property
    def failed(self) -> dict[str, str]:
        return self.outcome.failed

    def codes(self, vendor: str) -> list[str]:
        """What each attempt at a vendor meant, in order."""
        return [str(attempt.code) for attempt in self.attempts if attempt.vendor == vendor]

    @property
    def symbol(self) -> str:
        return self.order.instruments[0].symbol

    @property
    def bars(self) -> list[dict[str, Any]]:
        """The stored bars of the symbol in the ordered partitions, sorted."""
        return self.line.bars(self.order, self.symbol)

    @property
    def vendors(self) -> set[str]:
        return {bar["source_vendor"] for bar in self.bars}

    def bar(self, instant: datetime) -> dict[str, Any] | None:
        return next((bar for bar in self.bars if bar["bucket_start"] == instant), None)

    @property
    def quarantine(self) -> list[dict[str, Any]]:
        reader = self.line.platform.store.reader
        return reader.quarantine(self.order.market.name, self.order.interval, [self.symbol]).to_pylist()

    @property
    def cell(self) -> dict[str, Any]:
        """The manifest row of the only partition."""
        (row,) = self.line.platform.store.reader.manifest(
            self.order.market.name, self.order.interval, [self.symbol], self.order.partitions
        ).to_pylist()
        return dict(row)

    @property
    def report(self) -> Entry:
        o = self.order
        start, _ = o.market.partition_bounds(o.interval, o.partitions[0])
        _, end = o.market.partition_bounds(o.interval, o.partitions[-1])
        (entry,) = report(
            self.line.platform.store.reader, o.market, o.interval, o.instruments, start, end, self.line.now
        )
        return entry


@dataclass
class Line:
    """A platform and its vendors on loopback."""

    platform: Platform
    exchange: Exchange
    now: datetime = NOW

    def deliver(
        self,
        symbol: str = "BTC",
        *keys: str,
        of: str = "crypto",
        vendors: Sequence[str] | None = None,
        interval: Interval = Interval.MINUTE,
        since: datetime | None = None,
        force: bool = False,
    ) -> Delivery:
        """Ingest one symbol; `vendors` narrows the market to some, `since` makes the symbol listed only then."""
        home: Market = market(of)
        if vendors is not None:
            home = replace(home, vendors=tuple(vendors))
        instrument: Instrument = home.instrument(symbol)
        if since is not None:
            instrument = replace(instrument, listing_start=since)
        order = Order(
            home, interval, [instrument], list(keys or (TODAY,)), "00000000-0000-0000-0000-000000000001", force
        )
        clock = Clock(self.now.timestamp())
        attempts: list[transport.Outcome] = []

        async def run() -> Outcome:
            async with self.sources(home, clock, attempts.append) as sources:
                return await ingest(order, self.platform.store, sources, lambda: self.now, 216_000)

        return Delivery(self, order, asyncio.run(run()), attempts, clock.waits)

    @asynccontextmanager
    async def sources(
        self, of: Market, clock: Clock, record: Callable[[transport.Outcome], None]
    ) -> AsyncIterator[dict[str, Source]]:
        """Yield the vendors as the platform connects them, but that nobody waits: the clock moves instead."""
        found: dict[str, Source] = {}
        for name in of.vendors:
            settings = self.platform.settings.vendor(name)
            way = HttpTransport(name, settings, UnlimitedBudget(), record, clock, clock.sleep, lambda: 1.0)
            found[name] = Source(adapter(name, settings), await way.__aenter__())
        try:
            yield found
        finally:
            for source in found.values():
                await source.transport.__aexit__(None, None, None)  # type: ignore[attr-defined]

    def bars(self, order: Order, symbol: str) -> list[dict[str, Any]]:
        start, _ = order.market.partition_bounds(order.interval, order.partitions[0])
        _, end = order.market.partition_bounds(order.interval, order.partitions[-1])
        rows: list[dict[str, Any]] = self.platform.store.reader.query(
            f"SELECT * FROM lake.{order.market.name}.ohlcv_{order.interval} WHERE symbol = ?"
            " AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?) ORDER BY bucket_start",
            [symbol, start, end],
        ).to_pylist()
        return rows


def values(bars: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Return time, prices and volume of bars, for comparison with those of another lake."""
    return [tuple(bar[name] for name in ("bucket_start", "open", "high", "low", "close", "volume")) for bar in bars]


def at(clock: str, day: str = TODAY) -> datetime:
    return datetime.fromisoformat(f"{day}T{clock}:00+00:00")
