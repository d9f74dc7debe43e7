"""Prices adjusted for splits and dividends, computed from raw bars as they are read; nothing adjusted is stored.

A bar is multiplied by the factors of all ex-dates after it. Where actions come from is `actions`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.frames import Floats, Micros, floats, micros
from ohlcv_pipeline.markets import Calendar, Interval, from_us

Adjust = Literal["raw", "split", "all"]
MODES: tuple[Adjust, ...] = get_args(Adjust)

PRICES = ("open", "high", "low", "close", "vwap")


@dataclass(frozen=True)
class Adjustment:
    """What each ex-date does to the bars before it, sorted by date; all columns have shape (n,).

    `days` are the ex-dates at 00:00Z and `opens` the openings of those sessions, in µs; `prices` and `volumes` are
    the factors of what came before.
    """

    days: Micros
    opens: Micros
    prices: Floats
    volumes: Floats

    def apply(self, bars: pa.Table, interval: Interval) -> pa.Table:
        """Return bars of `BAR_SCHEMA` with prices, vwap and volume adjusted; the number of trades stays."""
        starts = micros(bars["bucket_start"])
        ex = self.days if interval is Interval.DAY else self.opens
        for names, steps in ((PRICES, self.prices), (("volume",), self.volumes)):
            factors = pa.array(later_product(starts, ex, steps))
            for name in names:
                bars = bars.set_column(
                    bars.schema.get_field_index(name), bars.schema.field(name), pc.multiply(bars[name], factors)
                )
        return bars


def later_product(starts: Micros, ex: Micros, steps: Floats) -> Floats:
    """Return for each start the product of the steps whose ex-date, sorted, is later than it; 1.0 without one."""
    products: Floats = np.append(np.cumprod(steps[::-1])[::-1], 1.0)
    return products[np.searchsorted(ex, starts, side="right")]


def adjustment(actions: pa.Table, days: pa.Table, calendar: Calendar, adjust: Adjust, since_us: int = 0) -> Adjustment:
    """Return the factors of one symbol's actions whose ex-date is later than an instant.

    A split of v new shares for one divides prices by v and multiplies volume by it. With `all`, a dividend d also
    multiplies prices by 1 - d / c, where c is the raw close of the session before the ex-date; that is how
    tiingo.com/documentation/end-of-day adjusts, after the Center for Research in Security Prices.

    Args:
        actions: `ex_date`, `kind`, `value`, as in `vendors.base.ACTION_SCHEMA`.
        days: raw day bars that hold the session before each ex-date; only `all` needs them.
        calendar: of the market; an action dated between sessions counts from the next one.
        adjust: `raw`, `split` or `all`.
        since_us: what happened until then changes no bar that is asked for.

    Raises:
        ValueError: a close that a dividend needs is not among `days`, or is not above the dividend.
    """
    kinds = {"raw": (), "split": ("split",), "all": ("split", "dividend")}[adjust]
    kind = np.asarray(actions["kind"], dtype=object)
    value, dates = floats(actions["value"]), micros(actions["ex_date"])
    session = np.searchsorted(calendar.labels, dates)
    chosen = np.isin(kind, kinds) & (session < len(calendar.labels))
    chosen[chosen] &= calendar.opens[session[chosen]] > since_us
    kind, value, session = kind[chosen], value[chosen], session[chosen]
    is_split = kind == "split"
    prices = np.where(is_split, 1.0 / np.where(is_split, value, 1.0), 1.0)
    paid = np.flatnonzero(~is_split)
    prices[paid] = 1.0 - value[paid] / _closes_before(days, calendar, session[paid], value[paid])
    order = np.argsort(session, kind="stable")
    return Adjustment(
        days=calendar.labels[session[order]],
        opens=calendar.opens[session[order]],
        prices=prices[order],
        volumes=np.where(is_split, value, 1.0)[order],
    )


def _closes_before(days: pa.Table, calendar: Calendar, sessions: Micros, paid: Floats) -> Floats:
    """Return the raw close of the session before each of these."""
    wanted = calendar.labels[np.maximum(sessions - 1, 0)]
    starts, closes = micros(days["bucket_start"]), floats(days["close"])
    at = np.searchsorted(starts, wanted)
    found = at < len(starts)
    found[found] = starts[at[found]] == wanted[found]
    if not found.all():
        lacking = ", ".join(f"{from_us(day):%Y-%m-%d}" for day in wanted[~found][:3])
        raise ValueError(
            f"{np.sum(~found)} dividends cannot be taken out: there is no day bar of the session before, {lacking}"
            f"{' …' if np.sum(~found) > 3 else ''}; fetch the days with `ohlcv backfill --interval day --start …`"
        )
    before = closes[at]
    if (paid >= before).any():
        worst = int(np.argmax(paid / before))
        raise ValueError(
            f"the dividend of {paid[worst]:g} after {from_us(wanted[worst]):%Y-%m-%d} is not below that day's"
            f" close of {before[worst]:g}; one of the two is wrong"
        )
    return before
