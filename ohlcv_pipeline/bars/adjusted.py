"""What adjusts the bars of a symbol, read from the lake: its corporate actions and the closes they are held against."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.adjust import MODES, Adjust, Adjustment, adjustment
from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import DAY_US, Interval, Market


def read_adjustment(reader: Reader, market: Market, symbol: str, adjust: Adjust, since_us: int) -> Adjustment:
    """Return what adjusts bars of one symbol that begin at `since_us` or later.

    Raises:
        ValueError: an unknown mode, a market without corporate actions, a symbol of which none were ever asked for,
            or a dividend whose factor cannot be computed.
        LakeError: the lake cannot be read.
    """
    if adjust not in MODES:
        raise ValueError(f"adjust={adjust!r} is not one of {', '.join(MODES)}")
    if market.actions_vendor is None:
        raise ValueError(f"{market.name} has no corporate actions, so there is nothing to adjust its bars for")
    if not reader.action_coverage(market.name, [symbol]).num_rows:
        raise ValueError(
            f"the corporate actions of {symbol} have never been fetched; `ohlcv actions fetch --market {market.name}`"
            " fetches them"
        )
    actions = reader.actions(market.name, [symbol])
    later = actions.filter(pc.greater(actions["ex_date"].cast(pa.int64()), since_us - DAY_US))
    days = reader.bars(market.name, Interval.DAY, symbol, *_needed(market, later))
    return adjustment(later, days, market.calendar, adjust, since_us)


def _needed(market: Market, actions: pa.Table) -> tuple[int, int]:
    """Return [start, end) of the days that hold the session before each action."""
    dates = micros(actions["ex_date"])
    if not len(dates):
        return 0, 0
    labels = market.calendar.labels
    first = max(int(np.searchsorted(labels, dates.min())) - 1, 0)
    return int(labels[min(first, len(labels) - 1)]), int(dates.max()) + 1
