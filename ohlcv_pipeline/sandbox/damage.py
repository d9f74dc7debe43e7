"""What each kind of fault does to an answer: another answer in its place, or the true one spoilt.

Rows are decoded from the true body, changed and encoded again, so that every vendor is spoilt by the same
few functions. Which request is hit is decided in `faults`; delays and cut connections are `app`'s.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from ohlcv_pipeline.sandbox.archive import NOT_FOUND, checksum, is_checksum, name_of, unzip_csv, zip_csv
from ohlcv_pipeline.sandbox.faults import Fault
from ohlcv_pipeline.sandbox.kraken import error as kraken_error
from ohlcv_pipeline.sandbox.limits import banned
from ohlcv_pipeline.sandbox.messages import HTML, TEXT, Ask, Headers, Reply, json_reply

Row = list[Any]

_O_H_L_C_V = {"open": 1, "high": 2, "low": 3, "close": 4, "volume": 5}
_PLACES = {
    "coinbase": {"low": 1, "high": 2, "open": 3, "close": 4, "volume": 5},
    "kraken": {"open": 1, "high": 2, "low": 3, "close": 4, "volume": 6},
    "binance": _O_H_L_C_V,
    "binance_archive": _O_H_L_C_V,
}
SPOILING = frozenset({
    "empty", "nan", "missing", "duplicate", "unsorted", "bad_bar", "early_row", "wrong_checksum", "corrupt_zip",
    "bad_gzip", "wrong_pair", "extra_field", "missing_field",
})  # fmt: skip
"""The kinds that need the true answer first; the others take its place or cut the connection."""

_NAN = "@nan@"
_HTML = (
    b"<!DOCTYPE html><html><head><title>Maintenance</title></head><body><h1>We will be right back</h1></body></html>"
)
_QUOTA = "You have run over your request allocation for this hour. Please try again later."


def instead(fault: Fault, ask: Ask, now: float) -> Reply | None:
    """Return the answer that takes the place of the true one; None for a kind that spoils the true one."""
    parameters = fault.parameters
    match fault.kind:
        case "outage":
            status = int(parameters.get("status", 503))
            return Reply(status, b"<html><head><title>%d</title></head><body>Unavailable</body></html>" % status, HTML)
        case "rate_limit":
            return _rate_limit(ask.vendor, parameters.get("retry_after"))
        case "ban":
            return banned(float(parameters.get("seconds", 120)), now)
        case "html":
            return Reply(200, _HTML, HTML)
        case "text":
            return Reply(200, parameters.get("message", _QUOTA).encode(), TEXT)
        case "empty_body":
            return Reply(200, b"")
        case "not_yet":
            return NOT_FOUND
    return None


def _rate_limit(vendor: str, retry_after: object) -> Reply:
    headers: Headers = () if retry_after is None else ((b"retry-after", str(retry_after).encode()),)
    if vendor == "kraken":
        return Reply(429, kraken_error("EGeneral:Too many requests").body, headers=headers)
    if vendor == "binance":
        return json_reply(429, {"code": -1003, "msg": "Too many requests queued."}, headers)
    return json_reply(429, {"message": "Public rate limit exceeded"}, headers)


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
            other = b"XETHZUSD" if ask.symbol != "ETH" else b"XXBTZUSD"
            return Reply(200, reply.body.replace(ask.form.encode(), other, 1)) if ask.step else None
        case "wrong_checksum":
            if not is_checksum(ask):
                return None
            return Reply(200, checksum(b"another file", name_of(ask)), reply.content_type, reply.headers)
    if not ask.step:
        return None
    rows = _decode(ask, reply.body)
    changed = _change(fault, ask, rows)
    return None if changed is None else Reply(200, _encode(ask, changed, reply.body), reply.content_type, reply.headers)


def _decode(ask: Ask, body: bytes) -> list[Row]:
    if ask.vendor == "binance_archive":
        return [line.split(",") for line in unzip_csv(body).decode().splitlines()]
    content = orjson.loads(body.replace(b"NaN", b'"%b"' % _NAN.encode()))
    return list(content["result"][ask.form] if ask.vendor == "kraken" else content)


def _encode(ask: Ask, rows: list[Row], body: bytes) -> bytes:
    if ask.vendor == "binance_archive":
        lines = "".join(",".join("NaN" if cell == _NAN else str(cell) for cell in row) + "\n" for row in rows)
        return zip_csv(name_of(ask), lines.encode())
    if ask.vendor != "kraken":
        return orjson.dumps(rows).replace(b'"%b"' % _NAN.encode(), b"NaN")
    encoded = orjson.dumps(rows).replace(b'"%b"' % _NAN.encode(), b"NaN")
    head, tail = body[: body.index(b":[", body.index(b'"result"')) + 1], body[body.rindex(b',"last"') :]
    return head + encoded + tail


def _seconds(row: Row) -> int:
    stamp = int(row[0])
    return stamp // 1_000_000 if stamp >= 10**14 else stamp // 1_000 if stamp >= 10**11 else stamp


def _unit(row: Row) -> int:
    stamp = int(row[0])
    return 1_000_000 if stamp >= 10**14 else 1_000 if stamp >= 10**11 else 1


def _shifted(row: Row, seconds: int) -> Row:
    stamp = int(row[0]) + seconds * _unit(row)
    return [str(stamp) if isinstance(row[0], str) else stamp, *row[1:]]


def _like(old: object, value: float) -> object:
    """Write a number the way the field was written."""
    if not isinstance(old, str):
        return value
    return f"{value:.{len(old.partition('.')[2])}f}"


def _change(fault: Fault, ask: Ask, rows: list[Row]) -> list[Row] | None:
    """Return the rows with the fault in them; None when no row is concerned."""
    if fault.kind == "empty":
        return []
    if not rows:
        return None
    if fault.kind == "unsorted":
        return rows[1::2] + rows[::2] if len(rows) > 1 else None
    if fault.kind == "early_row":
        at = min(range(len(rows)), key=lambda place: _seconds(rows[place]))
        early = _shifted(rows[at], ask.start - ask.step - _seconds(rows[at]))
        return [*rows, early] if ask.vendor == "coinbase" else [early, *rows]
    if fault.start is None and fault.end is None:
        hit = [0]
    else:
        first, last = fault.bounds(ask.step)
        hit = [place for place, row in enumerate(rows) if first <= _seconds(row) < last]
    if not hit:
        return None
    if fault.kind == "missing":
        return [row for place, row in enumerate(rows) if place not in set(hit)]
    changed: list[Row] = []
    for place, row in enumerate(rows):
        changed += _spoilt(fault, ask.vendor, row) if place in hit else [row]
    return changed


def _spoilt(fault: Fault, vendor: str, row: Row) -> list[Row]:
    places = _PLACES[vendor]
    row = list(row)
    match fault.kind:
        case "extra_field":
            return [[*row, "0"]]
        case "missing_field":
            return [row[:-1]]
        case "nan":
            row[places["close"]] = _NAN
            return [row]
        case "duplicate" if fault.parameters.get("identical", True):
            return [row, list(row)]
        case "duplicate":
            return [row, _conflict(row, places)]
    return _defective(fault.parameters["defect"], places, row)


def _conflict(row: Row, places: dict[str, int]) -> Row:
    """Return the same bar with another close inside its range, or with another volume when it is flat."""
    other = list(row)
    low, high = (float(row[places[name]]) for name in ("low", "high"))
    close = places["close"]
    other[close] = _like(row[close], low if float(row[close]) != low else high)
    if other == row:
        other[places["volume"]] = _like(row[places["volume"]], float(row[places["volume"]]) + 1.0)
    return other


def _defective(defect: str, places: dict[str, int], row: Row) -> list[Row]:
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
            for name in ("open", "high", "low", "close"):
                put(name, 100.0)
        case "duplicate_conflict":
            return [row, _conflict(row, places)]
        case "off_grid":
            return [_shifted(row, 7)]
        case "absurd_volume":
            row[places["volume"]] = _like(row[places["volume"]], 1e15)
        case "null_value":
            row[close] = "" if isinstance(row[0], str) else None
        case "string_number":
            row[close] = _other_spelling(row)[close]
    return [row]


def _other_spelling(row: Row) -> Row:
    """Spell numbers the other way: text where the vendor sends numbers, numbers where it sends text."""
    if isinstance(row[0], str):
        return [f'"{cell}"' for cell in row]
    return [float(cell) if isinstance(cell, str) and re.fullmatch(r"[0-9.]+", cell) else str(cell) for cell in row]
