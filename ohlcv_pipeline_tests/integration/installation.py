"""An installation for a test: a home and a Dagster instance of its own, vendors on loopback, time standing still."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus, AssetCheckPartitionInfo

from ohlcv_pipeline.bars import actions_assets, assets, checks, reconcile_checks, rereading, upkeep
from ohlcv_pipeline.bars.inspection import BY_PARTITION, CHECKS
from ohlcv_pipeline.definitions import build_definitions
from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.markets import Interval, Market, market
from ohlcv_pipeline.operations import alert_sensors, remediation_sensors, requests, vendor_probes
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource
from ohlcv_pipeline.settings import Settings, VendorSettings
from ohlcv_pipeline_tests.exchange import Exchange

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)
"""A Wednesday noon on which no venue of the sandbox has an outage for weeks around."""

RANGE = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
ONE_TRY = {name: VendorSettings(attempts=1) for name in ("coinbase", "kraken", "binance", "binance_archive")}
"""No retries by the transport, whose waits are real seconds in a run of Dagster."""


TIMED = (
    actions_assets, alert_sensors, assets, checks, reconcile_checks, remediation_sensors, requests, rereading, upkeep,
    vendor_probes,
)  # fmt: skip
"""The modules that read the clock."""


def stop_time(patch: pytest.MonkeyPatch, now: datetime) -> None:
    """Let every run and check believe that it is `now`."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
            return now.astimezone(tz)

    for module in TIMED:
        patch.setattr(module, "datetime", Stopped)


@cache
def _unused_instance() -> tempfile.TemporaryDirectory[str]:
    """Make a Dagster home with its databases, once a process: Dagster takes most of a second for it."""
    made = tempfile.TemporaryDirectory(prefix="dagster-")
    shutil.copyfile(ROOT / "dagster.yaml", Path(made.name) / "dagster.yaml")
    with dg.DagsterInstance.from_config(made.name):
        pass
    return made


@contextmanager
def dagster_instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """Open an instance below a home, configured as the repository's own."""
    if not (home / "dagster.yaml").exists():
        shutil.copytree(_unused_instance().name, home, dirs_exist_ok=True)
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


@dataclass(frozen=True)
class Run:
    """What a run left in the event log."""

    result: dg.ExecuteInProcessResult
    instance: dg.DagsterInstance

    def __repr__(self) -> str:
        """Show the errors, for the test that fails because of them."""
        errors = [event.event_specific_data.error for event in self.result.all_events if event.is_failure]  # type: ignore[union-attr]
        return f"Run({', '.join(str(error) for error in errors) or 'success'})"

    @property
    def success(self) -> bool:
        return self.result.success

    @property
    def _materialisations(self) -> list[dg.AssetMaterialization]:
        # From the instance: what a step logs before it fails is not among the events of the result.
        log = self.instance.all_logs(self.result.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
        return [entry.asset_materialization for entry in log if entry.asset_materialization is not None]

    @property
    def materialised(self) -> list[str]:
        """The partition of each materialisation event, in order."""
        return [str(event.partition) for event in self._materialisations]

    def metadata(self, partition: str) -> dict[str, Any]:
        """What is shown of a partition's only materialisation."""
        (found,) = [event.metadata for event in self._materialisations if event.partition == partition]
        return {name: value.value for name, value in found.items()}

    @property
    def checks(self) -> dict[str, dg.AssetCheckEvaluation]:
        return {each.check_name: each for each in self.result.get_asset_check_evaluations()}

    @property
    def verdicts(self) -> dict[tuple[str, str | None], dg.AssetCheckEvaluation]:
        """What each check says of each partition, and of all of them together (None); also of a run that failed."""
        log = self.instance.all_logs(self.result.run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
        found = [entry.dagster_event.asset_check_evaluation_data for entry in log if entry.dagster_event]
        return {(each.check_name, each.partition): each for each in found}

    @property
    def green(self) -> set[str]:
        return {name for name, each in self.checks.items() if each.passed}

    def worst(self, check: str) -> list[Mapping[str, Any]]:
        """The table of what is wrong."""
        shown: Any = self.checks[check].metadata["worst"]
        return [row.data for row in shown.records]

    def happened(self, kind: dg.DagsterEventType) -> int:
        return sum(event.event_type is kind for event in self.result.all_events)

    @property
    def failure(self) -> Any:
        """The Failure with which a step ended: `description` and `metadata`."""
        (step,) = [event for event in self.result.all_events if event.is_step_failure]
        return step.step_failure_data.user_failure_data

    @property
    def failed(self) -> dict[str, str]:
        """The symbols that the Failure's table names, with their codes."""
        shown: Any = self.failure.metadata["failed"]
        return {row.data["symbol"]: row.data["code"] for row in shown.records}

    @property
    def failed_cells(self) -> dict[tuple[str, str], str]:
        """The same by partition and symbol."""
        shown: Any = self.failure.metadata["failed"]
        return {(row.data["partition"], row.data["symbol"]): row.data["code"] for row in shown.records}


@dataclass
class Installation:
    """Definitions built from settings, run in this process on an instance of their own."""

    settings: Settings
    instance: dg.DagsterInstance
    exchange: Exchange
    definitions: dg.Definitions = field(init=False)

    def __post_init__(self) -> None:
        self.definitions = build_definitions(self.settings)

    @cached_property
    def platform(self) -> Platform:
        return PlatformResource(self.settings).platform

    def close(self) -> None:
        """Close the files of the lake and the ledger; what is asked of them next opens them again."""
        self.platform.store.catalog.close()
        self.platform.ledger.close()

    @property
    def market(self) -> Market:
        return market(self.settings.markets[0])

    def enable_only(self, *kept: str, of: str | None = None) -> None:
        """Leave only these symbols enabled."""
        where = market(of) if of else self.market
        for instrument in symbols.enabled(self.platform.ledger, where):
            if instrument.symbol not in kept:
                symbols.disable(self.platform.ledger, where, instrument.symbol, NOW)

    def job(self, name: str, tags: Mapping[str, str] | None = None, config: Mapping[str, Any] | None = None) -> Run:
        """Run a job in this process."""
        quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        job = self.definitions.resolve_job_def(name)
        result = job.execute_in_process(
            instance=self.instance, raise_on_error=False, tags=dict(tags or {}), run_config={**quiet, **(config or {})}
        )
        return Run(result, self.instance)

    def materialise(
        self, first: str, last: str | None = None, table: str = "crypto/ohlcv_minute", **config: object
    ) -> Run:
        """Materialise a range of partitions of one table in one run, checks included."""
        name, _, interval = table.partition("/ohlcv_")
        tags = dict(zip(RANGE, (first, last or first), strict=True))
        asked = {"ops": {f"{name}__ohlcv_{interval}": {"config": config}}}
        return self.job(f"{name}_{interval}_refresh", tags, asked)

    def manifest(self, interval: Interval = Interval.MINUTE, of: str | None = None) -> dict[tuple[str, str], Any]:
        """Manifest rows by (symbol, partition)."""
        rows = self.platform.store.reader.manifest(of or self.market.name, interval).to_pylist()
        return {(row["symbol"], row["partition"]): row for row in rows}

    def _check_partitions(self, table: str) -> list[AssetCheckPartitionInfo]:
        keys = [dg.AssetCheckKey(dg.AssetKey(table.split("/")), name) for name in CHECKS]
        return list(self.instance.event_log_storage.get_asset_check_partition_info(keys))

    def red_checks(self, table: str = "crypto/ohlcv_minute") -> set[tuple[str, str]]:
        """The check and the partition of each red in the Partitions tab of a table's checks."""
        return {
            (info.check_key.name, info.partition_key)
            for info in self._check_partitions(table)
            if info.partition_key is not None
            and info.is_current
            and info.latest_execution_status is AssetCheckExecutionRecordStatus.FAILED
            and info.check_key.name in BY_PARTITION
        }

    def planned_checks(self, table: str = "crypto/ohlcv_minute") -> list[tuple[str, str | None]]:
        """The check and the partition of each check that was planned and never reported."""
        return [
            (info.check_key.name, info.partition_key)
            for info in self._check_partitions(table)
            if info.latest_execution_status is AssetCheckExecutionRecordStatus.PLANNED
        ]

    def query(self, sql: str, parameters: Sequence[object] = ()) -> list[dict[str, Any]]:
        found: pa.Table = self.platform.store.reader.query(sql, parameters)
        return found.to_pylist()

    def paths(self) -> list[str]:
        """What the vendors were asked since the last reset."""
        return [each["path"] for each in self.exchange.requests()]
