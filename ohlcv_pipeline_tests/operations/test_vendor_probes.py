"""Probes over HTTP, against the sandbox and its faults, into a real ledger."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ohlcv_pipeline.ledger import outcomes, vendor_status
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import VendorBudget, VendorStatus
from ohlcv_pipeline.ledger.vendor_status import Found
from ohlcv_pipeline.markets import market, to_us
from ohlcv_pipeline.operations import vendor_probes
from ohlcv_pipeline.operations.vendor_probes import look, question, vendor_definitions
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource
from ohlcv_pipeline.settings import Settings, VendorSettings
from ohlcv_pipeline.vendors.registry import adapter
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange

NOW = datetime(2026, 6, 10, 16, tzinfo=UTC)
"""A Wednesday on which New York is open and no venue of the sandbox has an outage."""


@pytest.fixture(scope="module")
def running() -> Iterator[Exchange]:
    with running_exchange(now=NOW) as exchange:
        yield exchange


@pytest.fixture
def exchange(running: Exchange) -> Iterator[Exchange]:
    running.reset_requests()
    yield running
    running.clear()


def platform(home: Path, url: str, **chosen: Any) -> Platform:
    settings = {"home": home, "sandbox_url": url, "markets": ("crypto",), **chosen}
    return Platform(Settings(_env_file=None, **settings))


@pytest.fixture
def home(tmp_path: Path, exchange: Exchange) -> Iterator[Platform]:
    made = platform(tmp_path, exchange.url)
    yield made
    made.ledger.close()


def statuses(found: list[Found]) -> dict[str, str]:
    return {each.vendor: each.status for each in found}


def test_every_vendor_in_use_is_asked_once(tmp_path: Path, exchange: Exchange) -> None:
    home = platform(tmp_path, exchange.url, markets=("crypto", "crypto_usdt", "us_equities"))
    found = look(home, NOW)
    vendors = ["coinbase", "kraken", "binance_archive", "binance", "alpaca", "tiingo"]
    assert statuses(found) == dict.fromkeys(vendors, "up")
    assert {vendor: sum(of.values()) for vendor, of in exchange.counts().items()} == dict.fromkeys(vendors, 1)
    ages = {each.vendor: each.data_age_seconds for each in found}
    assert ages["coinbase"] == ages["kraken"] == ages["binance"] == 0
    # The consolidated tape is free 15 minutes later, files of a day are there when it is over.
    assert 900 <= (ages["alpaca"] or 0) <= 1_020
    assert ages["binance_archive"] == 16 * 3_600
    home.ledger.close()


def test_an_outage_is_degraded_first_and_down_with_the_third_probe(home: Platform, exchange: Exchange) -> None:
    exchange.fault(kind="outage", vendor="coinbase")
    seen = [statuses(look(home, NOW + timedelta(hours=hour)))["coinbase"] for hour in range(3)]
    assert seen == ["degraded", "degraded", "down"]
    row = vendor_status.newest(home.ledger)["coinbase"]
    assert (row.failed_probes, row.since, row.data_age_seconds) == (3, NOW + timedelta(hours=2), None)
    exchange.clear()
    with home.ledger.write() as session:
        outcomes.prune(session, datetime.now(UTC) + timedelta(days=1))
    assert statuses(look(home, NOW))["coinbase"] == "up"
    assert vendor_status.newest(home.ledger)["coinbase"].failed_probes == 0


def test_requests_that_reach_nobody_are_an_outage_without_a_third_probe(home: Platform, exchange: Exchange) -> None:
    exchange.fault(kind="drop", vendor="coinbase")
    for _ in range(4):
        outcomes.append(home.ledger, [_unreached()])
    assert statuses(look(home, NOW)) == {"coinbase": "down", "kraken": "up"}


def _unreached() -> Any:
    from ohlcv_pipeline.vendors.errors import Code
    from ohlcv_pipeline.vendors.transport import Outcome

    return Outcome("coinbase", NOW, 0.1, 503, Code.VENDOR_UNAVAILABLE, 1, 0)


def test_a_vendor_that_asks_for_patience_is_left_alone(home: Platform, exchange: Exchange) -> None:
    exchange.fault(kind="rate_limit", vendor="coinbase", retry_after="600", times=1)
    assert statuses(look(home, NOW))["coinbase"] == "rate_limited"
    asked = len(exchange.requests("coinbase"))
    assert statuses(look(home, NOW + timedelta(minutes=5)))["coinbase"] == "rate_limited"
    assert len(exchange.requests("coinbase")) == asked


@pytest.mark.parametrize(
    "fault", [{"kind": "empty"}, {"kind": "missing", "start": NOW - timedelta(minutes=16), "end": NOW}]
)
def test_200_with_old_bars_is_degraded(home: Platform, exchange: Exchange, fault: dict[str, Any]) -> None:
    exchange.fault(vendor="coinbase", **fault)
    found = {each.vendor: each for each in look(home, NOW)}
    assert found["coinbase"].status == "degraded"
    assert found["coinbase"].details == "its newest bar is more than 15 minutes old"
    assert found["coinbase"].data_age_seconds == (None if fault["kind"] == "empty" else 960)
    assert {request["status"] for request in exchange.requests("coinbase")} == {200}


def test_nothing_is_late_while_the_market_is_closed(tmp_path: Path, exchange: Exchange) -> None:
    home = platform(tmp_path, exchange.url, markets=("us_equities",))
    exchange.fault(kind="empty", vendor="alpaca")
    assert statuses(look(home, NOW))["alpaca"] == "degraded"
    assert statuses(look(home, NOW.replace(hour=23)))["alpaca"] == "up"
    home.ledger.close()


def test_a_slow_answer_counts_as_none(home: Platform, exchange: Exchange, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendor_probes, "DEADLINE_SECONDS", 0.2)
    exchange.fault(kind="latency", vendor="coinbase", seconds=30)
    look(home, NOW)
    row = vendor_status.newest(home.ledger)["coinbase"]
    assert (row.status, row.failed_probes) == ("degraded", 1)


def test_a_probe_that_gets_no_turn_says_nothing(
    tmp_path: Path, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vendor_probes, "TURN_SECONDS", 0.1)
    monkeypatch.setattr(vendor_probes, "DEADLINE_SECONDS", 0.1)
    slow = VendorSettings(base_url=f"{exchange.url}/coinbase", requests_per_second=0.001, burst=1)
    home = platform(tmp_path, exchange.url, vendors={"coinbase": slow})
    with home.ledger.write() as session:
        now = datetime.now(UTC)
        session.add(VendorBudget(vendor="coinbase", request_tokens=0, weight_tokens=0, refilled_at=now))
    assert statuses(look(home, NOW))["coinbase"] == "up"
    assert exchange.requests("coinbase") == []
    home.ledger.close()


def test_a_vendor_that_publishes_by_the_day_is_asked_for_the_hash_of_its_newest_file() -> None:
    for now in (NOW, datetime(2026, 6, 2, 3, tzinfo=UTC), datetime(2026, 7, 1, 12, tzinfo=UTC)):
        fetch = question(market("crypto_usdt"), "binance_archive", adapter("binance_archive"), to_us(now))
        assert fetch is not None
        assert to_us(now) - fetch.end_us < 3 * 86_400_000_000


def test_a_status_is_served_for_15_minutes_and_then_is_degraded(ledger: Ledger) -> None:
    vendor_status.record(ledger, [Found("kraken", "up", 3.0, 0, "it answers")], NOW)
    row = vendor_status.newest(ledger)["kraken"]
    assert vendor_status.served(row.status, row.checked_at, NOW + timedelta(minutes=15)) == "up"
    assert vendor_status.served(row.status, row.checked_at, NOW + timedelta(minutes=15, seconds=1)) == "degraded"


def test_since_stays_while_the_status_does(ledger: Ledger) -> None:
    for minutes, status in enumerate(["up", "down", "down", "up"]):
        vendor_status.record(ledger, [Found("kraken", status, None, 0, "")], NOW + timedelta(minutes=minutes))
        row = vendor_status.newest(ledger)["kraken"]
        assert row.checked_at == NOW + timedelta(minutes=minutes)
        assert row.since == NOW + timedelta(minutes=[0, 1, 1, 3][minutes])


def test_when_the_look_fails_the_last_one_stays(home: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    look(home, NOW)
    with home.ledger.read() as session:
        before = session.get_one(VendorStatus, "coinbase").checked_at
    monkeypatch.setattr(vendor_probes, "question", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        look(home, NOW + timedelta(minutes=10))
    assert vendor_status.newest(home.ledger)["coinbase"].checked_at == before


def test_the_sensor_tells_what_it_found(home: Platform) -> None:
    (sensor,) = vendor_definitions(dg.DefaultScheduleStatus.RUNNING).sensors or []
    assert isinstance(sensor, dg.SensorDefinition)
    assert sensor.default_status is dg.DefaultSensorStatus.RUNNING
    assert sensor.minimum_interval_seconds == 600
    context = dg.build_sensor_context(resources={"platform": PlatformResource(home.settings)})
    told = sensor(context)
    assert isinstance(told, dg.SkipReason)
    # The sandbox stands in June; what it has is old by the wall clock.
    assert told.skip_message == "coinbase degraded, kraken degraded"
