"""What goes wrong inside Dagster, as sightings: failed runs, red checks, sensors and schedules whose ticks fail.

Each function reads an instance as it is now, so that nothing is lost when it was not asked for a while.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.scheduler.instigation import InstigatorState, InstigatorStatus, TickStatus
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.tags import WILL_RETRY_TAG

from ohlcv_pipeline.bars.inspection import BY_PARTITION
from ohlcv_pipeline.operations.alerts import Circumstances
from ohlcv_pipeline.operations.incidents import EVERY, Kind, Sighting, Topic

OVERLAP = timedelta(minutes=1)
"""Runs are looked at once more for this long: one may become visible after another that ended later."""

FAILED_TICKS = 3
"""A sensor fails when so many ticks in a row have; a schedule with the first, for its next may be a day away."""

OF_REMEDIATION = frozenset({"gaps", "freshness"})
"""Checks that open no incident of their own: gaps are filled again, and lateness is told by the freshness monitor."""

_FINISHED = (TickStatus.SUCCESS, TickStatus.SKIPPED, TickStatus.FAILURE)
_ON = (InstigatorStatus.RUNNING, InstigatorStatus.DECLARED_IN_CODE, InstigatorStatus.AUTOMATICALLY_RUNNING)
_NAMED = 10


@dataclass(frozen=True)
class Runs:
    """What the runs of a while say, and until when they were looked at."""

    seen: Sequence[Sighting]
    until: datetime


def runs(instance: dg.DagsterInstance, since: datetime) -> Runs:
    """Judge each job by the newest of its runs that ended since an instant: a failure, or a success that ends one.

    A run that Dagster tries again is not over. One that failed because vendors did not deliver is no failure of the
    platform: the series that suffer are late, and told as such.
    """
    ended = instance.get_run_records(
        dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS], updated_after=since - OVERLAP
        ),
        order_by="update_timestamp",
        ascending=True,
    )
    newest = {subject_of(record.dagster_run): record.dagster_run for record in ended}
    seen = []
    for subject, run in newest.items():
        failed = run.status is dg.DagsterRunStatus.FAILURE
        if failed and (run.tags.get(WILL_RETRY_TAG) == "true" or _of_vendors(instance, run)):
            continue
        seen.append(Sighting(Topic(Kind.RUN_FAILED, subject=subject), failed, run_id=run.run_id if failed else None))
    return Runs(seen, max((_aware(record.update_timestamp) for record in ended), default=since))


def subject_of(run: dg.DagsterRun) -> str:
    """Return what a run is called: its job, or its assets where the UI has launched them without one."""
    if run.asset_selection and run.job_name.startswith("__"):
        return ", ".join(sorted(key.to_user_string() for key in run.asset_selection))
    return run.job_name


def checks(
    instance: dg.DagsterInstance, keys: Sequence[dg.AssetCheckKey]
) -> tuple[list[Sighting], dict[Topic, Circumstances]]:
    """Judge every check by its newest evaluation with severity ERROR, those of bars by that of each partition."""
    kept = [key for key in keys if key.name not in OF_REMEDIATION]
    by_partition = [key for key in kept if key.name in BY_PARTITION]
    red: dict[dg.AssetCheckKey, list[str]] = {key: [] for key in kept}
    runs_of: dict[dg.AssetCheckKey, str] = {}
    for info in instance.event_log_storage.get_asset_check_partition_info(by_partition):
        if info.partition_key and info.latest_execution_status is AssetCheckExecutionRecordStatus.FAILED:
            red[info.check_key].append(info.partition_key)
            runs_of[info.check_key] = info.latest_planned_run_id
    whole = [key for key in kept if key.name not in BY_PARTITION]
    for key, record in instance.event_log_storage.get_latest_asset_check_execution_by_key(whole).items():
        evaluation = record.evaluation
        if evaluation is not None and not evaluation.passed and evaluation.severity is dg.AssetCheckSeverity.ERROR:
            red[key].append("")
            runs_of[key] = record.run_id
    seen, about = [], {}
    for key, partitions in red.items():
        topic = _topic_of(key)
        seen.append(Sighting(topic, bool(partitions), run_id=runs_of.get(key)))
        named = sorted(filter(None, partitions))
        if named:
            about[topic] = Circumstances(more={"partitions": _some(named)})
    return seen, about


def ticks(instance: dg.DagsterInstance) -> list[Sighting]:
    """Judge every sensor and schedule that is on by its newest finished ticks."""
    seen = []
    for state in instance.all_instigator_state():
        needed = 1 if state.instigator_type is InstigatorType.SCHEDULE else FAILED_TICKS
        if state.status not in _ON:
            continue
        newest = instance.get_ticks(
            state.instigator_origin_id, state.selector_id, limit=needed, statuses=list(_FINISHED)
        )
        failing = len(newest) == needed and all(tick.status is TickStatus.FAILURE for tick in newest)
        seen.append(Sighting(Topic(Kind.SENSOR_FAILED, subject=_name_of(state)), failing))
    return seen


def _name_of(state: InstigatorState) -> str:
    what = "schedule" if state.instigator_type is InstigatorType.SCHEDULE else "sensor"
    return f"{what} {state.instigator_name}"


def _topic_of(key: dg.AssetCheckKey) -> Topic:
    market, _, interval = key.asset_key.to_user_string().partition("/ohlcv_")
    if key.name == "checksum":
        return Topic(Kind.CHECKSUM_MISMATCH, market, interval=interval or EVERY)
    return Topic(
        Kind.CHECK_FAILED,
        market if interval else EVERY,
        interval=interval or EVERY,
        subject=f"{key.name} of {key.asset_key.to_user_string()}",
    )


def _of_vendors(instance: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    """Return whether every step that failed names the symbols that could not be had, as the bar tables do."""
    log = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    failures = [entry.dagster_event.step_failure_data for entry in log if entry.dagster_event]
    return bool(failures) and all(
        failure.user_failure_data is not None and "failed" in failure.user_failure_data.metadata for failure in failures
    )


def _aware(timestamp: datetime) -> datetime:
    return timestamp.replace(tzinfo=UTC) if timestamp.tzinfo is None else timestamp


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(names[-_NAMED:])
    return shown if len(names) <= _NAMED else f"{shown} and {len(names) - _NAMED} older"
