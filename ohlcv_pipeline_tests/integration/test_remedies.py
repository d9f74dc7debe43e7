"""From what is missing to the run that fills it and the entry that says so: sensors, ledger, lake, vendors' HTTP.

The daemon is played by the test: it evaluates the sensors and runs what they ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import dagster as dg
import pytest

from ohlcv_pipeline.bars.recording import REQUEST_TAG
from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline.ledger import requests, runs
from ohlcv_pipeline.ledger.models import RemediationEntry
from ohlcv_pipeline.markets import Interval, to_us
from ohlcv_pipeline.operations import distress, healing
from ohlcv_pipeline.resources import PlatformResource
from ohlcv_pipeline_tests.integration.conftest import Install, install_kept
from ohlcv_pipeline_tests.integration.installation import NOW, ONE_TRY, Installation, Run, stop_time
from ohlcv_pipeline_tests.kept import Kept

DAYS = ("2026-06-08", "2026-06-09")
TODAY = "2026-06-10"
START = datetime(2026, 6, 9, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def evaluated(
    at: Installation, name: str, cursor: str | None = None
) -> dg._core.definitions.sensor_definition.SensorExecutionData:  # type: ignore[name-defined]
    sensor = at.definitions.get_sensor_def(name)
    context = dg.build_sensor_context(
        instance=at.instance,
        cursor=cursor,
        definitions=at.definitions,
        resources={"platform": PlatformResource(at.settings)},
    )
    return sensor.evaluate_tick(context)


def launch(at: Installation) -> Iterator[Run]:
    """Run what the request sensor asks for, as the daemon would: a run key that is known is passed over."""
    for asked in evaluated(at, "launch_requests").run_requests or []:
        if not at.instance.get_runs(dg.RunsFilter(tags={"dagster/run_key": asked.run_key})):
            yield at.job(asked.job_name, {**asked.tags, "dagster/run_key": asked.run_key}, asked.run_config)


def entries(at: Installation, symbol: str = "BTC", **filters: object) -> list[RemediationEntry]:
    """The entries about the ninth of June."""
    found = log.page(at.platform.ledger, symbol=symbol, interval="minute", **filters)  # type: ignore[arg-type]
    return [each for each in found if START <= each.range_start < START + timedelta(days=1)]


def steps(at: Installation, entry: RemediationEntry) -> list[str]:
    return [each.step for each in log.steps(at.platform.ledger, entry.id)]


def heal(at: Installation, now: datetime = NOW, **how: bool) -> healing.Healed:
    return healing.heal(at.platform, [(at.market, Interval.MINUTE)], now, **how)


@pytest.fixture
def wounded(install: Install, kept: Kept) -> Installation:
    """Two days and the running one of two symbols, of which the vendor did not answer for two hours of one."""

    def fill(made: Installation) -> None:
        made.enable_only("BTC", "ETH")
        hours = START + timedelta(hours=3), START + timedelta(hours=5)
        made.exchange.fault(kind="outage", vendor="coinbase", symbol="BTC", start=hours[0], end=hours[1])
        made.materialise(DAYS[0], TODAY, retry=False)
        made.exchange.clear()

    return install_kept(kept, install, fill, vendors=ONE_TRY, remediation_attempts=2, remediation_wait_seconds=60)


def test_a_gap_is_logged_requested_run_verified_and_resolved(wounded: Installation) -> None:
    done = heal(wounded)
    assert [(row.market, row.interval, row.symbols) for row in done.requests] == [("crypto", "minute", ["BTC"])]
    (entry,) = entries(wounded, issue_type="gap", resolved=False)
    assert (entry.attempts, entry.run_id) == (1, str(done.requests[0].id))
    assert heal(wounded).requests == []
    assert runs.run(wounded.platform.ledger, done.requests[0].id).phase == "queued"  # type: ignore[union-attr]
    (run,) = launch(wounded)
    assert run.success
    assert list(launch(wounded)) == []
    parent = runs.run(wounded.platform.ledger, done.requests[0].id)
    assert parent is not None
    assert (parent.status, parent.trigger, parent.dagster_run_id) == ("success", "scheduled", run.result.run_id)
    refused = entries(wounded, issue_type="partial_source", resolved=False)
    assert heal(wounded).resolved == {each.id: "filled" for each in (entry, *refused)}
    (entry,) = entries(wounded, issue_type="gap")
    assert (entry.resolved, entry.resolution) == (True, "filled")
    assert entry.notes == "the bars were read again and hash to their checksum"
    assert steps(wounded, entry) == ["detected", "launched", "resolved"]
    assert wounded.manifest()["BTC", DAYS[1]]["complete"]


def test_what_stays_away_is_escalated_after_its_attempts_and_asked_for_no_more(
    wounded: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    wounded.exchange.fault(kind="outage", vendor="coinbase", symbol="BTC")
    now = NOW
    for attempt in (1, 2):
        (row,) = heal(wounded, now).requests
        (run,) = launch(wounded)
        assert not run.success
        assert runs.run(wounded.platform.ledger, row.id).status == "failed"  # type: ignore[union-attr]
        assert heal(wounded, now).requests == [], attempt
        now += timedelta(minutes=5)
        stop_time(monkeypatch, now)
    (entry,) = entries(wounded, issue_type="gap")
    assert [each.id for each in heal(wounded, now).escalated] == [entry.id]
    (entry,) = entries(wounded, issue_type="gap")
    assert (entry.escalated_at, entry.attempts, entry.resolved) == (now, 2, False)
    assert steps(wounded, entry) == ["detected", "launched", "launched", "escalated"]
    assert not heal(wounded, now + timedelta(minutes=3)).requests
    wounded.exchange.clear()
    wounded.materialise(DAYS[1], symbols=["BTC"])
    assert heal(wounded, now + timedelta(minutes=4)).resolved[entry.id] == "filled"


def test_a_silence_is_looked_at_twice_and_settled(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    made = install()
    made.enable_only("BTC", "ETH")
    silent = START + timedelta(hours=3)
    made.exchange.fault(kind="missing", vendor="coinbase", symbol="BTC", start=silent, end=silent + 45 * MINUTE)
    made.materialise(DAYS[0], TODAY)
    done = heal(made)
    assert done.requests == []
    assert done.next_at is not None
    assert timedelta(minutes=55) < done.next_at - NOW <= timedelta(hours=1)
    later = NOW + timedelta(hours=1, minutes=1)
    stop_time(monkeypatch, later)
    assert len(heal(made, later).requests) == 1
    list(launch(made))
    assert list(heal(made, later).resolved.values()) == ["unfillable"]
    (entry,) = entries(made, issue_type="gap")
    assert entry.notes == "asked for twice in vain"


def test_only_the_sweep_begins_a_series_and_it_takes_all_of_it_in_one_run(install: Install) -> None:
    made = install()
    made.enable_only("BTC")
    assert heal(made).requests == []
    (entry,) = log.page(made.platform.ledger, symbol="BTC", interval="minute")
    assert entry.range_start == datetime(2026, 3, 12, tzinfo=UTC)
    (row,) = heal(made, sweep=True).requests
    assert (row.backfill_window_start, row.backfill_window_end) == (entry.range_start, NOW)


def test_a_table_in_which_a_run_is_at_work_is_left_alone(wounded: Installation) -> None:
    ask = requests.Ask("crypto", "minute", START, NOW, 1)
    requests.request(wounded.platform.ledger, ask, NOW)
    done = heal(wounded)
    assert (done.requests, done.holes) == ([], 0)
    assert entries(wounded, issue_type="gap") == []


def test_the_sensor_looks_when_something_changed_or_is_due(
    wounded: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluated(wounded, "remediation")
    assert "1 requests" in first.skip_message
    (run,) = launch(wounded)
    second = evaluated(wounded, "remediation", first.cursor)
    assert run.success
    assert entries(wounded, issue_type="gap", resolved=False) == []
    third = evaluated(wounded, "remediation", second.cursor)
    assert third.skip_message == "0 holes, 0 requests, 0 resolved, 0 escalated"
    stop_time(monkeypatch, NOW + timedelta(minutes=16))
    assert not evaluated(wounded, "remediation", third.cursor).skip_message.startswith("0 holes")


def test_a_request_is_launched_once_and_ends_with_its_run(crypto: Installation) -> None:
    ledger = crypto.platform.ledger
    row = requests.request(ledger, requests.Ask("crypto", "minute", START, START + timedelta(days=1), 1), NOW)
    (first,) = evaluated(crypto, "launch_requests").run_requests
    (again,) = evaluated(crypto, "launch_requests").run_requests
    assert first.run_key == again.run_key == str(row.id)
    assert first.tags[REQUEST_TAG] == str(row.id)
    run = crypto.instance.create_run_for_job(
        crypto.definitions.resolve_job_def(first.job_name), tags=first.tags, run_config=first.run_config
    )
    assert not evaluated(crypto, "launch_requests").run_requests
    queued = runs.run(ledger, row.id)
    assert queued is not None
    assert (queued.phase, queued.dagster_run_id, queued.launched_at) == ("queued", run.run_id, NOW)
    crypto.instance.report_run_canceled(run)
    evaluated(crypto, "launch_requests")
    ended = runs.run(ledger, row.id)
    assert ended is not None
    assert (ended.status, ended.error_summary) == ("failed", "cancelled: the run was stopped by a person")


def test_the_sensor_ends_runs_that_were_killed(crypto: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = runs.Begun(uuid4(), "crypto", "minute", ["BTC"], START, NOW, "scheduled", 1, dagster_run_id=str(uuid4()))
    runs.begin(crypto.platform.ledger, begun, NOW)
    evaluated(crypto, "launch_requests")
    assert runs.run(crypto.platform.ledger, begun.id).status == "running"  # type: ignore[union-attr]
    stop_time(monkeypatch, NOW + timedelta(minutes=11))
    evaluated(crypto, "launch_requests")
    assert runs.run(crypto.platform.ledger, begun.id).status == "failed"  # type: ignore[union-attr]


def damage(at: Installation) -> None:
    """Let something else than the platform write BTC's ninth of June, and the check see it."""
    altered = "UPDATE lake.crypto.ohlcv_minute SET close = high WHERE symbol = 'BTC'"
    bars = at.platform.store.catalog.cursor()
    bars.execute(f"{altered} AND bucket_start >= '2026-06-09' AND bucket_start < '2026-06-10'")
    bars.close()
    at.materialise(DAYS[1])
    assert ("checksum", DAYS[1]) in at.red_checks()


def test_what_is_not_what_was_published_is_logged_fetched_again_and_hashed(install: Install) -> None:
    made = install()
    made.enable_only("BTC", "ETH")
    made.materialise(DAYS[0], TODAY)
    manifest = made.manifest()
    damage(made)
    evaluated(made, "remediation")
    (entry,) = entries(made, issue_type="checksum_mismatch", resolved=False)
    (run,) = launch(made)
    assert run.success
    assert heal(made).resolved == {entry.id: "rewritten"}
    assert steps(made, entry) == ["detected", "launched", "resolved"]
    assert made.red_checks() == set()
    again = made.manifest()["BTC", DAYS[1]]
    assert (again["checksum"], again["rows"]) == (manifest["BTC", DAYS[1]]["checksum"], 1440)


def test_the_sweep_asks_for_damage_by_force_beside_all_that_is_missing(install: Install) -> None:
    made = install()
    made.enable_only("BTC", "ETH")
    made.materialise(DAYS[0], TODAY)
    damage(made)
    assert made.job("remediation_sweep").success
    asked = [(row.symbols, row.force, row.backfill_window_start) for row in requests.queued(made.platform.ledger)]
    assert (["BTC"], True, START) in asked
    assert (["BTC", "ETH"], False, datetime(2026, 3, 12, tzinfo=UTC)) in asked


def test_damage_that_nobody_heals_is_escalated(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    made = install(vendors=ONE_TRY, remediation_attempts=1, remediation_wait_seconds=60)
    made.enable_only("BTC", "ETH")
    made.materialise(DAYS[0], TODAY)
    damage(made)
    made.exchange.fault(kind="outage", vendor="coinbase", symbol="BTC")
    first = evaluated(made, "remediation")
    (run,) = launch(made)
    assert not run.success
    stop_time(monkeypatch, NOW + timedelta(minutes=16))
    evaluated(made, "remediation", first.cursor)
    (entry,) = entries(made, issue_type="checksum_mismatch")
    assert (entry.attempts, entry.resolved, entry.escalated_at is not None) == (1, False, True)
    assert steps(made, entry) == ["detected", "launched", "escalated"]
    assert not [row for row in requests.queued(made.platform.ledger) if row.force]


def test_a_partition_whose_run_died_is_run_again(crypto: Installation) -> None:
    crypto.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH")
    crypto.materialise(DAYS[1], retry=False)
    crypto.exchange.clear()
    now_us = to_us(NOW)

    def red() -> set[str]:
        found = distress.needs(crypto.instance, crypto.platform, crypto.market, Interval.MINUTE, now_us)
        return {need.partition for need in found}

    assert red() == {DAYS[1]}
    crypto.materialise(DAYS[1])
    assert red() == set()
