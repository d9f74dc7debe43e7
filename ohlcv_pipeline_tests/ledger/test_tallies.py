"""What metrics add up, counted by both engines."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ohlcv_pipeline.ledger import outcomes, tallies
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, Message
from ohlcv_pipeline.ledger.tallies import Attempt as Rough
from ohlcv_pipeline_tests.ledger.test_outcomes import Attempt

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)


def test_requests_are_counted_by_outcome_and_duration_behind_a_place(ledger: Ledger) -> None:
    outcomes.append(ledger, [Attempt(seconds=99.0)])
    start = tallies.newest_request(ledger)
    slow = Attempt(seconds=5.0, code="vendor_unavailable")
    outcomes.append(ledger, [Attempt(seconds=0.1), Attempt(seconds=0.05, attempt=2), slow])
    end = tallies.newest_request(ledger)
    outcomes.append(ledger, [Attempt(seconds=98.0)])
    found = sorted(tallies.requests(ledger, start, end, (0.1, 1.0)), key=lambda each: each.code)
    assert [(each.code, each.bucket, each.count) for each in found] == [("ok", 0, 2), ("vendor_unavailable", 2, 1)]
    assert [round(each.seconds, 6) for each in found] == [0.15, 5.0]
    assert tallies.unsmooth(ledger, start, end) == [Rough("kraken", 2, "ok"), Rough("kraken", 1, "vendor_unavailable")]


def test_incidents_are_found_by_when_they_opened_or_cleared(ledger: Ledger) -> None:
    hour = timedelta(hours=1)
    with ledger.write() as session:
        for place, (state, opened, cleared) in enumerate(
            [
                ("open", NOW - hour, None),
                ("open", NOW, None),
                ("cleared", NOW - hour, NOW),
                ("cleared", NOW - 2 * hour, NOW - hour),
                ("pending", None, None),
            ]
        ):
            session.add(
                Incident(
                    market="*", symbol="*", interval="*", kind="freshness", subject=str(place), state=state,
                    first_breach_at=NOW - hour, opened_at=opened, cleared_at=cleared,
                )
            )  # fmt: skip
    found = {(opened, cleared) for _, _, opened, cleared in tallies.incidents_since(ledger, NOW)}
    assert found == {(NOW, None), (NOW - hour, NOW)}
    assert tallies.open_incidents(ledger) == {"freshness": 2}


def test_what_was_given_up_waits_until_it_is_acknowledged(ledger: Ledger) -> None:
    assert tallies.unsent_messages(ledger) == ({}, None)
    with ledger.write() as session:
        for place, (status, acknowledged) in enumerate(
            [("pending", None), ("given_up", None), ("given_up", NOW), ("sent", None)]
        ):
            at = NOW - timedelta(minutes=place)
            session.add(
                Message(
                    channel="email", kind="open", incident_ids=[], message_id=f"<{place}@x>", payload={}, created_at=at,
                    next_attempt_at=at, status=status, acknowledged_at=acknowledged,
                )
            )  # fmt: skip
    assert tallies.unsent_messages(ledger) == ({"email": 2}, NOW - timedelta(minutes=1))
