"""What this package relies on and Dagster, DuckLake or DuckDB do not promise: one test a trick.

A red test here after an upgrade names the trick that has to be looked at again. The package's own behaviour is
tested beside this file.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow.parquet as pq
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)

from ohlcv_pipeline.lake.files import data_files
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.integration.installation import RANGE, Installation, Run, dagster_instance

DAYS = ["2026-06-08", "2026-06-09", "2026-06-10"]
PARTITIONS = dg.DailyPartitionsDefinition("2026-06-01", end_offset=1)
KEY = dg.AssetKey(["some", "table"])


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dagster_instance(tmp_path / "dagster") as found:
        yield found


def table(body: Any) -> dg.AssetsDefinition:
    made: dg.AssetsDefinition = dg.asset(
        key=KEY, partitions_def=PARTITIONS, backfill_policy=dg.BackfillPolicy.single_run()
    )(body)
    return made


def run_range(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, *checks: dg.AssetChecksDefinition) -> Run:
    job = dg.define_asset_job("refresh", selection=dg.AssetSelection.assets(KEY))
    definitions = dg.Definitions(
        assets=[asset], asset_checks=checks, jobs=[job], executor=dg.in_process_executor
    )  # fmt: skip
    result = definitions.resolve_job_def("refresh").execute_in_process(
        instance=instance, raise_on_error=False, tags=dict(zip(RANGE, (DAYS[0], DAYS[-1]), strict=True))
    )
    return Run(result, instance)


def test_range_tags_make_one_run_in_this_process_over_all_partitions(instance: dg.DagsterInstance) -> None:
    seen: list[Any] = []

    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        seen.append((list(context.partition_keys), context.partition_key_range))
        return dg.MaterializeResult()

    run = run_range(instance, table(body))
    assert run.success
    assert seen == [(DAYS, dg.PartitionKeyRange(DAYS[0], DAYS[-1]))]
    assert instance.get_materialized_partitions(KEY) == set(DAYS)


def test_metadata_of_a_partition_lands_on_its_one_event(instance: dg.DagsterInstance) -> None:
    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        for rows, day in enumerate(DAYS):
            context.add_asset_metadata({"rows": rows}, partition_key=day)
        return dg.MaterializeResult(metadata={"whole": True})

    run = run_range(instance, table(body))
    assert run.materialised == DAYS
    assert [run.metadata(day) for day in DAYS] == [{"rows": rows, "whole": True} for rows in range(3)]


def test_partitions_logged_before_a_failure_stay_materialised(instance: dg.DagsterInstance) -> None:
    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        for day in DAYS[:2]:
            context.log_event(dg.AssetMaterialization(KEY, partition=day, metadata={"rows": 1}))
        raise dg.Failure("one is missing", metadata={"failed": "ETH"}, allow_retries=False)

    run = run_range(instance, table(body))
    assert not run.success
    assert run.materialised == DAYS[:2]
    assert instance.get_materialized_partitions(KEY) == set(DAYS[:2])
    assert run.failure.description == "one is missing"
    assert run.failure.metadata["failed"].value == "ETH"


def test_a_subsettable_check_runs_in_the_same_run_after_its_asset_and_sees_the_range(
    instance: dg.DagsterInstance,
) -> None:
    seen: list[Any] = []

    @dg.multi_asset_check(
        name="checks", specs=[dg.AssetCheckSpec(name, asset=KEY) for name in ("gaps", "schema")], can_subset=True
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        seen.append(("checks", tuple(context.run.tags[name] for name in RANGE)))
        for check in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(asset_key=KEY, check_name=check.name, passed=check.name == "schema")

    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        seen.append("asset")
        return dg.MaterializeResult()

    run = run_range(instance, table(body), checks)
    # A check that fails, and blocks nothing, leaves the run a success.
    assert run.success
    assert seen == ["asset", ("checks", (DAYS[0], DAYS[-1]))]
    assert run.green == {"schema"}
    latest = instance.event_log_storage.get_latest_asset_check_execution_by_key(
        [dg.AssetCheckKey(KEY, name) for name in ("gaps", "schema")]
    )
    assert {key.name: record.status.value for key, record in latest.items()} == {
        "gaps": "FAILED",
        "schema": "SUCCEEDED",
    }


def test_a_single_check_can_be_asked_for_by_itself(instance: dg.DagsterInstance) -> None:
    asked: list[set[str]] = []

    @dg.multi_asset_check(
        name="checks", specs=[dg.AssetCheckSpec(name, asset=KEY) for name in ("gaps", "schema")], can_subset=True
    )
    def checks(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        asked.append({check.name for check in context.selected_asset_check_keys})
        for check in context.selected_asset_check_keys:
            yield dg.AssetCheckResult(asset_key=KEY, check_name=check.name, passed=True)

    selection = dg.AssetSelection.checks(dg.AssetCheckKey(KEY, "gaps"))
    asset = table(lambda context: dg.MaterializeResult())
    assert dg.materialize([asset, checks], selection=selection, instance=instance).success
    assert asked == [{"gaps"}]


def check_rows(instance: dg.DagsterInstance, name: str = "gaps") -> dict[str | None, tuple[str, bool]]:
    """Partition → status of a check there, and whether Dagster takes it to be about the newest materialisation."""
    found = instance.event_log_storage.get_asset_check_partition_info([dg.AssetCheckKey(KEY, name)])
    return {info.partition_key: (info.latest_execution_status.value, info.is_current) for info in found}


@pytest.mark.parametrize("partitions_def", [None, PARTITIONS])
def test_a_check_of_a_range_run_is_planned_for_each_partition_and_reported_for_none(
    instance: dg.DagsterInstance, partitions_def: dg.PartitionsDefinition[str] | None
) -> None:
    @dg.asset_check(asset=KEY, name="gaps", partitions_def=partitions_def)
    def gaps() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=True)

    assert run_range(instance, table(lambda context: dg.MaterializeResult()), gaps).success
    rows = {partition: status for partition, (status, _) in check_rows(instance).items()}
    assert rows == {None: "SUCCEEDED", **dict.fromkeys(DAYS, "PLANNED")}


def test_an_evaluation_closes_what_was_planned_of_its_partition_if_it_names_its_materialisation(
    instance: dg.DagsterInstance,
) -> None:
    @dg.asset_check(asset=KEY, name="gaps", partitions_def=PARTITIONS)
    def gaps(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckEvaluation | dg.AssetCheckResult]:
        newest = context.instance.get_latest_storage_id_by_partition(KEY, dg.DagsterEventType.ASSET_MATERIALIZATION)
        for day in DAYS:
            target = Target(storage_id=newest[day], run_id=context.run.run_id, timestamp=0.0)
            yield dg.AssetCheckEvaluation(
                asset_key=KEY,
                check_name="gaps",
                passed=day != DAYS[1],
                partition=day,
                target_materialization_data=None if day == DAYS[2] else target,
            )
        yield dg.AssetCheckResult(passed=False)

    run = run_range(instance, table(lambda context: dg.MaterializeResult()), gaps)
    assert run.success
    assert check_rows(instance) == {
        DAYS[0]: ("SUCCEEDED", True),
        DAYS[1]: ("FAILED", True),
        # Without its materialisation the verdict counts as outdated: the Partitions tab does not show it.
        DAYS[2]: ("SUCCEEDED", False),
        None: ("FAILED", True),
    }


@pytest.mark.parametrize("ends", ["fails", "has no output"])
def test_a_step_may_report_partitions_and_checks_and_then_fail_or_end_without_an_output(
    instance: dg.DagsterInstance, ends: str
) -> None:
    @dg.asset_check(asset=KEY, name="gaps", partitions_def=PARTITIONS)
    def gaps() -> dg.AssetCheckResult:
        raise AssertionError("skipped")

    @dg.asset(
        key=KEY,
        partitions_def=PARTITIONS,
        backfill_policy=dg.BackfillPolicy.single_run(),
        output_required=False,
    )
    def asset(context: dg.AssetExecutionContext) -> Iterator[dg.MaterializeResult[None]]:
        context.log_event(dg.AssetMaterialization(KEY, partition=DAYS[0]))
        for day in DAYS:
            context.log_event(
                dg.AssetCheckEvaluation(asset_key=KEY, check_name="gaps", passed=day == DAYS[0], partition=day)
            )
        if ends == "fails":
            raise dg.Failure("two are missing", allow_retries=False)
        yield from ()

    run = run_range(instance, asset, gaps)
    assert run.success == (ends == "has no output")
    assert run.materialised == DAYS[:1]
    rows = {partition: status for partition, (status, _) in check_rows(instance).items()}
    assert rows == {DAYS[0]: "SUCCEEDED", DAYS[1]: "FAILED", DAYS[2]: "FAILED"}


def test_an_asset_may_ask_to_be_tried_again(instance: dg.DagsterInstance) -> None:
    tries: list[int] = []

    def body(context: dg.AssetExecutionContext) -> dg.MaterializeResult[None]:
        tries.append(context.retry_number)
        if context.retry_number < 2:
            raise dg.RetryRequested(max_retries=2, seconds_to_wait=0.01)
        return dg.MaterializeResult()

    run = run_range(instance, table(body))
    assert run.success
    assert tries == [0, 1, 2]
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 2
    assert run.materialised == DAYS


def test_a_range_of_months_counts_the_running_one(instance: dg.DagsterInstance) -> None:
    months = dg.MonthlyPartitionsDefinition(start_date="2026-01", fmt="%Y-%m", end_offset=1)
    assert months.get_partition_keys_in_range(dg.PartitionKeyRange("2026-02", "2026-04")) == [
        "2026-02",
        "2026-03",
        "2026-04",
    ]


def listed_by_ducklake(installation: Installation, schema: str, name: str) -> set[tuple[str, str | None]]:
    connection = installation.platform.store.catalog.cursor()
    try:
        rows = connection.execute(
            "SELECT data_file, delete_file FROM ducklake_list_files('lake', ?, schema => ?)", [name, schema]
        ).fetchall()
    finally:
        connection.close()
    return {(data, marks or None) for data, marks in rows}


def listed_by_us(installation: Installation, schema: str, name: str) -> set[tuple[str, str | None]]:
    connection = installation.platform.store.catalog.cursor()
    try:
        files = data_files(connection)
    finally:
        connection.close()
    return {(file.path, file.marks) for file in files if file.table == f'lake."{schema}".{name}'}


def test_the_catalog_query_for_files_agrees_with_ducklake(crypto: Installation) -> None:
    crypto.exchange.fault(kind="correction", vendor="coinbase", symbol="BTC", start="2026-06-08T10:00:00Z", factor=1.01)
    crypto.materialise(DAYS[0], symbols=["BTC"])
    crypto.exchange.clear()
    crypto.materialise(DAYS[0], symbols=["BTC"], force=True)
    crypto.materialise(DAYS[1], symbols=["ETH"])
    found = listed_by_us(crypto, "crypto", "ohlcv_minute")
    assert found == listed_by_ducklake(crypto, "crypto", "ohlcv_minute")
    assert len(found) == 3
    assert sum(marks is not None for _, marks in found) == 1
    assert all(Path(path).exists() for pair in found for path in pair if path)
    crypto.job("lake_maintenance")
    for name in ("manifest", "file_seals", "raw_objects", "heads"):
        assert listed_by_us(crypto, "main", name) == listed_by_ducklake(crypto, "main", name), name
    assert listed_by_us(crypto, "crypto", "ohlcv_minute") == listed_by_ducklake(crypto, "crypto", "ohlcv_minute")


def test_a_table_sorted_by_symbol_stays_so_when_its_files_are_merged(crypto: Installation) -> None:
    # In neither order of symbols nor of time, so that only a sort can put them right.
    for symbol, day in (("ETH", DAYS[1]), ("BTC", DAYS[1]), ("ETH", DAYS[0]), ("BTC", DAYS[0])):
        crypto.materialise(day, symbols=[symbol])
    crypto.job("lake_maintenance")
    ((path, _),) = listed_by_us(crypto, "crypto", "ohlcv_minute")
    stored = pq.read_table(path, columns=["symbol", "bucket_start"])
    assert stored.num_rows == 4 * 1440
    assert stored.equals(stored.sort_by([("symbol", "ascending"), ("bucket_start", "ascending")]))


READ_MANIFEST = """
import json, sys
from ohlcv_pipeline.lake.catalog import Catalog
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Interval
reader = Reader(Catalog(*sys.argv[1:3]))
for line in sys.stdin:
    rows = reader.manifest("crypto", Interval.MINUTE).select(["symbol", "partition", "rows", "revision"]).to_pylist()
    print(json.dumps(rows), flush=True)
"""


def test_rows_inlined_in_the_catalog_are_seen_by_another_process_at_once(crypto: Installation) -> None:
    s = crypto.settings
    crypto.materialise(DAYS[0], symbols=["BTC"])
    with subprocess.Popen(
        [sys.executable, "-c", READ_MANIFEST, s.catalog_path, s.data_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdin is not None
        assert reader.stdout is not None

        def seen() -> list[dict[str, Any]]:
            reader.stdin.write("\n")  # type: ignore[union-attr]
            reader.stdin.flush()  # type: ignore[union-attr]
            return json.loads(reader.stdout.readline())  # type: ignore[union-attr, no-any-return]

        first = {"symbol": "BTC", "partition": DAYS[0], "rows": 1440, "revision": 1}
        assert seen() == [first]
        crypto.materialise(DAYS[0], symbols=["ETH"])
        assert seen() == [first, {**first, "symbol": "ETH"}]
        reader.stdin.close()
    # Both rows are in the catalog: no file was written for them.
    assert listed_by_us(crypto, "main", "manifest") == set()


def test_bars_are_never_inlined(crypto: Installation) -> None:
    crypto.materialise("2026-06", table="crypto/ohlcv_day", symbols=["BTC"])
    assert crypto.manifest(Interval.DAY)["BTC", "2026-06"]["rows"] == 9
    assert len(listed_by_us(crypto, "crypto", "ohlcv_day")) == 1
