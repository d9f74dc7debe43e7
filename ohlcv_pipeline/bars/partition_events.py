"""Telling Dagster about each partition of a run: what its checks say, and which partitions a failed run has filled.

Dagster does neither by itself in a run over a range. The ways used here are not documented, so each is pinned by a
characterization test. What is told is decided in `quality` and `summary`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData as Target,
)

from ohlcv_pipeline.bars.quality import Judgement, Verdict
from ohlcv_pipeline.bars.summary import PartitionSummary


def materialise(context: dg.AssetExecutionContext, key: dg.AssetKey, summaries: Sequence[PartitionSummary]) -> None:
    """Materialise these partitions now; they stay so when the run fails afterwards or ends without an output."""
    for summary in summaries:
        context.log_event(
            dg.AssetMaterialization(asset_key=key, partition=summary.partition, metadata=summary.metadata())
        )


def evaluations(
    instance: dg.DagsterInstance, key: dg.AssetKey, judgement: Judgement, planned: Sequence[str]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Return what each check says of each partition, green ones without metadata.

    Dagster has planned each check of a run for each of the run's partitions, `planned`, and those that nobody
    reports stay planned for ever: so a check that speaks of the whole table says the same of each.
    """
    of_partition = {(verdict.check, verdict.partition): verdict for verdict in judgement.partitions}
    keys = sorted({*planned, *(key for _, key in of_partition if key is not None)})
    targets = _targets(instance, key, keys)
    for whole in judgement.table:
        for partition in keys:
            verdict = of_partition.get((whole.check, partition))
            if verdict is not None:
                yield _evaluation(verdict, key, partition, targets.get(partition))
            elif partition in planned:
                yield _evaluation(whole, key, partition, targets.get(partition))


def whole_table(
    instance: dg.DagsterInstance, key: dg.AssetKey, judgement: Judgement, planned: Sequence[str]
) -> Iterator[dg.AssetCheckEvaluation]:
    """Return what each check says of all partitions together, for a step other than the checks' own."""
    newest = max(_targets(instance, key, planned).values(), key=lambda target: target.storage_id, default=None)
    for verdict in judgement.table:
        yield _evaluation(verdict, key, None, newest)


def check_result(verdict: Verdict, key: dg.AssetKey) -> dg.AssetCheckResult:
    """Return a verdict as the checks' own step ends with it."""
    return dg.AssetCheckResult(
        asset_key=key,
        check_name=verdict.check,
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity[verdict.severity],
        description=verdict.summary,
        metadata=_metadata(verdict),
    )


def _evaluation(
    verdict: Verdict, key: dg.AssetKey, partition: str | None, target: Target | None
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=verdict.check,
        passed=verdict.passed,
        severity=dg.AssetCheckSeverity[verdict.severity],
        description=verdict.summary,
        metadata={} if partition is not None and verdict.passed else _metadata(verdict),
        partition=partition,
        target_materialization_data=target,
    )


def _targets(instance: dg.DagsterInstance, key: dg.AssetKey, partitions: Sequence[str]) -> dict[str, Target]:
    """Return the newest materialisation of each partition: a verdict that does not name it counts as outdated."""
    newest = instance.get_latest_storage_id_by_partition(
        key, dg.DagsterEventType.ASSET_MATERIALIZATION, set(partitions)
    )
    if not newest:
        return {}
    found = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=key, storage_ids=list(newest.values())), limit=len(newest)
    )
    return {
        str(record.partition_key): Target(
            storage_id=record.storage_id, run_id=record.run_id, timestamp=record.timestamp
        )
        for record in found.records
    }


def _metadata(verdict: Verdict) -> Mapping[str, Any]:
    """Return the numbers of a verdict, with its worst offenders as a table."""
    metadata: dict[str, Any] = dict(verdict.numbers)
    if verdict.offenders:
        metadata["worst"] = dg.MetadataValue.table(
            [dg.TableRecord({name: _cell(value) for name, value in row.items()}) for row in verdict.offenders]
        )
    return metadata


def _cell(value: Any) -> str | int | float | bool:
    return value if isinstance(value, str | int | float | bool) else "" if value is None else str(value)
