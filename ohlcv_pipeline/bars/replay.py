"""Replay: publications repeated from the vendors' answers alone, without a network.

Each kept answer says for which publication it was fetched. The adapters read it again, the same rules judge it at the
instant at which they judged it then, and the publications are merged in their order: the same bars come out, down to
the run and the time of fetching.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from itertools import groupby
from typing import TypeVar

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.gaps import common, union
from ohlcv_pipeline.bars.ingest import deliveries
from ohlcv_pipeline.bars.merge import merge
from ohlcv_pipeline.bars.planning import EDGE, Order, Quest
from ohlcv_pipeline.bars.publication import Offer, publish, stored_form
from ohlcv_pipeline.bars.schema import Delivery, Judged, judge
from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.raw import Asked, RawObject, RawStore
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import STORED_BARS
from ohlcv_pipeline.markets import Instrument, Interval, Market, to_us
from ohlcv_pipeline.vendors.base import Adapter, Answer, Page, Request
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.registry import ADAPTERS

T = TypeVar("T")


@dataclass(frozen=True)
class Replay:
    """The raw answers of one table, ready to be published again."""

    market: Market
    interval: Interval
    raw: RawStore
    adapters: Mapping[str, Adapter]

    @classmethod
    def of(
        cls, market: Market, interval: Interval, raw: RawStore, adapters: Mapping[str, Adapter] | None = None
    ) -> Replay:
        """Return a replay with these adapters, by default every one there is."""
        return cls(market, interval, raw, ADAPTERS if adapters is None else adapters)

    def packs(self, symbols: Sequence[str], start_us: int, end_us: int) -> list[str]:
        """Return the packs with answers about a window of some symbols; a pack that cannot be read is left out."""
        return [pack for pack in self.raw.packs() if any(self._about(pack, set(symbols), start_us, end_us))]

    def _about(self, pack: str, symbols: set[str], start_us: int, end_us: int) -> Iterable[bool]:
        try:
            asked = self.raw.asked(pack)
        except LakeError:
            return ()
        return (
            each.market == self.market.name
            and each.interval == self.interval
            and each.symbol in symbols
            and each.start_us < end_us
            and each.end_us > start_us
            for each in asked
        )

    def publications(
        self, packs: Iterable[str], symbols: Sequence[str], start_us: int, end_us: int
    ) -> tuple[list[Part], list[str]]:
        """Return what each publication offered of each symbol, oldest first, and what could not be read.

        A damaged pack takes nothing but its own answers with it.
        """
        objects: dict[Asked, RawObject] = {}
        lost = []
        for pack in packs:
            try:
                found = self.raw.read_asked(pack, self.market.name, self.interval, symbols, start_us, end_us)
            except LakeError as error:
                lost.append(str(error))
            else:
                objects |= {item.asked: item for item in found if item.asked is not None}
        parts = []
        for _, group in groupby(sorted(objects.items(), key=lambda item: _part(item[0])), key=lambda i: _part(i[0])):
            try:
                parts.append(self._part(list(group)))
            except (LakeError, VendorError) as error:
                lost.append(str(error))
        return parts, lost

    def _part(self, items: Sequence[tuple[Asked, RawObject]]) -> Part:
        pages = [
            asyncio.run(self._page(sorted(group, key=lambda item: item[0].place)))
            for _, group in groupby(sorted(items, key=lambda item: _page(item[0])), key=lambda item: _page(item[0]))
        ]
        return Part(
            self.market, self.interval, items[0][0], self.adapters, tuple(pages), tuple(item for _, item in items)
        )

    async def _page(self, items: Sequence[tuple[Asked, RawObject]]) -> Page:
        """Let the adapter read the answers of one fetch again. Raises VendorError, LakeError."""
        asked, first = items[0]
        adapter = self.adapters.get(first.vendor)
        if adapter is None:
            raise LakeError(f"raw answers of {first.vendor} cannot be read: there is no such vendor any more")
        planned = adapter.plan(asked.symbol, asked.vendor_symbol, self.interval, asked.start_us, asked.end_us)
        # The answers were given already: how today's adapter would cut the window into requests does not matter.
        fetch = replace(planned[0], start_us=asked.start_us, end_us=asked.end_us)
        return await adapter.fetch(fetch, Recorded([item for _, item in items]))


def _part(asked: Asked) -> tuple[datetime, str, bool, str]:
    return asked.published_at, asked.run_id, asked.force, asked.symbol


def _page(asked: Asked) -> tuple[int, int, int]:
    return asked.page, asked.start_us, asked.end_us


@dataclass
class Recorded:
    """A transport that gives the kept answers of one fetch, one after the other."""

    answers: list[RawObject]

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        """Return the next answer as it was. Raises VendorError as `decode` does, LakeError when there is no more."""
        if not self.answers:
            raise LakeError(f"{request.vendor}{request.path}: an answer of this fetch is not in its pack")
        kept = self.answers.pop(0)
        answer = Answer(request, kept.url, kept.status, dict(kept.headers), kept.body, kept.fetched_at)
        try:
            return decode(answer), answer
        except VendorError as error:
            if not error.answers:
                error.answers = (answer,)
            raise


@dataclass(frozen=True)
class Part:
    """What one publication offered of one symbol: its pages, and the answers they were read from."""

    market: Market
    interval: Interval
    asked: Asked
    adapters: Mapping[str, Adapter]
    pages: tuple[Page, ...]
    answers: tuple[RawObject, ...]

    @cached_property
    def deliveries(self) -> list[Delivery]:
        """The rows as the vendors sent them, in the order in which the later one counts."""
        return deliveries(self.pages, self.market, self.asked.published_at)

    @cached_property
    def judged(self) -> Judged:
        """The rows that are bars, by the rules and the clock of then."""
        return judge(self.deliveries, self.market, self.interval, to_us(self.asked.published_at))

    @cached_property
    def bars(self) -> pa.Table:
        """The bars with their provenance, as they would be stored."""
        asked = self.asked
        return stored_form(asked.symbol, self.judged, self.deliveries, asked.run_id, asked.published_at)

    def within(self, start_us: int, end_us: int) -> pa.Table:
        """Return the bars of [start, end)."""
        lo, hi = np.searchsorted(micros(self.bars["bucket_start"]), [start_us, end_us])
        return self.bars.slice(lo, hi - lo)

    def touches(self, start_us: int, end_us: int) -> bool:
        """Return whether any of its answers is about [start, end)."""
        return any(d.start_us < end_us and d.end_us > start_us for d in self.deliveries)

    def changed(self, raw_ids: set[str], start_us: int, end_us: int) -> bool:
        """Return whether the manifest row of the cell [start, end), which names these answers, tells of this part."""
        return any(d.raw_id in raw_ids for d in self.deliveries if d.start_us < end_us and d.end_us > start_us)


def rebuilt(market: Market, parts: Sequence[Part], raw_ids: Sequence[str], start_us: int, end_us: int) -> pa.Table:
    """Return the bars of one cell as the publications that its manifest row names left them.

    `parts` are those of the cell's symbol, oldest first.
    """
    rank = {name: place for place, name in enumerate(market.vendors)}
    named = set(raw_ids)
    bars = STORED_BARS.empty_table()
    for part in parts:
        if part.changed(named, start_us, end_us):
            offered = part.within(start_us, end_us)
            bars = merge(
                bars, offered, lambda vendor: rank.get(vendor, len(rank)), force=part.asked.force, guarded=False
            ).bars
    return bars


def republish(
    store: Store,
    market: Market,
    interval: Interval,
    instruments: Mapping[str, Instrument],
    parts: Sequence[Part],
    lost: Mapping[str, Sequence[str]],
) -> int:
    """Repeat publications for cells that the lake knows nothing of any more; return how many bars they brought.

    `lost` names partitions by symbol. Revisions, runs and the order of corrections come back with the bars; that
    buckets were asked for in vain does not, so the next backfill looks for them again. Raises LakeError.
    """
    bounds = {key: market.partition_bounds(interval, key) for keys in lost.values() for key in keys}
    rows = 0
    for (at, run_id, force, *_), group in groupby(parts, key=lambda part: _part(part.asked)[:3]):
        offered: dict[tuple[str, ...], list[Part]] = {}
        for part in group:
            keys = tuple(key for key in lost.get(part.asked.symbol, ()) if part.touches(*bounds[key]))
            if keys:
                offered.setdefault(keys, []).append(part)
        for keys, chosen in offered.items():
            named = [instruments[part.asked.symbol] for part in chosen]
            order = Order(market, interval, named, keys, run_id, force)
            offers = [_offer(part, instruments[part.asked.symbol], [bounds[key] for key in keys]) for part in chosen]
            answers = [answer for part in chosen for answer in part.answers]
            rows += publish(order, store, keys, offers, answers, at).rows
    return rows


def _offer(part: Part, instrument: Instrument, cells: Sequence[tuple[int, int]]) -> Offer:
    """Return what a part offers, with the buckets that its answers show to have been without trades."""
    market, interval, now_us = part.market, part.interval, to_us(part.asked.published_at)
    windows = [(max(d.start_us, start), min(d.end_us, end)) for d in part.deliveries for start, end in cells]
    expected = [market.expected(interval, instrument, *each, now_us) for each in windows if each[0] < each[1]]
    buckets = union(*expected)
    margin = EDGE * interval.step_us
    calendar = market.buckets(interval, min(d.start_us for d in part.deliveries) - margin,
                              max(d.end_us for d in part.deliveries) + margin)  # fmt: skip
    omitting = frozenset(name for name, adapter in part.adapters.items() if adapter.omits_empty_buckets)
    quest = Quest(market, instrument, interval, calendar, buckets, omitting)
    return Offer(instrument, part.judged, part.deliveries, common(quest.no_trades(part.pages), buckets), buckets[:0])
