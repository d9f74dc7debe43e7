"""`/admin`: switch faults, limits and the clock; read the journal, the declared outages and the mailbox.

Each function takes the exchange and a request and returns a reply; a wrong request is a 400 whose `error`
is a sentence. What a fault may say is checked in `faults`.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson

from ohlcv_pipeline.sandbox.faults import KINDS, Fault, FaultError, parse_fault
from ohlcv_pipeline.sandbox.listing import SHARE_VENDORS, VENDORS, VENUES, outages
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Reply, Request, iso, json_reply, parse_instant
from ohlcv_pipeline.sandbox.series import VOLUME
from ohlcv_pipeline.sandbox.shares import outages as share_outages

if TYPE_CHECKING:
    from ohlcv_pipeline.sandbox.app import Exchange


class _AdminError(ValueError):
    """A wrong admin request; the text goes back as `error`."""


def answer(exchange: Exchange, request: Request, body: bytes) -> Reply:
    """Answer one request below `/admin`."""
    methods = _ROUTES.get(request.path)
    if methods is None:
        return json_reply(404, {"error": f"There is no {request.path}. There are: {', '.join(_ROUTES)}."})
    route = methods.get(request.method)
    if route is None:
        return json_reply(405, {"error": f"{request.path} takes {', '.join(methods)}, not {request.method}."})
    try:
        return route(exchange, request, body)
    except (_AdminError, FaultError) as problem:
        return json_reply(400, {"error": str(problem)})


def _content(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as problem:
        raise _AdminError(f"The body is not JSON: {problem}.") from None


def _fields(body: bytes, *known: str) -> dict[str, Any]:
    content = _content(body)
    if not isinstance(content, dict):
        raise _AdminError(f"The body must be a JSON object with {', '.join(known)}.")
    for name in content:
        if name not in known:
            raise _AdminError(f"{name}: unknown field; there are {', '.join(known)}.")
    return content


def _number(fields: dict[str, Any], name: str) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _AdminError(f"{name}: {value!r} is not a number.")
    return float(value)


def _vendor(value: object, choices: tuple[str, ...] = VENDORS) -> str:
    if value not in choices:
        raise _AdminError(f"vendor: {value!r} is not one of {', '.join(choices)}.")
    return str(value)


def _health(exchange: Exchange, request: Request, body: bytes) -> Reply:
    return json_reply(
        200,
        {
            "status": "ok",
            "seed": exchange.config.seed,
            "now": iso(exchange.clock.now()),
            "faults": len(exchange.faults),
        },
    )


def _list_faults(exchange: Exchange, request: Request, body: bytes) -> Reply:
    return json_reply(200, {"faults": [fault.as_json() for fault in exchange.faults]})


def _add_faults(exchange: Exchange, request: Request, body: bytes) -> Reply:
    content = _content(body)
    posted = content if isinstance(content, list) else [content]
    # All or none: a list with one wrong fault switches nothing on.
    for fields in posted:
        _check_correction(exchange, parse_fault(fields, 0))
    added = [exchange.faults.add(fields) for fields in posted]
    if any(KINDS[fault.kind].lasting for fault in added):
        exchange.history_changed()
    return json_reply(201, {"faults": [fault.as_json() for fault in added]})


def _check_correction(exchange: Exchange, fault: Fault) -> None:
    if fault.kind != "correction" or fault.start is None:
        return
    step = fault.step or MINUTE
    bars = exchange.record(fault.vendor).bars(
        VENUES[fault.vendor], fault.symbol, step, fault.start, fault.start + step, fault.start + DAY
    )
    if not np.any(bars.columns[VOLUME] > 0):
        raise FaultError(f"start: {fault.symbol} has no trade in the bar of {iso(fault.start)} to be corrected.")


def _clear_faults(exchange: Exchange, request: Request, body: bytes) -> Reply:
    lasting = any(KINDS[fault.kind].lasting for fault in exchange.faults)
    count = exchange.faults.clear()
    if lasting:
        exchange.history_changed()
    return json_reply(200, {"cleared": count})


def _requests(exchange: Exchange, request: Request, body: bytes) -> Reply:
    vendor = request.query.get("vendor")
    return json_reply(200, exchange.journal.as_json(None if vendor is None else _vendor(vendor)))


def _reset_requests(exchange: Exchange, request: Request, body: bytes) -> Reply:
    exchange.journal.reset()
    return json_reply(200, {"reset": True})


def _outages(exchange: Exchange, request: Request, body: bytes) -> Reply:
    bounds = []
    for name in ("start", "end"):
        instant = parse_instant(request.query.get(name, ""))
        if instant is None:
            raise _AdminError(f"{name}: {request.query.get(name)!r} is not an instant, e.g. 2026-11-19T00:00:00Z.")
        bounds.append(instant)
    vendor = request.query.get("vendor")
    vendors = VENDORS if vendor is None else (_vendor(vendor),)
    ranges = [
        {"vendor": name, "start": iso(first), "end": iso(last)}
        for name in vendors
        for first, last in (share_outages if name in SHARE_VENDORS else outages)(name, bounds[0], bounds[1])
    ]
    return json_reply(200, {"outages": ranges})


def _limits(exchange: Exchange, request: Request, body: bytes) -> Reply:
    return json_reply(
        200,
        {
            "limits": [
                {"vendor": vendor, "enabled": gate.enabled, "rate": gate.rate, "burst": gate.burst}
                for vendor, gate in exchange.limits.gates.items()
            ]
        },
    )


def _set_limits(exchange: Exchange, request: Request, body: bytes) -> Reply:
    fields = _fields(body, "vendor", "enabled", "rate", "burst")
    gate = exchange.limits.gates[_vendor(fields.get("vendor"), tuple(exchange.limits.gates))]
    if not isinstance(fields.get("enabled", True), bool):
        raise _AdminError(f"enabled: {fields['enabled']!r} is not true or false.")
    rate = _number(fields, "rate") if "rate" in fields else gate.rate
    burst = _number(fields, "burst") if "burst" in fields else gate.burst
    if rate <= 0 or burst < 1:
        raise _AdminError("rate (tokens a second) must be above 0, and burst (tokens) at least 1.")
    gate.enabled, gate.rate, gate.burst = fields.get("enabled", gate.enabled), rate, burst
    gate.refill()
    return _limits(exchange, request, body)


def _clock(exchange: Exchange, request: Request, body: bytes) -> Reply:
    return json_reply(200, {"now": iso(exchange.clock.now()), "frozen": exchange.clock.frozen})


def _set_clock(exchange: Exchange, request: Request, body: bytes) -> Reply:
    fields = _fields(body, "now", "advance_seconds")
    if len(fields) != 1:
        raise _AdminError("Give either now (an instant, or null for the wall clock) or advance_seconds.")
    if "advance_seconds" in fields:
        exchange.clock.advance(_number(fields, "advance_seconds"))
    else:
        exchange.clock.set(None if fields["now"] is None else _instant(fields["now"]))
    return _clock(exchange, request, body)


def _mail(exchange: Exchange, request: Request, body: bytes) -> Reply:
    return json_reply(200, exchange.mailbox.as_json())


def _set_mail(exchange: Exchange, request: Request, body: bytes) -> Reply:
    refusing = _fields(body, "refusing").get("refusing")
    if not isinstance(refusing, bool):
        raise _AdminError("refusing: give true or false.")
    exchange.mailbox.refusing = refusing
    return _mail(exchange, request, body)


def _reset_mail(exchange: Exchange, request: Request, body: bytes) -> Reply:
    exchange.mailbox.reset()
    return json_reply(200, {"reset": True})


def _instant(value: object) -> float:
    try:
        instant = datetime.fromisoformat(str(value))
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise _AdminError(f"now: {value!r} is not an instant with a time zone, e.g. 2026-11-20T12:00:00Z.")
    return instant.timestamp()


_ROUTES: dict[str, dict[str, Callable[[Exchange, Request, bytes], Reply]]] = {
    "/health": {"GET": _health},
    "/faults": {"GET": _list_faults, "POST": _add_faults, "DELETE": _clear_faults},
    "/requests": {"GET": _requests, "DELETE": _reset_requests},
    "/outages": {"GET": _outages},
    "/limits": {"GET": _limits, "PUT": _set_limits},
    "/clock": {"GET": _clock, "PUT": _set_clock},
    "/mail": {"GET": _mail, "PUT": _set_mail, "DELETE": _reset_mail},
}
