from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import func, select

from ohlcv_pipeline.ledger import requests, runs
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import IngestionRun
from ohlcv_pipeline.ledger.runs import Account, Begun, Rate

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
SHA = "ab" * 32


def begun(symbols: tuple[str, ...] = ("BTC", "ETH"), **changes: object) -> Begun:
    fields: dict[str, object] = {
        "id": uuid4(), "market": "crypto", "interval": "minute", "symbols": symbols, "window_start": NOW - DAY,
        "window_end": NOW, "trigger": "scheduled", "checksum_version": 1, "dagster_run_id": str(uuid4()),
    }  # fmt: skip
    return Begun(**(fields | changes))  # type: ignore[arg-type]


def account(symbol: str, status: str = "success", code: str | None = None, retries: int = 0) -> Account:
    return Account(symbol, status, 100, SHA, code, retries, {"asset_symbol": symbol, "status": status})


def ended(ledger: Ledger, *accounts: Account, at: datetime = NOW, **changes: object) -> UUID:
    run = begun(tuple(each.symbol for each in accounts), **changes)
    runs.begin(ledger, run, at)
    runs.end(ledger, run.id, accounts, SHA, at + timedelta(seconds=3))
    return run.id


def found(ledger: Ledger, id_: UUID) -> IngestionRun:
    row = runs.run(ledger, id_)
    assert row is not None
    return row


def test_a_run_has_a_parent_and_a_child_for_each_symbol(ledger: Ledger) -> None:
    run = begun()
    runs.begin(ledger, run, NOW)
    parent, children = found(ledger, run.id), runs.children(ledger, run.id)
    assert (parent.asset_symbol, parent.status, parent.phase, parent.attempt) == ("*", "running", "fetching", 1)
    assert parent.checksum_sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert [(child.asset_symbol, child.status) for child in children] == [("BTC", "running"), ("ETH", "running")]
    assert found(ledger, UUID(run.dagster_run_id)).id == run.id
    assert runs.run(ledger, uuid4()) is None


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (("success", "success"), "success"),
        (("failed", "failed"), "failed"),
        (("success", "failed"), "partial"),
        (("partial", "partial"), "partial"),
        (("partial", "failed"), "partial"),
    ],
)
def test_status_of_the_parent_follows_from_its_children(
    ledger: Ledger, statuses: tuple[str, str], expected: str
) -> None:
    run = begun()
    runs.begin(ledger, run, NOW)
    accounts = [account(symbol, status) for symbol, status in zip(run.symbols, statuses, strict=True)]
    assert runs.end(ledger, run.id, accounts, SHA, NOW) == expected
    parent = found(ledger, run.id)
    assert (parent.status, parent.phase, parent.row_count, parent.checksum_sha256) == (expected, "done", 200, SHA)
    assert parent.ended_at == NOW


def test_the_parent_tells_the_code_that_tells_most_and_no_other_text(ledger: Ledger) -> None:
    accounts = [account("BTC", "partial", "incomplete_window", 1), account("ETH", "failed", "rate_limited", 4)]
    parent = found(ledger, ended(ledger, *accounts))
    assert parent.error_summary == "rate_limited: a vendor wants to be asked less often"
    assert parent.retries == 5


def test_a_child_without_an_account_is_not_forgotten(ledger: Ledger) -> None:
    run = begun()
    runs.begin(ledger, run, NOW)
    assert runs.end(ledger, run.id, [account("BTC")], SHA, NOW) == "partial"
    assert runs.children(ledger, run.id)[1].error_summary == "incomplete_window: bars that are expected are not there"


def test_another_attempt_is_the_same_run(ledger: Ledger) -> None:
    first = begun()
    runs.begin(ledger, first, NOW)
    runs.fail(ledger, first.id, "internal", NOW)
    again = begun(id=first.id)
    runs.begin(ledger, again, NOW + DAY)
    parent, children = found(ledger, first.id), runs.children(ledger, first.id)
    assert {row.attempt for row in [parent, *children]} == {2}
    assert {row.status for row in [parent, *children]} == {"running"}
    assert {row.error_summary for row in [parent, *children]} == {None}
    assert (parent.started_at, parent.dagster_run_id) == (NOW, again.dagster_run_id)
    assert len(children) == 2
    runs.end(ledger, first.id, [account("BTC"), account("ETH")], SHA, NOW + DAY)
    assert runs.success_rate(ledger, NOW - DAY) == Rate(success=2, partial=0, failed=0)


def test_progress_is_seen_while_it_runs_and_an_ended_run_stays_ended(ledger: Ledger) -> None:
    run = begun()
    runs.begin(ledger, run, NOW)
    runs.heartbeat(ledger, run.id, NOW + DAY, phase="writing", done_units=7, total_units=9)
    row = found(ledger, run.id)
    assert (row.phase, row.done_units, row.total_units, row.heartbeat_at) == ("writing", 7, 9, NOW + DAY)
    runs.end(ledger, run.id, [account("BTC"), account("ETH")], SHA, NOW)
    runs.heartbeat(ledger, run.id, NOW + DAY, phase="fetching")
    assert found(ledger, run.id).phase == "done"


def test_only_a_run_that_is_silent_for_ten_minutes_is_abandoned(ledger: Ledger) -> None:
    silent, alive, request = begun(), begun(), requests.request(ledger, asked(), NOW)
    for run in (silent, alive):
        runs.begin(ledger, run, NOW)
    later = NOW + timedelta(minutes=10, seconds=1)
    runs.heartbeat(ledger, alive.id, later, phase="fetching")
    assert runs.abandon(ledger, NOW + timedelta(minutes=10)) == []
    assert runs.abandon(ledger, later) == [silent.id]
    assert runs.abandon(ledger, later) == []
    rows = [found(ledger, silent.id), *runs.children(ledger, silent.id)]
    assert {(row.status, row.error_summary) for row in rows} == {
        ("failed", "abandoned: the run gave no sign of life for ten minutes")
    }
    assert found(ledger, alive.id).status == "running"
    assert found(ledger, request.id).phase == "queued"


@pytest.mark.parametrize(
    ("success", "others", "rate", "met"),
    [(0, 0, 1.0, True), (115_012, 188, 0.9983, True), (2, 1, 0.6666, False), (9_899, 101, 0.9899, False)],
)
def test_success_rate_is_rounded_down(success: int, others: int, rate: float, met: bool) -> None:
    counted = Rate(success, 0, others)
    assert (counted.success_rate, counted.met) == (rate, met)


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**7))
def test_only_success_alone_is_a_rate_of_one(success: int, partial: int, failed: int) -> None:
    rate = Rate(success, partial, failed).success_rate
    assert 0 <= rate <= 1
    assert (rate == 1) == (partial + failed == 0)


def test_success_rate_counts_ended_children_of_the_window(ledger: Ledger) -> None:
    ended(ledger, account("BTC"), account("ETH", "partial"), account("SOL", "failed"))
    ended(ledger, account("BTC"), at=NOW - 2 * DAY)
    ended(ledger, account("BTC"), interval="day")
    runs.begin(ledger, begun(), NOW)
    assert runs.success_rate(ledger, NOW - DAY, "crypto", "minute") == Rate(1, 1, 1)
    assert runs.success_rate(ledger, NOW - 3 * DAY, "crypto") == Rate(3, 1, 1)
    assert runs.success_rate(ledger, NOW - DAY, "us_equities") == Rate(0, 0, 0)


def test_failures_are_the_failed_and_partial_children_newest_first(ledger: Ledger) -> None:
    ended(ledger, account("BTC", "failed", "auth_failed"), account("ETH"), at=NOW - DAY)
    ended(ledger, account("ETH", "partial", "incomplete_window", 3), at=NOW)
    rows = runs.failures(ledger, NOW - 30 * DAY, limit=10)
    assert [(row.asset_symbol, row.status, row.retries) for row in rows] == [
        ("ETH", "partial", 3),
        ("BTC", "failed", 0),
    ]
    assert [row.asset_symbol for row in runs.failures(ledger, NOW - 30 * DAY, limit=10, symbol="BTC")] == ["BTC"]
    assert runs.failures(ledger, NOW + DAY, limit=10) == []


def test_pages_hold_each_run_once(ledger: Ledger) -> None:
    # Several begin in the same second, as schedules do.
    ids = {ended(ledger, account("BTC"), at=NOW - timedelta(seconds=n // 3)) for n in range(10)}
    seen: list[IngestionRun] = []
    while page := runs.page(
        ledger, limit=3, market="crypto", after=(seen[-1].started_at, seen[-1].id) if seen else None
    ):
        seen += page
    assert [row.started_at for row in seen] == sorted((row.started_at for row in seen), reverse=True)
    assert len(seen) == len(ids)
    assert {row.id for row in seen} == ids
    assert [row.asset_symbol for row in runs.page(ledger, limit=1, symbol="BTC")] == ["BTC"]
    assert runs.page(ledger, limit=9, status="failed") == []


def test_retention_keeps_runs_35_days_and_parents_of_backfills_400(ledger: Ledger) -> None:
    old, older = NOW - 36 * DAY, NOW - 401 * DAY
    ended(ledger, account("BTC"), at=old)
    backfill = ended(ledger, account("BTC"), at=old, trigger="manual")
    ended(ledger, account("BTC"), at=older, trigger="manual")
    recent = ended(ledger, account("BTC"), at=NOW - 34 * DAY)
    with ledger.write() as session:
        assert runs.prune(session, NOW) == 2
    assert {row.id for row in runs.page(ledger, limit=9)} == {backfill, recent}
    assert runs.children(ledger, backfill) == []
    assert len(runs.children(ledger, recent)) == 1


def asked(**changes: object) -> requests.Ask:
    fields: dict[str, object] = {
        "market": "crypto", "interval": "day", "window_start": NOW - 10 * DAY, "window_end": NOW, "checksum_version": 1,
    }  # fmt: skip
    return requests.Ask(**(fields | changes))  # type: ignore[arg-type]


def test_a_request_is_a_queued_run_until_it_begins(ledger: Ledger) -> None:
    row = requests.request(ledger, asked(symbols=["BTC"], force=True), NOW)
    assert [(each.id, each.symbols, each.force) for each in requests.queued(ledger)] == [(row.id, ["BTC"], True)]
    assert (row.status, row.phase, row.trigger, row.attempt) == ("running", "queued", "manual", 1)
    requests.launched(ledger, row.id, "of dagster", NOW + timedelta(seconds=5))
    assert requests.queued(ledger)[0].dagster_run_id == "of dagster"
    begin = begun(("BTC",), id=row.id, interval="day", window_start=NOW - 40 * DAY, trigger="scheduled")
    parent = runs.begin(ledger, begin, NOW + timedelta(seconds=9))
    assert requests.queued(ledger) == []
    assert (parent.attempt, parent.trigger, parent.started_at) == (1, "manual", NOW)
    assert parent.backfill_window_start == NOW - 10 * DAY
    (child,) = runs.children(ledger, row.id)
    assert (child.trigger, child.backfill_window_start) == ("manual", NOW - 10 * DAY)


def test_an_overlapping_request_is_refused_with_the_run_that_is_in_the_way(ledger: Ledger) -> None:
    row = requests.request(ledger, asked(), NOW)
    with pytest.raises(requests.OverlapError) as refused:
        requests.request(ledger, asked(window_start=NOW - DAY, symbols=["ETH"]), NOW)
    assert refused.value.run_id == row.id
    for free in ({"window_start": NOW, "window_end": NOW + DAY}, {"interval": "minute"}, {"market": "us_equities"}):
        requests.request(ledger, asked(**free), NOW)
    runs.fail(ledger, row.id, "cancelled", NOW)
    requests.request(ledger, asked(), NOW)


def test_a_tick_of_a_schedule_keeps_nobody_from_asking(ledger: Ledger) -> None:
    runs.begin(ledger, begun(interval="day"), NOW)
    requests.request(ledger, asked(), NOW)


def test_the_same_key_gives_the_same_run_for_a_day(ledger: Ledger) -> None:
    key = requests.Key("k-1", SHA)
    row = requests.request(ledger, asked(), NOW, key)
    assert requests.request(ledger, asked(), NOW + timedelta(hours=23), key).id == row.id
    with pytest.raises(requests.KeyReusedError):
        requests.request(ledger, asked(interval="minute"), NOW, requests.Key("k-1", "cd" * 32))
    with ledger.read() as session:
        assert session.scalar(select(func.count()).select_from(IngestionRun)) == 1
    runs.fail(ledger, row.id, "cancelled", NOW)
    later = requests.request(ledger, asked(), NOW + timedelta(hours=24), requests.Key("k-1", "cd" * 32))
    assert later.id != row.id
