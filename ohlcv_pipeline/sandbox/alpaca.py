"""Alpaca market data: `/v2/stocks/bars`.

Bars are objects `{t, o, h, l, c, v, n, vw}` by symbol, sorted by symbol and then by time; `t` is the open of
the bar, of a day New York's midnight. Pages go on by token only. After https://docs.alpaca.markets (stock bars)
and the recordings of its clients.
"""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline.sandbox.listing import spellings, stable_hash
from ohlcv_pipeline.sandbox.messages import DAY, HTML, MINUTE, Ask, Reply, Request, iso, json_reply
from ohlcv_pipeline.sandbox.series import CLOSE, COUNT, HIGH, LOW, OPEN, VOLUME, Bars
from ohlcv_pipeline.sandbox.sessions import DECIMALS, Tape, at_iex, vwap

NAME = "alpaca"
MAX_LIMIT = 10_000
NEW_YORK = ZoneInfo("America/New_York")
ODD_EVERY = 32
"""Of so many pages after the first one is empty, and two are short, each with a token."""
RECENT_SECONDS = 15 * 60

SYMBOLS = spellings(NAME)
_STEPS = {"1Min": MINUTE, "1T": MINUTE, "1Day": DAY, "1D": DAY}
_PARAMETERS = {
    "symbols", "timeframe", "start", "end", "limit", "adjustment", "feed", "currency", "asof", "sort", "page_token",
}  # fmt: skip
_FORBIDDEN = (
    b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body>\r\n<center><h1>403 Forbidden</h1></center>\r\n"
    b"<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
)


def error(status: int, message: str) -> Reply:
    """Return Alpaca's error body."""
    return json_reply(status, {"message": message})


RECENT = error(403, "subscription does not permit querying recent SIP data")


def _refuse(message: str) -> Ask:
    return Ask(NAME, refusal=error(400, message))


def parse(request: Request, now: float) -> Ask:
    """Return what is asked for; both bounds are inclusive on `t`.

    A date alone means New York's midnight. `form` holds feed, limit, sort, the end if one was named, and where
    the page goes on.
    """
    if not all(request.headers.get(name) for name in (b"apca-api-key-id", b"apca-api-secret-key")):
        return Ask(NAME, refusal=Reply(403, _FORBIDDEN, HTML))
    if request.path != "/v2/stocks/bars":
        return Ask(NAME, refusal=error(404, "endpoint not found."))
    query = request.query
    if unknown := sorted(set(query) - _PARAMETERS):
        return _refuse(f"unexpected query parameter(s): {', '.join(unknown)}")
    asked = sorted({symbol for symbol in query.get("symbols", "").split(",") if symbol})
    if not asked:
        return _refuse("symbols is required")
    for symbol in asked:
        if not re.fullmatch(r"[A-Z]{1,5}(\.[A-Z]{1,2})?", symbol):
            return _refuse(f"invalid symbol: {symbol}")
    if query.get("timeframe") not in _STEPS:
        return _refuse("invalid timeframe: the sandbox keeps 1Min and 1Day only")
    for name, known in (("adjustment", ("raw",)), ("feed", ("sip", "iex")), ("currency", ("USD",))):
        if query.get(name, known[0]) not in known:
            return _refuse(f"invalid {name}: the sandbox knows {' and '.join(known)} only")
    sort, limit = query.get("sort", "asc"), query.get("limit", "1000")
    if sort not in ("asc", "desc"):
        return _refuse("invalid sort: must be asc or desc")
    if not limit.isdecimal() or not 1 <= int(limit) <= MAX_LIMIT:
        return _refuse(f"invalid limit: must be between 1 and {MAX_LIMIT}")
    today = datetime.fromtimestamp(now, UTC).date().isoformat()
    bounds = [_instant(query.get("start", f"{today}T00:00:00Z")), _instant(query.get("end", iso(int(now))))]
    for name, bound in zip(("start", "end"), bounds, strict=True):
        if bound is None:
            return _refuse(f"invalid {name}: must be RFC3339 or YYYY-MM-DD")
    start, end = (bound or 0.0 for bound in bounds)
    if end < start:
        return _refuse("end should not be before start")
    step, symbols = _STEPS[query["timeframe"]], tuple(SYMBOLS[symbol] for symbol in asked if symbol in SYMBOLS)
    token = query.get("page_token", "")
    place = _read_token(token)
    if token and (place is None or place.split("|")[0] not in asked):
        return _refuse("invalid page_token")
    first, last = (_label(start, up=True), _label(end, up=False)) if step == DAY else _minutes(start, end)
    form = " ".join((query.get("feed", "sip"), limit, sort, str(int(end)) if "end" in query else "-", place or ""))
    return Ask(NAME, symbols, step, first, max(first, last), form=form)


def _instant(text: str) -> float | None:
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).timestamp()
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return None if instant.tzinfo is None else instant.timestamp()


def _minutes(start: float, end: float) -> tuple[int, int]:
    return int(-(-start // MINUTE)) * MINUTE, int(end // MINUTE) * MINUTE + MINUTE


def _label(bound: float, *, up: bool) -> int:
    """Return the bucket of the first day whose midnight in New York is not before a bound, or is after it."""
    local = datetime.fromtimestamp(bound, NEW_YORK)
    label = int(datetime(local.year, local.month, local.day, tzinfo=UTC).timestamp())
    return label + DAY if not up or _midnight(label) < bound else label


def _midnight(label: int) -> int:
    """Return New York's midnight of a date given as its 00:00Z: 04:00Z in summer, 05:00Z in winter."""
    return int(datetime.fromtimestamp(label, UTC).replace(tzinfo=NEW_YORK).timestamp())


def _read_token(token: str) -> str | None:
    """Return `symbol|M or D|time of the last bar given`, and `|again` after an empty page; None when it is not."""
    try:
        place = base64.b64decode(token, validate=True).decode()
    except ValueError:
        return None
    return place if re.fullmatch(r"[A-Z.]+\|[MD]\|\d+(\|again)?", place) else None


def asks_recent(ask: Ask, now: float) -> bool:
    """Whether a request names an end inside the last 15 minutes of the consolidated tape."""
    feed, _, _, end, *_ = ask.form.split(" ") if ask.step else [""] * 4
    return feed == "sip" and end.isdecimal() and int(end) > now - RECENT_SECONDS


def token_of(ask: Ask) -> str:
    """Return the page token that a request came with; empty without one."""
    place = ask.form.split(" ")[4] if ask.step else ""
    return base64.b64encode(place.encode()).decode()


def answer(ask: Ask, tape: Tape, now: float) -> Reply:
    """Return one page: up to `limit` bars of all symbols together. A symbol without a bar is absent."""
    feed, limit, sort, _, place = ask.form.split(" ")
    symbol, _, after, again = (*place.split("|"), "", "", "")[:4] if place else ("", "", "", "")
    left = int(limit)
    odd = stable_hash(tape.seed, place) % ODD_EVERY if place and not again else ODD_EVERY
    if odd == 0:
        return _page([], f"{place}|again")
    if odd <= 2:
        left = -(-left * 2 // 3)
    spelt = sorted((name, known) for name, known in SYMBOLS.items() if known in ask.symbols and name >= symbol)
    groups, more = [], ""
    for name, known in spelt:
        start, end = ask.start, ask.end
        if name == symbol and sort == "asc":
            start = max(start, int(after) + 1)
        elif name == symbol:
            end = min(end, int(after))
        bars = _bars(tape, known, ask.step, start, end, now, left if sort == "asc" else None)
        if sort == "desc":
            bars = Bars(bars.time[::-1], bars.columns[:, ::-1], bars.decimals)
        bars = Bars(bars.time[:left], bars.columns[:, :left], bars.decimals)
        left -= len(bars.time)
        shown = at_iex(bars, tape.seed, known) if feed == "iex" else bars
        if len(shown.time):
            groups.append(b'"%b":[%b]' % (name.encode(), _rows(shown, ask.step)))
        if not left:
            more = f"{name}|{'D' if ask.step == DAY else 'M'}|{bars.time[-1]}"
            break
    return _page(groups, more)


def _bars(tape: Tape, symbol: str, step: int, start: int, end: int, now: float, most: int | None) -> Bars:
    if step == DAY:
        return tape.bars(NAME, symbol, DAY, start, end, now)
    return tape.minutes(NAME, symbol, start, end, now, extended=True, most=most)


def _page(groups: list[bytes], place: str) -> Reply:
    token = b'"%b"' % base64.b64encode(place.encode()) if place else b"null"
    return Reply(200, b'{"bars":{%b},"next_page_token":%b}' % (b",".join(groups), token))


def _rows(bars: Bars, step: int) -> bytes:
    time, columns = bars.time, bars.columns
    if step == DAY:
        time = np.array([_midnight(label) for label in time.tolist()], np.int64)
    prices = digits.trimmed(digits.fixed(columns[[OPEN, HIGH, LOW, CLOSE]].reshape(-1), DECIMALS), DECIMALS)
    opened, high, low, closed = prices.reshape(4, len(time), -1)
    return digits.text(
        b'{"t":"', digits.stamps(time), b'Z","o":', opened, b',"h":', high, b',"l":', low, b',"c":', closed,
        b',"v":', digits.fixed(columns[VOLUME]), b',"n":', digits.fixed(columns[COUNT]),
        b',"vw":', digits.trimmed(digits.fixed(vwap(bars), 6), 6), b"},",
    )[:-1]  # fmt: skip
