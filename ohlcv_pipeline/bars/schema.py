"""What a bar must look like: the rules that every delivered row passes before it may be stored.

Rows that break a rule become findings with one reason code; the others are put into canonical order. Nothing here
knows what is already stored: that comparison is `merge`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Annotated

import numpy as np
import numpy.typing as npt
import pandas as pd
import pandera.pandas as pandera
import pyarrow as pa

from ohlcv_pipeline.frames import EMPTY_BARS, VALUE_COLUMNS, BarColumns, Floats, Mask, Micros
from ohlcv_pipeline.markets import Interval, Market, span_us

SPIKE_FACTOR = 5.0
"""A price beyond this multiple of both neighbours is flagged as a one-off print."""
ABSURD_VOLUME_FACTOR = 10_000.0
"""A volume beyond this multiple of the series' median is flagged."""
SHORTEST_SERIES_FOR_MEDIAN = 30

Positions = npt.NDArray[np.int64]


class Reason(StrEnum):
    """Why a delivered row was quarantined, or, for the last two, published and flagged."""

    NOT_ALIGNED = "not_aligned"
    NAIVE_TIME = "naive_time"
    FUTURE_BUCKET = "future_bucket"
    OUTSIDE_WINDOW = "outside_window"
    OUT_OF_SESSION = "out_of_session"
    BAD_OHLC = "bad_ohlc"
    NEGATIVE = "negative"
    NOT_FINITE = "not_finite"
    NULL_VALUE = "null_value"
    DUPLICATE_CONFLICT = "duplicate_conflict"
    UNKNOWN_SYMBOL = "unknown_symbol"
    RATIO_SHIFT = "ratio_shift"
    BAD_NUMBER = "bad_number"
    PRICE_SPIKE = "price_spike"
    VOLUME_SPIKE = "volume_spike"


@dataclass(frozen=True)
class Delivery:
    """One answer's rows as the vendor sent them, for the buckets in [start, end)."""

    bars: BarColumns
    start_us: int
    end_us: int
    vendor: str
    raw_id: str
    fetched_at: datetime
    rejects: Sequence[tuple[int | None, str, str]] = ()


@dataclass(frozen=True)
class Finding:
    """A row that broke a rule. `published` tells a flagged row, which is stored, from a rejected one."""

    bucket_start: int | None
    reason: str
    raw: str
    published: bool
    vendor: str
    raw_id: str


@dataclass(frozen=True)
class Judged:
    """Bars of `BAR_SCHEMA`, sorted and unique; `source[i]` is the position of the delivery that gave bar i."""

    bars: pa.Table
    source: npt.NDArray[np.int64]
    findings: Sequence[Finding] = ()
    duplicates: Micros = field(default_factory=lambda: np.empty(0, np.int64))
    dropped: Mapping[str, int] = field(default_factory=dict)


class BarFrame(pandera.DataFrameModel):
    """Stored bars of one table as a pandas frame: what the `schema` check holds them against."""

    symbol: str
    bucket_start: Annotated[pd.DatetimeTZDtype, "us", "UTC"]
    open: float = pandera.Field(gt=0)
    high: float = pandera.Field(gt=0)
    low: float = pandera.Field(gt=0)
    close: float = pandera.Field(gt=0)
    volume: float = pandera.Field(ge=0)

    class Config:
        strict = "filter"

    @pandera.dataframe_check(name="low_and_high_bound_the_bar")
    def _bounds(cls, df):  # type: ignore[no-untyped-def]  # noqa: N805
        return (
            (df["low"] <= df["open"])
            & (df["low"] <= df["close"])
            & (df["high"] >= df["open"])
            & (df["high"] >= df["close"])
        )


def judge(deliveries: Sequence[Delivery], market: Market, interval: Interval, now_us: int) -> Judged:
    """Apply the rules to what was delivered of one symbol, and put the good bars into canonical order.

    Bars outside a session, rows outside the window that was asked for, and bars that are still forming or
    younger than the market's publish delay are dropped and counted. Everything else that is no bar becomes a
    finding. The same bucket twice: equal values collapse into one, of different ones the last in the order of
    the answers is kept.
    """
    findings = [
        Finding(bucket, reason, raw, published=False, vendor=d.vendor, raw_id=d.raw_id)
        for d in deliveries
        for bucket, reason, raw in d.rejects
    ]
    bars = BarColumns.concat([d.bars for d in deliveries])
    if not len(bars):
        return Judged(EMPTY_BARS, np.empty(0, np.int64), findings)

    source = np.repeat(np.arange(len(deliveries)), [len(d.bars) for d in deliveries])
    start, values = bars.bucket_start, bars.numbers[:5]
    dropped: Counter[str] = Counter()
    kept = np.ones(len(start), bool)

    def quarantine(bad: Mask | np.bool_, reason: Reason) -> None:
        hit = np.flatnonzero(kept & bad)
        findings.extend(_finding(int(i), start, values, reason, deliveries[source[i]]) for i in hit)
        kept[hit] = False

    def drop(bad: Mask, reason: str) -> None:
        hit = kept & bad
        if hit.any():
            dropped[reason] += int(hit.sum())
            kept[hit] = False

    quarantine(start > now_us, Reason.FUTURE_BUCKET)
    if not market.always_open:
        drop(~market.in_session(interval, start), Reason.OUT_OF_SESSION)
    asked_start = np.array([d.start_us for d in deliveries])[source]
    asked_end = np.array([d.end_us for d in deliveries])[source]
    drop((start < asked_start) | (start >= asked_end), Reason.OUTSIDE_WINDOW)
    quarantine(start % interval.step_us != 0, Reason.NOT_ALIGNED)
    drop(_not_yet_final(start, market, interval, now_us), "forming")
    quarantine(~np.isfinite(values).all(axis=0), Reason.NOT_FINITE)
    open_, high, low, close, volume = values
    quarantine(np.logical_or(np.min(values[:4], axis=0) <= 0, volume < 0), Reason.NEGATIVE)
    quarantine(np.logical_or(low > np.minimum(open_, close), high < np.maximum(open_, close)), Reason.BAD_OHLC)

    order = np.flatnonzero(kept)
    order = order[np.argsort(start[order], kind="stable")]
    chosen, conflicting, repeated = _unique(order, start, values, source)
    findings += [_finding(int(i), start, values, Reason.DUPLICATE_CONFLICT, deliveries[source[i]]) for i in conflicting]
    for reason, flagged in _flags(values[:, chosen]).items():
        findings += [
            _finding(int(i), start, values, reason, deliveries[source[i]], published=True) for i in chosen[flagged]
        ]
    return Judged(bars.take(chosen).table(), source[chosen], findings, repeated, dropped)


def _not_yet_final(start: Micros, market: Market, interval: Interval, now_us: int) -> Mask:
    """Return which buckets are still forming, or closed less than the publish delay ago."""
    ready = now_us - span_us(market.publish_delay[interval])
    if market.always_open or interval is Interval.MINUTE:
        return start + interval.step_us > ready
    session = np.searchsorted(market.calendar.labels, start, side="right") - 1
    return market.calendar.closes[session] > ready


def _unique(order: Positions, start: Micros, values: Floats, source: Positions) -> tuple[Positions, Positions, Micros]:
    """Return the positions to keep, those that one answer contradicts itself with, and its repeated buckets.

    The same bucket in two answers is no fault: the later answer counts.
    """
    sorted_start = start[order]
    same_as_next = sorted_start[1:] == sorted_start[:-1]
    if not same_as_next.any():
        return order, np.empty(0, np.int64), np.empty(0, np.int64)
    last_of_group = np.append(~same_as_next, True)
    chosen = order[last_of_group]
    rival = chosen[np.concatenate(([0], np.cumsum(last_of_group)[:-1]))]
    within = (order != rival) & (source[order] == source[rival])
    differs = (values[:, order] != values[:, rival]).any(axis=0)
    return chosen, order[within & differs], np.unique(sorted_start[within])


def _flags(values: Floats) -> dict[Reason, Mask]:
    """Return which bars of a sorted series look absurd beside their neighbours, though they break no rule."""
    _, high, low, _, volume = values
    if len(high) < 3:
        return {}
    high_around = np.maximum(np.append(high[1:], high[-2]), np.insert(high[:-1], 0, high[1]))
    low_around = np.minimum(np.append(low[1:], low[-2]), np.insert(low[:-1], 0, low[1]))
    flags = {Reason.PRICE_SPIKE: (high > SPIKE_FACTOR * high_around) | (low * SPIKE_FACTOR < low_around)}
    traded = volume[volume > 0]
    if len(traded) >= SHORTEST_SERIES_FOR_MEDIAN:
        flags[Reason.VOLUME_SPIKE] = volume > ABSURD_VOLUME_FACTOR * np.median(traded)
    return flags


def _finding(
    i: int,
    start: Micros,
    values: Floats,
    reason: Reason,
    delivery: Delivery,
    *,
    published: bool = False,
) -> Finding:
    raw = json.dumps(dict(zip(VALUE_COLUMNS, values[:, i].tolist(), strict=True)))
    return Finding(int(start[i]), reason, raw, published, delivery.vendor, delivery.raw_id)
