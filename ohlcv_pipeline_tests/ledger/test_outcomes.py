from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from ohlcv_pipeline.ledger import outcomes
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import NaiveTimestampError

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Attempt:
    vendor: str = "kraken"
    requested_at: datetime = NOW
    seconds: float = 0.1
    status: int | None = 200
    code: str = "ok"
    attempt: int = 1
    bytes: int = 51_200


def test_summary_counts_codes_of_one_vendor_since_an_instant(ledger: Ledger) -> None:
    outcomes.append(
        ledger,
        [
            Attempt(requested_at=NOW - timedelta(microseconds=1)),
            Attempt(),
            Attempt(seconds=0.3),
            Attempt(status=429, code="rate_limited"),
            Attempt(status=None, code="vendor_unavailable", seconds=10.0, bytes=0),
            Attempt(vendor="coinbase"),
        ],
    )
    recent = outcomes.recent(ledger, "kraken", NOW)
    assert recent.counts == {"ok": 2, "rate_limited": 1, "vendor_unavailable": 1}
    assert recent.total == 4
    assert recent.p95_seconds == 10.0


def test_summary_of_no_requests_has_no_percentile(ledger: Ledger) -> None:
    outcomes.append(ledger, [])
    assert outcomes.recent(ledger, "kraken", NOW) == outcomes.Recent({}, None)


def test_troubles_name_the_vendors_that_failed_and_whether_they_still_do(ledger: Ledger) -> None:
    down, limited = "vendor_unavailable", "rate_limited"
    outcomes.append(
        ledger,
        [
            Attempt(requested_at=NOW - timedelta(seconds=1), code=down),
            Attempt(code=down),
            Attempt(code=limited),
            Attempt(),
            Attempt(vendor="coinbase"),
            Attempt(vendor="coinbase", code=down),
            Attempt(vendor="alpaca"),
            Attempt(vendor="tiingo", code=down),
        ],
    )
    assert outcomes.troubles(ledger, ["coinbase", "alpaca", "kraken"], NOW) == [
        outcomes.Trouble("coinbase", 1, [down], failing=True),
        outcomes.Trouble("kraken", 2, [limited, down], failing=False),
    ]
    assert outcomes.troubles(ledger, ["kraken"], NOW + timedelta(seconds=1)) == []


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 20)), min_size=1, max_size=60))
def test_percentile_is_the_nearest_rank(ledger: Ledger, attempts: list[tuple[str, float]]) -> None:
    with ledger.write() as session:
        outcomes.prune(session, NOW + timedelta(days=1))
    outcomes.append(ledger, [Attempt(code=code, seconds=seconds) for code, seconds in attempts])
    recent = outcomes.recent(ledger, "kraken", NOW)
    rank = -(-len(attempts) * 95 // 100)
    assert recent.p95_seconds == sorted(seconds for _, seconds in attempts)[rank - 1]
    assert recent.counts == Counter(code for code, _ in attempts)


def test_prune_deletes_what_is_older(ledger: Ledger) -> None:
    outcomes.append(ledger, [Attempt(requested_at=NOW - timedelta(days=days)) for days in range(5)])
    with ledger.write() as session:
        assert outcomes.prune(session, NOW - timedelta(days=2)) == 2
    assert outcomes.recent(ledger, "kraken", NOW - timedelta(days=9)).total == 3


def test_code_may_be_a_str_enum(ledger: Ledger) -> None:
    class Code(StrEnum):
        NOT_YET = "not_yet"

    outcomes.append(ledger, [Attempt(code=Code.NOT_YET), Attempt(code="not_yet")])
    assert outcomes.recent(ledger, "kraken", NOW).counts == {"not_yet": 2}


def test_naive_time_stores_nothing(ledger: Ledger) -> None:
    with pytest.raises(NaiveTimestampError):
        outcomes.append(ledger, [Attempt(), Attempt(requested_at=NOW.replace(tzinfo=None))])
    assert outcomes.recent(ledger, "kraken", NOW).total == 0


def test_outcomes_of_a_backfill_are_stored_at_once(ledger: Ledger) -> None:
    """4,400 requests fetch 90 days of minutes and three years of days of ten symbols."""
    batch = [Attempt(requested_at=NOW + timedelta(seconds=i), attempt=i % 5) for i in range(4_400)]
    statements: list[str] = []
    commits: list[object] = []
    event.listen(ledger.engine, "before_execute", lambda _, statement, *more: statements.append(str(statement)))
    event.listen(ledger.engine, "commit", commits.append)
    outcomes.append(ledger, batch)
    assert sum("INSERT INTO vendor_requests" in statement for statement in statements) == 1
    assert len(commits) == 1
    assert outcomes.recent(ledger, "kraken", NOW).total == 4_400
