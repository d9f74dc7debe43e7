"""One bar and the whole chain behind it: value, history, manifest, answer, parser, calendar, neighbours, doubts.

A document of plain values, built from the lake and the raw store without any network; a bucket without a bar gets
its cause from `inquiry` instead. Asking other vendors is `ask`; how it is shown is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa

from ohlcv_pipeline.bars.causes import Cause, unexpected
from ohlcv_pipeline.bars.checksum import partition_checksum
from ohlcv_pipeline.bars.inquiry import FailuresSince, inquire
from ohlcv_pipeline.bars.quarantine import Decision, row_of
from ohlcv_pipeline.bars.replay import Replay
from ohlcv_pipeline.frames import VALUE_COLUMNS
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import STORED_BARS, bars_table
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, span_us, to_us
from ohlcv_pipeline.vendors.base import Adapter, Answer, Page
from ohlcv_pipeline.vendors.binance_archive import parse_checksum
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.paging import require_ok

NEIGHBOURS = 2
FARTHEST_NEIGHBOUR = timedelta(days=14)
ASKED_PATIENCE_SECONDS = 20.0


def explain(
    store: Store,
    market: Market,
    interval: Interval,
    instrument: Instrument,
    peers: Sequence[Instrument],
    bucket_us: int,
    now: datetime,
    adapters: Mapping[str, Adapter],
    failures_since: FailuresSince = lambda since: (),
) -> dict[str, Any]:
    """Return everything that is known about one bucket, times as aware datetimes.

    Args:
        store: the lake and its raw store.
        market: of the bar.
        interval: of the bar.
        instrument: of the bar.
        peers: every enabled instrument of the market, `instrument` among them.
        bucket_us: the bucket's start.
        now: the current instant.
        adapters: the vendors' parsers by name, to read the kept answer again.
        failures_since: what requests failed with.
    """
    reader, symbol = store.reader, instrument.symbol
    keys = market.partition_keys(interval, bucket_us, bucket_us + 1)
    bar = _bar(reader, market, interval, symbol, bucket_us)
    manifest = reader.manifest(market.name, interval, [symbol], keys[:1]).to_pylist() if keys else []
    quarantined = [
        row_of(row) for row in reader.quarantine(market.name, interval, [symbol]).to_pylist()
        if row["bucket_start"] is not None and to_us(row["bucket_start"]) == bucket_us
    ]  # fmt: skip
    document: dict[str, Any] = {
        "market": market.name,
        "symbol": symbol,
        "interval": str(interval),
        "bucket_start": from_us(bucket_us),
        "partition": keys[0] if keys else None,
        "calendar": {"name": market.calendar.name, "version": market.calendar.version},
        "bar": None if bar is None else {name: bar[name] for name in _SHOWN},
        "revisions": _revisions(reader, market, interval, symbol, bucket_us),
        "manifest": manifest[0] if manifest else None,
        "neighbours": [
            row
            for row in around(reader, market, interval, symbol, bucket_us, NEIGHBOURS)
            if row["bucket_start"] != from_us(bucket_us)
        ],
        "quarantine": [{"id": row.id, "state": str(row.state), **row.columns} for row in quarantined],
        "others": [],
    }
    if bar is None:
        document["absence"] = _absence(reader, market, interval, instrument, peers, bucket_us, now, failures_since)
        return document
    released = any(row.state is Decision.RELEASED and row["decision_run_id"] == bar["run_id"] for row in quarantined)
    return document | {
        "bar_checksum": partition_checksum(symbol, interval, pa.Table.from_pylist([bar], STORED_BARS)),
        "run": {"id": bar["run_id"], "cause": "released" if released else "fetched"},
        "source": _source(store, market, interval, symbol, bar, adapters),
    }


_SHOWN = ("open", "high", "low", "close", "volume", "trade_count", "vwap", "source_vendor", "fetched_at", "run_id")


def _bar(reader: Reader, market: Market, interval: Interval, symbol: str, bucket_us: int) -> dict[str, Any] | None:
    rows = reader.query(
        f"SELECT * FROM {bars_table(market.name, interval)} WHERE symbol = ? AND bucket_start = make_timestamptz(?)",
        [symbol, bucket_us],
    ).to_pylist()
    return rows[0] if rows else None


def _revisions(reader: Reader, market: Market, interval: Interval, symbol: str, bucket_us: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = reader.query(
        "SELECT * EXCLUDE (market, interval, symbol, bucket_start) FROM lake.bar_revisions WHERE market = ?"
        " AND interval = ? AND symbol = ? AND bucket_start = make_timestamptz(?) ORDER BY superseded_at",
        [market.name, interval, symbol, bucket_us],
    ).to_pylist()
    return rows


def around(
    reader: Reader, market: Market, interval: Interval, symbol: str, bucket_us: int, count: int
) -> list[dict[str, Any]]:
    """Return the stored bar of a bucket and up to `count` calendar neighbours on either side, oldest first."""
    margin = span_us(FARTHEST_NEIGHBOUR)
    before = market.buckets(interval, bucket_us - margin, bucket_us)
    after = market.buckets(interval, bucket_us + 1, bucket_us + margin)
    span = [*before[len(before) - min(count, len(before)) :].tolist(), bucket_us, *after[:count].tolist()]
    bars = reader.bars(market.name, interval, symbol, span[0], span[-1] + 1)
    rows: list[dict[str, Any]] = bars.select(["bucket_start", *VALUE_COLUMNS]).to_pylist()
    return rows


def _absence(
    reader: Reader,
    market: Market,
    interval: Interval,
    instrument: Instrument,
    peers: Sequence[Instrument],
    bucket_us: int,
    now: datetime,
    failures_since: FailuresSince,
) -> dict[str, Any]:
    """Return why there is no bar, with the run of absent buckets that the bucket belongs to within its partition."""
    cause = unexpected(market, interval, instrument, bucket_us, to_us(now))
    if cause is not None:
        told = {
            Cause.CLOSED_SESSION: f"{market.calendar.name} has no session then",
            Cause.LISTING: f"{instrument.symbol} was not listed then",
            Cause.NOT_DUE: "the bucket is not closed, or closed less than the publish delay ago",
        }[cause]
        closes = market.bucket_closes(interval, market.buckets(interval, bucket_us, bucket_us + 1)).tolist()
        due = [from_us(close) + market.publish_delay[interval] for close in closes if cause is Cause.NOT_DUE]
        return {"cause": str(cause), "because": told, "attempts": 0, "next_look": next(iter(due), None), "evidence": []}
    (key,) = market.partition_keys(interval, bucket_us, bucket_us + 1)
    start, end = market.partition_bounds(interval, key)
    found = inquire(reader, market, interval, peers, start, end, now, failures_since, [instrument.symbol])
    absence = next(each for each in found if each.first_us <= bucket_us <= each.last_us)
    return {
        "range_start": from_us(absence.first_us),
        "range_end": from_us(absence.last_us),
        "missing": absence.missing,
        "cause": str(absence.cause),
        "because": absence.because,
        "attempts": absence.attempts,
        "next_look": absence.next_look,
        "evidence": [asdict(look) for look in absence.evidence],
    }


def _source(
    store: Store,
    market: Market,
    interval: Interval,
    symbol: str,
    bar: Mapping[str, Any],
    adapters: Mapping[str, Adapter],
) -> dict[str, Any]:
    """Return where a bar came from: request, answer, parser; the answer is read again and held against the bar."""
    vendor, bucket_us = bar["source_vendor"], to_us(bar["bucket_start"])
    source: dict[str, Any] = {
        "vendor": vendor,
        "parser_version": adapters[vendor].version if vendor in adapters else None,
        "request": None,
        "raw": None,
        "vendor_checksum": None,
        "reread": "the answer is kept no longer",
    }
    kept = store.reader.query(
        "SELECT DISTINCT id, pack, url, status, bytes, fetched_at FROM lake.raw_objects"
        " WHERE vendor = ? AND fetched_at = ? ORDER BY url, pack",
        [vendor, bar["fetched_at"]],
    ).to_pylist()
    if not kept:
        return source
    packs = {row["id"]: row["pack"] for row in kept}
    replay = Replay.of(market, interval, store.raw, adapters)
    parts, lost = replay.publications(sorted(set(packs.values())), [symbol], bucket_us, bucket_us + 1)
    stored = [bar[name] for name in VALUE_COLUMNS]
    # Answers to the same request may have come in the same microsecond: the one that says what is stored is meant.
    page = max(
        (page for part in parts for page in part.pages if page.answers[-1].received_at == bar["fetched_at"]),
        key=lambda each: stored in _values(each, bucket_us),
        default=None,
    )
    if page is None:
        why = lost[0] if lost else "the kept answer does not say what it was asked for"
        return source | _link(**kept[0]) | {"reread": why}
    said, pack = _values(page, bucket_us), packs[page.answers[-1].id]
    holder = page.answers[-1]
    if len(page.answered) == len(page.answers):
        held = zip(page.answers, page.answered, strict=True)
        holder = next((answer for answer, buckets in held if bucket_us in buckets), holder)
    reread = "equal" if stored in said else f"the answer says {said}" if said else "the answer does not hold the bar"
    link = _link(holder.id, pack, holder.url, holder.status, len(holder.body), holder.received_at)
    return source | link | {"vendor_checksum": _vendor_checksum(page.answers), "reread": reread}


def _link(id: str, pack: str, url: str, status: int, bytes: int, fetched_at: datetime) -> dict[str, Any]:
    return {
        "request": {"url": url, "status": status, "fetched_at": fetched_at, "bytes": bytes},
        "raw": {"id": id, "pack": pack},
    }


def _vendor_checksum(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """Return the checksum that the vendor published of its file, and whether the kept file has it."""
    *_, last = answers
    for answer in answers:
        if urlsplit(answer.url).path.endswith(".CHECKSUM"):
            require_ok(answer)
            value = parse_checksum(answer.body, urlsplit(last.url).path.rpartition("/")[2], answer.url)
            return {"algorithm": "sha256", "value": value, "url": answer.url, "matches": value == last.id}
    return None


def _values(page: Page, bucket_us: int) -> list[list[float]]:
    at = (page.bars.bucket_start == bucket_us).nonzero()[0]
    return [page.bars.numbers[:5, i].tolist() for i in at]


async def ask(
    sources: Mapping[str, Source],
    market: Market,
    interval: Interval,
    instrument: Instrument,
    bucket_us: int,
    bar: Mapping[str, Any] | None,
    now: datetime,
    patience_seconds: float = ASKED_PATIENCE_SECONDS,
) -> list[dict[str, Any]]:
    """Ask every vendor of the market for the bucket; return what each says, and where it differs from the bar.

    `differs` maps a value's name to how much larger the vendor's is, relative to the stored one.
    """

    async def of(name: str) -> dict[str, Any]:
        said: dict[str, Any] = {"vendor": name, "values": None, "differs": {}}
        spelling = instrument.vendor_symbols.get(name)
        if spelling is None:
            return said | {"found": "does not list the symbol"}
        source = sources[name]
        window = source.adapter.serves(interval, bucket_us, bucket_us + interval.step_us, to_us(now))
        fetches = [] if window is None else source.adapter.plan(instrument.symbol, spelling, interval, *window)
        if not fetches:
            return said | {"found": "does not serve this bucket"}
        try:
            async with asyncio.timeout(patience_seconds):
                pages = [await source.adapter.fetch(fetch, source.transport) for fetch in fetches]
        except VendorError as error:
            return said | {"found": f"did not answer: {error.code}"}
        except TimeoutError:
            return said | {"found": f"did not answer within {patience_seconds:g} s"}
        bars = [values for page in pages for values in _values(page, bucket_us)]
        if not bars:
            return said | {"found": "has no bar"}
        values = dict(zip(VALUE_COLUMNS, bars[-1], strict=True))
        differs = {} if bar is None else _differences(bar, values)
        return said | {"found": "differs" if differs else "has a bar" if bar is None else "agrees",
                       "values": values, "differs": differs}  # fmt: skip

    return list(await asyncio.gather(*(of(name) for name in market.vendors)))


def _differences(bar: Mapping[str, Any], values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value / bar[name] - 1 if bar[name] else None for name, value in values.items() if value != bar[name]}
