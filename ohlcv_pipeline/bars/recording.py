"""What a run of bars leaves in the ledger: that it began, that it is alive, and what came of each symbol.

Three short transactions and a sign of life every few seconds. The account is measured in the lake after the write,
never taken from what was fetched. The rows themselves are the ledger's (`ledger.runs`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import dagster as dg
from dagster._core.errors import DagsterExecutionInterruptedError

from ohlcv_pipeline.bars.checksum import CHECKSUM_VERSION, run_checksum
from ohlcv_pipeline.bars.ingest import Outcome
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.report import Entry, neighbours, report
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.ledger import remediation, runs
from ohlcv_pipeline.ledger.remediation import NewEntry
from ohlcv_pipeline.ledger.runs import FAILED, MANUAL, PARTIAL, SCHEDULED, SUCCESS, Account, Begun
from ohlcv_pipeline.markets import Instrument, from_us, to_us
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.progress import Progress
from ohlcv_pipeline.vendors.errors import Remedy

REQUEST_TAG = "ohlcv/request"
"""Set on a run of Dagster that does what a request in the ledger asks for: its id."""

SECONDS_BETWEEN_SIGNS = 5.0

_CODES: Mapping[str, str] = {"bad_request": "internal"}
"""Codes of failed cells that a run tells by another name; one that the ledger does not know is an incomplete window."""

Clock = Callable[[], datetime]


@dataclass(frozen=True)
class Execution:
    """Which run this is: `id` stays when it is tried again, `dagster_run_id` does not."""

    id: UUID
    dagster_run_id: str
    trigger: str


def execution(run: dg.DagsterRun) -> Execution:
    """Return how the ledger knows a run of Dagster: by its request, else by itself or the run that it repeats."""
    requested = run.tags.get(REQUEST_TAG)
    scheduled = "dagster/schedule_name" in run.tags
    return Execution(UUID(requested or run.root_run_id or run.run_id), run.run_id, SCHEDULED if scheduled else MANUAL)


class Recording:
    """One run that is being recorded; `heard` listens to its progress, `end` measures what came of it."""

    def __init__(self, home: Platform, order: Order, run: Execution, clock: Clock) -> None:
        self.ended = False
        self._home = home
        self._order = order
        self._run = run
        self._clock = clock
        self._progress = Progress(0, 0, 0)
        market, interval = order.market, order.interval
        now = clock()
        bounds = [market.partition_bounds(interval, key) for key in order.partitions] or [(to_us(now), to_us(now))]
        parent = runs.begin(
            home.ledger,
            Begun(
                id=run.id,
                market=market.name,
                interval=str(interval),
                symbols=[instrument.symbol for instrument in order.instruments],
                window_start=from_us(min(start for start, _ in bounds)),
                window_end=min(now, from_us(max(end for _, end in bounds))),
                trigger=run.trigger,
                checksum_version=CHECKSUM_VERSION,
                force=order.force,
                dagster_run_id=run.dagster_run_id,
            ),
            now,
        )
        self._window = to_us(parent.backfill_window_start), to_us(parent.backfill_window_end)

    def heard(self, progress: Progress) -> None:
        """Remember how far the run is, for the next sign of life."""
        self._progress = progress

    def sign(self) -> None:
        """Tell the ledger that the run is alive and how far it is."""
        told = self._progress
        phase = "writing" if told.planned and told.requests >= told.planned else "fetching"
        runs.heartbeat(
            self._home.ledger,
            self._run.id,
            self._clock(),
            phase=phase,
            done_units=told.requests,
            total_units=told.planned or None,
        )

    def end(self, outcome: Outcome, failed: Mapping[str, str]) -> str:
        """Measure what is in the lake now and record it; return the status of the run.

        `failed` maps the symbols that could not be accounted for to a code.
        """
        home, order, now = self._home, self._order, self._clock()
        reader, market, interval = home.store.reader, order.market, order.interval
        entries = report(reader, market, interval, self._instruments(), *self._window, now)
        rows = reader.manifest(
            market.name, interval, [each.symbol for each in entries], market.partition_keys(interval, *self._window)
        )
        written = {row["symbol"] for row in rows.to_pylist() if row["run_id"] == order.run_id}
        accounts = [
            _account(entry, failed.get(entry.symbol), outcome.retries[entry.symbol], entry.symbol in written)
            for entry in entries
        ]
        remediation.log(home.ledger, noted(order, outcome, now), now)
        self.ended = True
        return runs.end(home.ledger, self._run.id, accounts, run_checksum(rows["checksum"].to_pylist()), now)

    def fail(self, code: str) -> None:
        """Record that the run ended without an account."""
        self.ended = True
        runs.fail(self._home.ledger, self._run.id, code, self._clock())

    def _instruments(self) -> Sequence[Instrument]:
        """Return the instruments of the order with the listings that are known by now."""
        enabled = {instrument.symbol: instrument for instrument in self._home.instruments(self._order.market)}
        return [enabled.get(instrument.symbol, instrument) for instrument in self._order.instruments]


def _account(entry: Entry, code: str | None, retries: int, written: bool) -> Account:
    """Return what came of one symbol; `written` tells whether the run has published any of it."""
    lacking = entry.missing_rows - entry.unfillable_rows
    if lacking <= 0:
        status, told = SUCCESS, None
    else:
        status = FAILED if not entry.actual_rows or (code is not None and not written) else PARTIAL
        told = _CODES.get(code or "", code or "incomplete_window")
        told = told if told in runs.ERRORS else "incomplete_window"
    return Account(
        symbol=entry.symbol,
        status=status,
        row_count=entry.actual_rows,
        checksum_sha256=entry.checksum_sha256,
        code=told,
        retries=retries,
        report=entry.as_fact(status),
    )


def noted(order: Order, outcome: Outcome, now: datetime) -> list[NewEntry]:
    """Return what the remediation log is told of a run: requests sent again, and buckets that came twice.

    A cell of which a request was sent again has one entry: recovered, or open until its bars are there.
    """
    market, interval = order.market, order.interval
    instruments = {instrument.symbol: instrument for instrument in order.instruments}
    spent = {cell for cell, error in outcome.failures.items() if error.remedy is not Remedy.GIVE_UP}

    def entry(symbol: str, first_us: int, last_us: int, issue: str, note: str, resolution: str | None) -> NewEntry:
        return NewEntry(
            market=market.name,
            symbol=symbol,
            interval=str(interval),
            issue_type=issue,
            range_start=from_us(first_us),
            range_end=from_us(last_us),
            note=note,
            detected_at=now,
            run_id=order.run_id,
            resolution=resolution,
        )

    entries = []
    for symbol, key in sorted(spent | (outcome.retried - set(outcome.failures))):
        buckets = market.expected(interval, instruments[symbol], *market.partition_bounds(interval, key), to_us(now))
        if len(buckets):
            told = ("refused", None) if (symbol, key) in spent else ("retried", "recovered")
            entries.append(entry(symbol, int(buckets[0]), int(buckets[-1]), "partial_source", *told))
    for symbol, twice in sorted(outcome.duplicates.items()):
        entries += [
            entry(symbol, each.first_us, each.last_us, "duplicate", "repeated", "deduplicated")
            for each in neighbours(market, interval, twice)
        ]
    return entries


@contextmanager
def recorded(home: Platform, order: Order, run: Execution, clock: Clock) -> Iterator[Recording]:
    """Record a run while the block lasts. One that will be tried again stays running; any other error ends it."""
    recording = Recording(home, order, run, clock)
    over = threading.Event()

    def keep_alive() -> None:
        while not over.wait(SECONDS_BETWEEN_SIGNS):
            recording.sign()

    signs = threading.Thread(target=keep_alive, name="ohlcv-signs-of-life", daemon=True)
    signs.start()
    try:
        try:
            yield recording
        finally:
            over.set()
            signs.join()
    except BaseException as error:
        if not isinstance(error, dg.RetryRequested) and not recording.ended:
            recording.fail(_code_of(error))
        raise


def _code_of(error: BaseException) -> str:
    if isinstance(error, DagsterExecutionInterruptedError | KeyboardInterrupt):
        return "cancelled"
    return "lake_conflict" if isinstance(error, LakeError) else "internal"
