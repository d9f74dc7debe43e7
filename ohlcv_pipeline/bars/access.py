"""Bars for Python: `open_lake().bars("BTC", "15m", start, end)`.

Roll-ups are computed from minutes as they are read. For SQL, attach the lake to DuckDB (docs/how-to/read-bars.md).
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from ohlcv_pipeline.bars.adjust import Adjust
from ohlcv_pipeline.bars.adjusted import read_adjustment
from ohlcv_pipeline.bars.rollup import WIDTHS, bucket_of, roll_up
from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.lake.history import History
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.store import open_store
from ohlcv_pipeline.markets import MINUTE_US, Interval, Market, market, to_us
from ohlcv_pipeline.settings import Settings, settings

if TYPE_CHECKING:
    import polars

Instant = datetime | date | str


class Bars(pd.DataFrame):
    """Bars as a pandas frame indexed by `bucket_start` (UTC): open, high, low, close, volume, trade_count, vwap.

    Prices in the market's quote currency, volume in units of the base. Any operation gives a plain frame.
    """

    @property
    def _constructor(self) -> type[pd.DataFrame]:
        return pd.DataFrame

    def arrow(self) -> pa.Table:
        """Return the bars as an Arrow table with `bucket_start` as its first column."""
        return pa.Table.from_pandas(self.reset_index(), preserve_index=False)

    def polars(self) -> polars.DataFrame:
        """Return the bars as a polars frame. Raises ImportError where polars is not installed."""
        try:
            import polars
        except ImportError:
            raise ImportError("polars is not installed: pip install 'ohlcv-pipeline[polars]'") from None
        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame


def instant_us(value: Instant) -> int:
    """Return an instant in µs: an aware datetime, an ISO text with a zone, or a date, which means 00:00 UTC.

    Raises ValueError for a time without a zone.
    """
    if isinstance(value, str):
        value = date.fromisoformat(value) if len(value) == 10 else datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    return to_us(value)


class Lake:
    """Reads the bars of one installation."""

    def __init__(self, reader: Reader, markets: list[Market]) -> None:
        self._reader = reader
        self._markets = markets

    def bars(
        self,
        symbol: str,
        interval: str,
        start: Instant,
        end: Instant,
        *,
        market: str | None = None,
        as_of: Instant | None = None,
        adjust: Adjust = "raw",
    ) -> Bars:
        """Return one symbol's bars with start <= `bucket_start` < end, oldest first.

        Args:
            symbol: as the platform spells it, e.g. `BTC`.
            interval: `minute` or `1m`, `day`, or a roll-up of minutes: 5m, 15m, 30m, 1h, 4h, 1d, 1w. A
                roll-up whose last minute is not stored yet is left out.
            start: an aware datetime, an ISO text with a zone, or a date (00:00 UTC).
            end: likewise, exclusive.
            market: where the symbol is in more than one.
            as_of: give the bars as the lake held them at this instant, however they were revised since. A
                publication counts from its instant on; one that is under way may still fall before `as_of` when
                that is less than its duration ago.
            adjust: `raw` as traded, `split` for splits after each bar, `all` for dividends, too.

        Raises:
            ValueError: an unknown symbol or interval, a time without a zone, an end before the start, or bars
                that cannot be adjusted: no corporate actions are known, or a day that a dividend needs is not stored.
            LakeError: the lake cannot be read.
        """
        start_us, end_us = instant_us(start), instant_us(end)
        if end_us <= start_us:
            raise ValueError(f"end {end} must be after start {start}")
        home = self._market(symbol, market)
        at_us = None if as_of is None else instant_us(as_of)
        if interval in WIDTHS:
            table = self._rolled_up(home, symbol, interval, start_us, end_us, at_us, adjust)
        else:
            table = self._stored(home, Interval.parse(interval), symbol, start_us, end_us, at_us, adjust)
        return Bars(table.to_pandas().set_index("bucket_start"))

    def _stored(
        self, home: Market, interval: Interval, symbol: str, start_us: int, end_us: int, at_us: int | None,
        adjust: Adjust,
    ) -> pa.Table:  # fmt: skip
        if at_us is None:
            bars = self._reader.bars(home.name, interval, symbol, start_us, end_us)
        else:
            bars = History(self._reader).bars(home.name, interval, symbol, start_us, end_us, at_us)
        if adjust == "raw" or not bars.num_rows:
            return bars
        first = int(micros(bars["bucket_start"])[0])
        return read_adjustment(self._reader, home, symbol, adjust, first).apply(bars, interval)

    def _rolled_up(
        self, home: Market, symbol: str, code: str, start_us: int, end_us: int, at_us: int | None, adjust: Adjust
    ) -> pa.Table:
        first = bucket_of(start_us + WIDTHS[code] - 1, code)
        last = bucket_of(end_us - 1, code)
        end_us = last + WIDTHS[code]
        minutes = self._stored(home, Interval.MINUTE, symbol, first, end_us, at_us, adjust)
        rolled = roll_up(minutes, code)
        if not rolled.num_rows:
            return rolled
        newest_start = int(micros(rolled["bucket_start"])[-1])
        closes = newest_start + WIDTHS[code]
        reached = int(micros(minutes["bucket_start"])[-1]) + MINUTE_US
        if reached < closes and not self._holds_later(home, symbol, closes, at_us):
            return rolled.slice(0, rolled.num_rows - 1)
        return rolled

    def _holds_later(self, home: Market, symbol: str, instant: int, at_us: int | None) -> bool:
        if at_us is not None:
            return History(self._reader).reaches(home.name, Interval.MINUTE, symbol, instant, at_us)
        return self._reader.newest(home.name, Interval.MINUTE, symbol) >= instant

    def _market(self, symbol: str, name: str | None) -> Market:
        if name is not None:
            return market(name)
        homes = [each for each in self._markets if self._reader.newest(each.name, None, symbol) >= 0]
        if len(homes) == 1:
            return homes[0]
        if homes:
            raise ValueError(f"{symbol} is in {', '.join(m.name for m in homes)}: say market=…")
        raise ValueError(f"no bars of {symbol} are stored in {', '.join(m.name for m in self._markets)}")

    def manifest(self, market: str, interval: str) -> pd.DataFrame:
        """Return the manifest of one table: a row for each symbol and partition, see docs/reference/lake.md."""
        frame: pd.DataFrame = self._reader.manifest(market, Interval.parse(interval)).to_pandas()
        return frame

    def sql(self, query: str, *parameters: Any) -> pd.DataFrame:
        """Return what a SELECT over the tables `lake.<market>.ohlcv_minute`, `lake.manifest` … gives."""
        frame: pd.DataFrame = self._reader.query(query, parameters).to_pandas()
        return frame


def open_lake(home: str | Path | None = None, *, profile: str | None = None) -> Lake:
    """Open the lake of an installation for reading.

    Args:
        home: where the installation keeps its data; `OHLCV_HOME`, else `./var`.
        profile: `sandbox` or `live`; `OHLCV_PROFILE`, else `sandbox`.
    """
    given: dict[str, Any] = {"home": home, "profile": profile}
    chosen = Settings(**{k: v for k, v in given.items() if v is not None}) if home or profile else settings()
    store = open_store(chosen.catalog_path, chosen.data_path, chosen.raw_path)
    return Lake(store.reader, [market(name) for name in chosen.markets])
