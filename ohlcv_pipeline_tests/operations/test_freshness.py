"""Every enabled series at once: the rule of one series is tested with the bars."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ohlcv_pipeline.bars.publication import publish
from ohlcv_pipeline.ledger import incidents, outbox, symbols
from ohlcv_pipeline.ledger.models import VendorStatus
from ohlcv_pipeline.markets import MARKETS, Instrument, Interval, to_us
from ohlcv_pipeline.operations.freshness import SeriesFreshness, evaluate_all, judge, monitor, sightings
from ohlcv_pipeline.operations.incidents import Kind, Topic
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.bars.vendor import AAPL, BTC, CRYPTO, DAY, ETH, MINUTE, NEW_YORK, offer, order, utc

NOW = utc("2025-11-21 11:00")
HOUR = timedelta(hours=1)


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


def one(
    instrument: Instrument, newest: str | None, now: datetime, interval: Interval = MINUTE, **given: Any
) -> SeriesFreshness:
    market = (
        CRYPTO
        if instrument.quote == "USD" and instrument.symbol in {i.symbol for i in CRYPTO.instruments}
        else NEW_YORK
    )
    stored = {} if newest is None else {(market.name, instrument.symbol, str(interval)): to_us(utc(newest))}
    found = judge([(market, [instrument])], stored, settings(**given), now)
    (chosen,) = [each for each in found if each.interval is interval]
    return chosen


@pytest.mark.parametrize(
    ("instrument", "interval", "newest", "now", "lag", "stale"),
    [
        (BTC, MINUTE, "2025-11-20 09:59", "2025-11-20 11:00:00", 60.0, False),
        (BTC, MINUTE, "2025-11-20 09:59", "2025-11-20 11:00:01", 60.02, True),
        (AAPL, MINUTE, "2025-11-21 20:59", "2025-11-23 12:00", 0, False),
        (AAPL, MINUTE, "2025-11-26 20:59", "2025-11-28 15:31", 61, True),
        (AAPL, MINUTE, "2025-11-28 17:59", "2025-11-28 20:00", 0, False),
        (BTC, DAY, "2025-11-20", "2025-11-22 00:59", 59, False),
        (BTC, DAY, "2025-11-20", "2025-11-22 01:01", 61, True),
        (AAPL, DAY, "2025-11-20", "2025-11-21 22:01", 61, True),
    ],
)
def test_the_table_of_cases(
    instrument: Instrument, interval: Interval, newest: str, now: str, lag: float, stale: bool
) -> None:
    found = one(instrument, newest, utc(now), interval)
    assert found.lag_minutes is not None
    assert (round(found.lag_minutes, 2), found.stale) == (lag, stale)


@pytest.mark.parametrize(("minutes", "stale"), [(0, False), (60, False), (60.1, True), (600, True)])
def test_a_symbol_without_bars_has_an_hour_of_grace_and_then_lags_since_it_was_enabled(
    minutes: float, stale: bool
) -> None:
    enabled = replace(BTC, enabled_at=NOW - timedelta(minutes=minutes))
    found = one(enabled, None, NOW)
    assert (found.lag_minutes, found.stale) == (minutes, stale)


def test_a_symbol_that_was_disabled_for_a_month_has_the_same_grace() -> None:
    again = replace(BTC, enabled_at=NOW - HOUR / 2)
    assert not one(again, "2025-10-20 09:00", NOW).stale
    assert one(again, "2025-10-20 09:00", NOW + HOUR).stale


def test_nothing_is_late_that_is_not_listed_yet() -> None:
    unlisted = replace(BTC, listing_start=NOW + HOUR, enabled_at=NOW - 9 * HOUR)
    assert not one(unlisted, None, NOW).stale


def test_a_table_may_have_a_threshold_of_its_own() -> None:
    given = {"freshness_thresholds": "crypto/minute=15"}
    assert one(BTC, "2025-11-21 10:40", NOW, **given).stale
    assert not one(AAPL, "2025-11-20 20:00", NOW, **given).stale
    assert one(BTC, "2025-11-21 10:40", NOW, **given).threshold_minutes == 15


def late(instrument: Instrument) -> SeriesFreshness:
    return one(instrument, "2025-11-21 09:00", NOW)


def test_a_late_series_is_explained_when_none_of_its_vendors_can_deliver() -> None:
    single = replace(ETH, vendor_symbols={"coinbase": "ETH-USD"})
    fresh = one(CRYPTO.instrument("SOL"), "2025-11-21 10:58", NOW)
    causes = {}
    for away in ({"coinbase"}, {"coinbase", "kraken"}, set()):
        seen = {each.topic.symbol: each for each in sightings([late(BTC), late(single), fresh], away)}
        assert seen["*"].topic == Topic(Kind.VENDOR_DOWN, "crypto")
        causes[len(away)] = [name for name, each in seen.items() if each.cause is not None]
        assert seen["*"].breached is bool(causes[len(away)])
    assert causes == {0: [], 1: ["ETH"], 2: ["BTC", "ETH"]}


def test_a_vendor_that_is_away_while_another_delivers_is_no_breach() -> None:
    fresh = one(BTC, "2025-11-21 10:58", NOW)
    assert not any(each.breached for each in sightings([fresh], {"coinbase", "kraken"}))


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    home = Platform(
        settings(
            profile="live", home=tmp_path, markets=("crypto",), smtp_host="127.0.0.1", alert_mail_to="a@b.c",
            alert_mail_from="ohlcv@example.org",
        )
    )  # fmt: skip
    for instrument in symbols.enabled(home.ledger, CRYPTO):
        if instrument.symbol not in ("BTC", "ETH"):
            symbols.disable(home.ledger, CRYPTO, instrument.symbol, NOW)
    return home


def store_bars(home: Platform, instrument: Instrument, interval: Interval, newest: str) -> None:
    buckets = np.array([to_us(utc(newest))])
    (key,) = CRYPTO.partition_keys(interval, int(buckets[0]), int(buckets[0]) + 1)
    offers = [offer(buckets, utc(newest) + timedelta(days=2), instrument=instrument, interval=interval)]
    publish(
        order([key], interval=interval, instruments=[instrument]), home.store, [key], offers, [],
        utc(newest) + timedelta(days=2),
    )  # fmt: skip


def test_the_manifest_is_read_once_for_all(platform: Platform) -> None:
    for instrument, newest in ((BTC, "2025-11-21 10:58"), (ETH, "2025-11-21 09:30")):
        store_bars(platform, instrument, MINUTE, newest)
        store_bars(platform, instrument, DAY, "2025-11-20")
    found = {(each.symbol, str(each.interval)): each for each in evaluate_all(platform, NOW)}
    assert {key: each.stale for key, each in found.items()} == {
        ("BTC", "minute"): False,
        ("BTC", "day"): False,
        ("ETH", "minute"): True,
        ("ETH", "day"): False,
    }
    assert found["ETH", "minute"].newest == utc("2025-11-21 09:30")


def test_one_evaluation_from_the_lake_to_the_outbox(platform: Platform) -> None:
    for instrument in (BTC, ETH):
        store_bars(platform, instrument, MINUTE, "2025-11-21 09:30")
        store_bars(platform, instrument, DAY, "2025-11-20")
    with platform.ledger.write() as session:
        for vendor in MARKETS["crypto"].vendors:
            session.add(VendorStatus(vendor=vendor, status="down", since=NOW, checked_at=NOW))
    monitor(platform, NOW)
    monitor(platform, NOW + HOUR / 6)
    (message,) = outbox.listed(platform.ledger, unsent=False)
    assert message.payload["subject"] == "[OHLCV] every vendor of crypto is down"
    assert message.payload["document"]["behind"] == "crypto BTC minute; crypto ETH minute"
    # Twenty minutes on, the vendors' status is out of date: the cause ends, what is still late is told.
    for sixths in (3, 4):
        monitor(platform, NOW + sixths * HOUR / 6)
    told = {message.payload["subject"] for message in outbox.listed(platform.ledger, unsent=False)}
    assert told == {
        "[OHLCV] every vendor of crypto is down",
        *(f"[OHLCV] {name} minute data is 129 min behind" for name in ("BTC", "ETH")),
    }


def test_a_disabled_symbol_ends_its_incident_in_silence(platform: Platform) -> None:
    for instrument in (BTC, ETH):
        store_bars(platform, instrument, MINUTE, "2025-11-21 09:30")
        store_bars(platform, instrument, DAY, "2025-11-20")
    monitor(platform, NOW)
    symbols.disable(platform.ledger, CRYPTO, "ETH", NOW)
    monitor(platform, NOW + HOUR / 6)
    states = {row.symbol: row.state for row in incidents.page(platform.ledger, "all")}
    assert states == {"BTC": "open", "ETH": "cleared"}
