"""Benchmarks inside one process: ingestion without Dagster, reading, verifying, scanning for gaps."""

from __future__ import annotations

import asyncio
import statistics
import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.access import Bars, Lake
from ohlcv_pipeline.bars.gaps import Gap, gaps, missing
from ohlcv_pipeline.bars.ingest import ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.verify import Verification, verify, verify_files
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.store import Store, prepare_store
from ohlcv_pipeline.markets import MINUTE_US, Interval, Market, from_us, market, to_us
from ohlcv_pipeline.vendors.base import Answer, Request
from ohlcv_pipeline.vendors.coinbase import Coinbase
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline_tests.bars.holes import END, HOLES, LOST, START, year_with_holes
from ohlcv_pipeline_tests.bars.vendor import offer, publish_one
from ohlcv_pipeline_tests.benchmarks.table import Row

NOW = datetime(2026, 11, 21, 0, 3, tzinfo=UTC)
BATCH_ROWS = 216_000


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Return the median duration of some calls, after one that is not counted."""
    work()
    spans = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        spans.append(time.perf_counter() - start)
    return statistics.median(spans)


class Recorded:
    """A transport that answers at once with bodies made beforehand, in Coinbase's format."""

    def __init__(self) -> None:
        self.bodies: dict[tuple[str, str], bytes] = {}

    async def get(self, request: Request, decode):  # type: ignore[no-untyped-def]
        answer = Answer(request, f"http://recorded{request.path}", 200, {}, self.body(request), NOW)
        return decode(answer), answer

    def body(self, request: Request) -> bytes:
        key = request.path, str(sorted(request.params.items()))
        if key not in self.bodies:
            start, end, step = (int(request.params[name]) for name in ("start", "end", "granularity"))
            times = np.arange(start, end + 1, step)
            random = np.random.default_rng([start, *request.path.encode()])
            close = np.round(100 + random.standard_normal(len(times)).cumsum() * 0.05, 2)
            spread = np.round(random.random(len(times)), 2)
            volume = np.round(random.random(len(times)) * 5, 8)
            columns = (
                times.tolist(),
                (close - spread).tolist(),
                (close + spread).tolist(),
                close.tolist(),
                close.tolist(),
            )
            self.bodies[key] = orjson.dumps(list(zip(*columns, volume.tolist(), strict=True))[::-1])
        return self.bodies[key]


def minute_order(home: Market) -> Order:
    """Return the order of the demo: every symbol, 90 days of minutes."""
    keys = home.partition_keys(Interval.MINUTE, *home.target_window(Interval.MINUTE, NOW))
    return Order(home, Interval.MINUTE, home.instruments, keys, str(uuid.uuid4()))


def filled_store(path: Path, order: Order, recorded: Recorded) -> tuple[Store, int, float]:
    """Ingest an order into a new lake; return the lake, the rows and the seconds."""
    store = prepare_store(f"sqlite:{path}/catalog.sqlite", f"{path}/data", path / "raw", [order.market.name])
    sources = {"coinbase": Source(Coinbase(), recorded)}
    start = time.perf_counter()
    outcome = asyncio.run(ingest(order, store, sources, lambda: NOW, BATCH_ROWS))
    return store, outcome.rows, time.perf_counter() - start


def throughput(path: Path) -> tuple[Row, Store]:
    """Vendor bytes to durable, accounted bars; beside DuckLake's bare insert of the same rows."""
    order, recorded = minute_order(market("crypto")), Recorded()
    filled_store(path / "warm", order, recorded)
    seconds, store, rows = [], None, 0
    for i in range(3):
        store, rows, spent = filled_store(path / str(i), order, recorded)
        seconds.append(spent)
    assert store is not None
    rate = rows / statistics.median(seconds)
    raw = rows / _bare_insert(path, store)
    row = Row(
        "vendor bytes → durable bars", rate, "rows/s", must=500_000, aim=800_000, baseline=raw,
        note="baseline: DuckLake INSERT alone", higher=True,
    )  # fmt: skip
    return row, store


def _bare_insert(path: Path, store: Store) -> float:
    bars = store.reader.query("SELECT * FROM lake.crypto.ohlcv_minute ORDER BY symbol, bucket_start")
    bare = prepare_store(f"sqlite:{path}/bare/catalog.sqlite", f"{path}/bare/data", path / "raw", ["crypto"])
    connection = bare.catalog.cursor()
    start = time.perf_counter()
    for offset in range(0, bars.num_rows, BATCH_ROWS):
        part = bars.slice(offset, BATCH_ROWS)
        connection.register("part", part)
        connection.execute("INSERT INTO lake.crypto.ohlcv_minute SELECT * FROM part")
    return time.perf_counter() - start


def reading(store: Store, note: str) -> Row:
    """90 days of minutes of one symbol as pandas; beside DuckDB reading the same Parquet files."""
    home = market("crypto")
    lake = Lake(store.reader, [home])
    start_us, _ = home.target_window(Interval.MINUTE, NOW)
    start, end = from_us(start_us), from_us(start_us + 129_600 * MINUTE_US)
    assert len(lake.bars("BTC", "minute", start, end, market="crypto")) == 129_600
    seconds = median_seconds(lambda: lake.bars("BTC", "minute", start, end, market="crypto"), 21)
    files = [file.path for file in store.reader.files("crypto", Interval.MINUTE)]
    connection = duckdb.connect(config={"threads": 2})
    sql = (
        "SELECT * EXCLUDE (symbol, source_vendor, fetched_at, run_id, published_at)"
        f" FROM read_parquet({files}, union_by_name => true) WHERE symbol = 'BTC'"
    )
    raw = median_seconds(lambda: connection.execute(sql).to_arrow_table().to_pandas(), 21)
    return Row(
        f"bars(): 129,600 minutes of one symbol, {note}", seconds * 1e3, "ms", must=15, aim=8, baseline=raw * 1e3,
        note="baseline: DuckDB read_parquet to pandas",
    )  # fmt: skip


def revise(store: Store, revisions: int) -> None:
    """Replace minutes of one symbol a day later, spread over its 90 days."""
    home, later = market("crypto"), NOW + timedelta(days=1)
    start_us, _ = home.target_window(Interval.MINUTE, NOW)
    end_us = start_us + 129_600 * MINUTE_US
    bars = store.reader.bars("crypto", Interval.MINUTE, "BTC", start_us, end_us)
    bars = bars.take(pa.array(np.linspace(0, bars.num_rows - 1, revisions).astype(np.int64)))
    at = bars.schema.get_field_index("volume")
    bars = bars.set_column(at, bars.schema.field(at), pc.add(bars["volume"], 1.0))
    keys = home.partition_keys(Interval.MINUTE, start_us, end_us)
    assert publish_one(store, offer(micros(bars["bucket_start"]), later, bars=bars), later, keys).rows == revisions


def as_of(store: Store, note: str) -> Row:
    """The same read as of the day before 1,000 of its bars were revised; beside DuckDB reading the current bars."""
    home = market("crypto")
    lake = Lake(store.reader, [home])
    start_us, _ = home.target_window(Interval.MINUTE, NOW)
    start, end = from_us(start_us), from_us(start_us + 129_600 * MINUTE_US)
    then = NOW + timedelta(hours=12)

    def read() -> Bars:
        return lake.bars("BTC", "minute", start, end, market="crypto", as_of=then)

    now = lake.bars("BTC", "minute", start, end, market="crypto")
    assert int((now["volume"] != read()["volume"]).sum()) == 1_000
    seconds = median_seconds(read, 21)
    files = [file.path for file in store.reader.files("crypto", Interval.MINUTE)]
    connection = duckdb.connect(config={"threads": 2})
    source = f"read_parquet({files}, union_by_name => true)"
    sql = f"SELECT * EXCLUDE (symbol, source_vendor, run_id) FROM {source} WHERE symbol = 'BTC'"
    raw = median_seconds(lambda: connection.execute(sql).to_arrow_table().to_pandas(), 21)
    return Row(
        f"bars(as_of=…): 129,600 minutes, 1,000 of them revised since, {note}", seconds * 1e3, "ms", must=40, aim=20,
        baseline=raw * 1e3, note="baseline: DuckDB read_parquet to pandas",
    )  # fmt: skip


def verifying(store: Store) -> Row:
    """Re-hash of every stored minute; beside DuckDB reading the five columns into Arrow."""
    home = market("crypto")
    spent = median_seconds(lambda: verify(store.reader, home, Interval.MINUTE), 3)
    result = verify(store.reader, home, Interval.MINUTE)
    assert result.passed, result
    connection = store.catalog.cursor()
    sql = "SELECT symbol, bucket_start, open, high, low, close, volume FROM lake.crypto.ohlcv_minute ORDER BY ALL"
    raw = median_seconds(lambda: connection.execute(sql).to_arrow_table(), 3)
    return Row(
        "verify: the demo's minutes re-hashed", result.rows / spent, "rows/s", must=1_000_000, aim=3_000_000,
        baseline=result.rows / raw, note="baseline: sorted read alone", higher=True,
    )  # fmt: skip


def scrubbing(store: Store) -> Row:
    """Every file held against its seal and every stored minute hashed; beside SHA-256 of the files alone."""
    home = market("crypto")
    store.writer.seal(NOW)

    def scrub() -> Verification:
        total = verify_files(store.reader)
        total.add(verify(store.reader, home, Interval.MINUTE))
        return total

    spent = median_seconds(scrub, 3)
    result = scrub()
    assert result.passed, result
    raw = median_seconds(lambda: verify_files(store.reader), 3)
    return Row(
        "scrub: the demo's files and minutes", result.rows / spent, "rows/s", must=1_000_000, aim=3_000_000,
        baseline=result.rows / raw, note="baseline: SHA-256 of the files alone", higher=True,
    )  # fmt: skip


def gap_scan() -> Row:
    """One symbol-year of minutes with 300 holes; beside a DuckDB anti join."""
    home = market("crypto")
    random = np.random.default_rng(1)
    expected = home.buckets(Interval.MINUTE, START, END)
    lost = np.unique(random.integers(0, len(expected), 300))
    present = np.delete(expected, lost)
    assert sum(gap.missing for gap in _scan(home, present)) == len(lost)
    return _scan_row("gap scan of a symbol-year of minutes, exact", home, present)


def session_gap_scan() -> Row:
    """A New York year of minutes with 218 holes, two of them at its ends; beside a DuckDB anti join."""
    home = market("us_equities")
    present, holes = year_with_holes()
    assert _scan(home, present) == holes
    return _scan_row(f"gap scan of a New York year, {HOLES} holes of {LOST:,} minutes, exact", home, present)


def _scan(home: Market, present: Micros) -> list[Gap]:
    buckets = home.expected(Interval.MINUTE, home.instruments[0], START, END, to_us(NOW))
    return gaps(buckets, missing(buckets, present, Interval.MINUTE))


def _scan_row(what: str, home: Market, present: Micros) -> Row:
    spent = median_seconds(lambda: _scan(home, present), 11)
    connection = duckdb.connect(config={"threads": 2})
    have, want = pa.table({"b": present}), pa.table({"b": home.buckets(Interval.MINUTE, START, END)})
    connection.register("have", have)
    connection.register("want", want)
    raw = median_seconds(lambda: connection.execute("SELECT b FROM want ANTI JOIN have USING (b)").fetchall(), 11)
    return Row(
        what, spent * 1e3, "ms", must=50, aim=20, baseline=raw * 1e3, note="baseline: DuckDB anti join",
    )  # fmt: skip
