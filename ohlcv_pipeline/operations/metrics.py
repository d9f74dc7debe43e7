"""What an outside monitor is told: everything is read from the ledger and the summary when it asks.

Counters count from when this collector was made, as those of any process do: what the ledger prunes would otherwise
look like a restart, and history is asked for over the API. The service listens and adds its own requests.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from ohlcv_pipeline.lake.accounts import undecided
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.snapshots import NO_LAKE, newest_number
from ohlcv_pipeline.ledger import monitors, runs, tallies, vendor_status
from ohlcv_pipeline.operations.evaluation import FRESHNESS
from ohlcv_pipeline.operations.incidents import Kind
from ohlcv_pipeline.operations.overview import Overview
from ohlcv_pipeline.operations.vendor_health import OK, Status
from ohlcv_pipeline.platform import Platform

REQUEST_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RUN_SECONDS = (1.0, 5.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3_600.0)

LATE_COMMITS = timedelta(minutes=10)
"""For so long an event is looked for after its time: the transaction that records it may take."""

RATIO_SECONDS = 60.0
"""How often the success of thirty days is counted again."""

_Labels = tuple[str, ...]


class _Histogram:
    """Durations by labels: how many in each bucket, the last one without a bound, and their sum."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts: dict[_Labels, list[int]] = defaultdict(lambda: [0] * (len(bounds) + 1))
        self._sums: Counter[_Labels] = Counter()

    def add(self, labels: _Labels, bucket: int, count: int, seconds: float) -> None:
        self._counts[labels][bucket] += count
        self._sums[labels] += seconds  # type: ignore[assignment]  # a Counter adds floats as well

    def observe(self, labels: _Labels, seconds: float) -> None:
        bucket = sum(bound < seconds for bound in self._bounds)
        self.add(labels, bucket, 1, seconds)

    def fill(self, family: HistogramMetricFamily) -> Metric:
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        for labels, counts in self._counts.items():
            below = [sum(counts[: place + 1]) for place in range(len(counts))]
            family.add_metric(labels, list(zip(names, below, strict=True)), self._sums[labels])
        return family


class _Once:
    """Lets every event pass once, in whatever order the transactions that recorded them have ended."""

    def __init__(self, start: datetime) -> None:
        self._start, self.since = start, start
        self._seen: dict[Hashable, datetime] = {}

    def new(self, key: Hashable, at: datetime | None) -> bool:
        if at is None or at < self.since or (key, at) in self._seen:
            return False
        self._seen[key, at] = at
        return True

    def forget(self, now: datetime) -> None:
        self.since = max(self._start, now - LATE_COMMITS)
        self._seen = {event: at for event, at in self._seen.items() if at >= self.since}


class Metrics(Collector):
    """Collects the metrics of one installation; `overview` returns the service's summary, None if it has none.

    `collect` raises DBAPIError when the ledger cannot be read: no answer is better than half of one, whose missing
    half would silence its alerts.
    """

    def __init__(
        self, platform: Platform, clock: Callable[[], datetime], overview: Callable[[], Overview | None]
    ) -> None:
        self._platform, self._clock, self._overview = platform, clock, overview
        self._lock = threading.Lock()
        self._newest: int | None = None
        self._requests = _Histogram(REQUEST_SECONDS)
        self._failed: dict[tuple[str, int], str] = {}
        self._retries: Counter[_Labels] = Counter()
        self._runs: Counter[_Labels] = Counter()
        self._rows: Counter[_Labels] = Counter()
        self._durations = _Histogram(RUN_SECONDS)
        self._incidents: Mapping[str, Counter[_Labels]] = {"opened": Counter(), "cleared": Counter()}
        start = clock()
        self._ended, self._turned = _Once(start), _Once(start)
        self._ratio: tuple[datetime, float] | None = None
        self._quarantine: tuple[int, Mapping[_Labels, int]] = (NO_LAKE, {})

    def begin(self) -> None:
        """Count requests from here on; without it from the first collection on."""
        with self._lock:
            self._newest = tallies.newest_request(self._platform.ledger)

    def collect(self) -> Iterator[Metric]:
        """Yield every family. Safe to call from several threads."""
        with self._lock:
            now = self._clock()
            self._read_requests()
            self._read_runs(now)
            self._read_incidents(now)
            families = [
                *self._ingestion(now), *self._vendors(now), *self._series(), *self._alerts(now), self._quarantined()
            ]  # fmt: skip
        yield from families

    def _read_requests(self) -> None:
        ledger = self._platform.ledger
        newest = tallies.newest_request(ledger)
        after, self._newest = (newest if self._newest is None else self._newest), newest
        if newest <= after:
            return
        for each in tallies.requests(ledger, after, newest, REQUEST_SECONDS):
            self._requests.add((each.vendor, each.code), each.bucket, each.count, each.seconds)
        for attempt in tallies.unsmooth(ledger, after, newest):
            if attempt.attempt > 1:
                # Requests run side by side: the newest failure of a try before is the likely reason.
                reason = self._failed.get((attempt.vendor, attempt.attempt - 1), "unknown")
                self._retries[attempt.vendor, reason] += 1
            if attempt.code != OK:
                self._failed[attempt.vendor, attempt.attempt] = attempt.code

    def _read_runs(self, now: datetime) -> None:
        for run in tallies.ended_runs(self._platform.ledger, self._ended.since):
            if self._ended.new(run.id, run.ended_at):
                table = (run.market, run.interval)
                self._runs[*table, run.status, run.trigger] += 1
                self._rows[table] += run.row_count
                self._durations.observe(table, (run.ended_at - run.started_at).total_seconds())
        self._ended.forget(now)

    def _read_incidents(self, now: datetime) -> None:
        for identifier, kind, opened_at, cleared_at in tallies.incidents_since(
            self._platform.ledger, self._turned.since
        ):
            for what, at in (("opened", opened_at), ("cleared", cleared_at)):
                self._incidents[what][kind,] += self._turned.new((identifier, what), at)
        self._turned.forget(now)

    def _ingestion(self, now: datetime) -> Iterator[Metric]:
        yield _counter(
            "ohlcv_ingestion_runs", "Runs that ended", ("market", "interval", "status", "trigger"), self._runs
        )
        yield self._durations.fill(
            HistogramMetricFamily(
                "ohlcv_ingestion_run_duration_seconds", "From start to end of a run", labels=["market", "interval"]
            )
        )
        yield _counter(
            "ohlcv_ingestion_rows", "Bars that runs verified in the lake", ("market", "interval"), self._rows
        )
        yield _counter(
            "ohlcv_ingestion_retries",
            "Requests sent once more, by what had failed",
            ("vendor", "reason"),
            self._retries,
        )
        if self._ratio is None or (now - self._ratio[0]).total_seconds() >= RATIO_SECONDS:
            rate = runs.success_rate(self._platform.ledger, now - timedelta(days=30))
            self._ratio = now, rate.success_rate
        yield _gauge(
            "ohlcv_run_success_ratio_30d", "Share of runs of a symbol that succeeded", (), {(): self._ratio[1]}
        )

    def _vendors(self, now: datetime) -> Iterator[Metric]:
        rows = vendor_status.newest(self._platform.ledger)
        shown = {vendor: vendor_status.served(row.status, row.checked_at, now) for vendor, row in rows.items()}
        yield _gauge(
            "ohlcv_vendor_status",
            "1 for the status that a vendor has",
            ("vendor", "status"),
            {(vendor, status): float(status == shown[vendor]) for vendor in shown for status in Status},
        )
        yield _gauge(
            "ohlcv_vendor_data_age_seconds",
            "Age of the newest bar that the last probe was given",
            ("vendor",),
            {(vendor,): row.data_age_seconds for vendor, row in rows.items()},
        )
        yield self._requests.fill(
            HistogramMetricFamily(
                "ohlcv_vendor_request_seconds", "Requests by what came of them", labels=["vendor", "outcome"]
            )
        )

    def _series(self) -> Iterator[Metric]:
        overview = self._overview()
        rows = () if overview is None else overview.assets
        names = ("market", "symbol", "interval")
        of = {(row.market, row.asset, row.interval): row for row in rows}
        yield _gauge(
            "ohlcv_freshness_lag_minutes",
            "Minutes since the close of the newest bar, of minute series those in which the market was open",
            names,
            {series: row.freshness_minutes for series, row in of.items()},
        )
        yield _gauge(
            "ohlcv_coverage_ratio",
            "Share of the expected bars of the target window that are stored",
            names,
            {series: None if row.coverage_pct is None else row.coverage_pct / 100 for series, row in of.items()},
        )
        yield _gauge(
            "ohlcv_open_gaps",
            "Gaps of the target window that are not resolved",
            names,
            {series: float(row.open_gaps) for series, row in of.items()},
        )

    def _alerts(self, now: datetime) -> Iterator[Metric]:
        ledger = self._platform.ledger
        for what, counts in self._incidents.items():
            every: dict[_Labels, int] = {(str(kind),): counts[str(kind),] for kind in Kind}
            yield _counter(f"ohlcv_incidents_{what}", f"Incidents that have {what}", ("kind",), every)
        standing = tallies.open_incidents(ledger)
        yield _gauge(
            "ohlcv_incidents_open",
            "Incidents that have opened and are not over",
            ("kind",),
            {(str(kind),): float(standing.get(kind, 0)) for kind in Kind},
        )
        unsent, oldest = tallies.unsent_messages(ledger)
        yield _gauge(
            "ohlcv_outbox_pending",
            "Alerts that their channel has not taken",
            ("channel",),
            {(channel,): float(count) for channel, count in unsent.items()},
        )
        waiting = 0.0 if oldest is None else (now - oldest).total_seconds()
        yield _gauge("ohlcv_outbox_oldest_seconds", "How long the oldest of them waits", (), {(): waiting})
        evaluated = monitors.last_evaluation(ledger, FRESHNESS)
        yield _gauge(
            "ohlcv_monitor_last_evaluation_timestamp_seconds",
            "When freshness was last evaluated, 0 for never",
            (),
            {(): 0.0 if evaluated is None else evaluated.timestamp()},
        )

    def _quarantined(self) -> Metric:
        reader = self._platform.reading.reader
        try:
            number = newest_number(reader)
            if number != self._quarantine[0]:
                self._quarantine = number, undecided(reader)
            counts = self._quarantine[1]
        except LakeError:
            # Whether the lake can be reached is told by /readyz and by the series that then lack.
            counts = {}
        return _gauge(
            "ohlcv_quarantined_rows",
            "Rows that broke a rule and wait for a decision",
            ("market", "interval"),
            {labels: float(count) for labels, count in counts.items()},
        )


def _counter(name: str, text: str, labels: Iterable[str], counts: Mapping[_Labels, int]) -> Metric:
    family = CounterMetricFamily(name, text, labels=list(labels))
    for values, count in counts.items():
        family.add_metric(values, count)
    return family


def _gauge(name: str, text: str, labels: Iterable[str], values: Mapping[_Labels, float | None]) -> Metric:
    """Return a gauge; what is not known has no sample."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    for given, value in values.items():
        if value is not None:
            family.add_metric(given, value)
    return family
