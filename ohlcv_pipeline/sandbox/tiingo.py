"""Tiingo: `/tiingo/daily/{ticker}/prices` and `/iex/{ticker}/prices`.

Rows are objects, oldest first, no pages. A daily row is dated by its session and carries raw and adjusted
prices, cash and split of its ex-date; an intraday row tells of one venue, in UTC. After
https://www.tiingo.com/documentation and the recordings of its client.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime

import numpy as np
import orjson

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline.sandbox.listing import spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Ask, Reply, Request, json_reply
from ohlcv_pipeline.sandbox.series import CLOSE, HIGH, LOW, OPEN, VOLUME, Bars, Floats
from ohlcv_pipeline.sandbox.sessions import DECIMALS, Tape, at_iex
from ohlcv_pipeline.sandbox.shares import events, timetable

NAME = "tiingo"
IEX_ROWS = 2_000
"""More rows than that and the newest are kept."""
PUBLISHED_AFTER = 90 * 60
"""A session's daily row appears so many seconds after its close."""

TICKERS = {spelling.lower(): symbol for spelling, symbol in spellings(NAME).items()}
_PATHS = re.compile(r"/(tiingo/daily|iex)/([^/]+)/prices")
_DAILY = (
    "date", "close", "high", "low", "open", "volume", "adjClose", "adjHigh", "adjLow", "adjOpen", "adjVolume",
    "divCash", "splitFactor",
)  # fmt: skip
_PRICES = {"open": OPEN, "high": HIGH, "low": LOW, "close": CLOSE}

NOT_FOUND = json_reply(404, {"detail": "Not found."})


def error(status: int, detail: str) -> Reply:
    """Return Tiingo's error body."""
    return json_reply(status, {"detail": detail})


def _refuse(detail: str) -> Ask:
    return Ask(NAME, refusal=error(400, detail))


def parse(request: Request, now: float) -> Ask:
    """Return what is asked for; both dates are inclusive, and without them the newest session is meant.

    `form` holds the columns asked for, and for intraday rows "after" when those outside the session are wanted.
    """
    refusal = _credentials(request)
    if refusal is not None:
        return Ask(NAME, refusal=refusal)
    found = _PATHS.fullmatch(request.path)
    symbol = TICKERS.get(found[2].lower()) if found else None
    if found is None or symbol is None:
        return Ask(NAME, refusal=NOT_FOUND)
    query, daily = request.query, found[1] != "iex"
    if query.get("format", "json") != "json":
        return _refuse("The sandbox answers format=json only.")
    frequency = "daily" if daily else "1min"
    if query.get("resampleFreq", "daily" if daily else "5min") != frequency:
        return _refuse(f"The sandbox keeps resampleFreq={frequency} only.")
    known = _DAILY[1:] if daily else (*_PRICES, "volume")
    columns = query.get("columns", ",".join(known if daily else _PRICES)).split(",")
    if unknown := [name for name in columns if name not in (*known, "date")]:
        return _refuse(f"Unknown columns: {', '.join(unknown)}.")
    newest = _newest(now, daily=daily)
    days = [_day(query.get(name, "")) for name in ("startDate", "endDate")]
    for name, day in zip(("startDate", "endDate"), days, strict=True):
        if day is None and query.get(name):
            return _refuse(f"{name} must be a date, YYYY-MM-DD.")
    start = newest if days[0] is None else days[0]
    end = newest if days[1] is None else days[1]
    if daily:
        end = min(end, newest)
    form = " ".join(("after" if query.get("afterHours") == "true" else "session", *columns))
    return Ask(NAME, (symbol,), DAY if daily else MINUTE, start, max(start, end + DAY), form=form)


def _credentials(request: Request) -> Reply | None:
    given = request.headers.get(b"authorization", b"").decode("latin-1")
    if not given and not request.query.get("token"):
        return error(403, "Authentication credentials were not provided.")
    if given and not re.fullmatch(r"[Tt]oken \S+", given):
        return error(401, "Invalid token.")
    return None


def _newest(now: float, *, daily: bool) -> int:
    """Return the date of the newest session with rows, as 00:00Z in unix seconds."""
    table = timetable()
    ready = table.closes + PUBLISHED_AFTER if daily else table.opens
    return int(table.labels[max(int(np.searchsorted(ready, now, side="right")) - 1, 0)])


def _day(text: str) -> int | None:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return None
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def answer(ask: Ask, tape: Tape, now: float) -> Reply:
    """Return the rows; `[]` when there are none."""
    when, *columns = ask.form.split(" ")
    if ask.step == DAY:
        return _daily(ask, tape, now, columns)
    bars = tape.minutes(NAME, ask.symbol, ask.start, ask.end, now, extended=when == "after")
    bars = at_iex(bars, tape.seed, ask.symbol)
    bars = Bars(bars.time[-IEX_ROWS:], bars.columns[:, -IEX_ROWS:], bars.decimals)
    if not len(bars.time):
        return Reply(200, b"[]")
    parts: list[digits.Bytes | bytes] = [b'{"date":"', digits.stamps(bars.time), b'.000Z"']
    for name in columns:
        if name in _PRICES:
            values = bars.columns[_PRICES[name]]
            parts += [b',"%b":' % name.encode(), digits.trimmed(digits.fixed(values, DECIMALS), DECIMALS)]
        elif name == "volume":
            parts += [b',"volume":', digits.fixed(bars.columns[VOLUME])]
    return Reply(200, b"[%b]" % digits.text(*parts, b"},")[:-1])


def _daily(ask: Ask, tape: Tape, now: float, columns: list[str]) -> Reply:
    # To the newest row there is, whatever the end: later splits and dividends adjust the rows asked for.
    bars = tape.bars(NAME, ask.symbol, DAY, ask.start, _newest(now, daily=True) + DAY, now)
    splits, cash = _of_sessions(ask.symbol, bars)
    price, volume = adjustments(bars.columns[CLOSE] / 100.0, splits, cash)
    shown = bars.time < ask.end
    cells = bars.columns
    table = {
        "date": [f"{day}T00:00:00.000Z" for day in bars.time.astype("datetime64[s]").astype("datetime64[D]")[shown]],
        "volume": cells[VOLUME][shown].tolist(),
        "adjVolume": np.rint(cells[VOLUME] * volume).astype(np.int64)[shown].tolist(),
        "divCash": cash[shown].tolist(),
        "splitFactor": splits[shown].tolist(),
    }
    for name, row in _PRICES.items():
        table[name] = (cells[row] / 100.0)[shown].tolist()
        table[f"adj{name.capitalize()}"] = (cells[row] / 100.0 * price)[shown].tolist()
    names = [name for name in _DAILY if name == "date" or name in columns]
    rows = zip(*(table[name] for name in names), strict=True)
    return Reply(200, orjson.dumps([dict(zip(names, row, strict=True)) for row in rows]))


def _of_sessions(symbol: str, bars: Bars) -> tuple[Floats, Floats]:
    at = np.searchsorted(timetable().labels, bars.time)
    return events(symbol).factors[at].astype(np.float64), events(symbol).cents[at].astype(np.float64) / 100.0


def adjustments(close: Floats, splits: Floats, cash: Floats) -> tuple[Floats, Floats]:
    """Return the factors that adjust the prices and the volume of each session, from the newest one backwards.

    The sessions before an ex-date are divided by its split, and by what the cash took off the last close
    before it: factor(i) = product over j > i of (1 - cash(j) / close(j-1)) / split(j).
    """
    steps = np.append((1.0 - cash[1:] / close[:-1]) / splits[1:], 1.0), np.append(splits[1:], 1.0)
    price, volume = (np.cumprod(step[::-1])[::-1].astype(np.float64) for step in steps)
    return price, volume
