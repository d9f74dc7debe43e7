"""One bar and the whole chain behind it: value, history, manifest, answer, parser, calendar, neighbours, doubts.

A document of plain values, built from the lake and the raw store without any network; a bucket without a bar gets
its cause from `inquiry` instead. Asking other vendors is `ask`; how it is shown is the caller's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa

from ohlcv_pipeline.bars.causes import Cause, unexpected
from ohlcv_pipeline.bars.checksum import partition_checksum
from ohlcv_pipeline.bars.inquiry import FailuresSince, inquire
from ohlcv_pipeline.bars.quarantine import Decision, row_of
from ohlcv_pipeline.frames import VALUE_COLUMNS
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import STORED_BARS, bars_table
from ohlcv_pipeline.markets import DAY_US, Instrument, Interval, Market, from_us, span_us, to_us
from ohlcv_pipeline.vendors.base import Adapter, Answer, Fetch, Page, Request
from ohlcv_pipeline.vendors.binance_archive import month_bounds, parse_checksum
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.paging import require_ok

T = TypeVar("T")

NEIGHBOURS = 2
FARTHEST_NEIGHBOUR = timedelta(days=14)
CHAIN_SPAN = timedelta(hours=1)
"""How long before the last answer of a fetch its first one may have come."""

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
        "source": _source(store, market, interval, instrument, bar, adapters.get(bar["source_vendor"])),
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
    instrument: Instrument,
    bar: Mapping[str, Any],
    adapter: Adapter | None,
) -> dict[str, Any]:
    """Return where a bar came from: request, answer, parser; the answer is read again and held against the bar."""
    source: dict[str, Any] = {
        "vendor": bar["source_vendor"],
        "parser_version": None if adapter is None else adapter.version,
        "request": None,
        "raw": None,
        "vendor_checksum": None,
        "reread": "the answer is kept no longer",
    }
    spelling = instrument.vendor_symbols.get(bar["source_vendor"])
    # Answers may have come in the same microsecond: the one that holds the bar is meant.
    for chain in _chains(store.reader, bar):
        read = _read(store, instrument.symbol, spelling, interval, bar, adapter, chain)
        if source["raw"] is None or read["reread"] != _NOT_IN_IT:
            source |= read
        if read["reread"] == "equal":
            break
    return source


_NOT_IN_IT = "the answer does not hold the bar"


def _read(
    store: Store,
    symbol: str,
    spelling: str | None,
    interval: Interval,
    bar: Mapping[str, Any],
    adapter: Adapter | None,
    chain: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Read the answers of one fetch again; return its request, its answer, and how it compares with the bar."""
    link = _link(chain[-1])
    try:
        answers = [_answer(store, row) for row in chain]
    except LakeError as error:
        return {**link, "reread": str(error)}
    link["vendor_checksum"] = _vendor_checksum(answers)
    if adapter is None or spelling is None:
        return {**link, "reread": "no parser of this release reads it"}
    bucket_us = to_us(bar["bucket_start"])
    fetch = _fetch_of(adapter, symbol, spelling, interval, bucket_us, answers[-1])
    if fetch is None:
        return {**link, "reread": "no request of this release asks for it"}
    try:
        page = asyncio.run(adapter.fetch(fetch, _Kept(answers)))
    except (VendorError, LakeError) as error:
        return {**link, "reread": str(error)}
    said = _values(page, bucket_us)
    if not said:
        return {**link, "reread": _NOT_IN_IT}
    if len(page.answered) == len(chain):
        holder = next(i for i, part in enumerate(page.answered) if bucket_us in part)
        link |= _link(chain[holder])
    stored = [bar[name] for name in VALUE_COLUMNS]
    return {**link, "reread": "equal" if stored in said else f"the answer says {said}"}


def _link(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "request": {name: row[name] for name in ("url", "status", "fetched_at", "bytes")},
        "raw": {"id": row["id"], "pack": row["pack"]},
    }


def _chains(reader: Reader, bar: Mapping[str, Any]) -> list[list[dict[str, Any]]]:
    """Return the fetches whose last answer came when the bar says, each with its answers, oldest first."""
    rows = reader.query(
        "SELECT DISTINCT id, pack, url, status, bytes, fetched_at FROM lake.raw_objects WHERE vendor = ?"
        " AND fetched_at <= ? AND fetched_at >= ? ORDER BY fetched_at, url",
        [bar["source_vendor"], bar["fetched_at"], bar["fetched_at"] - CHAIN_SPAN],
    ).to_pylist()
    chains = []
    for last in (row for row in rows if row["fetched_at"] == bar["fetched_at"]):
        newest = {row["url"]: row for row in rows if _asks_the_same(row["url"], last["url"])} | {last["url"]: last}
        chains.append(sorted(newest.values(), key=lambda row: (row["fetched_at"], row["url"] == last["url"])))
    return chains


def _asks_the_same(url: str, of: str) -> bool:
    """Return whether two requests belong to one fetch: pages of one query, or a file and its checksum."""

    def stripped(text: str) -> tuple[str, list[tuple[str, str]]]:
        parts = urlsplit(text)
        query = [item for item in parse_qsl(parts.query) if item[0] != "page_token"]
        return parts.path.removesuffix(".CHECKSUM"), query

    return stripped(url) == stripped(of)


def _answer(store: Store, row: Mapping[str, Any]) -> Answer:
    kept = store.raw.read(row["pack"], row["id"])
    parts = urlsplit(row["url"])
    request = Request(kept.vendor, parts.path, dict(parse_qsl(parts.query)))
    return Answer(request, row["url"], row["status"], dict(kept.headers), kept.body, row["fetched_at"])


def _fetch_of(
    adapter: Adapter, symbol: str, spelling: str, interval: Interval, bucket_us: int, last: Answer
) -> Fetch | None:
    """Return a fetch of the bucket that would bring such an answer: of itself, its UTC day, or its month as a file."""
    day = bucket_us - bucket_us % DAY_US
    for start, end in ((bucket_us, bucket_us + interval.step_us), (day, day + DAY_US), month_bounds(bucket_us)):
        for fetch in adapter.plan(symbol, spelling, interval, start, end):
            if last.request.path.endswith(fetch.requests[-1].path):
                return fetch
    return None


class _Kept:
    """A transport that answers from what is kept: each request gets the oldest answer to its path that is left."""

    def __init__(self, answers: Sequence[Answer]) -> None:
        self._left = list(answers)

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        """Return what `decode` makes of the kept answer. Raises LakeError when there is none left."""
        for answer in self._left:
            if answer.request.path.endswith(request.path):
                self._left.remove(answer)
                return decode(answer), answer
        raise LakeError(f"no answer of {request.vendor} to {request.path} is kept")


def _vendor_checksum(answers: Sequence[Answer]) -> dict[str, Any] | None:
    """Return the checksum that the vendor published of its file, and whether the kept file has it."""
    *_, last = answers
    for answer in answers:
        if answer.request.path.endswith(".CHECKSUM"):
            require_ok(answer)
            value = parse_checksum(answer.body, last.request.path.rpartition("/")[2], answer.url)
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
