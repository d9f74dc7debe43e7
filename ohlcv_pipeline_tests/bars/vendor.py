"""Vendors in memory, of a market that never closes and of New York: what the tests of bars and lake share.

The series is a pure function of symbol and bucket, so that every process and every vendor tells the same story.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from ohlcv_pipeline.bars.ingest import Outcome, Progress, ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.publication import Offer, Published, publish
from ohlcv_pipeline.bars.schema import Delivery, judge
from ohlcv_pipeline.frames import NO_BARS, VALUE_COLUMNS, BarColumns, Micros, bars_from_columns, floats, micros
from ohlcv_pipeline.lake.raw import RawObject
from ohlcv_pipeline.lake.store import Store, prepare_store
from ohlcv_pipeline.markets import MARKETS, Instrument, Interval, Market, to_us
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Reject, Request
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.paging import closed_part, pages

T = TypeVar("T")
Floats = npt.NDArray[np.float64]
Rows = list[list[Any]]

MINUTE, DAY = Interval.MINUTE, Interval.DAY
RUN = "0b1d7a52-7d0e-4a3b-9c53-2f6a1f0b8e11"
NONE = np.empty(0, np.int64)
CRYPTO = MARKETS["crypto"]
BTC, ETH = CRYPTO.instrument("BTC"), CRYPTO.instrument("ETH")
NEW_YORK = MARKETS["us_equities"]
AAPL = NEW_YORK.instrument("AAPL")


def utc(text: str) -> datetime:
    """Return an instant such as `2025-11-20` or `2025-11-20 14:30`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


RECEIVED_AT = utc("2025-11-21 12:00")


def us(text: str) -> int:
    return to_us(utc(text))


def new_store(home: Path, *markets: str) -> Store:
    """Create a lake below a folder, or open the one that is there."""
    lake = home / "lake"
    return prepare_store(
        f"sqlite:{lake / 'catalog.sqlite'}", str(lake / "data"), home / "raw", markets or (CRYPTO.name,)
    )


def series(symbol: str, interval: Interval, buckets: Micros) -> Floats:
    """Return open, high, low, close, volume of shape (5, n): a walk with awkward decimals that keeps all rules."""
    n = (buckets // interval.step_us).astype(np.float64) + zlib.crc32(symbol.encode()) % 1000
    open_ = 100 + 10 * np.sin(n / 7.3) + n % 97 / 100
    close = 100 + 10 * np.sin((n + 1) / 7.3) + (n + 1) % 97 / 100
    return np.vstack(
        [open_, np.maximum(open_, close) + 0.1, np.minimum(open_, close) - 0.1, close, 1 + n % 13 + 0.00000001]
    )


def bars_of(symbol: str, interval: Interval, buckets: Micros, factor: float = 1.0) -> pa.Table:
    values = series(symbol, interval, buckets)
    values[:4] *= factor
    return bars_from_columns(buckets, values)


def columns_of(bars: pa.Table) -> BarColumns:
    """Return a table of bars as an adapter would deliver it."""
    return BarColumns.of(micros(bars["bucket_start"]), np.vstack([floats(bars[name]) for name in VALUE_COLUMNS]))


def step(start: str, count: int, interval: Interval = MINUTE) -> Micros:
    """Return consecutive buckets."""
    return us(start) + np.arange(count) * interval.step_us


def offer(
    buckets: Micros,
    now: datetime,
    *,
    instrument: Instrument = BTC,
    interval: Interval = MINUTE,
    market: Market = CRYPTO,
    vendor: str = "coinbase",
    bars: pa.Table | None = None,
    no_trades: Micros = NONE,
    unanswered: Micros = NONE,
    raw_id: str = "9f21",
) -> Offer:
    """Return the offer of one answer that delivered these buckets."""
    bars = bars_of(instrument.symbol, interval, buckets) if bars is None else bars
    asked = np.concatenate([buckets, no_trades, unanswered])
    delivery = Delivery(columns_of(bars), int(asked.min()), int(asked.max()) + 1, vendor, raw_id, now)
    return Offer(instrument, judge([delivery], market, interval, to_us(now)), [delivery], no_trades, unanswered)


def order(
    partitions: Sequence[str],
    *,
    interval: Interval = MINUTE,
    instruments: Sequence[Instrument] = (BTC,),
    market: Market = CRYPTO,
    run_id: str = RUN,
    force: bool = False,
) -> Order:
    return Order(market, interval, instruments, partitions, run_id, force)


def publish_one(
    store: Store,
    offered: Offer,
    now: datetime,
    partitions: Sequence[str],
    answers: Sequence[RawObject] = (),
    **options: Any,
) -> Published:
    """Publish one offer into the cells of its symbol."""
    options = {"instruments": [offered.instrument], **options}
    return publish(order(partitions, **options), store, partitions, [offered], answers, now)


def manifest_row(store: Store, partition: str, interval: Interval = MINUTE, symbol: str = "BTC") -> dict[str, Any]:
    (row,) = store.reader.manifest(CRYPTO.name, interval, [symbol], [partition]).to_pylist()
    return dict(row)


def snapshots(store: Store) -> int:
    """Return the number of the newest snapshot of the lake."""
    sql = "SELECT max(snapshot_id) AS id FROM __ducklake_metadata_lake.ducklake_snapshot"
    return int(store.reader.query(sql).to_pylist()[0]["id"])


def count(store: Store, table: str) -> int:
    return int(store.reader.query(f"SELECT count(*) AS n FROM lake.{table}").to_pylist()[0]["n"])


def change(store: Store, *statements: str) -> None:
    """Do to the lake what the platform never would."""
    connection = store.catalog.cursor()
    for statement in statements:
        connection.execute(statement)
    connection.close()


def refuse(code: Code = Code.VENDOR_UNAVAILABLE, remedy: Remedy = Remedy.BACK_OFF) -> VendorError:
    return VendorError(code, remedy, f"the vendor says {code}")


def read_rows(answer: Answer) -> tuple[BarColumns, tuple[Reject, ...]]:
    """Read `[[time µs, open, high, low, close, volume], …]`; a null price makes a reject."""
    try:
        rows = orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        error = malformed(f"{answer.url}: no JSON")
        error.answers = (answer,)
        raise error from None
    good = [row for row in rows if None not in row]
    rejects = tuple(Reject(row[0], "null_value", str(row)) for row in rows if None in row)
    if not good:
        return NO_BARS, rejects
    columns = np.array([row[1:] for row in good], np.float64).T
    return BarColumns.of(np.array([row[0] for row in good], np.int64), columns), rejects


@dataclass
class Vendor:
    """Adapter and transport of a vendor that answers from memory.

    `silent` holds (symbol, bucket) that are left out of every answer, `edit` changes the rows of one, `fail`
    raises instead of answering; `asked` remembers symbol, start and end of each request.
    """

    name: str = "coinbase"
    version: str = "1"
    page_rows: int = 300
    newest_rows: int | None = None
    omits_empty_buckets: bool = True
    market: Market = CRYPTO
    received_at: datetime = RECEIVED_AT
    silent: set[tuple[str, int]] = field(default_factory=set)
    fail: Callable[[str, int, int], None] = lambda symbol, start, end: None
    edit: Callable[[str, Rows], Rows] = lambda symbol, rows: rows
    body: Callable[[str, bytes], bytes] = lambda symbol, body: body
    asked: list[tuple[str, int, int]] = field(default_factory=list)

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        if self.newest_rows is not None:
            start_us = max(start_us, now_us - now_us % interval.step_us - self.newest_rows * interval.step_us)
        if interval is DAY and not self.market.always_open:
            return (start_us, min(end_us, now_us)) if start_us < min(end_us, now_us) else None
        return closed_part(interval, start_us, end_us, now_us)

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        return [
            Fetch(
                self.name, symbol, vendor_symbol, interval, start, end,
                (Request(self.name, f"/{symbol}/{interval}", {"start": start, "end": end}),),
            )
            for start, end in pages(interval, start_us, end_us, self.page_rows)
        ]  # fmt: skip

    async def fetch(self, fetch: Fetch, transport: Any) -> Page:
        (request,) = fetch.requests
        (bars, rejects), answer = await transport.get(request, read_rows)
        return Page(fetch, bars, rejects, (answer,))

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        _, symbol, interval = request.path.split("/")
        start, end = int(request.params["start"]), int(request.params["end"])
        self.asked.append((symbol, start, end))
        await asyncio.sleep(0)
        self.fail(symbol, start, end)
        buckets = self.market.buckets(Interval(interval), start, end)
        if self.silent:
            buckets = buckets[[(symbol, int(bucket)) not in self.silent for bucket in buckets]]
        rows = np.vstack([series(symbol, Interval(interval), buckets)]).T.tolist()
        rows = self.edit(symbol, [[int(bucket), *row] for bucket, row in zip(buckets, rows, strict=True)])
        url = f"memory://{self.name}{request.path}?start={start}&end={end}"
        body = self.body(symbol, orjson.dumps(rows))
        answer = Answer(request, url, 200, {"content-type": "application/json"}, body, self.received_at)
        return decode(answer), answer

    @property
    def source(self) -> Source:
        return Source(self, self)

    def buckets_asked(self, symbol: str) -> set[int]:
        """Return every minute that was asked for."""
        return {b for name, start, end in self.asked if name == symbol for b in range(start, end, MINUTE.step_us)}


def fill(
    store: Store,
    partitions: Sequence[str],
    vendors: Sequence[Vendor],
    now: datetime,
    *,
    batch_rows: int = 100_000,
    progress: list[Progress] | None = None,
    **options: Any,
) -> Outcome:
    """Ingest the cells of an order from vendors in memory at a fixed instant."""
    sources: Mapping[str, Source] = {vendor.name: vendor.source for vendor in vendors}
    heard = [] if progress is None else progress
    return asyncio.run(ingest(order(partitions, **options), store, sources, lambda: now, batch_rows, heard.append))


def listed(instrument: Instrument, **changes: Any) -> Instrument:
    return replace(instrument, **changes)
