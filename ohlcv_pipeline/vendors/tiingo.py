"""Tiingo: US equities by the day, with splits and dividends, and by the minute as traded on IEX.

Wire format: tiingo.com/documentation/end-of-day and /iex. A day's stamp is a session date, never an instant.
Quotas are told as a sentence, with status 429 or with 200; the whole vendor is then left alone until they end.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ohlcv_pipeline.frames import Micros
from ohlcv_pipeline.markets import DAY_US, Interval, from_us, to_us
from ohlcv_pipeline.vendors.base import ACTION_SCHEMA, Actions, Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, bad_symbol, malformed
from ohlcv_pipeline.vendors.new_york import wall_clock, weeks
from ohlcv_pipeline.vendors.paging import closed_part, fetch_page, planned, require_ok
from ohlcv_pipeline.vendors.records import Record, bars_from_records, instants
from ohlcv_pipeline.vendors.rows import Parsed, kind, load_json
from ohlcv_pipeline.vendors.verdicts import is_quota, quota_wait

T = TypeVar("T")

PUBLISHED_US = 17 * 3_600_000_000 + 30 * 60_000_000
"""Time of day in New York by which the day's rows are there; corrections follow until 20:00."""

PRICES = {name: name for name in ("open", "high", "low", "close", "volume")}
ADJUSTED = frozenset({"adjOpen", "adjHigh", "adjLow", "adjClose", "adjVolume"})
DAILY = Record("tiingo daily rows", {"date": "time", **PRICES}, ADJUSTED | {"divCash", "splitFactor"})
MINUTES = Record("tiingo IEX rows", {"date": "time", **PRICES})
SESSION_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:T00:00:00(?:\.0+)?(?:Z|\+00:00))?")


def session_dates(column: Sequence[Any], where: str) -> Micros:
    """Read session dates as 00:00Z in µs: `2015-01-02T00:00:00.000Z`, `…T00:00:00+00:00` and `2015-01-02`.

    Raises VendorError (malformed) for any other shape, above all for one that is another time of day.
    """
    return np.fromiter((_session_date(cell, where) for cell in column), np.int64, len(column))


def _session_date(cell: object, where: str) -> int:
    match = SESSION_DATE.fullmatch(cell) if isinstance(cell, str) else None
    if match is not None:
        try:
            return to_us(datetime.strptime(match[1], "%Y-%m-%d").replace(tzinfo=UTC))
        except ValueError:
            pass
    raise malformed(
        f"{where}: expected a session date, found {'another text' if isinstance(cell, str) else kind(cell)}"
    )


def parse_daily(body: bytes, asked: str = "tiingo daily") -> Parsed:
    """Read `[{"date","open","high","low","close","volume",…},…]`, or the same table as CSV, raw columns only.

    Raises VendorError (malformed).
    """
    return bars_from_records(_rows(body, asked), DAILY, session_dates, asked)


def parse_minutes(body: bytes, asked: str = "tiingo IEX") -> Parsed:
    """Read `[{"date" RFC 3339 open,"open","high","low","close","volume"},…]`; volume is that of IEX alone.

    Raises VendorError (malformed).
    """
    return bars_from_records(_rows(body, asked), MINUTES, instants, asked)


def parse_actions(body: bytes, asked: str = "tiingo daily") -> Actions:
    """Return the splits and dividends of a daily body, in the order of the rows, and the sessions it has.

    Raises VendorError (malformed) naming the field that is missing or holds no number.
    """
    rows = _rows(body, asked)
    if not isinstance(rows, list) or {kind(row) for row in rows} - {"object"}:
        raise malformed(f"{asked}: expected an array of tiingo daily rows as objects, found something else")
    dates = session_dates([row.get("date") for row in rows], f"{asked}: field 'date'")
    found: list[tuple[int, str, float]] = []
    for date, row in zip(dates.tolist(), rows, strict=True):
        for field, name, none in (("splitFactor", "split", 1.0), ("divCash", "dividend", 0.0)):
            value = row.get(field)
            if kind(value) != "number" or not math.isfinite(value):
                raise malformed(f"{asked}: expected a number in field {field!r}, found {kind(value)}")
            if value != none:
                found.append((date, name, float(value)))
    columns = list(zip(*found, strict=True)) or [(), (), ()]
    table = pa.Table.from_arrays(
        [pa.array(column, field.type) for column, field in zip(columns, ACTION_SCHEMA, strict=True)],
        schema=ACTION_SCHEMA,
    )
    return Actions(np.sort(dates), table)


def _rows(body: bytes, asked: str) -> object:
    if not body.startswith(b"date,"):
        return load_json(body, asked)
    try:
        table = pacsv.read_csv(
            pa.BufferReader(body),
            read_options=pacsv.ReadOptions(use_threads=False),
            convert_options=pacsv.ConvertOptions(column_types={"date": pa.string()}),
        )
    except pa.ArrowInvalid as error:
        raise malformed(f"{asked}: expected a CSV table, found lines of another shape") from error
    return table.to_pylist()


def _decode(answer: Answer, parse: Callable[[bytes, str], T]) -> T:
    if is_quota(answer.body):
        wait = quota_wait(answer.body, answer.received_at.timestamp())
        raise VendorError(Code.RATE_LIMITED, Remedy.STOP_VENDOR, f"{answer.url}: the quota is used up", wait)
    if answer.status == 404 and b"Not found" in answer.body:
        raise bad_symbol(f"{answer.url}: tiingo has no such ticker")
    require_ok(answer)
    return parse(answer.body, answer.url)


class Tiingo:
    """Rows of `/tiingo/daily/<ticker>/prices` and `/iex/<ticker>/prices`; minutes without trades are absent."""

    name = "tiingo"
    version = "1"
    omits_empty_buckets = True
    raw_prices = True

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the closed minutes of [start, end), or its days up to the last that is published."""
        if interval is Interval.MINUTE:
            return closed_part(interval, start_us, end_us, now_us)
        shown = int(wall_clock(np.array([now_us], np.int64))[0])
        end_us = min(end_us, (shown - PUBLISHED_US) // DAY_US * DAY_US + DAY_US)
        return (start_us, end_us) if start_us < end_us else None

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Plan one request for all days, one for each week of minutes: of more rows only the newest come."""
        windows = [(start_us, end_us)] if interval is Interval.DAY else weeks(start_us, end_us)
        return planned(symbol, vendor_symbol, interval, windows, _request)

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one request; its dates are whole, so rows outside the window are in it too. Raises VendorError."""
        parse = parse_daily if fetch.interval is Interval.DAY else parse_minutes

        def decode(answer: Answer) -> Parsed:
            return _decode(answer, parse)

        return await fetch_page(fetch, transport, decode)

    async def actions(
        self, vendor_symbol: str, start_us: int, end_us: int, transport: Transport
    ) -> tuple[Actions, Answer]:
        """Deliver the splits and dividends with start <= ex-date < end, dates at 00:00Z. Raises VendorError."""
        return await transport.get(
            _daily_request(vendor_symbol, start_us, end_us, ("divCash", "splitFactor")),
            lambda answer: _decode(answer, parse_actions),
        )


def _request(ticker: str, interval: Interval, start_us: int, end_us: int) -> Request:
    if interval is Interval.DAY:
        return _daily_request(ticker, start_us, end_us, (*PRICES, "divCash", "splitFactor"))
    params = _dates(start_us, end_us, interval)
    params |= {"resampleFreq": "1min", "columns": ",".join(PRICES), "forceFill": "false", "afterHours": "false"}
    return Request("tiingo", f"/iex/{quote(ticker, safe='')}/prices", params)


def _daily_request(ticker: str, start_us: int, end_us: int, columns: Sequence[str]) -> Request:
    # Adjusted columns change with every split, the named ones do not.
    params = _dates(start_us, end_us, Interval.DAY) | {"resampleFreq": "daily", "columns": ",".join(columns)}
    return Request("tiingo", f"/tiingo/daily/{quote(ticker, safe='')}/prices", params)


def _dates(start_us: int, end_us: int, interval: Interval) -> dict[str, str | int]:
    # Both dates are inclusive.
    return {
        "startDate": f"{from_us(start_us):%Y-%m-%d}",
        "endDate": f"{from_us(end_us - interval.step_us):%Y-%m-%d}",
        "format": "json",
    }
