"""What each run of bars leaves in the ledger, beside what Dagster remembers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from ohlcv_pipeline.bars import assets, recording
from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.ledger import remediation, requests, runs
from ohlcv_pipeline.ledger.models import IngestionRun
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import NOW, Installation, Run

DAY = "2026-06-09"
START = datetime(2026, 6, 9, tzinfo=UTC)


def facts(at: Installation, run: Run) -> tuple[IngestionRun, dict[str, IngestionRun]]:
    parent = runs.run(at.platform.ledger, UUID(run.result.run_id))
    assert parent is not None
    return parent, {child.asset_symbol: child for child in runs.children(at.platform.ledger, parent.id)}


def test_a_run_leaves_its_account_of_each_symbol(crypto: Installation) -> None:
    run = crypto.materialise(DAY)
    parent, children = facts(crypto, run)
    assert (parent.status, parent.phase, parent.trigger, parent.attempt) == ("success", "done", "manual", 1)
    assert (parent.backfill_window_start, parent.backfill_window_end) == (START, START + timedelta(days=1))
    manifest = crypto.manifest()
    assert sorted(children) == ["AAVE", "BTC", "ETH"]
    for symbol, child in children.items():
        cell = manifest[symbol, DAY]
        assert (child.status, child.row_count, child.error_summary) == ("success", cell["rows"], None)
        assert child.checksum_sha256 == run_checksum([cell["checksum"]])
        assert child.report is not None
        (told,) = child.report
        assert told["expected_rows"] == 1440 == told["actual_rows"] + cell["no_trades_rows"]
        assert (told["missing_rows"], told["gaps"], told["gaps_total"], told["duplicates"]) == (0, [], 0, [])
    assert parent.row_count == sum(cell["rows"] for cell in manifest.values())
    assert parent.checksum_sha256 == run_checksum(cell["checksum"] for cell in manifest.values())


def test_a_tick_of_a_schedule_is_told_from_a_person(crypto: Installation) -> None:
    tags = {"dagster/partition": DAY, "dagster/schedule_name": "crypto_minute_refresh"}
    parent, children = facts(crypto, crypto.job("crypto_minute_refresh", tags))
    assert {row.trigger for row in (parent, *children.values())} == {"scheduled"}


def test_the_running_day_is_measured_up_to_now_without_its_tail(crypto: Installation) -> None:
    parent, children = facts(crypto, crypto.materialise("2026-06-10"))
    assert (parent.status, parent.backfill_window_end) == ("success", NOW)
    assert children["BTC"].row_count == 718


def test_a_symbol_that_fails_names_its_code_and_keeps_the_others(crypto: Installation) -> None:
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH")
    parent, children = facts(crypto, crypto.materialise(DAY, retry=False))
    assert {symbol: child.status for symbol, child in children.items()} == {
        "AAVE": "success", "BTC": "success", "ETH": "failed",
    }  # fmt: skip
    assert parent.status == "partial"
    assert children["ETH"].error_summary == parent.error_summary
    assert parent.error_summary == "vendor_unavailable: no vendor could be reached, or none answered in time"
    assert children["ETH"].row_count == 0


def test_a_silence_leaves_the_run_partial_with_its_gap(crypto: Installation) -> None:
    first = START + timedelta(hours=3)
    crypto.exchange.fault(
        kind="missing", vendor="coinbase", symbol="BTC", start=first, end=first + timedelta(minutes=44)
    )
    parent, children = facts(crypto, crypto.materialise(DAY))
    assert (parent.status, children["BTC"].status) == ("partial", "partial")
    assert children["BTC"].error_summary == "incomplete_window: bars that are expected are not there"
    assert children["BTC"].report is not None
    (gap,) = children["BTC"].report[0]["gaps"]
    assert gap["range_start"] == "2026-06-09T03:00:00Z"
    assert children["BTC"].report[0]["missing_rows"] == gap["missing"] >= 44


def test_requests_that_were_sent_again_are_counted_by_symbol(install: Install) -> None:
    crypto = install(vendors={"coinbase": VendorSettings(attempts=2), "kraken": VendorSettings(attempts=1)})
    crypto.enable_only("BTC", "ETH")
    crypto.exchange.fault(kind="truncated", vendor="coinbase", symbol="BTC", times=1)
    _, children = facts(crypto, crypto.materialise(DAY))
    assert {symbol: (child.status, child.retries) for symbol, child in children.items()} == {
        "BTC": ("success", 1), "ETH": ("success", 0),
    }  # fmt: skip


def test_tries_of_one_run_are_attempts_of_one_row(crypto: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assets, "RETRY_SECONDS", (0.01, 0.01))
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH", times=1)
    parent, children = facts(crypto, crypto.materialise(DAY))
    assert (parent.status, parent.attempt) == ("success", 2)
    assert children["ETH"].attempt == 2
    assert runs.success_rate(crypto.platform.ledger, NOW - timedelta(days=1)).runs == 3


def test_a_run_that_breaks_is_ended_with_a_code_and_no_text_of_the_error(
    crypto: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise LakeError("/secret/path is locked")

    monkeypatch.setattr(assets, "summarise", broken)
    parent, children = facts(crypto, crypto.materialise(DAY, retry=False))
    assert {(row.status, row.error_summary) for row in (parent, *children.values())} == {
        ("failed", "lake_conflict: the lake could not be read or written")
    }


def test_a_run_shows_signs_of_life(crypto: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "SECONDS_BETWEEN_SIGNS", 0.01)
    seen = []
    original = runs.heartbeat

    def heard(*args: object, **values: object) -> None:
        seen.append(values)
        original(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(runs, "heartbeat", heard)
    crypto.materialise(DAY)
    assert [each for each in seen if each["done_units"] and each["total_units"]]


def test_a_requested_run_is_measured_over_the_window_that_was_asked_for(crypto: Installation) -> None:
    ledger = crypto.platform.ledger
    first, last = START + timedelta(hours=2), START + timedelta(hours=3)
    row = requests.request(ledger, requests.Ask("crypto", "minute", first, last, 1, ["BTC"]), NOW)
    run = crypto.job(
        "crypto_minute_refresh",
        {"dagster/partition": DAY, recording.REQUEST_TAG: str(row.id)},
        {"ops": {"crypto__ohlcv_minute": {"config": {"symbols": ["BTC"]}}}},
    )
    parent, children = facts(crypto, run)
    assert (parent.id, parent.status, parent.row_count) == (row.id, "success", 60)
    assert list(children) == ["BTC"]
    assert crypto.manifest()["BTC", DAY]["rows"] == 1440


def logged(at: Installation) -> set[tuple[str, str, str | None, datetime, datetime]]:
    return {
        (each.asset_symbol, each.issue_type, each.resolution, each.range_start, each.range_end)
        for each in remediation.page(at.platform.ledger)
    }


@pytest.mark.parametrize(
    "passing",
    [{"kind": "truncated"}, {"kind": "rate_limit", "retry_after": 1}, {"kind": "outage"}],
    ids=["half a body", "429", "503"],
)
def test_one_retry_sequence_is_one_entry_recovered_or_open_until_the_bars_are_there(
    install: Install, passing: dict[str, Any]
) -> None:
    crypto = install(vendors={"coinbase": VendorSettings(attempts=2), "kraken": VendorSettings(attempts=1)})
    crypto.enable_only("BTC", "ETH")
    crypto.exchange.fault(**passing, vendor="coinbase", symbol="BTC", times=1)
    crypto.exchange.fault(kind="bad_gzip", vendor="coinbase", symbol="ETH")
    crypto.materialise(DAY, retry=False)
    last = START + timedelta(hours=23, minutes=59)
    assert logged(crypto) == {
        ("BTC", "partial_source", "recovered", START, last),
        ("ETH", "partial_source", None, START, last),
    }
    crypto.materialise(DAY, retry=False)
    assert len(remediation.page(crypto.platform.ledger)) == 2


def test_buckets_that_came_twice_are_noted_as_ranges(crypto: Installation) -> None:
    crypto.exchange.fault(
        kind="duplicate", vendor="coinbase", symbol="BTC", start=START, end=START + timedelta(minutes=4)
    )
    crypto.materialise(DAY)
    found = {each for each in logged(crypto) if each[1] == "duplicate"}
    assert found
    assert {(symbol, resolution) for symbol, _, resolution, _, _ in found} == {("BTC", "deduplicated")}
