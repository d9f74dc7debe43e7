"""What the status page shows beside the summary, kept until lake or ledger change: panels, coverage, quarantine.

Worked out when a page asks for it, at most once a second however many ask: without readers it costs nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from ohlcv_pipeline.lake.snapshots import NO_LAKE, newest_number
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service.coverage import Grid, grid, undecided
from ohlcv_pipeline.service.panels import Panels, panels

LOOK_AGAIN = timedelta(seconds=1)
OLDEST = timedelta(seconds=60)
"""When it is worked out again though nothing was stored: more may be due by then."""


@dataclass(frozen=True)
class Board:
    """All of it, as of one instant."""

    panels: Panels
    grids: Mapping[Interval, Grid]
    undecided: Mapping[tuple[str, str, str], int]


@dataclass(frozen=True)
class _Kept:
    """A board, what it was made from, and when its coverage was."""

    board: Board
    lake: int
    ledger: str
    made_at: datetime


class Boards:
    """Keeps the newest board of one installation; threads may share it."""

    def __init__(self, platform: Platform, clock: Callable[[], datetime]) -> None:
        self._platform, self._clock = platform, clock
        self._lock = threading.Lock()
        self._kept: _Kept | None = None
        self._looked_at: datetime | None = None

    def current(self) -> Board:
        """Return the newest board. Raises LakeError or a DBAPIError when lake or ledger cannot be read."""
        with self._lock:
            now = self._clock()
            if self._kept is None or self._looked_at is None or now - self._looked_at >= LOOK_AGAIN:
                self._kept = self._renewed(self._kept, now)
                self._looked_at = now
            return self._kept.board

    def _renewed(self, kept: _Kept | None, now: datetime) -> _Kept:
        platform = self._platform
        reader = platform.reading.reader
        lake, ledger = newest_number(reader), platform.ledger.mark()
        if kept is not None and (now - kept.made_at >= OLDEST or kept.lake != lake):
            kept = None
        if kept is not None and kept.ledger == ledger:
            return kept
        vendors = {market.name: market.vendors for market in platform.markets}
        shown = panels(platform.ledger, vendors, now)
        if kept is not None:
            return _Kept(Board(shown, kept.board.grids, kept.board.undecided), lake, ledger, kept.made_at)
        grids = {interval: Grid(str(interval), [], {}) for interval in Interval}
        waiting: Mapping[tuple[str, str, str], int] = {}
        if lake != NO_LAKE:
            enabled = [(market, platform.instruments(market)) for market in platform.markets]
            grids = {interval: grid(reader, enabled, interval, now) for interval in Interval}
            waiting = undecided(reader)
        return _Kept(Board(shown, grids, waiting), lake, ledger, now)
