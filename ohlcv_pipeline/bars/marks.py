"""Marks on absent buckets: what asking for them has shown so far, and the answers that a mark rests on.

Which buckets were proven empty or asked for in vain is decided by `ingest`; what a mark means, by `causes`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.bars.causes import Mark
from ohlcv_pipeline.bars.gaps import common
from ohlcv_pipeline.bars.planning import PENDING_TAIL, SECOND_LOOK, Order
from ohlcv_pipeline.bars.schema import Delivery
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.markets import from_us, span_us, to_us


@dataclass(frozen=True)
class Absences:
    """The buckets of one symbol held to be without a bar, by mark, and the difference to what was held before.

    `added` and `removed` are rows of `absent_buckets`; `looks` are the answers that what is added rests on.
    """

    marks: Mapping[int, str]
    added: Sequence[dict[str, Any]]
    removed: Sequence[dict[str, Any]]
    looks: Sequence[dict[str, Any]]

    def count(self, mark: Mark, start: int, end: int) -> int:
        """Return how many buckets of [start, end) bear a mark."""
        return sum(1 for bucket, held in self.marks.items() if held == mark and start <= bucket < end)


@dataclass(frozen=True)
class Marker:
    """Marks the absent buckets of the partitions of an order; `bounds` are theirs, [start, end) by key."""

    order: Order
    bounds: Mapping[str, tuple[int, int]]
    now: datetime

    def of(
        self,
        symbol: str,
        deliveries: Sequence[Delivery],
        *,
        no_trades: Micros,
        unanswered: Micros,
        present: Micros,
        before: pa.Table,
    ) -> Absences:
        """Return which buckets of a symbol are held to be without a bar, and what changes about that.

        Args:
            symbol: the symbol.
            deliveries: the answers of this run.
            no_trades: expected buckets that they prove to be empty.
            unanswered: expected buckets that they were asked for in vain.
            present: the buckets that are stored once the answers are.
            before: the symbol's rows of `absent_buckets`.
        """
        held = dict(
            zip(
                micros(before["bucket_start"]).tolist(),
                zip(before["cause"].to_pylist(), micros(before["looked_at"]).tolist(), strict=True),
                strict=True,
            )
        )
        has_bar = set(present.tolist()) if held else set()
        now_us = to_us(self.now)
        found: dict[int, str] = {}
        for bucket in _not_in(unanswered, present).tolist():
            mark, looked = held.get(bucket, (None, 0))
            if mark is None and bucket <= now_us - span_us(PENDING_TAIL):
                found[bucket] = Mark.UNANSWERED
            elif mark == Mark.UNANSWERED and looked <= now_us - span_us(SECOND_LOOK):
                found[bucket] = Mark.UNFILLABLE
        found |= dict.fromkeys(_not_in(no_trades, present).tolist(), Mark.NO_TRADES)
        found = {b: c for b, c in found.items() if held.get(b, ("", 0))[0] not in (c, Mark.UNFILLABLE)}
        gone = [b for b in held if b in has_bar or b in found]
        asked = sorted(found)
        return Absences(
            {b: c for b, (c, _) in held.items() if b not in gone} | found,
            added=[self._absence(symbol, b, mark) for b, mark in found.items()],
            removed=[self._absence(symbol, b, held[b][0]) for b in gone],
            looks=[self._look(symbol, each) for each in deliveries if _asks_for(each, asked)],
        )

    def _absence(self, symbol: str, bucket: int, mark: str) -> dict[str, Any]:
        return {
            "market": self.order.market.name,
            "interval": str(self.order.interval),
            "symbol": symbol,
            "partition": next(key for key, (start, end) in self.bounds.items() if start <= bucket < end),
            "bucket_start": from_us(bucket),
            "cause": str(mark),
            "looked_at": self.now,
        }

    def _look(self, symbol: str, delivery: Delivery) -> dict[str, Any]:
        return {
            "market": self.order.market.name,
            "interval": str(self.order.interval),
            "symbol": symbol,
            "vendor": delivery.vendor,
            "window_start": from_us(delivery.start_us),
            "window_end": from_us(delivery.end_us),
            "rows": len(delivery.bars),
            "raw_id": delivery.raw_id,
            "run_id": self.order.run_id,
            "looked_at": delivery.fetched_at,
        }


def _asks_for(delivery: Delivery, buckets: Sequence[int]) -> bool:
    """Return whether an answer was asked for one of these buckets, which are sorted."""
    at = bisect_left(buckets, delivery.start_us)
    return at < len(buckets) and buckets[at] < delivery.end_us


def _not_in(buckets: Micros, present: Micros) -> Micros:
    return np.setdiff1d(buckets, common(buckets, present), assume_unique=True) if len(buckets) else buckets
