"""How far every enabled series is behind: the whole installation in one pass over the manifest.

The rule of one series is `bars.freshness`; when a stale one is told of is `incidents`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.orm import Session

from ohlcv_pipeline.bars.freshness import freshness, stale_from
from ohlcv_pipeline.ledger import circumstances, monitors, vendor_status
from ohlcv_pipeline.markets import Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.operations.alerts import Circumstances
from ohlcv_pipeline.operations.evaluation import FRESHNESS, Recorded, record
from ohlcv_pipeline.operations.incidents import Incident, Kind, Sighting, Topic
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings


@dataclass(frozen=True)
class SeriesFreshness:
    """One series at an instant.

    `lag_minutes` is that of `bars.freshness`, None where there is nothing to measure from. `stale_from` is when it will
    be stale if nothing more is stored, None where it is, or where that is not known. `vendors` are those that serve the
    symbol, in the market's order.
    """

    market: str
    symbol: str
    interval: Interval
    newest: datetime | None
    lag_minutes: float | None
    threshold_minutes: float
    stale: bool
    stale_from: datetime | None
    vendors: Sequence[str]

    @property
    def key(self) -> tuple[str, str, str]:
        """Market, symbol and interval."""
        return self.market, self.symbol, self.interval


@dataclass(frozen=True)
class Monitored:
    """What became of an evaluation, and when the next series will be stale unless something is published."""

    recorded: Recorded
    next_stale_at: datetime | None


def monitor(platform: Platform, now: datetime) -> Monitored:
    """Evaluate every series, and store the incidents and messages that follow.

    Raises LakeError when the lake cannot be read; then nothing changes, and the watchdog will notice.
    """
    ledger = platform.ledger
    sequence = monitors.next_sequence(ledger, FRESHNESS)
    series = evaluate_all(platform, now)
    looked_at = vendor_status.newest(ledger)
    statuses = {name: vendor_status.served(row.status, row.checked_at, now) for name, row in looked_at.items()}
    seen = sightings(series, {vendor for vendor, status in statuses.items() if status in _UNAVAILABLE})
    recorded = record(
        ledger,
        platform.settings,
        FRESHNESS,
        sequence,
        seen,
        now,
        kinds=[Kind.FRESHNESS, Kind.VENDOR_DOWN],
        circumstances=lambda session, told: _circumstances(session, told, series, seen, statuses),
    )
    return Monitored(recorded, min((each.stale_from for each in series if each.stale_from is not None), default=None))


_UNAVAILABLE = frozenset({"down", "rate_limited"})


def sightings(series: Sequence[SeriesFreshness], unavailable: Collection[str]) -> list[Sighting]:
    """Return what the state machine is to know: each series, and each market whose stale series nobody could deliver.

    A stale series all of whose vendors are unavailable is explained by that; a vendor that is away while another
    delivers explains nothing and harms nobody.
    """
    found = []
    explained: dict[str, float] = {}
    for each in series:
        cause = None
        if each.stale and each.vendors and unavailable and all(vendor in unavailable for vendor in each.vendors):
            cause = Topic(Kind.VENDOR_DOWN, each.market)
            explained[each.market] = max(explained.get(each.market, 0.0), each.lag_minutes or 0.0)
        topic = Topic(Kind.FRESHNESS, *each.key)
        found.append(Sighting(topic, each.stale, each.lag_minutes, each.threshold_minutes, cause=cause))
    for market in dict.fromkeys(each.market for each in series):
        lag = explained.get(market)
        found.append(Sighting(Topic(Kind.VENDOR_DOWN, market), lag is not None, lag))
    return found


def _circumstances(
    session: Session,
    told: Sequence[Incident],
    series: Sequence[SeriesFreshness],
    seen: Sequence[Sighting],
    statuses: Mapping[str, str],
) -> dict[UUID, Circumstances]:
    of_series = {each.key: each for each in series}
    keys = {
        incident.id: (incident.topic.market, incident.topic.symbol, incident.topic.interval)
        for incident in told
        if incident.topic.kind is Kind.FRESHNESS
    }
    runs = circumstances.run_times(session, list(keys.values()))
    found = {}
    for identifier, key in keys.items():
        each, ran = of_series[key], runs.get(key, circumstances.RunTimes())
        found[identifier] = Circumstances(
            vendor_status=statuses.get(each.vendors[0], vendor_status.UNKNOWN) if each.vendors else None,
            last_bucket=each.newest,
            last_success_at=ran.last_success_at,
            last_run_started_at=ran.last_started_at,
        )
    for incident in told:
        if incident.topic.kind is Kind.VENDOR_DOWN:
            explained = [sighting.topic for sighting in seen if sighting.cause == incident.topic]
            behind = [f"{topic.market} {topic.symbol} {topic.interval}" for topic in explained]
            found[incident.id] = Circumstances(more={"behind": "; ".join(behind)})
    return found


def evaluate_all(platform: Platform, now: datetime) -> list[SeriesFreshness]:
    """Judge every enabled series, by market, symbol and interval. Raises LakeError when the lake cannot be read."""
    newest = platform.reading.reader.newest_of_all()
    enabled = [(market, platform.instruments(market)) for market in platform.markets]
    return judge(enabled, newest, platform.settings, now)


def judge(
    enabled: Iterable[tuple[Market, Sequence[Instrument]]],
    newest: Mapping[tuple[str, str, str], int],
    settings: Settings,
    now: datetime,
) -> list[SeriesFreshness]:
    """Judge the series of some instruments.

    Args:
        enabled: markets with their enabled instruments.
        newest: (market, symbol, interval) → start of the newest stored bucket in µs.
        settings: for the threshold of each table.
        now: the current instant, aware.
    """
    now_us = to_us(now)
    found = []
    for market, instruments in enabled:
        for interval in Interval:
            threshold = settings.freshness_threshold(market.name, interval)
            for instrument in instruments:
                last = newest.get((market.name, instrument.symbol, interval))
                verdict = freshness(market, interval, instrument, last, now_us, threshold)
                late_us = None if verdict.stale else stale_from(market, interval, instrument, last, now_us, threshold)
                found.append(
                    SeriesFreshness(
                        market=market.name,
                        symbol=instrument.symbol,
                        interval=interval,
                        newest=None if last is None else from_us(last),
                        lag_minutes=verdict.lag_minutes,
                        threshold_minutes=threshold,
                        stale=verdict.stale,
                        stale_from=None if late_us is None else from_us(late_us),
                        vendors=[vendor for vendor in market.vendors if vendor in instrument.vendor_symbols],
                    )
                )
    return found
