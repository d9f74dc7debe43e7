"""What is let go of on a real ledger and a real Dagster instance, and above all what is not."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from ohlcv_pipeline.ledger import outcomes
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Base, Incident, Message, RemediationEntry, VendorRequest
from ohlcv_pipeline.operations import retention
from ohlcv_pipeline.operations.retention import newest_materialisations, old_runs, prune, prune_ledger
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.integration.installation import dagster_instance
from ohlcv_pipeline_tests.ledger.test_outcomes import Attempt

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)
LONG_AGO, LATELY = NOW - timedelta(days=401), NOW - timedelta(days=399)
DAYS = dg.StaticPartitionsDefinition(["mon", "tue", "wed"])
FAR = timedelta(days=36)


def fill(ledger: Ledger) -> None:
    """Store one of each kind that may go, and beside it each that must stay."""
    outcomes.append(ledger, [Attempt(requested_at=NOW - timedelta(days=days)) for days in (34, 36)])
    with ledger.write() as session:
        for place, (state, cleared) in enumerate([("cleared", LONG_AGO), ("cleared", LATELY), ("open", None)]):
            session.add(
                Incident(
                    market="*", symbol="*", interval="*", kind="freshness", subject=str(place), state=state,
                    first_breach_at=LONG_AGO, cleared_at=cleared,
                )
            )  # fmt: skip
        for place, (status, sent) in enumerate(
            [("sent", LONG_AGO), ("sent", LATELY), ("pending", None), ("given_up", None)]
        ):
            session.add(
                Message(
                    channel="email", kind="open", incident_ids=[], message_id=f"<{place}@x>", payload={}, status=status,
                    created_at=LONG_AGO, next_attempt_at=LONG_AGO, sent_at=sent,
                )
            )  # fmt: skip
        for resolved_at in (LONG_AGO, LATELY, None):
            session.add(
                RemediationEntry(
                    market="crypto", asset_symbol="BTC", interval="day", issue_type="gap", range_start=LONG_AGO,
                    range_end=LONG_AGO, detected_at=LONG_AGO, resolved=resolved_at is not None, resolved_at=resolved_at,
                )
            )  # fmt: skip


def rows(ledger: Ledger) -> dict[str, int]:
    models: list[type[Base]] = [VendorRequest, Message, Incident, RemediationEntry]
    with ledger.read() as session:
        return {model.__tablename__: session.query(model).count() for model in models}


def test_only_what_is_over_and_past_its_time_goes(ledger: Ledger) -> None:
    fill(ledger)
    before = rows(ledger)
    assert prune_ledger(ledger, NOW, dry_run=True) == [1, 0, 1, 1, 1]
    assert rows(ledger) == before
    assert prune_ledger(ledger, NOW) == [1, 0, 1, 1, 1]
    assert rows(ledger) == {name: count - 1 for name, count in before.items()}
    assert prune_ledger(ledger, NOW) == [0] * 5
    with ledger.read() as session:
        assert {row.status for row in session.query(Message)} == {"sent", "pending", "given_up"}


@dg.asset(partitions_def=DAYS)
def bars(context: dg.AssetExecutionContext) -> None:
    if "fail" in context.run.tags:
        raise dg.Failure("as asked")


@dg.asset
def actions() -> None: ...


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with dagster_instance(tmp_path / "dagster") as opened:
        yield opened


def run(instance: dg.DagsterInstance, asset: dg.AssetsDefinition, partition: str | None = None, **tags: str) -> str:
    done = dg.materialize(
        [asset], instance=instance, partition_key=partition, tags=tags, raise_on_error=False
    )  # fmt: skip
    return done.run_id


def left(instance: dg.DagsterInstance) -> set[str]:
    return {record.dagster_run.run_id for record in instance.get_run_records()}


def materialised(instance: dg.DagsterInstance) -> set[str]:
    return set(instance.get_materialized_partitions(bars.key))


def test_the_newest_materialisation_of_every_partition_stays(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    replaced = [run(instance, bars, "mon"), run(instance, bars, "tue"), run(instance, actions)]
    kept = [run(instance, bars, "mon"), run(instance, bars, "tue"), run(instance, bars, "wed"), run(instance, actions)]
    failed = run(instance, bars, "mon", fail="yes")
    assert newest_materialisations(instance) == set(kept)
    home = Platform(Settings(home=tmp_path, _env_file=None))
    now = datetime.now(UTC)
    assert prune(home, instance, now).dagster_runs == 0
    assert prune(home, instance, now + timedelta(days=8), dry_run=True).dagster_runs == len(replaced)
    assert left(instance) == {*replaced, *kept, failed}
    assert prune(home, instance, now + timedelta(days=8)).dagster_runs == len(replaced)
    assert left(instance) == {*kept, failed}
    assert materialised(instance) == {"mon", "tue", "wed"}
    files = {path.name for path in (tmp_path / "dagster" / "history" / "runs").iterdir()}
    assert not any(name.startswith(tuple(replaced)) for name in files)
    assert all(f"{run_id}.db" in files for run_id in kept)
    home.ledger.close()


def test_failed_runs_stay_for_35_days_however_short_the_others_are_kept(instance: dg.DagsterInstance) -> None:
    failed = run(instance, bars, "mon", fail="yes")
    run(instance, bars, "mon")
    now = datetime.now(UTC)

    def gone_after(**age: float) -> list[str]:
        at = now + timedelta(**age)
        return list(old_runs(instance, at - timedelta(days=1), at - retention.FAILURES_KEPT))

    assert gone_after(days=34) == []
    assert gone_after(days=36) == [failed]


def test_the_newest_run_of_a_job_and_one_that_has_not_ended_stay(instance: dg.DagsterInstance) -> None:
    @dg.job
    def nothing() -> None: ...

    first, second = (nothing.execute_in_process(instance=instance).run_id for _ in range(2))
    waiting = instance.create_run_for_job(nothing).run_id
    later = datetime.now(UTC) + FAR
    assert set(old_runs(instance, later, later)) == {first, second}
    instance.delete_run(waiting)
    assert set(old_runs(instance, later, later)) == {first}


def test_a_page_of_runs_is_not_all_of_them(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "_PAGE", 2)
    replaced = [run(instance, bars, "mon") for _ in range(5)]
    run(instance, bars, "mon")
    assert set(old_runs(instance, datetime.now(UTC) + FAR, datetime.now(UTC) - FAR)) == set(replaced)


def test_the_job_does_both(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    settings: Any = Settings(home=tmp_path, _env_file=None)
    resource = PlatformResource(settings)
    outcomes.append(resource.platform.ledger, [Attempt(requested_at=datetime.now(UTC) - timedelta(days=36))])
    done = retention.retention.execute_in_process(instance=instance, resources={"platform": resource})
    assert done.success
    assert rows(resource.platform.ledger)["vendor_requests"] == 0
    resource.platform.ledger.close()
