"""Sends requests to one vendor without abusing it: deadline, budget, retries, one probe after a 429, breaker.

What an answer means is decided in `verdicts` and by the adapter's `decode`; what follows from it, here. The
budget shared by all processes is kept in the ledger and handed in.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import random
import re
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache, lru_cache
from itertools import count
from types import TracebackType
from typing import Literal, Protocol, Self, TypeVar
from urllib.parse import urlencode, urlsplit

import httpx

from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline.vendors import credentials
from ohlcv_pipeline.vendors.base import Answer, Request
from ohlcv_pipeline.vendors.breaker import Breaker
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed
from ohlcv_pipeline.vendors.verdicts import RESET_HEADERS, WAIT_BOUNDS, next_minute, verdict
from ohlcv_pipeline.version import __version__

T = TypeVar("T")

CEILINGS = (2.0, 4.0, 8.0, 16.0)
"""Seconds before attempt 2, 3, 4, 5: full jitter draws below them."""

REFETCHES = 3
"""How often a corrupt body is asked for again."""

PATIENCE_SECONDS = 60.0
"""A ban that lasts longer is not waited for but reported, so that the next vendor can be asked."""

SECRETS = ("token", "apikey", "api_key", "api-key", "key", "access_token", "secret", "signature", "password")
KEPT_HEADERS = frozenset(
    {
        "content-length",
        "content-type",
        "date",
        "etag",
        "last-modified",
        "retry-after",
        "x-mbx-used-weight-1m",
        "x-ratelimit-limit",
        "x-ratelimit-remaining",
        *RESET_HEADERS,
    }
)
PERMANENT = frozenset({400, 404, 422})
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})


@cache
def _certificates(*, trust_env: bool) -> ssl.SSLContext:
    """Load the certificate authorities, once a process: it takes 20 ms, and each run connects to several vendors."""
    return httpx.create_ssl_context(trust_env=trust_env)


@dataclass(frozen=True, slots=True)
class Outcome:
    """One attempt: when it was sent (UTC), how long it took, what came back and what that meant.

    `status` is None when no answer came, `code` is a `Code` or `ok`, `attempt` counts from 1, `bytes` is the
    length of the body.
    """

    vendor: str
    requested_at: datetime
    seconds: float
    status: int | None
    code: Code | Literal["ok"]
    attempt: int
    bytes: int


class Budget(Protocol):
    """A vendor's limits, shared by every process that asks it. All instants are unix seconds."""

    def take(self, vendor: str, weight: int, now: float) -> float:
        """Take one request of this weight; return 0.0, or the seconds after which to try again."""
        ...

    def drain(self, vendor: str, until: float) -> None:
        """Empty the bucket and let nobody ask before `until`; a later `until` of before stays."""
        ...

    def blocked_until(self, vendor: str, now: float) -> float:
        """Return until when nobody may ask; any instant not after `now` when everybody may."""
        ...


class UnlimitedBudget:
    """No limit of our own, but a vendor's 429 is honoured. For one process."""

    def __init__(self) -> None:
        self._until: dict[str, float] = {}

    def take(self, vendor: str, weight: int, now: float) -> float:
        """Grant at once."""
        return 0.0

    def drain(self, vendor: str, until: float) -> None:
        """Let nobody ask this vendor before `until`."""
        self._until[vendor] = max(until, self._until.get(vendor, until))

    def blocked_until(self, vendor: str, now: float) -> float:
        """Return until when nobody may ask."""
        return self._until.get(vendor, 0.0)


@lru_cache(maxsize=8)
def _secret_pattern(secrets: Collection[str]) -> re.Pattern[str]:
    names = "|".join(map(re.escape, secrets))
    return re.compile(rf"([?&](?:{names})=)[^&#\s]*|(//)[^/@\s]*@", re.IGNORECASE)


def redact(url: str, secrets: tuple[str, ...] = SECRETS) -> str:
    """Return a URL or a text with URLs in which the values of secret query parameters and logins are `***`."""
    return _secret_pattern(secrets).sub(lambda m: f"{m[1]}***" if m[1] else "//***@", url)


class _RedactUrls(logging.Filter):
    """Keeps secrets out of the line that httpx logs for every request."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(redact(str(a)) if isinstance(a, httpx.URL) else a for a in record.args)
        return True


logging.getLogger("httpx").addFilter(_RedactUrls())


class HttpTransport:
    """The one way to a vendor within a process; an async context manager that implements `base.Transport`.

    `clock` gives unix seconds, `jitter` a number in [0, 1]. Waits go through `sleep`, so that a test can assert
    them instead of sitting through them. `record` gets every attempt.
    """

    def __init__(
        self,
        vendor: str,
        settings: VendorSettings,
        budget: Budget,
        record: Callable[[Outcome], None],
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        if not settings.base_url:
            raise ValueError(f"vendor {vendor} has no address; set OHLCV_VENDORS__{vendor.upper()}__BASE_URL")
        self.vendor = vendor
        self.breaker = Breaker(vendor)
        self._settings = settings
        self._base = settings.base_url.rstrip("/")
        self._keyless = credentials.unusable(vendor, settings)
        self._budget = budget
        self._metered = settings.requests_per_second is not None or settings.weight_per_minute is not None
        self._record = record
        self._clock = clock
        self._sleep = sleep
        self._jitter = jitter
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._blocked_until = 0.0
        self._stopped_until = 0.0
        self._recovering = False
        self._no_probe_out = asyncio.Event()
        self._no_probe_out.set()
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        connections = self._settings.concurrency
        keys = {} if self._keyless else credentials.headers(self.vendor, self._settings)
        abroad = urlsplit(self._base).hostname not in LOOPBACK
        self._client = httpx.AsyncClient(
            headers={"User-Agent": f"ohlcv-pipeline/{__version__}", "Accept-Encoding": "gzip", **keys},
            follow_redirects=False,
            # The deadline of a call is one for everything, see _send.
            timeout=None,
            # Below the five seconds after which servers commonly hang up on an idle connection.
            limits=httpx.Limits(
                max_connections=connections, max_keepalive_connections=connections, keepalive_expiry=4.0
            ),
            trust_env=abroad,
            verify=_certificates(trust_env=abroad),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        """Return what `decode` made of the answer, and the answer.

        `decode` raises VendorError and nothing else. It is also shown 400, 404 and 422, for it to raise a finer
        error; what it returns for them is not used. Raises VendorError with `answers` once the retries are
        spent, at once for what no retry can change, while the vendor is stopped, and when its key is missing.
        """
        if self._keyless:
            raise VendorError(Code.AUTH_FAILED, Remedy.GIVE_UP, self._keyless)
        corrupt = 0
        for attempt in count(1):
            async with self._slots:
                probing = await self._admit(request)
                try:
                    result = await self._attempt(request, decode, attempt, identity=corrupt > 0)
                except VendorError as error:
                    failure = error
                    failure.attempts = attempt
                    corrupt += error.code is Code.MALFORMED_RESPONSE
                    spent = attempt >= self._settings.attempts or corrupt > REFETCHES
                    again = self._follow(error, spent, probing) and not spent
                else:
                    self._reached(probing)
                    return result
                finally:
                    if probing:
                        self._no_probe_out.set()
            if not again:
                raise failure
            if failure.remedy is Remedy.BACK_OFF:
                told = failure.wait_seconds
                ceiling = CEILINGS[min(attempt, len(CEILINGS)) - 1]
                await self._sleep(ceiling * self._jitter() if told is None else told)
        raise AssertionError("count() does not end")

    async def _admit(self, request: Request) -> bool:
        """Wait until a request may be sent; return whether it is the probe after a 429."""
        while True:
            now = self._clock()
            self.breaker.check(now)
            until = self._blocked_until
            if self._metered:
                until = max(until, self._budget.blocked_until(self.vendor, now))
            if (wait := until - now) > 0:
                self._recovering = True
                if wait > (PATIENCE_SECONDS if now < self._stopped_until else WAIT_BOUNDS[1]):
                    message = f"{self.vendor}: not asked, it wants to be left alone for {wait:.0f} s"
                    raise VendorError(Code.RATE_LIMITED, Remedy.STOP_VENDOR, message, wait)
                await self._sleep(wait)
            elif self._recovering and not self._no_probe_out.is_set():
                await self._no_probe_out.wait()
            elif self._metered and (wait := self._budget.take(self.vendor, request.weight, now)) > 0:
                await self._sleep(wait)
            else:
                self.breaker.sent(now)
                if self._recovering:
                    self._no_probe_out.clear()
                return self._recovering

    def _reached(self, probing: bool) -> None:
        self.breaker.succeeded(self._clock())
        if probing:
            self._recovering = False

    def _follow(self, error: VendorError, spent: bool, probing: bool) -> bool:
        """Do what an error asks for; return whether another attempt makes sense."""
        now = self._clock()
        wait = error.wait_seconds
        if error.code is Code.VENDOR_BLOCKED:
            self.breaker.trip(now + (wait or PATIENCE_SECONDS), error.code)
            return False
        if error.code is Code.VENDOR_UNAVAILABLE:
            if spent or error.remedy is Remedy.GIVE_UP:
                self.breaker.failed(now)
        elif error.code is Code.RATE_LIMITED:
            self.breaker.succeeded(now)
        else:
            self._reached(probing)
        if error.remedy in (Remedy.WAIT, Remedy.STOP_VENDOR):
            wait = next_minute(now) if wait is None else wait
            self._recovering = True
            self._blocked_until = max(self._blocked_until, now + wait)
            self._budget.drain(self.vendor, now + wait)
            if error.remedy is Remedy.STOP_VENDOR:
                self._stopped_until = self._blocked_until
                return wait <= PATIENCE_SECONDS
        return error.remedy is not Remedy.GIVE_UP

    async def _attempt(
        self, request: Request, decode: Callable[[Answer], T], attempt: int, *, identity: bool
    ) -> tuple[T, Answer]:
        sent_at, begun = self._clock(), time.perf_counter()

        def note(answer: Answer | None, code: Code | Literal["ok"]) -> None:
            status, size = (None, 0) if answer is None else (answer.status, len(answer.body))
            at, seconds = datetime.fromtimestamp(sent_at, UTC), time.perf_counter() - begun
            self._record(Outcome(self.vendor, at, seconds, status, code, attempt, size))

        answer = None
        try:
            answer = await self._send(request, attempt, identity)
            value = self._read(answer, decode)
        except VendorError as error:
            if answer is not None and not error.answers:
                error.answers = (answer,)
            note(answer, error.code)
            raise
        note(answer, "ok")
        return value, answer

    def _read(self, answer: Answer, decode: Callable[[Answer], T]) -> T:
        error = verdict(answer, self._clock())
        if error is None:
            return decode(answer)
        if answer.status in PERMANENT and error.remedy is Remedy.GIVE_UP:
            try:
                decode(answer)
            except VendorError as finer:
                if finer.code is not Code.MALFORMED_RESPONSE:
                    raise
        raise error

    async def _send(self, request: Request, attempt: int, identity: bool) -> Answer:
        """Send once. Raises VendorError when no whole body came back within the deadline."""
        if self._client is None:
            raise RuntimeError("the transport is closed; use it as `async with HttpTransport(...) as transport:`")
        url = self._url(request)
        shown = redact(url)
        headers = {"Accept-Encoding": "identity"} if identity else None
        deadline = self._settings.deadline_seconds
        response: httpx.Response | None = None
        try:
            async with asyncio.timeout(deadline):
                response = await self._client.send(self._client.build_request("GET", url, headers=headers), stream=True)
                try:
                    body = await response.aread()
                finally:
                    await response.aclose()
            # Some servers say x-gzip, or nothing at all, about a body that is gzip.
            body = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
        except TimeoutError as error:
            raise _unreached(f"{shown}: no whole answer within {deadline:g} s") from error
        except (httpx.DecodingError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise malformed(f"{shown}: the body cannot be decompressed") from error
        except httpx.TransportError as error:
            if response is not None:
                raise malformed(f"{shown} answered {response.status_code}, the body broke off") from error
            raise _unreached(f"{shown}: {type(error).__name__}") from error
        kept = {
            name: value.decode("latin-1")
            for key, value in response.headers.raw
            if (name := key.decode("latin-1").lower()) in KEPT_HEADERS
        }
        received_at = datetime.fromtimestamp(self._clock(), UTC)
        return Answer(request, shown, response.status_code, kept, body, received_at, attempt)

    def _url(self, request: Request) -> str:
        if not request.params:
            return f"{self._base}{request.path}"
        for name, value in request.params.items():
            if not isinstance(value, str | int):
                raise TypeError(f"{request.path}: parameter {name} must be text or int, not {type(value).__name__}")
        return f"{self._base}{request.path}?{urlencode(request.params)}"


def _unreached(message: str) -> VendorError:
    return VendorError(Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, message)
