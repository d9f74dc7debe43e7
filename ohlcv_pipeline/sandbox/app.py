"""The ASGI application: from a request to the vendor it names, through limits and faults, to the wire.

Plain ASGI without a router, because a demo asks thousands of pages of one process. Formats are the vendor
modules', `/admin` is `admin`'s.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import parse_qsl

from ohlcv_pipeline.sandbox import admin, alpaca, archive, binance, coinbase, damage, kraken, tiingo
from ohlcv_pipeline.sandbox.clock import Clock
from ohlcv_pipeline.sandbox.faults import Fault, Faults
from ohlcv_pipeline.sandbox.journal import DROPPED, Journal
from ohlcv_pipeline.sandbox.limits import Limits
from ohlcv_pipeline.sandbox.listing import SHARE_VENDORS
from ohlcv_pipeline.sandbox.mail import Mailbox
from ohlcv_pipeline.sandbox.messages import Ask, Reply, Request, json_reply
from ohlcv_pipeline.sandbox.series import Series
from ohlcv_pipeline.sandbox.sessions import Tape

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_OF_ONE_FILE = frozenset({"wrong_checksum", "bad_gzip"})
"""Kinds that spoil the very file asked for; the others change a zip, and its CHECKSUM with it."""


@dataclass(frozen=True)
class Config:
    """`now` freezes the clock (unix seconds); `limits` enforces the vendors' request limits.

    `mail` is a listening socket that takes mail.
    """

    seed: int = 7
    limits: bool = False
    now: float | None = None
    mail: socket.socket | None = None


class Exchange:
    """The state of one sandbox: series of coins and shares, clock, limits, faults, journal and mailbox."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.series = Series(config.seed)
        self.tape = Tape(config.seed)
        self.clock = Clock(config.now)
        self.limits = Limits(config.limits)
        self.faults = Faults()
        self.journal = Journal()
        self.archive = archive.Archive()
        self.mailbox = Mailbox()

    def history_changed(self) -> None:
        """Let corrections and splits take effect everywhere: minutes, days and files."""
        rule = self.faults.rewrite()
        self.series.rewrite(rule)
        self.tape.rewrite(rule)
        # Without a rule the files are again those first published.
        self.archive.forget(self.clock.now() if rule else 0.0)

    def record(self, vendor: str) -> Series | Tape:
        """Return what a vendor tells of: coins that never close, or shares by sessions."""
        return self.tape if vendor in SHARE_VENDORS else self.series

    def parse(self, vendor: str, request: Request) -> Ask:
        """Return what a request asks of a vendor."""
        return _PARSERS[vendor](request, self.clock.now())

    def answer(self, ask: Ask) -> Reply:
        """Return the true answer."""
        if ask.refusal is not None:
            return ask.refusal
        now = self.clock.now()
        if ask.vendor == archive.NAME:
            return self.archive.answer(ask, self.series, now)
        if ask.vendor in _OF_SHARES:
            return _OF_SHARES[ask.vendor](ask, self.tape, now)
        return _OF_COINS[ask.vendor](ask, self.series, now)

    def spoilt(self, ask: Ask, faults: list[Fault]) -> Reply:
        """Return the true answer with the faults in it."""
        if ask.vendor != archive.NAME or ask.refusal is not None or not archive.is_checksum(ask):
            return self._apply(faults, ask, self.answer(ask))
        of_zip = replace(ask, form=archive.form_of_zip(ask))
        whole = self.answer(of_zip)
        packed = self._apply([fault for fault in faults if fault.kind not in _OF_ONE_FILE], of_zip, whole)
        reply = self.answer(ask)
        if packed is not whole:
            reply = replace(reply, body=archive.checksum(packed.body, archive.name_of(ask)))
        return self._apply([fault for fault in faults if fault.kind in _OF_ONE_FILE], ask, reply)

    def _apply(self, faults: list[Fault], ask: Ask, reply: Reply) -> Reply:
        for fault in faults:
            spoilt = damage.spoil(fault, ask, reply) if reply.status == 200 else None
            if spoilt is not None:
                reply = spoilt
                self.faults.spent(fault)
        return reply


_PARSERS: Mapping[str, Callable[[Request, float], Ask]] = {
    coinbase.NAME: coinbase.parse,
    kraken.NAME: kraken.parse,
    binance.NAME: binance.parse,
    archive.NAME: archive.parse,
    alpaca.NAME: alpaca.parse,
    tiingo.NAME: tiingo.parse,
}
_OF_COINS: Mapping[str, Callable[[Ask, Series, float], Reply]] = {
    coinbase.NAME: coinbase.answer,
    kraken.NAME: kraken.answer,
    binance.NAME: binance.answer,
}
_OF_SHARES: Mapping[str, Callable[[Ask, Tape, float], Reply]] = {
    alpaca.NAME: alpaca.answer,
    tiingo.NAME: tiingo.answer,
}


def create_app(config: Config) -> App:
    """Return the application as ASGI 3; `config` says seed, limits and clock."""
    exchange = Exchange(config)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _lifespan(exchange, receive, send)
            return
        _, _, rest = scope["path"].partition("/")
        prefix, slash, path = rest.partition("/")
        raw_query = scope["query_string"].decode("latin-1")
        query = dict(parse_qsl(raw_query, keep_blank_values=True)) if raw_query else {}
        request = Request(scope["method"], slash + path, query, dict(scope["headers"]))
        if prefix in _PARSERS:
            target = slash + path + ("?" + raw_query if raw_query else "")
            await _serve(exchange, prefix, request, target, receive, send)
        elif prefix == "admin":
            body = await _body(receive)
            await _send(exchange, admin.answer(exchange, request, body), send)
        else:
            prefixes = ", ".join(f"/{name}" for name in (*_PARSERS, "admin"))
            await _send(exchange, json_reply(404, {"error": f"Paths begin with {prefixes}."}), send)

    return app


async def _serve(exchange: Exchange, vendor: str, request: Request, target: str, receive: Receive, send: Send) -> None:
    ask = exchange.parse(vendor, request)
    now = exchange.clock.now()
    reply = exchange.limits.refusal(ask, now)
    faults = exchange.faults.hitting(ask) if reply is None and len(exchange.faults) else []
    for fault in faults:
        if fault.kind == "latency":
            exchange.faults.spent(fault)
            await asyncio.sleep(float(fault.parameters["seconds"]))
    cut: Fault | None = None
    for fault in faults:
        if fault.kind == "drop" and not fault.parameters.get("mid_body"):
            exchange.faults.spent(fault)
            exchange.journal.note(now, vendor, target, DROPPED)
            await _hang_up(receive, send)
            return
        if fault.kind in ("drop", "truncated") and cut is None:
            cut = fault
            exchange.faults.spent(fault)
        elif reply is None:
            reply = damage.instead(fault, ask, now)
            if reply is not None:
                exchange.faults.spent(fault)
    if reply is None:
        spoiling = [fault for fault in faults if fault.kind in damage.SPOILING]
        reply = exchange.spoilt(ask, spoiling) if spoiling else exchange.answer(ask)
    if told := exchange.limits.headers(vendor, now):
        # A fault that tells of a limit itself is believed.
        reply = replace(reply, headers=tuple({**dict(told), **dict(reply.headers)}.items()))
    exchange.journal.note(now, vendor, target, reply.status)
    if cut is None:
        await _send(exchange, reply, send)
    elif cut.kind == "truncated" and not cut.parameters.get("mismatch"):
        await _send(exchange, replace(reply, body=reply.body[: len(reply.body) // 2]), send)
    else:
        await _send(exchange, reply, send, keep=len(reply.body) // 2)
        await _hang_up(receive, send)


async def _send(exchange: Exchange, reply: Reply, send: Send, keep: int | None = None) -> None:
    """Send an answer; with `keep` only so many bytes of the length that the headers promise."""
    headers = [
        (b"date", exchange.clock.date()),
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        *reply.headers,
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    body = reply.body if keep is None else reply.body[:keep]
    await send({"type": "http.response.body", "body": body, "more_body": keep is not None})


async def _hang_up(receive: Receive, send: Send) -> None:
    """Close the connection. ASGI has no word for it, so this reaches for uvicorn's transport."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is None:
        raise ConnectionResetError("a drop fault needs a real server; this one has no transport to close")
    transport.close()
    while (await receive())["type"] != "http.disconnect":
        pass


async def _body(receive: Receive) -> bytes:
    parts = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(parts)


async def _lifespan(exchange: Exchange, receive: Receive, send: Send) -> None:
    mail: asyncio.Server | None = None
    while True:
        kind = (await receive())["type"]
        if kind == "lifespan.startup" and exchange.config.mail is not None:
            loop = asyncio.get_running_loop()
            mail = await loop.create_server(exchange.mailbox.protocol, sock=exchange.config.mail)
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            if mail is not None:
                mail.close()
            return
