from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import RemediationEntry
from ohlcv_pipeline.ledger.remediation import NOTES, NewEntry, Revision

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def entry(first: int = 3, last: int = 5, **changes: object) -> NewEntry:
    """A gap in some hours before noon."""
    fields: dict[str, object] = {
        "market": "crypto", "symbol": "BTC", "interval": "minute", "issue_type": "gap", "note": "detected",
        "range_start": NOW - 12 * HOUR + first * HOUR, "range_end": NOW - 12 * HOUR + last * HOUR, "detected_at": NOW,
    }  # fmt: skip
    return NewEntry(**(fields | changes))  # type: ignore[arg-type]


def told(ledger: Ledger, id_: UUID) -> list[tuple[str, str | None]]:
    return [(step.step, step.notes) for step in log.steps(ledger, id_)]


def test_an_entry_is_opened_once_and_again_when_it_was_resolved(ledger: Ledger) -> None:
    log.log(ledger, [entry()], NOW)
    log.log(ledger, [entry(), entry(7, 8)], NOW)
    first, second = log.open_entries(ledger)
    assert {first.range_start.hour, second.range_start.hour} == {3, 7}
    log.resolve(ledger, [first.id, second.id], "filled", "verified", NOW)
    log.log(ledger, [entry()], NOW + HOUR)
    assert len(log.open_entries(ledger)) == 1
    assert len(log.page(ledger)) == 3


def test_an_entry_may_be_resolved_as_it_is_opened(ledger: Ledger) -> None:
    log.log(ledger, [entry(issue_type="duplicate", resolution="deduplicated", note="repeated")], NOW)
    (row,) = log.page(ledger)
    assert (row.resolved, row.resolved_at, row.resolution, row.notes) == (
        True, NOW, "deduplicated", "delivered more than once, stored once",
    )  # fmt: skip
    assert told(ledger, row.id) == [("resolved", NOTES["repeated"])]


def test_a_revision_is_written_at_once_with_its_steps(ledger: Ledger) -> None:
    log.log(ledger, [entry(1, 2), entry(4, 8)], NOW)
    grows, splits = log.open_entries(ledger)
    if grows.range_start.hour == 4:
        grows, splits = splits, grows

    def decide(rows: Sequence[RemediationEntry]) -> tuple[Revision, int]:
        pieces = [entry(4, 4, supersedes=splits.id, attempts=2), entry(8, 8, supersedes=splits.id, attempts=2)]
        grown = [(grows.id, NOW - 12 * HOUR, grows.range_end)]
        return Revision(pieces, grown, [(splits.id, "split")]), len(rows)

    assert log.revise(ledger, decide, NOW + HOUR) == 2
    rows = {row.range_start.hour: row for row in log.open_entries(ledger)}
    assert sorted(rows) == [0, 4, 8]
    assert (rows[4].supersedes, rows[4].attempts, rows[4].detected_at) == (splits.id, 2, NOW)
    assert told(ledger, grows.id) == [("detected", NOTES["detected"]), ("extended", NOTES["grown"])]
    assert told(ledger, splits.id)[-1] == ("resolved", NOTES["split"])
    (old,) = [row for row in log.page(ledger, resolved=True) if row.id == splits.id]
    assert (old.resolution, old.resolved_at) == ("superseded", NOW + HOUR)


def test_attempts_and_escalation_are_steps(ledger: Ledger) -> None:
    log.log(ledger, [entry()], NOW)
    (row,) = log.open_entries(ledger)
    run = uuid4()
    log.launched(ledger, [(row.id, 1, NOW + HOUR)], run, NOW)
    log.escalate(ledger, [row.id], NOW + 2 * HOUR)
    (row,) = log.open_entries(ledger)
    assert (row.attempts, row.next_attempt_at, row.run_id, row.escalated_at) == (
        1,
        NOW + HOUR,
        str(run),
        NOW + 2 * HOUR,
    )
    assert [step for step, _ in told(ledger, row.id)] == ["detected", "launched", "escalated"]
    assert log.steps(ledger, row.id)[1].run_id == str(run)


def test_what_is_resolved_stays_as_it_is(ledger: Ledger) -> None:
    log.log(ledger, [entry()], NOW)
    (row,) = log.open_entries(ledger)
    log.resolve(ledger, [row.id], "filled", "verified", NOW)
    log.resolve(ledger, [row.id], "unfillable", "confirmed", NOW + HOUR)
    (row,) = log.page(ledger)
    assert (row.resolution, row.resolved_at) == ("filled", NOW)
    assert len(log.steps(ledger, row.id)) == 2


def test_only_resolved_entries_are_pruned_with_their_steps(ledger: Ledger) -> None:
    log.log(ledger, [entry(), entry(7, 8)], NOW)
    gone, kept = log.open_entries(ledger)
    log.resolve(ledger, [gone.id], "filled", "verified", NOW)
    with ledger.write() as session:
        assert log.prune(session, NOW) == 0
        assert log.prune(session, NOW + HOUR) == 1
    assert [row.id for row in log.page(ledger)] == [kept.id]
    assert log.steps(ledger, gone.id) == []
