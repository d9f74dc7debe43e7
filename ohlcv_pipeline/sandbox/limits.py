"""Request limits of each vendor, with the answers that the vendors document.

Token buckets on monotonic time: real seconds, whatever the sandbox's clock says. Limits that a test wants
regardless of its rate are faults (`rate_limit`, `ban`), not here.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

from ohlcv_pipeline.sandbox.alpaca import error as alpaca_error
from ohlcv_pipeline.sandbox.binance import WEIGHT_PER_MINUTE
from ohlcv_pipeline.sandbox.binance import error as binance_error
from ohlcv_pipeline.sandbox.kraken import error as kraken_error
from ohlcv_pipeline.sandbox.messages import MINUTE, Ask, Headers, Reply, json_reply
from ohlcv_pipeline.sandbox.tiingo import error as tiingo_error

STRIKES = 10
"""So many requests into a closed Binance gate turn 429 into a ban."""
BAN_SECONDS = 120.0
HOURLY_QUOTA = "You have run over your hourly request allocation."


@dataclass
class Gate:
    """A vendor's bucket: `rate` tokens a second up to `burst`; a request costs its weight."""

    rate: float
    burst: float
    enabled: bool = False
    tokens: float = field(init=False)
    stamp: float = field(init=False)
    strikes: int = 0
    banned_until: float = 0.0

    def __post_init__(self) -> None:
        self.refill()

    def refill(self) -> None:
        """Fill the bucket and lift a ban."""
        self.tokens, self.stamp = self.burst, time.monotonic()
        self.strikes, self.banned_until = 0, 0.0

    def take(self, weight: float) -> float:
        """Take tokens; return 0, or the seconds until there are enough (nothing is taken then)."""
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens + (now - self.stamp) * self.rate)
        self.stamp = now
        if self.tokens >= weight:
            self.tokens -= weight
            self.strikes = 0
            return 0.0
        return (weight - self.tokens) / self.rate


class Limits:
    """The gates of the vendors that have limits; the archive has none."""

    def __init__(self, enabled: bool) -> None:
        self.gates = {
            "coinbase": Gate(10.0, 15.0, enabled),
            "kraken": Gate(1.0, 5.0, enabled),
            "binance": Gate(WEIGHT_PER_MINUTE / 60.0, float(WEIGHT_PER_MINUTE), enabled),
            "alpaca": Gate(200 / 60.0, 200.0, enabled),
            "tiingo": Gate(50 / 3600.0, 50.0, enabled),
        }

    def refusal(self, ask: Ask, now: float) -> Reply | None:
        """Return the vendor's answer to one request too many, or None. `now` dates the text of a ban."""
        gate = self.gates.get(ask.vendor)
        if gate is None or not gate.enabled:
            return None
        if ask.vendor == "binance":
            return self._binance(gate, ask.weight, now)
        if not gate.take(ask.weight):
            return None
        return too_many(ask.vendor)

    def headers(self, vendor: str, now: float) -> Headers:
        """Return what a vendor tells of its limit in every answer."""
        gate = self.gates.get(vendor)
        if gate is not None and vendor == "binance":
            return ((b"x-mbx-used-weight-1m", b"%d" % round(gate.burst - gate.tokens)),)
        if gate is not None and vendor == "alpaca":
            # With a token left, the next whole minute, as outside; without, when there is one again.
            wait = MINUTE - now % MINUTE if gate.tokens >= 1 else (1 - gate.tokens) / gate.rate
            return rate_headers(int(gate.burst), int(gate.tokens), now + wait)
        return ()

    @staticmethod
    def _binance(gate: Gate, weight: int, now: float) -> Reply | None:
        left = gate.banned_until - time.monotonic()
        if left <= 0:
            wait = gate.take(weight)
            if not wait:
                return None
            gate.strikes += 1
            if gate.strikes <= STRIKES:
                return over_weight(math.ceil(wait), int(gate.burst))
            gate.strikes, left = 0, BAN_SECONDS
            gate.banned_until = time.monotonic() + left
        return banned(left, now)


def too_many(vendor: str) -> Reply:
    """Return a vendor's answer to one request too many, without headers."""
    match vendor:
        case "kraken":
            return kraken_error("EGeneral:Too many requests")
        case "alpaca":
            return alpaca_error(429, "too many requests.")
        case "tiingo":
            return tiingo_error(429, f"Error: {HOURLY_QUOTA}")
    return json_reply(429, {"message": "Public rate limit exceeded"})


def rate_headers(limit: int, remaining: int, reset: float) -> Headers:
    """Return Alpaca's headers of its limit; `reset` in unix seconds."""
    return (
        (b"x-ratelimit-limit", b"%d" % limit),
        (b"x-ratelimit-remaining", b"%d" % remaining),
        (b"x-ratelimit-reset", b"%d" % math.ceil(reset)),
    )


def over_weight(retry_after: int, limit: int) -> Reply:
    """Return Binance's 429 with `Retry-After` in whole seconds."""
    message = f"Too much request weight used; current limit is {limit} request weight per 1 MINUTE."
    reply = binance_error(429, -1003, message)
    return Reply(429, reply.body, reply.content_type, ((b"retry-after", b"%d" % retry_after),))


def banned(seconds: float, now: float) -> Reply:
    """Return Binance's 418: `Retry-After` in whole seconds and the end of the ban, in ms, in the text."""
    until = int((now + seconds) * 1000)
    reply = binance_error(418, -1003, f"Way too much request weight used; IP banned until {until}.")
    return Reply(418, reply.body, reply.content_type, ((b"retry-after", b"%d" % math.ceil(seconds)),))
