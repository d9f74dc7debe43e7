"""Which partitions the schedules ask for and when, and what the nightly and weekly jobs do."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.schedules import due_partitions
from ohlcv_pipeline.bars.upkeep import NIGHTS, tonight
from ohlcv_pipeline.bars.verify import actual_checksums
from ohlcv_pipeline.ledger import remediation
from ohlcv_pipeline.markets import Interval, market
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import NOW, RANGE, Installation, Run

CRYPTO = market("crypto")
BARS = "SELECT * FROM lake.crypto.ohlcv_minute ORDER BY symbol, bucket_start"


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-06-09T23:55", ["2026-06-09"]),
        ("2026-06-10T00:00", ["2026-06-09", "2026-06-10"]),
        ("2026-06-10T00:05", ["2026-06-09", "2026-06-10"]),
        ("2026-06-10T03:55", ["2026-06-09", "2026-06-10"]),
        ("2026-06-10T04:00", ["2026-06-10"]),
        ("2026-06-10T12:00", ["2026-06-10"]),
        ("2026-01-01T01:00", ["2025-12-31", "2026-01-01"]),
        ("2024-03-01T00:00", ["2024-02-29", "2024-03-01"]),
        # The days on which clocks change in New York and in London have 1,440 UTC minutes like any other.
        ("2026-03-08T02:30", ["2026-03-07", "2026-03-08"]),
        ("2026-03-29T01:30", ["2026-03-28", "2026-03-29"]),
        ("2026-10-25T05:00", ["2026-10-25"]),
        ("2026-11-01T01:30", ["2026-10-31", "2026-11-01"]),
    ],
)
def test_minutes_of_the_day_before_are_due_for_four_hours(now: str, due: list[str]) -> None:
    assert due_partitions(CRYPTO, Interval.MINUTE, at(now)) == due


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-05-31T23:07", ["2026-05"]),
        ("2026-06-01T00:07", ["2026-05", "2026-06"]),
        ("2026-06-03T23:07", ["2026-05", "2026-06"]),
        ("2026-06-04T00:07", ["2026-06"]),
        ("2026-01-02T00:07", ["2025-12", "2026-01"]),
        ("2024-03-01T00:07", ["2024-02", "2024-03"]),
        ("2026-11-01T05:07", ["2026-10", "2026-11"]),
    ],
)
def test_days_of_the_month_before_are_due_for_three_days(now: str, due: list[str]) -> None:
    assert due_partitions(CRYPTO, Interval.DAY, at(now)) == due


@given(st.integers(0, 886 * 86_400), st.sampled_from(list(Interval)))
def test_the_running_partition_is_always_due_and_nothing_of_the_future(seconds: int, interval: Interval) -> None:
    now = at("2024-01-05T00:00") + timedelta(seconds=seconds)
    due = due_partitions(CRYPTO, interval, now)
    assert due[-1] == (f"{now:%Y-%m-%d}" if interval is Interval.MINUTE else f"{now:%Y-%m}")
    assert 1 <= len(due) <= 2
    assert due == sorted(set(due))


@pytest.mark.parametrize(
    ("schedule", "now", "due"),
    [
        ("crypto_minute_refresh", "2026-06-10T00:05", ("2026-06-09", "2026-06-10")),
        ("crypto_minute_refresh", "2026-11-01T06:00", ("2026-11-01", "2026-11-01")),
        ("crypto_day_refresh", "2026-07-01T00:07", ("2026-06", "2026-07")),
    ],
)
def test_a_tick_asks_for_one_run_over_the_due_partitions(
    crypto: Installation, schedule: str, now: str, due: tuple[str, str]
) -> None:
    found = crypto.definitions.resolve_schedule_def(schedule)
    context = dg.build_schedule_context(crypto.instance, scheduled_execution_time=at(now))
    (asked,) = found.evaluate_tick(context).run_requests or []
    assert tuple(asked.tags[name] for name in RANGE) == due
    assert asked.partition_key is None
    assert asked.run_key is None


def test_the_run_that_a_tick_asks_for_refreshes_and_checks(crypto: Installation) -> None:
    found = crypto.definitions.resolve_schedule_def("crypto_minute_refresh")
    context = dg.build_schedule_context(crypto.instance, scheduled_execution_time=at("2026-06-10T02:00"))
    (asked,) = found.evaluate_tick(context).run_requests or []
    run = crypto.job(found.job_name, asked.tags, asked.run_config)
    assert run.success
    assert run.materialised == ["2026-06-09", "2026-06-10"]
    assert len(run.green) == 5


@pytest.mark.parametrize("switched_on", [True, False])
def test_schedules_start_as_the_setting_says(install: Install, switched_on: bool) -> None:
    schedules = install(schedules=switched_on, markets=("crypto", "crypto_usdt")).definitions.schedules or []
    assert {schedule.name for schedule in schedules} == {
        *(f"{name}_{interval}_refresh" for name in ("crypto", "crypto_usdt") for interval in Interval),
        "crypto_corrections",
        "crypto_usdt_corrections",
        "crypto_reconcile",
        "crypto_usdt_reconcile",
        "verify",
        "lake_maintenance",
        "remediation_sweep",
        "retention",
    }
    wanted = dg.DefaultScheduleStatus.RUNNING if switched_on else dg.DefaultScheduleStatus.STOPPED
    assert {schedule.default_status for schedule in schedules} == {wanted}


def test_schedules_tick_in_utc_at_their_hours(crypto: Installation) -> None:
    ticks = {s.name: (s.cron_schedule, s.execution_timezone or "UTC") for s in crypto.definitions.schedules or []}
    for of in crypto.settings.markets:
        assert ticks.pop(f"{of}_minute_refresh") == ("*/5 * * * *", "UTC")
        assert ticks.pop(f"{of}_day_refresh") == ("7 * * * *", "UTC")
        assert ticks.pop(f"{of}_corrections") == ("30 5 * * *", "UTC")
        assert ticks.pop(f"{of}_reconcile") == ("30 3 * * *", "UTC")
        if market(of).actions_vendor:
            assert ticks.pop(f"{of}_actions_refresh") == ("0 18 * * *", "America/New_York")
    assert ticks.pop("remediation_sweep") == ("0 3 * * *", "UTC")
    assert ticks == {
        "verify": ("30 2 * * *", "UTC"),
        "lake_maintenance": ("30 4 * * 0", "UTC"),
        "retention": ("30 5 * * 0", "UTC"),
    }


def scrubbed(run: Run) -> dict[str, Any]:
    """Return what the scrub's materialisation shows."""
    (event,) = run.result.asset_materializations_for_node("lake__scrub")
    return {name: value.value for name, value in event.metadata.items()}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0x10
    path.write_bytes(content)


def test_scrub_passes_on_an_untouched_lake_and_counts_it(crypto: Installation) -> None:
    crypto.materialise("2026-06-09")
    run = crypto.job("verify_lake")
    assert run.success
    assert run.green == {"undamaged"}
    shown = scrubbed(run)
    assert (shown["cells"], shown["damaged_files"], shown["healed_cells"]) == (3, 0, 0)


def test_scrub_heals_a_flipped_byte_without_the_vendors_and_warns(crypto: Installation) -> None:
    crypto.materialise("2026-06-09")
    bars = crypto.query(BARS)
    (path,) = Path(crypto.settings.data_path, "crypto", "ohlcv_minute").glob("*.parquet")
    flip(path)
    crypto.exchange.reset_requests()
    run = crypto.job("verify_lake")
    assert run.success
    assert crypto.paths() == []
    assert (run.checks["undamaged"].passed, run.checks["undamaged"].severity) == (False, dg.AssetCheckSeverity.WARN)
    shown = scrubbed(run)
    assert (shown["damaged_files"], shown["replaced_files"], shown["healed_cells"], shown["unhealed"]) == (1, 1, 3, 0)
    logged = remediation.page(crypto.platform.ledger, issue_type="checksum_mismatch")
    assert [(each.resolution, each.run_id) for each in logged] == [("rewritten", run.result.run_id)] * 3
    assert crypto.query(BARS) == bars
    assert crypto.job("verify_lake").green == {"undamaged"}


def test_scrub_asks_the_vendors_for_what_the_raw_answers_do_not_give(crypto: Installation) -> None:
    crypto.materialise("2026-06-09", symbols=["BTC"])
    manifest = crypto.manifest()
    (path,) = Path(crypto.settings.data_path, "crypto", "ohlcv_minute").glob("*.parquet")
    path.unlink()
    shutil.rmtree(crypto.settings.raw_path / "coinbase")
    run = crypto.job("verify_lake")
    assert run.success
    assert scrubbed(run)["healed_cells"] == 1
    assert crypto.manifest() == manifest


def test_scrub_fails_and_names_what_nobody_can_heal(crypto: Installation) -> None:
    crypto.materialise("2026-06-09", symbols=["ETH"])
    (path,) = Path(crypto.settings.data_path, "crypto", "ohlcv_minute").glob("*.parquet")
    path.unlink()
    shutil.rmtree(crypto.settings.raw_path / "coinbase")
    for vendor in ("coinbase", "kraken"):
        crypto.exchange.fault(kind="outage", vendor=vendor)
    run = crypto.job("verify_lake")
    assert not run.success
    wrong = [row.data for row in run.failure.metadata["worst"].records]
    assert {"what": "damaged file", "where": path.name} in wrong
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    (entry,) = remediation.page(crypto.platform.ledger)
    assert (entry.asset_symbol, entry.issue_type, entry.resolved) == ("ETH", "checksum_mismatch", False)


def test_a_night_scrubs_what_is_young_and_in_thirty_nights_everything(crypto: Installation) -> None:
    crypto.materialise("2026-06-01", "2026-06-09", symbols=["BTC"])
    days = {f"2026-06-0{n}" for n in range(1, 10)}
    assert set(tonight(crypto.platform, CRYPTO, Interval.MINUTE, NOW)) == days
    months = [NOW + timedelta(days=8 + night) for night in range(NIGHTS)]
    nights = [tonight(crypto.platform, CRYPTO, Interval.MINUTE, now) for now in months]
    assert sorted(key for night in nights for key in night) == sorted(days)


def test_maintenance_merges_files_and_leaves_every_bar(crypto: Installation) -> None:
    for symbol in ("AAVE", "BTC", "ETH"):
        crypto.materialise("2026-06-09", symbols=[symbol])
    files = Path(crypto.settings.data_path, "crypto", "ohlcv_minute")
    assert len(list(files.glob("*.parquet"))) == 3
    bars, manifest = crypto.query(BARS), crypto.manifest()
    hashes = actual_checksums(crypto.platform.store.reader, CRYPTO, Interval.MINUTE)
    run = crypto.job("lake_maintenance")
    assert run.success
    assert crypto.query(BARS) == bars
    assert crypto.manifest() == manifest
    assert actual_checksums(crypto.platform.store.reader, CRYPTO, Interval.MINUTE) == hashes
    assert len(crypto.platform.store.reader.files("crypto", Interval.MINUTE)) == 1
    assert crypto.job("verify_lake").success
    # The old files stay for readers of old snapshots, until those have had their week.
    assert len(list(files.glob("*.parquet"))) == 4
