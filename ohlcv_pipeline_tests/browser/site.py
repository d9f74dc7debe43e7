"""The real service on a free port, over a lake that the package has filled, at a time that the tests set."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import uvicorn

from ohlcv_pipeline.ledger.models import Incident, IngestionRun, Monitor, RemediationEntry, VendorStatus
from ohlcv_pipeline.markets import Interval, market
from ohlcv_pipeline.operations.evaluation import deliver_due
from ohlcv_pipeline_tests.bars.vendor import Vendor, fill, us
from ohlcv_pipeline_tests.exchange import running_exchange
from ohlcv_pipeline_tests.service.conftest import NOW, TOKEN, Home, new_home

CRYPTO = market("crypto")
SYMBOLS = ("BTC", "ETH", "AAVE")
STARTED_WITHIN = 30.0
HOLE = {("ETH", bucket) for bucket in range(us("2025-11-20 03:00"), us("2025-11-20 05:00"), 60_000_000)}

T = TypeVar("T")


@dataclass
class Site:
    """A running service. What a test changes is seen by the next request."""

    home: Home
    url: str
    _thread: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    def apart(self, work: Callable[[], T]) -> T:
        """Do some work in another thread: that of the tests already has the browser's event loop."""
        return self._thread.submit(work).result()

    def turn(self, **span: float) -> None:
        """Move the clock and let the service look again."""
        self.home.clock.turn(**span)
        self.apart(self.home.refresh)

    def fill(self, keys: Sequence[str], interval: Interval = Interval.MINUTE) -> None:
        """Fetch what is missing of some partitions, as of now."""
        chosen = [CRYPTO.instrument(symbol) for symbol in SYMBOLS]
        vendor = Vendor(silent=HOLE)
        store, now = self.home.platform.store, self.home.clock()
        self.apart(lambda: fill(store, keys, [vendor], now, instruments=chosen, interval=interval))
        self.apart(self.home.refresh)

    def vendor(self, name: str, status: str) -> None:
        """Let a vendor be up, degraded, down or rate-limited."""
        now = self.home.clock()

        def store() -> None:
            with self.home.platform.ledger.write() as session:
                session.merge(VendorStatus(vendor=name, status=status, since=now, checked_at=now, failed_probes=0))

        self.apart(store)
        self.home.clock.turn(seconds=2)
        self.apart(self.home.refresh)

    def evaluated(self, at: datetime) -> None:
        """Note that freshness was evaluated."""

        def store() -> None:
            with self.home.platform.ledger.write() as session:
                session.merge(Monitor(name="freshness", sequence=int(at.timestamp()), evaluated_at=at))

        self.apart(store)
        self.apart(self.home.refresh)


def _mail(home: Home) -> None:
    """Have the sample of an alert sent to the sandbox."""
    assert home.ask("POST", "/alerts/test", headers={"X-Admin-Token": TOKEN}).status_code == 204
    assert deliver_due(home.platform.ledger, home.platform.settings, NOW).sent == 1


def _ledger(home: Home) -> None:
    """Put one row of every kind into the ledger."""
    hour = timedelta(hours=1)
    with home.platform.ledger.write() as session:
        session.add(Monitor(name="freshness", sequence=1, evaluated_at=NOW))
        for name in ("coinbase", "kraken", "alpaca", "tiingo"):
            session.add(VendorStatus(vendor=name, status="up", since=NOW, checked_at=NOW, data_age_seconds=30.0))
        series = {"market": "crypto", "interval": "minute"}
        session.add(
            Incident(
                **series, symbol="BTC", kind="freshness", state="cleared", first_breach_at=NOW - 5 * hour,
                opened_at=NOW - 5 * hour, cleared_at=NOW - 3 * hour, lag_minutes=64.0, peak_lag_minutes=180.0,
                threshold_minutes=60.0, flap_count=1, notified_at=NOW - 5 * hour,
            )
        )  # fmt: skip
        session.add(
            RemediationEntry(
                **series, asset_symbol="ETH", issue_type="gap", range_start=NOW - 33 * hour, range_end=NOW - 31 * hour,
                detected_at=NOW - 30 * hour,
            )
        )  # fmt: skip
        facts = {
            **series, "phase": "done", "row_count": 120, "checksum_sha256": "ab" * 32, "checksum_version": 1,
            "started_at": NOW - hour, "ended_at": NOW, "trigger": "schedule",
            "backfill_window_start": NOW - hour, "backfill_window_end": NOW,
        }  # fmt: skip
        parent = IngestionRun(**facts, asset_symbol="*", status="partial")
        session.add(parent)
        session.flush()
        for symbol, status in (("BTC", "success"), ("ETH", "partial")):
            session.add(IngestionRun(**facts, asset_symbol=symbol, status=status, parent_id=parent.id))


@contextmanager
def running_site(path: Path) -> Iterator[Site]:
    """Serve three coins at noon: two days of minutes, of which ETH lacks two hours, a quarter of days, and a mail."""
    with running_exchange() as exchange:
        mailbox = {"smtp_host": "127.0.0.1", "smtp_port": exchange.mail_port, "smtp_security": "none"}
        with _served(new_home(path, sandbox_url=exchange.url, alert_mail_to="desk@example.org", **mailbox)) as site:
            yield site


@contextmanager
def _served(home: Home) -> Iterator[Site]:
    server = uvicorn.Server(uvicorn.Config(home.app, port=0, log_level="warning", lifespan="on"))
    thread = threading.Thread(target=server.run, daemon=True)
    site = Site(home, "")
    try:
        _ledger(home)
        site.apart(lambda: _mail(home))
        site.fill(["2025-11-20", "2025-11-21"])
        site.fill(["2025-09", "2025-10", "2025-11"], Interval.DAY)
        thread.start()
        deadline = time.monotonic() + STARTED_WITHIN
        while not server.started:
            if time.monotonic() > deadline or not thread.is_alive():
                raise RuntimeError("the service did not start")
            time.sleep(0.02)
        port = server.servers[0].sockets[0].getsockname()[1]
        site.url = f"http://127.0.0.1:{port}"
        yield site
    finally:
        server.should_exit = True
        if thread.ident is not None:
            thread.join(10)
        home.close()
