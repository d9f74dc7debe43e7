"""Looks at every vendor in use: one cheap request each, then the verdict of `vendor_health`, into the ledger.

A sensor of its own, because a vendor's state must be known also while nothing is fetched.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.ledger import outcomes, vendor_status
from ohlcv_pipeline.ledger.vendor_status import Found
from ohlcv_pipeline.markets import MINUTE_US, Interval, Market, span_us, to_us
from ohlcv_pipeline.operations.vendor_health import OK, RECENT, Evidence, failed_in_a_row, is_late, judge
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource
from ohlcv_pipeline.settings import FOLDER_VENDORS, VendorSettings
from ohlcv_pipeline.vendors.base import Adapter, Announces, Fetch
from ohlcv_pipeline.vendors.errors import Code, VendorError
from ohlcv_pipeline.vendors.failover import Source

PERIOD_SECONDS = 600
DEADLINE_SECONDS = 5.0
"""How long a vendor may take over a probe, connecting included."""

TURN_SECONDS = 5.0
"""How long a probe waits for its turn while runs spend the vendor's limits. Then there is none this time."""

WINDOWS = (timedelta(hours=4), timedelta(days=3))
"""What is asked for: the newest minutes, or the newest file of a vendor that publishes by the day."""


@dataclass(frozen=True)
class Probe:
    """What came of asking: a code, the close of the newest bar in µs if one came, and whether that is too old."""

    code: str
    newest_close_us: int | None = None
    late: bool = False


def look(home: Platform, now: datetime) -> list[Found]:
    """Probe every vendor of the markets that are on, judge each, record and return what was found.

    A vendor that asked to be left alone is not probed. Raises DBAPIError when the ledger cannot be used; what was found
    last then stays.
    """
    before = vendor_status.newest(home.ledger)
    alone = vendor_status.blocked(home.ledger, now)
    vendors = list(dict.fromkeys(vendor for market in home.markets for vendor in market.vendors))
    probes = interrupts.run(_probe_all(home, alone, now))
    # Asked again: the answer to a probe may have been a 429.
    alone = vendor_status.blocked(home.ledger, now)
    found = []
    for vendor in vendors:
        probe = probes.get(vendor)
        recent = outcomes.recent(home.ledger, vendor, now - RECENT)
        failed = failed_in_a_row(
            before[vendor].failed_probes if vendor in before else 0, None if probe is None else probe.code
        )
        verdict = judge(
            Evidence(
                codes=recent.counts,
                p95_seconds=recent.p95_seconds,
                blocked=vendor in alone,
                probe=None if probe is None else probe.code,
                failed_probes=failed,
                late=probe is not None and probe.late,
            )
        )
        newest = None if probe is None else probe.newest_close_us
        age = None if newest is None else (to_us(now) - newest) / 1e6
        found.append(Found(vendor, verdict.status, age, failed, verdict.details))
    vendor_status.record(home.ledger, found, now)
    return found


async def _probe_all(home: Platform, alone: frozenset[str], now: datetime) -> Mapping[str, Probe]:
    asked: set[str] = set(alone)
    found: dict[str, Probe] = {}

    async def one(market: Market, vendor: str, source: Source) -> None:
        probe = await _probe(market, vendor, source, to_us(now))
        if probe is not None:
            found[vendor] = probe

    for market in home.markets:
        async with home.sources(market, _hasty) as sources:
            wanted = [vendor for vendor in sources if vendor not in asked]
            asked.update(wanted)
            await asyncio.gather(*(one(market, vendor, sources[vendor]) for vendor in wanted))
    return found


def _hasty(settings: VendorSettings) -> VendorSettings:
    return settings.model_copy(update={"attempts": 1, "deadline_seconds": DEADLINE_SECONDS})


async def _probe(market: Market, vendor: str, source: Source, now_us: int) -> Probe | None:
    """Ask one vendor; return None if there is nothing to ask it, or no turn to ask."""
    fetch = question(market, vendor, source.adapter, now_us)
    if fetch is None:
        return None
    newest = None
    try:
        async with asyncio.timeout(TURN_SECONDS + DEADLINE_SECONDS):
            if isinstance(source.adapter, Announces):
                await source.adapter.announced(fetch, source.transport)
                newest = fetch.end_us
            else:
                page = await source.adapter.fetch(fetch, source.transport)
                closes = page.bars.bucket_start + MINUTE_US
                newest = int(closes[closes <= now_us].max(initial=0)) or None
    except TimeoutError:
        return None
    except VendorError as error:
        if error.code is Code.RATE_LIMITED and not error.attempts:
            return None
        if error.code is not Code.NOT_YET:
            return Probe(error.code)
    # A folder holds what somebody has put there; nobody has promised new bars.
    since = fetch.start_us if newest is None else newest
    late = vendor not in FOLDER_VENDORS and is_late(market.calendar, since, fetch.end_us, now_us)
    return Probe(OK, newest, late)


def question(market: Market, vendor: str, adapter: Adapter, now_us: int) -> Fetch | None:
    """Return what to ask a vendor: the newest minutes of the first symbol it lists, as one fetch; None if it has none.

    The first symbol of a declaration trades every minute.
    """
    for instrument in market.instruments:
        spelling = instrument.vendor_symbols.get(vendor)
        if spelling is None:
            continue
        for window in WINDOWS:
            served = adapter.serves(Interval.MINUTE, now_us - span_us(window), now_us, now_us)
            if served is not None:
                return adapter.plan(instrument.symbol, spelling, Interval.MINUTE, *served)[-1]
    return None


def vendor_definitions(status: dg.DefaultScheduleStatus) -> dg.Definitions:
    """Return the sensor; it runs from the start where the schedules do."""
    running = status is dg.DefaultScheduleStatus.RUNNING

    @dg.sensor(
        name="vendor_health",
        minimum_interval_seconds=PERIOD_SECONDS,
        default_status=dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED,
        description="Asks every vendor for its newest minutes, every ten minutes, and records how it does.",
    )
    def vendor_health(platform: dg.ResourceParam[PlatformResource]) -> dg.SkipReason:
        found = look(platform.platform, datetime.now(UTC))
        return dg.SkipReason(", ".join(f"{each.vendor} {each.status}" for each in found) or "no vendor is in use")

    return dg.Definitions(sensors=[vendor_health])
