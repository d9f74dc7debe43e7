"""Incidents, monitors and maintenance windows as the ledger keeps and finds them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest

from ohlcv_pipeline.ledger import circumstances, incidents, maintenance, monitors
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import LedgerError
from ohlcv_pipeline.ledger.models import Incident, IngestionRun

NOW = datetime(2025, 11, 21, 11, tzinfo=UTC)
HOUR = timedelta(hours=1)


def keep(ledger: Ledger, *, symbol: str = "BTC", state: str = "open", hours: float = 0, **given: object) -> UUID:
    row = {
        "id": uuid4(), "market": "crypto", "symbol": symbol, "interval": "minute", "kind": "freshness",
        "state": state, "first_breach_at": NOW - hours * HOUR,
        "cleared_at": NOW - hours * HOUR if state == "cleared" else None,
    } | given  # fmt: skip
    with ledger.write() as session:
        session.add(Incident(**row))
    identifier = row["id"]
    assert isinstance(identifier, UUID)
    return identifier


def ids(found: list[Incident]) -> list[UUID]:
    return [row.id for row in found]


def test_of_each_topic_the_living_incident_is_current_or_the_last_that_cleared(ledger: Ledger) -> None:
    keep(ledger, state="cleared", hours=0.2)
    living = keep(ledger, state="clearing", hours=2)
    keep(ledger, symbol="ETH", state="cleared", hours=0.4)
    newer = keep(ledger, symbol="ETH", state="cleared", hours=0.1)
    keep(ledger, symbol="SOL", state="cleared", hours=0.6)
    keep(ledger, kind="run_failed")
    with ledger.read() as session:
        found = incidents.current(session, ["freshness"], NOW - HOUR / 2)
    assert set(ids(found)) == {living, newer}


def test_pages_follow_each_other_without_loss_or_repetition(ledger: Ledger) -> None:
    for number in range(7):
        keep(ledger, symbol=f"S{number}", hours=number // 2)
    keep(ledger, symbol="P", state="pending")
    seen: list[UUID] = []
    after = None
    while rows := incidents.page(ledger, "all", limit=3, after=after):
        seen += ids(rows)
        after = (rows[-1].first_breach_at, rows[-1].id)
    assert len(seen) == len(set(seen)) == 7
    assert seen == ids(incidents.page(ledger, "all"))


def test_a_page_shows_what_was_asked_for(ledger: Ledger) -> None:
    opened = keep(ledger)
    clearing = keep(ledger, symbol="ETH", state="clearing", hours=1)
    cleared = keep(ledger, symbol="ETH", state="cleared", hours=2)
    assert ids(incidents.page(ledger, "open")) == [opened, clearing]
    assert ids(incidents.page(ledger, "cleared")) == [cleared]
    assert ids(incidents.page(ledger, "all", symbol="ETH", market="crypto")) == [clearing, cleared]
    assert incidents.page(ledger, "all", market="us_equities") == []
    assert ids(list(incidents.active(ledger))) == [clearing, opened]


def test_an_incident_is_found_by_the_beginning_of_its_id(ledger: Ledger) -> None:
    identifier = keep(ledger)
    for text in (str(identifier), str(identifier)[:11], identifier.hex[:6]):
        assert ids(incidents.matching(ledger, text)) == [identifier]
    assert incidents.matching(ledger, "nothing") == []


def test_a_late_evaluation_is_ignored(ledger: Ledger) -> None:
    first, second = monitors.next_sequence(ledger, "m"), monitors.next_sequence(ledger, "m")
    assert (first, second) == (1, 1)
    for sequence, counted in ((1, True), (1, False), (3, True), (2, False)):
        with ledger.write() as session:
            assert monitors.advance(ledger, session, "m", sequence, NOW) is counted
    assert monitors.next_sequence(ledger, "m") == 4
    assert monitors.last_evaluation(ledger, "m") == NOW


def test_of_evaluations_at_once_one_counts(ledger: Ledger) -> None:
    def evaluate(_: int) -> bool:
        with ledger.write() as session:
            return monitors.advance(ledger, session, "m", 1, NOW)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(evaluate, range(8))) == 1


def test_an_armed_monitor_has_not_evaluated(ledger: Ledger) -> None:
    assert monitors.last_sign(ledger, "m") is None
    monitors.arm(ledger, "m", NOW)
    monitors.arm(ledger, "m", NOW + HOUR)
    assert (monitors.last_sign(ledger, "m"), monitors.last_evaluation(ledger, "m")) == (NOW, None)
    assert monitors.next_sequence(ledger, "m") == 1


def test_a_window_mutes_its_market_from_its_start_to_its_end(ledger: Ledger) -> None:
    window = maintenance.mute(ledger, "crypto", NOW, NOW + HOUR, "moving house")
    maintenance.mute(ledger, None, NOW + HOUR, NOW + 2 * HOUR, "everything")
    with ledger.read() as session:
        found = [maintenance.muted_markets(session, NOW + hours * HOUR) for hours in (-0.1, 0, 0.9, 1, 2)]
    assert found == [set(), {"crypto"}, {"crypto"}, {None}, set()]
    assert [each.reason for each in maintenance.not_ended(ledger, NOW)] == ["moving house", "everything"]
    assert maintenance.end(ledger, window.id, NOW + HOUR / 2).ends_at == NOW + HOUR / 2
    with ledger.read() as session:
        assert maintenance.muted_markets(session, NOW + HOUR * 0.9) == set()


def test_a_window_that_has_not_begun_can_be_taken_back(ledger: Ledger) -> None:
    window = maintenance.mute(ledger, None, NOW + HOUR, NOW + 2 * HOUR, "later")
    maintenance.end(ledger, window.id, NOW)
    assert maintenance.not_ended(ledger, NOW) == []
    with pytest.raises(LedgerError, match="no window"):
        maintenance.end(ledger, window.id, NOW)
    with pytest.raises(ValueError, match="must end after"):
        maintenance.mute(ledger, None, NOW, NOW, "empty")


def test_run_times_are_of_the_newest_child_runs_of_a_series(ledger: Ledger) -> None:
    parent = uuid4()

    def ran(identifier: UUID, of: UUID | None, symbol: str, hours: float, status: str) -> IngestionRun:
        return IngestionRun(
            id=identifier, parent_id=of, market="crypto", asset_symbol=symbol, interval="minute", status=status,
            phase="done", checksum_sha256="", checksum_version=1, started_at=NOW - hours * HOUR,
            ended_at=NOW - (hours - 0.1) * HOUR, trigger="schedule", backfill_window_start=NOW, backfill_window_end=NOW,
        )  # fmt: skip

    with ledger.write() as session:
        session.add(ran(parent, None, "*", 0.5, "success"))
        session.flush()
        for symbol, hours, status in (("BTC", 3, "success"), ("BTC", 2, "success"), ("BTC", 1, "failed")):
            session.add(ran(uuid4(), parent, symbol, hours, status))
    series = [("crypto", name, "minute") for name in ("BTC", "ETH")]
    with ledger.read() as session:
        found = circumstances.run_times(session, series)
        assert circumstances.run_times(session, []) == {}
    assert set(found) == {series[0]}
    times = found[series[0]]
    assert (times.last_success_at, times.last_started_at) == (NOW - 1.9 * HOUR, NOW - HOUR)
