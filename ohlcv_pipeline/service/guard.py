"""What every request passes before and after the routes: its id, limits of rate and time, headers, the log line.

One plain ASGI layer, because each layer is paid for by every request. Problems are worded in `problems`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any

from ohlcv_pipeline.service.problems import (
    FORBIDDEN,
    INTERNAL,
    MEDIA_TYPE,
    RATE_LIMITED,
    ProblemError,
    body_of,
    too_large,
    unavailable,
)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger("ohlcv_pipeline.service")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; font-src 'self'; connect-src 'self';"
    " manifest-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
"""The content security policy of every answer: nothing inline, nothing from another host."""

HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=()"),
)

WINDOW_SECONDS = 60.0
_ADDRESSES = 10_000
"""So many addresses are counted before those that have been quiet for a minute are forgotten."""


@dataclass
class RateLimit:
    """At most `limit` requests of one address in a minute that begins with its first; 0 is no limit."""

    limit: int
    _counts: dict[str, tuple[float, int]] = field(default_factory=dict)

    def refusal(self, address: str, now: float) -> int | None:
        """Count a request; return the seconds until the next one is taken, None when this one is."""
        if not self.limit:
            return None
        begun, count = self._counts.get(address, (now, 0))
        if now - begun >= WINDOW_SECONDS:
            begun, count = now, 0
        if count >= self.limit:
            return max(1, -int(-(begun + WINDOW_SECONDS - now) // 1))
        if len(self._counts) >= _ADDRESSES and address not in self._counts:
            self._counts = {a: seen for a, seen in self._counts.items() if now - seen[0] < WINDOW_SECONDS}
        self._counts[address] = begun, count + 1
        return None


BODY_BYTES = 64 * 1024
"""What a request may hold."""

_READING = frozenset({"GET", "HEAD", "OPTIONS"})


class Guard:
    """Wraps the application; `seconds` is how long a request may take until its answer begins.

    `observe` hears of each answer: route, method, status (0 if it was cut off before it began) and seconds.
    """

    def __init__(
        self,
        app: App,
        reads: RateLimit,
        writes: RateLimit,
        seconds: float,
        observe: Callable[[str, str, int, float], None],
    ) -> None:
        self.app = app
        self.seconds = seconds
        self.observe = observe
        self._reads = reads
        self._writes = writes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, whatever happens inside."""
        if scope["type"] == "http":
            await _Exchange(self, scope, receive, send).serve()
        else:
            await self.app(scope, receive, send)

    def check(self, method: str, address: str, headers: Mapping[bytes, bytes]) -> None:
        """Refuse a request that must not even be looked at. Raises ProblemError."""
        limit = self._reads if method in _READING else self._writes
        wait = limit.refusal(address, time.monotonic())
        if wait is not None:
            raise ProblemError(RATE_LIMITED, "too many requests from this address", headers={"Retry-After": str(wait)})
        if method not in _READING and _from_elsewhere(headers):
            raise ProblemError(FORBIDDEN, "a page of another host may not ask for this")
        if int(headers.get(b"content-length", b"0")) > BODY_BYTES:
            raise too_large()


class _Exchange:
    """One request and its answer."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive, send: Send) -> None:
        self._guard = guard
        self._id = secrets.token_hex(8)
        self._method = scope["method"]
        # The server leaves the body out of an answer to HEAD; for the routes it is a GET.
        method = "GET" if self._method == "HEAD" else self._method
        self._scope: Scope = {**scope, "method": method, "request_id": self._id}
        self._receive, self._send = receive, send
        self._timer: asyncio.Timeout | None = None
        self._status: int | None = None

    async def serve(self) -> None:
        begun = time.perf_counter()
        problem: ProblemError | None = None
        try:
            async with asyncio.timeout(self._guard.seconds) as self._timer:
                await self._attempt()
        except ProblemError as error:
            problem = error
        except TimeoutError:
            problem = unavailable()
        except Exception:
            log.exception("%s %s %s failed", self._id, self._method, self._route)
            problem = ProblemError(INTERNAL, "something went wrong; the request id finds it in the log")
        self._timer = None
        try:
            if problem is not None:
                await self._answer(problem)
        finally:
            spent = time.perf_counter() - begun
            self._guard.observe(self._route, self._method, self._status or 0, spent)
            log.info("%s %s %s %s %.1f ms", self._id, self._method, self._route, self._status, spent * 1e3)

    async def _attempt(self) -> None:
        headers = dict(self._scope["headers"])
        client = self._scope.get("client")
        self._guard.check(self._method, client[0] if client else "", headers)
        receive = self._receive
        if b"content-length" in headers or b"transfer-encoding" in headers:
            receive = _replayed(await self._body(), receive)
        await self._guard.app(self._scope, receive, self._headed)

    async def _body(self) -> bytes:
        """Return the whole body. Raises ProblemError for one that is too large."""
        parts, size = [], 0
        while True:
            message = await self._receive()
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > BODY_BYTES:
                raise too_large()
            if not message.get("more_body"):
                return b"".join(parts)

    @property
    def _route(self) -> str:
        """The path of the route, never what was sent: a path may hold anything."""
        return getattr(self._scope.get("route"), "path", None) or "(no route)"

    async def _headed(self, message: Message) -> None:
        """Add the headers that every answer has; once it has begun, it may take as long as it needs."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._timer is not None:
                self._timer.reschedule(None)
            headers = list(message.get("headers", ()))
            if not any(name == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *HEADERS, (b"x-request-id", self._id.encode())]}
        await self._send(message)

    async def _answer(self, problem: ProblemError) -> None:
        if self._status is not None:
            # An answer that has begun can only be cut off: the server closes the connection in the middle of it.
            raise ConnectionAbortedError(f"request {self._id} ended in the middle of its answer")
        body = body_of(problem, self._id)
        given = {"content-type": MEDIA_TYPE, "content-length": str(len(body)), **problem.headers}
        headers = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        await self._headed({"type": "http.response.start", "status": problem.kind.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": body})


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that hands out a body which has been read, and then what comes after it."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def replay() -> Message:
        return next(messages, None) or await receive()

    return replay


def _from_elsewhere(headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a browser sent the request for a page of another origin."""
    origin = headers.get(b"origin")
    if origin is None:
        return headers.get(b"sec-fetch-site", b"none") not in (b"none", b"same-origin")
    return origin.partition(b"://")[2] != headers.get(b"host")
