"""What is let go of, and when: history of the ledger, and Dagster's own, which has no retention for runs.

Bars, their manifest and raw answers are the business of the lake's maintenance.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import dagster as dg
from sqlalchemy.orm import Session

from ohlcv_pipeline import event_log
from ohlcv_pipeline.ledger import incidents, outbox, outcomes, remediation, runs
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

REQUESTS_KEPT = timedelta(days=35)
ENDED_KEPT = timedelta(days=400)
"""For how long what is over is kept: sent messages, cleared incidents, resolved remediation entries."""

FAILURES_KEPT = timedelta(days=35)
"""For how long Dagster keeps runs that failed."""

_UNTROUBLED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.CANCELED]
_PAGE = 500


@dataclass(frozen=True)
class Pruned:
    """How many rows of each kind were deleted; run facts are counted without their symbols."""

    vendor_requests: int
    run_facts: int
    sent_messages: int
    cleared_incidents: int
    resolved_entries: int
    dagster_runs: int


def prune(home: Platform, instance: dg.DagsterInstance, now: datetime, *, dry_run: bool = False) -> Pruned:
    """Delete what is past its time; with `dry_run` count it, and change nothing. Raises DBAPIError.

    Nothing unsent, open or unresolved is ever deleted.
    """
    kept = timedelta(days=home.settings.dagster_run_retention_days)
    requests, facts, messages, over, resolved = prune_ledger(home.ledger, now, dry_run=dry_run)
    old = list(old_runs(instance, now - kept, now - max(kept, FAILURES_KEPT)))
    if not dry_run:
        for run_id in old:
            delete_run(instance, run_id)
    return Pruned(requests, facts, messages, over, resolved, len(old))


def prune_ledger(ledger: Ledger, now: datetime, *, dry_run: bool = False) -> list[int]:
    """Delete what is past its time in one transaction and return how much that was, in the order of `Pruned`."""
    ended = now - ENDED_KEPT
    steps: Sequence[Callable[[Session], int]] = (
        lambda session: outcomes.prune(session, now - REQUESTS_KEPT),
        lambda session: runs.prune(session, now),
        lambda session: outbox.prune(session, ended),
        lambda session: incidents.prune(session, ended),
        lambda session: remediation.prune(session, ended),
    )
    with ledger.write() as session:
        counts = [step(session) for step in steps]
        if dry_run:
            session.rollback()
    return counts


def old_runs(instance: dg.DagsterInstance, before: datetime, failed_before: datetime) -> Iterator[str]:
    """Yield the ids of the runs that may go: ended before an instant, failed ones before another.

    Not those that still tell something: of the newest materialisation of an asset or of one of its partitions, and the
    newest of each job.
    """
    telling = newest_materialisations(instance) | _newest_of_jobs(instance)
    for statuses, instant in ((_UNTROUBLED, before), ([dg.DagsterRunStatus.FAILURE], failed_before)):
        cursor = None
        while True:
            filters = dg.RunsFilter(statuses=statuses, updated_before=instant)
            page = instance.get_run_records(filters, limit=_PAGE, cursor=cursor)
            yield from (record.dagster_run.run_id for record in page if record.dagster_run.run_id not in telling)
            if len(page) < _PAGE:
                break
            cursor = page[-1].dagster_run.run_id


def newest_materialisations(instance: dg.DagsterInstance) -> set[str]:
    """Return the ids of the runs that materialised an asset last, or one of its partitions."""
    found = set()
    kind = dg.DagsterEventType.ASSET_MATERIALIZATION
    for key in instance.get_asset_keys():
        newest = instance.get_latest_materialization_event(key)
        if newest is not None:
            found.add(newest.run_id)
        ids = iter(sorted(instance.get_latest_storage_id_by_partition(key, kind).values()))
        while some := list(islice(ids, _PAGE)):
            filters = dg.EventRecordsFilter(event_type=kind, asset_key=key, storage_ids=some)
            found |= {record.run_id for record in instance.event_log_storage.get_event_records(filters)}
    return found


def _newest_of_jobs(instance: dg.DagsterInstance) -> set[str]:
    newest: dict[str, str] = {}
    # The newest come first.
    for record in instance.get_run_records():
        newest.setdefault(record.dagster_run.job_name, record.dagster_run.run_id)
    return set(newest.values())


def delete_run(instance: dg.DagsterInstance, run_id: str) -> None:
    """Delete a run with its events, and on SQLite the file that held them, which Dagster leaves behind."""
    instance.delete_run(run_id)
    path = event_log.database(instance, run_id)
    if path is not None:
        for suffix in ("", "-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


@dg.op
def prune_history(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    """Let go of what is past its time, in the ledger and in Dagster's history."""
    done = prune(platform.platform, context.instance, datetime.now(UTC))
    context.add_output_metadata(vars(done))


@dg.job(description="Run facts, requests, ended incidents and old runs of Dagster past their retention deleted.")
def retention() -> None:
    """Keep ledger and event log from growing for ever."""
    prune_history()


def retention_definitions(status: dg.DefaultScheduleStatus) -> dg.Definitions:
    """Return the job and its schedule: Sundays at 05:30 UTC."""
    weekly = dg.ScheduleDefinition(
        name="retention", job=retention, cron_schedule="30 5 * * 0", execution_timezone="UTC", default_status=status
    )
    return dg.Definitions(jobs=[retention], schedules=[weekly])
