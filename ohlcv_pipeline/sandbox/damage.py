"""What each kind of fault does to an answer: another answer in its place, or the true one spoilt.

Rows are decoded from the true body, changed and encoded again, so that every vendor is spoilt by the same
few functions. Which request is hit is decided in `faults`; delays and cut connections are `app`'s.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import orjson

from ohlcv_pipeline.sandbox import alpaca
from ohlcv_pipeline.sandbox.archive import NOT_FOUND, checksum, is_checksum, name_of, unzip_csv, zip_csv
from ohlcv_pipeline.sandbox.faults import Fault
from ohlcv_pipeline.sandbox.limits import HOURLY_QUOTA, banned, rate_headers, too_many
from ohlcv_pipeline.sandbox.messages import DAY, HTML, MINUTE, TEXT, Ask, Headers, Reply, json_reply

Row = Any
"""A row as the vendor sends it, a list or an object; `_PLACES` says where its fields are."""

Places = Mapping[str, Any]
_O_H_L_C_V = {"time": 0, "open": 1, "high": 2, "low": 3, "close": 4, "volume": 5}
_PLACES: Mapping[str, Places] = {
    "coinbase": {"time": 0, "low": 1, "high": 2, "open": 3, "close": 4, "volume": 5},
    "kraken": {"time": 0, "open": 1, "high": 2, "low": 3, "close": 4, "volume": 6},
    "binance": _O_H_L_C_V,
    "binance_archive": _O_H_L_C_V,
    "alpaca": {"time": "t", "open": "o", "high": "h", "low": "l", "close": "c", "volume": "v"},
    "tiingo": {"time": "date", **{name: name for name in ("open", "high", "low", "close", "volume")}},
}
_PRICES = ("open", "high", "low", "close")
SPOILING = frozenset({
    "empty", "nan", "missing", "duplicate", "unsorted", "bad_bar", "early_row", "wrong_checksum", "corrupt_zip",
    "bad_gzip", "wrong_pair", "extra_field", "missing_field", "renamed_field", "stale", "repeated_token",
    "wrong_currency",
})  # fmt: skip
"""The kinds that need the true answer first; the others take its place or cut the connection."""

_NAN = "@nan@"
_HTML = (
    b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>We will be right back</h1></body></html>"
)
_TOKEN = re.compile(rb'"next_page_token":[^}]*}$')


def instead(fault: Fault, ask: Ask, now: float) -> Reply | None:
    """Return the answer that takes the place of the true one; None for a kind that spoils the true one."""
    parameters = fault.parameters
    match fault.kind:
        case "outage":
            status = int(parameters.get("status", 503))
            return Reply(status, b"<html><head><title>%d</title></head><body>Unavailable</body></html>" % status, HTML)
        case "rate_limit":
            return _rate_limit(ask.vendor, parameters, now)
        case "ban":
            return banned(float(parameters.get("seconds", 120)), now)
        case "html":
            return Reply(200, _HTML, HTML)
        case "text":
            return Reply(200, parameters.get("message", HOURLY_QUOTA).encode(), TEXT)
        case "empty_body":
            return Reply(200, b"")
        case "not_yet":
            return NOT_FOUND
        case "recent_sip" if alpaca.asks_recent(ask, now):
            return alpaca.RECENT
    return None


def _rate_limit(vendor: str, parameters: Mapping[str, Any], now: float) -> Reply:
    if vendor == "binance":
        refusal = json_reply(429, {"code": -1003, "msg": "Too many requests queued."})
    else:
        refusal = too_many(vendor)
    headers: Headers = ()
    if vendor == "alpaca":
        headers = rate_headers(200, 0, now + parameters.get("reset", MINUTE - now % MINUTE))
    if "retry_after" in parameters:
        headers = (*headers, (b"retry-after", str(parameters["retry_after"]).encode()))
    return Reply(429, refusal.body, refusal.content_type, headers)


def spoil(fault: Fault, ask: Ask, reply: Reply) -> Reply | None:
    """Return the true answer spoilt; None when it holds nothing that the fault is about.

    Of the archive's CHECKSUM files only `wrong_checksum` and `bad_gzip` are for here; see `app`.
    """
    match fault.kind:
        case "bad_gzip":
            return Reply(reply.status, reply.body, reply.content_type, (*reply.headers, (b"content-encoding", b"gzip")))
        case "corrupt_zip":
            # The central directory at the end: without it no reader can open the file.
            return Reply(200, reply.body[: len(reply.body) * 3 // 4], reply.content_type, reply.headers)
        case "wrong_pair":
            return Reply(200, _other_pair(ask, reply.body)) if ask.step else None
        case "repeated_token":
            token = alpaca.token_of(ask).encode()
            return Reply(200, _TOKEN.sub(b'"next_page_token":"%b"}' % token, reply.body)) if token else None
        case "wrong_currency":
            return Reply(200, reply.body[:-1] + b',"currency":"MXN"}') if ask.step else None
        case "wrong_checksum":
            if not is_checksum(ask):
                return None
            return Reply(200, checksum(b"another file", name_of(ask)), reply.content_type, reply.headers)
    if not ask.step:
        return None
    groups = _decode(ask, reply.body)
    met = False
    for name, rows in groups.items():
        changed = _change(fault, ask, rows) if _concerns(fault, ask, name) else None
        if changed is not None:
            groups[name], met = changed, True
    return Reply(200, _encode(ask, groups, reply.body), reply.content_type, reply.headers) if met else None


def _other_pair(ask: Ask, body: bytes) -> bytes:
    if ask.vendor == "kraken":
        return body.replace(ask.form.encode(), b"XETHZUSD" if ask.symbol != "ETH" else b"XXBTZUSD", 1)
    other = next((name for name, symbol in alpaca.SYMBOLS.items() if symbol not in ask.symbols), "OTHER")
    return re.sub(rb'"[A-Z.]+":\[', b'"%b":[' % other.encode(), body, count=1)


def _concerns(fault: Fault, ask: Ask, name: str) -> bool:
    """Whether a fault is about the rows of that name; only Alpaca answers with several symbols at once."""
    return ask.vendor != "alpaca" or fault.symbol in ("", alpaca.SYMBOLS.get(name))


def _decode(ask: Ask, body: bytes) -> dict[str, list[Row]]:
    """Return the rows of an answer by the name that the answer gives them, empty where it gives none."""
    if ask.vendor == "binance_archive":
        return {"": [line.split(",") for line in unzip_csv(body).decode().splitlines()]}
    content = orjson.loads(body.replace(b"NaN", b'"%b"' % _NAN.encode()))
    if ask.vendor == "alpaca":
        return dict(content["bars"])
    return {"": list(content["result"][ask.form] if ask.vendor == "kraken" else content)}


def _encode(ask: Ask, groups: dict[str, list[Row]], body: bytes) -> bytes:
    if ask.vendor == "binance_archive":
        rows = groups[""]
        lines = "".join(",".join("NaN" if cell == _NAN else str(cell) for cell in row) + "\n" for row in rows)
        return zip_csv(name_of(ask), lines.encode())
    shown = {name: rows for name, rows in groups.items() if rows} if ask.vendor == "alpaca" else groups[""]
    encoded = orjson.dumps(shown).replace(b'"%b"' % _NAN.encode(), b"NaN")
    if ask.vendor == "alpaca":
        return b'{"bars":' + encoded + body[body.rindex(b',"next_page_token"') :]
    if ask.vendor != "kraken":
        return encoded
    head, tail = body[: body.index(b":[", body.index(b'"result"')) + 1], body[body.rindex(b',"last"') :]
    return head + encoded + tail


def _seconds(ask: Ask, row: Row) -> int:
    """Return the bucket of a row, unix seconds: of a day 00:00Z of its date, whatever hour the vendor gives it."""
    stamp = row[_PLACES[ask.vendor]["time"]]
    if isinstance(stamp, str) and not stamp.isdecimal():
        seconds = int(datetime.fromisoformat(stamp).timestamp())
    else:
        seconds = int(stamp) // _unit(int(stamp))
    return seconds // ask.step * ask.step if ask.step == DAY else seconds


def _unit(stamp: int) -> int:
    return 1_000_000 if stamp >= 10**14 else 1_000 if stamp >= 10**11 else 1


def _shifted(vendor: str, row: Row, seconds: int) -> Row:
    place, shifted = _PLACES[vendor]["time"], row.copy()
    stamp = row[place]
    if isinstance(stamp, str) and not stamp.isdecimal():
        moved = datetime.fromisoformat(stamp) + timedelta(seconds=seconds)
        shifted[place] = f"{moved:%Y-%m-%dT%H:%M:%S}{stamp[19:]}"
    else:
        shifted[place] = type(stamp)(int(stamp) + seconds * _unit(int(stamp)))
    return shifted


def _like(old: object, value: float) -> object:
    """Write a number the way the field was written."""
    if isinstance(old, str):
        return f"{value:.{len(old.partition('.')[2])}f}"
    return int(value) if isinstance(old, int) and value == int(value) else value


def _change(fault: Fault, ask: Ask, rows: list[Row]) -> list[Row] | None:
    """Return the rows of one symbol with the fault in them; None when no row is concerned."""
    if fault.kind == "empty":
        return []
    if not rows:
        return None
    if fault.kind == "unsorted":
        return rows[1::2] + rows[::2] if len(rows) > 1 else None
    if fault.kind == "early_row":
        at = min(range(len(rows)), key=lambda place: _seconds(ask, rows[place]))
        early = _shifted(ask.vendor, rows[at], ask.start - ask.step - _seconds(ask, rows[at]))
        return [*rows, early] if ask.vendor == "coinbase" else [early, *rows]
    if fault.kind in ("bad_bar", "duplicate") and not _complete(ask.vendor, rows[0]):
        return None
    if fault.start is None and fault.end is None:
        hit = {0}
    else:
        first, last = fault.bounds(ask.step)
        hit = {place for place, row in enumerate(rows) if first <= _seconds(ask, row) < last}
    if not hit:
        return None
    if fault.kind == "missing":
        return [row for place, row in enumerate(rows) if place not in hit]
    if fault.kind == "stale":
        return _stale(ask, rows, hit)
    changed: list[Row] = []
    for place, row in enumerate(rows):
        changed += _spoilt(fault, ask.vendor, row) if place in hit else [row]
    return changed


def _complete(vendor: str, row: Row) -> bool:
    """Whether a row has all fields of a bar; Tiingo's has only those that were asked for."""
    return not isinstance(row, dict) or all(place in row for place in _PLACES[vendor].values())


def _stale(ask: Ask, rows: list[Row], hit: set[int]) -> list[Row]:
    """Return the rows with the prices of some standing still at the close of the one before them."""
    places = _PLACES[ask.vendor]
    by_time = sorted(range(len(rows)), key=lambda place: _seconds(ask, rows[place]))
    first = next(at for at, place in enumerate(by_time) if place in hit)
    price = rows[by_time[max(first - 1, 0)]][places["close"]]
    stale = [row.copy() for row in rows]
    for place in hit:
        for name in _PRICES:
            stale[place][places[name]] = price
    return stale


def _spoilt(fault: Fault, vendor: str, row: Row) -> list[Row]:
    places = _PLACES[vendor]
    row = row.copy()
    match fault.kind:
        case "extra_field":
            return [{**row, "extra": 0} if isinstance(row, dict) else [*row, "0"]]
        case "missing_field":
            if isinstance(row, dict):
                row.popitem()
                return [row]
            return [row[:-1]]
        case "renamed_field":
            return [{"last" if name == places["close"] else name: value for name, value in row.items()}]
        case "nan":
            row[places["close"]] = _NAN
            return [row]
        case "duplicate" if fault.parameters.get("identical", True):
            return [row, row]
        case "duplicate":
            return [row, _conflict(row, places)]
    return _defective(fault.parameters["defect"], vendor, row)


def _conflict(row: Row, places: Places) -> Row:
    """Return the same bar with another close inside its range, or with another volume when it is flat."""
    other = row.copy()
    low, high = (float(row[places[name]]) for name in ("low", "high"))
    close = places["close"]
    other[close] = _like(row[close], low if float(row[close]) != low else high)
    if other == row:
        other[places["volume"]] = _like(row[places["volume"]], float(row[places["volume"]]) + 1.0)
    return other


def _defective(defect: str, vendor: str, row: Row) -> list[Row]:
    places = _PLACES[vendor]

    def put(name: str, factor: float) -> None:
        row[places[name]] = _like(row[places[name]], float(row[places[name]]) * factor)

    close = places["close"]
    match defect:
        case "high_below_low":
            row[places["high"]] = _like(row[places["high"]], float(row[places["low"]]) * 0.99)
        case "negative_low":
            put("low", -1.0)
        case "close_above_high":
            row[close] = _like(row[close], float(row[places["high"]]) * 1.01)
        case "nan":
            row[close] = _NAN
        case "negative_volume":
            row[places["volume"]] = _like(row[places["volume"]], -1.0 - float(row[places["volume"]]))
        case "spike_x100":
            for name in _PRICES:
                put(name, 100.0)
        case "duplicate_conflict":
            return [row, _conflict(row, places)]
        case "off_grid":
            return [_shifted(vendor, row, 7)]
        case "absurd_volume":
            row[places["volume"]] = _like(row[places["volume"]], 1e15)
        case "null_value":
            row[close] = "" if vendor == "binance_archive" else None
        case "string_number":
            row[close] = _other_spelling(vendor, row[close])
    return [row]


def _other_spelling(vendor: str, cell: object) -> object:
    """Spell a number the other way: text where the vendor sends numbers, a number where it sends text."""
    if vendor == "binance_archive":
        return f'"{cell}"'
    return float(cell) if isinstance(cell, str) else str(cell)
