"""The status summary, kept ready: worked out in the background when something has changed, handed out as bytes.

A request touches neither lake nor ledger. What the summary says is `operations.overview`'s business.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime, timedelta

from ohlcv_pipeline.lake.accounts import Accounts, accounts, heads
from ohlcv_pipeline.lake.snapshots import NO_LAKE, newest_number
from ohlcv_pipeline.ledger.standing import Standing, standing
from ohlcv_pipeline.markets import Interval, Market, from_us
from ohlcv_pipeline.operations.evaluation import FRESHNESS
from ohlcv_pipeline.operations.holdings import Cut, Holdings, cut_cells, holdings
from ohlcv_pipeline.operations.overview import Overview, SeriesStatus, overview
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service.parameters import one_home
from ohlcv_pipeline.service.problems import not_found, unavailable
from ohlcv_pipeline.service.routing import to_json

OLDEST = timedelta(seconds=15)
"""When the summary is worked out again though nothing was stored: every lag has grown by then."""

UNREACHED = timedelta(seconds=30)
"""When lake or ledger count as out of reach: they are looked at every second, and a look may take a while."""

EXPIRED = timedelta(minutes=2)
"""A summary that could not be renewed for so long is not shown any more."""


@dataclass(frozen=True)
class Row:
    """One series of a snapshot, and its JSON."""

    status: SeriesStatus
    json: bytes


@dataclass(frozen=True)
class Snapshot:
    """The summary at one instant. `head` is its JSON up to the rows, `whole` all of it."""

    markets: frozenset[str]
    overview: Overview
    head: bytes
    rows: tuple[Row, ...]
    whole: bytes
    tag: str

    def check(self, asset: str | None, market: str | None) -> None:
        """Refuse a filter that no row can fit. Raises ProblemError: an unknown market or asset, or an ambiguous one."""
        if market is not None and market not in self.markets:
            raise not_found("there is no such market")
        if asset is not None:
            rows = (row.status for row in self.rows if row.status.asset == asset)
            one_home(asset, sorted({row.market for row in rows if market in (None, row.market)}))

    def body(self, keep: Callable[[SeriesStatus], bool] | None) -> bytes:
        """Return the summary as JSON, of the rows that are to be kept."""
        if keep is None:
            return self.whole
        return self.head + b",".join(row.json for row in self.rows if keep(row.status)) + b"]}"


@dataclass
class _Table:
    """What was last read of one bars table; `cut` belongs to the window that begins at `cut_start`."""

    version: int
    accounts: Accounts
    cut: Cut
    cut_start: int


class Summary:
    """Keeps the newest snapshot of one installation. `refresh` is called again and again in one thread."""

    def __init__(self, platform: Platform, clock: Callable[[], datetime]) -> None:
        self._platform, self._clock = platform, clock
        self._tables: dict[tuple[str, Interval], _Table] = {}
        self._newest: Snapshot | None = None
        self._reached_at: datetime | None = None
        self._marks: tuple[int, str] = (NO_LAKE, "")
        self._versions: Mapping[tuple[str, str], int] = {}
        self._refreshing = threading.Lock()

    def current(self) -> Snapshot:
        """Return the newest snapshot. Raises ProblemError when there is none, or none that is young enough."""
        newest = self._newest
        if newest is None or self._clock() - newest.overview.generated_at > EXPIRED:
            raise unavailable()
        return newest

    def require_reached(self) -> None:
        """Raise ProblemError if lake and ledger could not both be read lately."""
        if self._reached_at is None or self._clock() - self._reached_at > UNREACHED:
            raise unavailable()

    def refresh(self) -> bool:
        """Take a new snapshot if lake or ledger have changed, or time has gone by; return whether one was taken.

        Raises LakeError or a DBAPIError when they cannot be read; the last snapshot then stays.
        """
        with self._refreshing:
            platform, now = self._platform, self._clock()
            reader, newest = platform.reading.reader, self._newest
            marks = (newest_number(reader), platform.ledger.mark())
            self._reached_at = now
            if newest is not None and marks == self._marks and now - newest.overview.generated_at < OLDEST:
                return False
            if marks[0] != self._marks[0]:
                self._versions = heads(reader)
            held = {
                (market.name, interval): self._holdings(market, interval, now)
                for market in platform.markets
                for interval in Interval
            }
            starts = {
                (market.name, str(interval)): from_us(market.target_window(interval, now)[0])
                for market in platform.markets
                for interval in Interval
            }
            found: Standing = standing(platform.ledger, starts, FRESHNESS)
            made = overview(platform.markets, held, found, now, platform.settings)
            self._newest, self._marks = snapshot_of(made, platform.settings.markets), marks
            return True

    def _holdings(self, market: Market, interval: Interval, now: datetime) -> Holdings:
        reader, key = self._platform.reading.reader, (market.name, interval)
        start, _ = market.target_window(interval, now)
        version = self._versions.get((market.name, str(interval)), 0)
        table = self._tables.get(key)
        if table is None or table.version != version:
            found = accounts(reader, market.name, interval) if version else Accounts.empty()
            table = _Table(version, found, cut_cells(reader, market, interval, found.symbols, start), start)
        elif table.cut_start != start:
            cut = cut_cells(reader, market, interval, table.accounts.symbols, start)
            table = _Table(version, table.accounts, cut, start)
        self._tables[key] = table
        return holdings(market, interval, table.accounts, table.cut, now)


_NAMES = tuple(field.name for field in fields(SeriesStatus))


def snapshot_of(made: Overview, markets: Collection[str]) -> Snapshot:
    """Return a summary with its JSON."""
    rows = tuple(Row(row, to_json({name: getattr(row, name) for name in _NAMES})) for row in made.assets)
    top = {
        "generated_at": made.generated_at,
        "last_evaluation_at": made.last_evaluation_at,
        "monitor_ok": made.monitor_ok,
        "alert_channel": asdict(made.alert_channel),
    }
    head = to_json(top)[:-1] + b',"assets":['
    whole = head + b",".join(row.json for row in rows) + b"]}"
    tag = f'"{hashlib.blake2b(whole, digest_size=12).hexdigest()}"'
    return Snapshot(frozenset(markets), made, head, rows, whole, tag)
