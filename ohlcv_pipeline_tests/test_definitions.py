"""The code location as a whole: what is in it, what it says of itself, and that loading it touches nothing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ohlcv_pipeline.bars.assets import asset_key, partitions_of
from ohlcv_pipeline.bars.inspection import CHECKS
from ohlcv_pipeline.bars.schedules import due_partitions
from ohlcv_pipeline.bars.upkeep import UNDAMAGED
from ohlcv_pipeline.definitions import build_definitions
from ohlcv_pipeline.lake.tables import STORED_BARS
from ohlcv_pipeline.markets import Interval, market
from ohlcv_pipeline.settings import Settings

ROOT = Path(__file__).parents[1]
SENSORS = [
    "check_monitor",
    "freshness_monitor",
    "launch_requests",
    "outbox_sender",
    "remediation",
    "run_monitor",
    "tick_monitor",
    "vendor_health",
]


def definitions(home: Path, *markets: str) -> dg.Definitions:
    return build_definitions(
        Settings(_env_file=None, home=home, markets=markets, sandbox_url="http://127.0.0.1:9")  # type: ignore[call-arg]
    )


def contents(of: dg.Definitions) -> dict[str, list[str]]:
    graph = of.resolve_asset_graph()
    return {
        "assets": sorted(key.to_user_string() for key in graph.get_all_asset_keys()),
        "checks": sorted(f"{key.asset_key.to_user_string()}:{key.name}" for key in graph.asset_check_keys),
        "jobs": sorted(job.name for job in of.resolve_all_job_defs() if not job.name.startswith("__")),
        "schedules": sorted(schedule.name for schedule in of.schedules or []),
        "sensors": sorted(sensor.name for sensor in of.sensors or []),
        "resources": sorted(of.resources or {}),
    }


def expected(*markets: str) -> dict[str, list[str]]:
    tables = [(name, interval) for name in markets for interval in ("day", "minute")]
    refreshes = [f"{name}_{interval}_refresh" for name, interval in tables]
    actions = [f"{name}/corporate_actions" for name in markets if market(name).actions_vendor]
    others = [f"{name}_{job}" for name in markets for job in ("corrections", "reconcile")]
    others += [f"{name}_actions_refresh" for name in markets if market(name).actions_vendor]
    return {
        "assets": sorted(["lake/scrub", *(f"{name}/ohlcv_{interval}" for name, interval in tables), *actions]),
        "checks": sorted(
            [
                "lake/scrub:undamaged",
                *(
                    f"{name}/ohlcv_{interval}:{check}"
                    for name, interval in tables
                    for check in ("checksum", "cross_vendor", "duplicates", "freshness", "gaps", "schema")
                ),
                *(f"{name}/ohlcv_day:rollup" for name in markets),
                *(f"{asset}:unexplained_jumps" for asset in actions),
            ]
        ),
        "jobs": sorted([*refreshes, *others, "lake_maintenance", "remediation_sweep", "retention", "verify_lake"]),
        "schedules": sorted([*refreshes, *others, "lake_maintenance", "remediation_sweep", "retention", "verify"]),
        "sensors": SENSORS,
        "resources": ["duckdb", "platform"],
    }


@pytest.mark.parametrize("markets", [("crypto",), ("crypto", "crypto_usdt"), ("crypto", "us_equities")])
def test_the_code_location_holds_what_its_markets_declare(tmp_path: Path, markets: tuple[str, ...]) -> None:
    assert contents(definitions(tmp_path, *markets)) == expected(*markets)


def test_the_code_location_of_crypto_is_this() -> None:
    assert expected("crypto") == {
        "assets": ["crypto/ohlcv_day", "crypto/ohlcv_minute", "lake/scrub"],
        "checks": [
            *(
                f"crypto/ohlcv_day:{check}"
                for check in ("checksum", "cross_vendor", "duplicates", "freshness", "gaps", "rollup", "schema")
            ),
            *(
                f"crypto/ohlcv_minute:{check}"
                for check in ("checksum", "cross_vendor", "duplicates", "freshness", "gaps", "schema")
            ),
            "lake/scrub:undamaged",
        ],
        "jobs": [
            "crypto_corrections",
            "crypto_day_refresh",
            "crypto_minute_refresh",
            "crypto_reconcile",
            "lake_maintenance",
            "remediation_sweep",
            "retention",
            "verify_lake",
        ],
        "schedules": [
            "crypto_corrections",
            "crypto_day_refresh",
            "crypto_minute_refresh",
            "crypto_reconcile",
            "lake_maintenance",
            "remediation_sweep",
            "retention",
            "verify",
        ],
        "sensors": SENSORS,
        "resources": ["duckdb", "platform"],
    }


def test_loading_opens_no_file_below_home_and_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a connection was opened: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    home = tmp_path / "home"
    loaded = definitions(home, "crypto", "crypto_usdt", "us_equities")
    dg.Definitions.validate_loadable(loaded)
    contents(loaded)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("interval", list(Interval))
@pytest.mark.parametrize("name", ["crypto", "crypto_usdt", "us_equities"])
def test_a_table_says_what_it_is(tmp_path: Path, name: str, interval: Interval) -> None:
    node = definitions(tmp_path, name).resolve_asset_graph().get(asset_key(market(name), interval))
    assert node.kinds == {"ducklake", "parquet"}
    assert node.owners == ["team:market-data"]
    assert node.group_name == name
    assert node.tags["interval"] == interval
    assert node.tags["quote"] == market(name).quote
    assert node.pools == {f"vendor_{market(name).vendors[0]}"}
    assert node.backfill_policy == dg.BackfillPolicy.single_run()
    metadata: dict[str, Any] = dict(node.metadata)
    assert metadata["dagster/table_name"] == f"lake.{name}.ohlcv_{interval}"
    assert metadata["calendar"] == market(name).calendar_name
    assert metadata["vendors"] == list(market(name).vendors)
    schema = metadata["dagster/column_schema"]
    assert [column.name for column in schema.columns] == STORED_BARS.names
    types = {column.name: column.type for column in schema.columns}
    assert (types["symbol"], types["bucket_start"], types["open"]) == ("varchar", "timestamp with time zone", "double")
    assert all(column.description for column in schema.columns)
    assert market(name).quote in next(c.description for c in schema.columns if c.name == "close")
    for word in (*market(name).vendors, "Partitioned by time", "checksum"):
        assert word in node.description


@pytest.mark.parametrize(
    ("name", "interval", "hours"),
    [
        ("crypto", Interval.MINUTE, 1),
        ("crypto", Interval.DAY, 26),
        # An hour of silence after the longest time that New York was ever closed.
        ("us_equities", Interval.MINUTE, 1 + 3 * 24 + 20.5),
        ("us_equities", Interval.DAY, 26),
    ],
)
def test_a_table_has_a_freshness_policy_for_its_badge(
    tmp_path: Path, name: str, interval: Interval, hours: float
) -> None:
    (spec,) = [
        spec
        for spec in definitions(tmp_path, name).resolve_all_asset_specs()
        if spec.key == asset_key(market(name), interval)
    ]
    policy: Any = spec.freshness_policy
    assert policy.fail_window.to_timedelta().total_seconds() == hours * 3600


def test_every_check_is_described(tmp_path: Path) -> None:
    graph = definitions(tmp_path, "us_equities").resolve_asset_graph()
    specs = {key.name: graph.get_check_spec(key) for key in graph.asset_check_keys}
    assert set(specs) == {*CHECKS, UNDAMAGED, "rollup", "cross_vendor", "unexplained_jumps"}
    assert all(spec.description for spec in specs.values())
    assert not any(spec.blocking for spec in specs.values())


NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)


def keys(interval: Interval, now: datetime) -> list[str]:
    with dg.partition_loading_context(effective_dt=now):
        return list(partitions_of(market("crypto"), interval).get_partition_keys())


def test_minutes_are_partitioned_by_every_utc_day_up_to_the_running_one() -> None:
    found = keys(Interval.MINUTE, NOW)
    assert found[0] == "2024-01-01"
    assert found[-1] == "2026-06-10"
    assert {"2024-02-29", "2025-03-09", "2025-11-02"} <= set(found)
    assert len(found) == (NOW.date() - datetime(2024, 1, 1, tzinfo=UTC).date()).days + 1


def test_days_are_partitioned_by_every_month_up_to_the_running_one() -> None:
    found = keys(Interval.DAY, NOW)
    assert found[0] == "2017-01"
    assert found[-1] == "2026-06"
    assert len(found) == 9 * 12 + 6


@pytest.mark.parametrize(
    "now", ["2026-06-10T00:00:00", "2026-06-10T23:59:59", "2024-02-29T12:00:00", "2026-01-01T00:00:00"]
)
@pytest.mark.parametrize("interval", list(Interval))
def test_dagster_and_the_calendar_agree_on_the_partitions(interval: Interval, now: str) -> None:
    instant = datetime.fromisoformat(now).replace(tzinfo=UTC)
    found = keys(interval, instant)
    assert found[-1] == due_partitions(market("crypto"), interval, instant)[-1]
    for key in found[-40:]:
        start, end = market("crypto").partition_bounds(interval, key)
        assert market("crypto").partition_keys(interval, start, end) == [key]


def environment(home: Path) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OHLCV_", "DAGSTER_"))}
    (home / "dagster").mkdir(parents=True, exist_ok=True)
    return {**clean, "OHLCV_HOME": str(home / "lake"), "DAGSTER_HOME": str(home / "dagster"), "NO_COLOR": "1"}


def validate(home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=environment(home), capture_output=True, text=True, check=False, timeout=120
    )


def test_dagster_validates_the_workspace_from_the_repository_root(tmp_path: Path) -> None:
    ended = validate(tmp_path, sys.executable, "-m", "dagster", "definitions", "validate", "-w", "workspace.yaml")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "All code locations passed validation" in ended.stderr + ended.stdout
    assert not (tmp_path / "lake").exists()


def test_dg_finds_the_definitions_from_the_repository_root(tmp_path: Path) -> None:
    dg_command = Path(sysconfig.get_path("scripts")) / "dg"
    if not dg_command.exists():
        pytest.skip("dagster-dg-cli is not installed beside this Python")
    ended = validate(tmp_path, str(dg_command), "check", "defs")
    assert ended.returncode == 0, ended.stderr + ended.stdout
    assert "All definitions loaded successfully" in ended.stderr + ended.stdout


def test_the_repositorys_dagster_yaml_configures_an_instance(tmp_path: Path) -> None:
    shutil.copyfile(ROOT / "dagster.yaml", tmp_path / "dagster.yaml")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert not instance.telemetry_enabled
        assert instance.run_retries_max_retries == 2
        assert not instance.run_retries_retry_on_asset_or_op_failure
        concurrency = instance.get_concurrency_config()
        assert concurrency.pool_config.default_pool_limit == 1
        assert concurrency.run_queue_config is not None
        assert concurrency.run_queue_config.max_concurrent_runs == 4
        assert instance.run_monitoring_settings["free_slots_after_run_end_seconds"] == 60
