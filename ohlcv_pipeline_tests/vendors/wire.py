"""A vendor on loopback that answers by script, and a clock that is asserted instead of waited for.

What the answers mean is asserted in the tests beside this file.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
import pytest

from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline.vendors.base import Answer, Page, Reject, Request
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.registry import adapter
from ohlcv_pipeline.vendors.rows import Parsed
from ohlcv_pipeline.vendors.transport import Budget, HttpTransport, Outcome, UnlimitedBudget

NOW = datetime(2025, 11, 21, 12, 0, 30, tzinfo=UTC).timestamp()
FIXTURES = Path(os.environ.get("OHLCV_FIXTURES", Path(__file__).parents[2] / ".." / "shared" / "fixtures"))


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type, misc]


def recorded(path: str) -> bytes:
    file = FIXTURES / path
    if not file.exists():
        pytest.skip(f"recorded answer {path} is not below {FIXTURES}; set OHLCV_FIXTURES")
    return file.read_bytes()


def tabled(parsed: Parsed) -> tuple[pa.Table, tuple[Reject, ...]]:
    """Return what a parser gave with the bars as a table."""
    return parsed.bars.table(), parsed.rejects


def values(bars: pa.Table) -> list[tuple[Any, ...]]:
    """Return the rows of a table."""
    return [tuple(row.values()) for row in bars.to_pylist()]


@dataclass(frozen=True)
class Reply:
    """One scripted answer. `length` lies about the body's length, `drop` hangs up, `pause` is between bytes."""

    status: int = 200
    body: bytes = b"[]"
    headers: dict[str, str] = field(default_factory=dict)
    length: int | None = None
    drop: bool = False
    pause: float = 0.0


@dataclass
class Clock:
    """Unix seconds that move only when somebody sleeps."""

    now: float = NOW
    waits: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.waits.append(round(seconds, 3))
        until = self.now + seconds
        await asyncio.sleep(0)
        self.now = max(self.now, until)


class Vendor:
    """Answers requests with its replies in order, the last one for ever; remembers what was asked."""

    def __init__(self, replies: Sequence[Reply] | Callable[[str], Reply]) -> None:
        self.asked: list[str] = []
        self.heads: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self._replies = replies

    def _reply(self, target: str) -> Reply:
        if callable(self._replies):
            return self._replies(target)
        return self._replies[min(len(self.asked), len(self._replies)) - 1]

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heads.append(head.decode())
                target = head.split()[1].decode()
                self.asked.append(target)
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                keep = await self._answer(self._reply(target), writer)
                self.in_flight -= 1
                if not keep:
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _answer(self, reply: Reply, writer: asyncio.StreamWriter) -> bool:
        if reply.drop:
            return False
        length = len(reply.body) if reply.length is None else reply.length
        lines = [f"HTTP/1.1 {reply.status} X", f"Content-Length: {length}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        if reply.pause:
            for byte in reply.body:
                await asyncio.sleep(reply.pause)
                writer.write(bytes([byte]))
                await writer.drain()
        else:
            await asyncio.sleep(0)
            writer.write(reply.body)
        await writer.drain()
        return length == len(reply.body)


@dataclass
class Line:
    """A vendor, the transport to it, and everything that can be asserted about the two."""

    vendor: Vendor
    transport: HttpTransport
    clock: Clock
    outcomes: list[Outcome]
    settings: VendorSettings

    @property
    def codes(self) -> list[str]:
        return [str(outcome.code) for outcome in self.outcomes]


@asynccontextmanager
async def line(
    replies: Sequence[Reply] | Callable[[str], Reply],
    *,
    name: str = "coinbase",
    budget: Budget | None = None,
    clock: Clock | None = None,
    jitter: float = 1.0,
    **settings: Any,
) -> AsyncIterator[Line]:
    vendor, clock, outcomes = Vendor(replies), clock or Clock(), list[Outcome]()
    server = await asyncio.start_server(vendor, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    given = {"requests_per_second": None, "weight_per_minute": None, "deadline_seconds": 30.0}
    chosen = VendorSettings(base_url=f"http://127.0.0.1:{port}", **{**given, **settings})
    transport = HttpTransport(
        name, chosen, budget or UnlimitedBudget(), outcomes.append, clock, clock.sleep, lambda: jitter
    )
    try:
        async with transport:
            yield Line(vendor, transport, clock, outcomes, chosen)
    finally:
        server.close()


@dataclass
class Heard:
    """What one call came to: a value or the error, and the line it went over."""

    line: Line
    value: Any = None
    answer: Answer | None = None
    error: VendorError | None = None

    @property
    def waits(self) -> list[float]:
        return self.line.clock.waits

    @property
    def asked(self) -> list[tuple[str, dict[str, str]]]:
        """Path and query of each request."""
        targets = map(urlsplit, self.line.vendor.asked)
        return [(parts.path, dict(parse_qsl(parts.query))) for parts in targets]

    @property
    def failure(self) -> VendorError:
        assert self.error is not None, "the call did not fail"
        return self.error


def ask(
    *replies: Reply,
    decode: Callable[[Answer], Any] = lambda answer: answer.body,
    request: Request | None = None,
    **options: Any,
) -> Heard:
    """Send one request to a vendor that answers with `replies`."""

    async def call() -> Heard:
        async with line(replies, **options) as wire:
            try:
                value, answer = await wire.transport.get(request or Request("coinbase", "/x"), decode)
            except VendorError as error:
                return Heard(wire, error=error)
            return Heard(wire, value, answer)

    return asyncio.run(call())


def fetch(
    name: str,
    plan: tuple[Any, ...],
    replies: Sequence[Reply] | Callable[[str], Reply],
    **options: Any,
) -> Heard:
    """Plan with an adapter, deliver its first fetch; `value` is the Page."""

    async def call() -> Heard:
        async with line(replies, name=name, **options) as wire:
            vendor = adapter(name, wire.settings)
            try:
                page: Page = await vendor.fetch(vendor.plan(*plan)[0], wire.transport)
            except VendorError as error:
                return Heard(wire, error=error)
            return Heard(wire, page)

    return asyncio.run(call())
