"""How a vendor does, judged from one probe and from the requests of the last ten minutes. Pure.

Who asks the vendors, and when, is `vendor_probes`; what became of each request is kept in `ledger.outcomes`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from ohlcv_pipeline.bars.freshness import open_minutes
from ohlcv_pipeline.markets import Calendar
from ohlcv_pipeline.vendors.errors import Code

RECENT = timedelta(minutes=10)
"""How far back the outcomes of requests count."""

DOWN_PROBES = 3
ENOUGH_REQUESTS = 5
"""Fewer requests than these prove nothing about shares."""

SLOW_SECONDS = 5.0
LATE_MINUTES = 15.0

OK = "ok"
_HARMLESS = (OK, Code.NOT_YET, Code.BAD_SYMBOL)
"""What a healthy vendor answers, too: that a file is not published yet, or that it has no such symbol."""


class Status(StrEnum):
    """What a vendor is; the first that fits."""

    DOWN = "down"
    RATE_LIMITED = "rate_limited"
    DEGRADED = "degraded"
    UP = "up"


@dataclass(frozen=True)
class Evidence:
    """What is known of a vendor.

    `codes` counts the requests of the last ten minutes by what came of them, `p95_seconds` is how long the slow ones
    took, `blocked` whether a wait that the vendor asked for is still running. `probe` is the code of the probe, None if
    none was sent; `failed_probes` are those in a row that did not reach the vendor, this one included; `late` whether
    the probe was answered with bars that are too old.
    """

    codes: Mapping[str, int]
    p95_seconds: float | None = None
    blocked: bool = False
    probe: str | None = None
    failed_probes: int = 0
    late: bool = False


@dataclass(frozen=True)
class Verdict:
    """A status and the sentence that says why."""

    status: Status
    details: str


def judge(evidence: Evidence) -> Verdict:
    """Return how a vendor does. A 429 says that it lives: it never counts towards `down`."""
    codes, total = evidence.codes, sum(evidence.codes.values())
    unreached = codes.get(Code.VENDOR_UNAVAILABLE, 0)
    limited = codes.get(Code.RATE_LIMITED, 0)
    failed = total - _count(codes, _HARMLESS)
    enough = total >= ENOUGH_REQUESTS
    if evidence.failed_probes >= DOWN_PROBES:
        return Verdict(Status.DOWN, "three probes in a row or more did not reach it")
    if enough and 10 * unreached >= 9 * total:
        return Verdict(Status.DOWN, "at least nine in ten of the last requests did not reach it")
    if evidence.blocked:
        return Verdict(Status.RATE_LIMITED, "it asked to be left alone, and the time is not over")
    if enough and 5 * limited >= total:
        return Verdict(Status.RATE_LIMITED, "it answered 429 to at least one in five of the last requests")
    if evidence.failed_probes or evidence.probe not in (None, *_HARMLESS):
        return Verdict(Status.DEGRADED, "the last probe failed")
    if enough and 10 * failed >= total:
        return Verdict(Status.DEGRADED, "at least one in ten of the last requests failed")
    if evidence.p95_seconds is not None and evidence.p95_seconds > SLOW_SECONDS:
        return Verdict(Status.DEGRADED, "one in twenty of the last requests took more than five seconds")
    if evidence.late:
        return Verdict(Status.DEGRADED, "its newest bar is more than 15 minutes old")
    return Verdict(Status.UP, "it answers, in time and with new bars")


def _count(codes: Mapping[str, int], which: Collection[str]) -> int:
    return sum(codes.get(code, 0) for code in which)


def failed_in_a_row(before: int, probe: str | None) -> int:
    """Return how many probes in a row did not reach a vendor, from those before and the code of a new one, if any."""
    if probe is None:
        return before
    return before + 1 if probe == Code.VENDOR_UNAVAILABLE else 0


def is_late(calendar: Calendar, newest_close_us: int, ready_us: int, now_us: int) -> bool:
    """Return whether a vendor's newest bar is too old while its market is open.

    `ready_us` is up to when the vendor claims to have bars: a feed that is 15 minutes behind by contract, or a file a
    day, is late only from there on. Minutes in which the market is closed do not count.
    """
    part = calendar.sessions(now_us, now_us + 1)
    is_open = part.start < part.stop
    return is_open and open_minutes(calendar, newest_close_us, ready_us) > LATE_MINUTES
