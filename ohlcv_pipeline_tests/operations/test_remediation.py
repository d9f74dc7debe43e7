"""The rules of the remediation log and the planner, over any history of holes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.bars.causes import Cause
from ohlcv_pipeline.markets import MINUTE_US, Interval, from_us, market, to_us
from ohlcv_pipeline.operations.remediation import (
    BRIDGE,
    FILLABLE,
    HOLES,
    Budget,
    Changes,
    Hole,
    Issue,
    Need,
    Open,
    Resolution,
    Series,
    due,
    plan,
    reconcile,
    resolution,
)

NOW = datetime(2026, 6, 10, 12, tzinfo=UTC)
BTC, ETH = Series("crypto", "minute", "BTC"), Series("crypto", "minute", "ETH")
CRYPTO = market("crypto")
BUDGET = Budget(attempts=3, wait=timedelta(minutes=1))
START = to_us(datetime(2026, 6, 1, tzinfo=UTC))
KEYS = {("crypto", "minute"): CRYPTO.partition_keys(Interval.MINUTE, START, to_us(NOW))}


def hole(first: int, last: int, series: Series = BTC, **fields: object) -> Hole:
    """A hole from one minute of June to another."""
    return Hole(series, START + first * MINUTE_US, START + last * MINUTE_US, **fields)  # type: ignore[arg-type]


def gap(first: int, last: int, series: Series = BTC, **fields: object) -> Open:
    found = hole(first, last, series)
    detected = {"detected_at": NOW} | fields
    return Open(uuid4(), series, Issue.GAP, found.first_us, found.last_us, **detected)  # type: ignore[arg-type]


def applied(entries: Sequence[Open], changes: Changes, now: datetime) -> list[Open]:
    """The open entries after some changes, as the ledger applies them."""
    gone = {each.id for each in (*changes.superseded, *changes.closed)}
    grown = {entry.id: found for entry, found in changes.extended}
    kept = [
        replace(each, first_us=grown[each.id].first_us, last_us=grown[each.id].last_us) if each.id in grown else each
        for each in entries
        if each.id not in gone
    ]
    for opening in changes.opened:
        found, before = opening.hole, opening.supersedes
        new = Open(uuid4(), found.series, Issue.GAP, found.first_us, found.last_us, now)
        if before is not None:
            new = replace(new, detected_at=before.detected_at, attempts=before.attempts)
        kept.append(new)
    return kept


def ranges(entries: Sequence[Open | Hole]) -> list[tuple[Series, int, int]]:
    return sorted((each.series, each.first_us, each.last_us) for each in entries)


@st.composite
def some_holes(draw: st.DrawFn) -> list[Hole]:
    """Any holes of two series: the runs of the minutes that are missing."""
    found = []
    for series in (BTC, ETH):
        absent = sorted(draw(st.sets(st.integers(0, 40))))
        first = last = None
        for minute in [*absent, None]:
            if last is not None and minute == last + 1:
                last = minute
                continue
            if first is not None and last is not None:
                found.append(hole(first, last, series))
            first = last = minute
    return found


@given(st.lists(some_holes(), min_size=1, max_size=6))
def test_whatever_happens_each_hole_has_one_entry_of_its_range(history: list[list[Hole]]) -> None:
    entries: list[Open] = []
    for day, holes in enumerate(history):
        before = {(each.series, us): each.detected_at for each in entries for us in _minutes(each)}
        changes = reconcile(entries, holes)
        for closed in changes.closed:
            assert not any(
                each.series == closed.series and each.touches(closed.first_us, closed.last_us) for each in holes
            )
        entries = applied(entries, changes, NOW + timedelta(days=day))
        assert ranges(entries) == ranges(holes)
        assert not reconcile(entries, holes)
        for entry in entries:
            # A hole is as old as the oldest entry of its bars, and never older.
            known = [before[entry.series, us] for us in _minutes(entry) if (entry.series, us) in before]
            assert entry.detected_at == min(known, default=NOW + timedelta(days=day))


def _minutes(entry: Open | Hole) -> range:
    return range(entry.first_us, entry.last_us + 1, MINUTE_US)


def test_a_gap_that_splits_is_superseded_by_its_pieces_which_keep_its_history() -> None:
    old = gap(10, 20, attempts=2)
    changes = reconcile([old], [hole(10, 12), hole(18, 20)])
    assert changes.superseded == [old]
    assert [(each.hole, each.supersedes) for each in changes.opened] == [(hole(10, 12), old), (hole(18, 20), old)]


def test_a_gap_that_grows_is_extended_and_takes_in_the_next() -> None:
    old, next_one = gap(10, 12, detected_at=NOW - timedelta(days=1)), gap(14, 15)
    changes = reconcile([next_one, old], [hole(9, 15)])
    assert changes.extended == [(old, hole(9, 15))]
    assert changes.superseded == [next_one]
    assert not changes.opened


def test_a_retry_that_was_spent_waits_until_the_data_is_there() -> None:
    spent = Open(uuid4(), BTC, Issue.PARTIAL_SOURCE, hole(0, 5).first_us, hole(0, 5).last_us, NOW)
    assert [each.hole for each in reconcile([spent], [hole(3, 4)]).opened] == [hole(3, 4)]
    assert reconcile([spent], [hole(6, 7)]).closed == [spent]


def test_entries_about_damage_are_not_closed_by_holes() -> None:
    wrong = Open(uuid4(), BTC, Issue.CHECKSUM_MISMATCH, hole(0, 5).first_us, hole(0, 5).last_us, NOW)
    assert not reconcile([wrong], [])


def test_every_cause_is_a_hole_or_none_and_only_holes_are_filled() -> None:
    assert HOLES > FILLABLE
    assert {Cause.QUARANTINED} == HOLES - FILLABLE


@pytest.mark.parametrize(
    ("stored", "no_trades", "unfillable", "expected"),
    [
        (5, 0, 0, "filled"),
        (4, 1, 0, "filled"),
        (0, 5, 0, "no_trades"),
        (4, 0, 1, "unfillable"),
        (0, 1, 1, "unfillable"),
    ],
)
def test_a_gap_ends_as_what_its_buckets_became(stored: int, no_trades: int, unfillable: int, expected: str) -> None:
    assert resolution(stored, no_trades, unfillable) is Resolution(expected)


def asked(entries: Sequence[Open], holes: Sequence[Hole], now: datetime = NOW, *, sweep: bool = False) -> list[Need]:
    return list(due(entries, holes, {"crypto": CRYPTO}, BUDGET, now, sweep=sweep).needs)


def test_an_open_gap_needs_each_partition_it_touches() -> None:
    entry = gap(1430, 1450)
    assert asked([entry], [hole(1430, 1450)]) == [
        Need(BTC, "2026-06-01", frozenset({entry.id})),
        Need(BTC, "2026-06-02", frozenset({entry.id})),
    ]


@pytest.mark.parametrize(
    ("fields", "of_hole"),
    [
        ({"escalated_at": NOW}, {}),
        ({"next_attempt_at": NOW + timedelta(seconds=1)}, {}),
        ({}, {"fillable": False}),
        ({}, {"due_at": NOW + timedelta(seconds=1)}),
        ({}, {"begun": False}),
    ],
)
def test_what_is_not_due_is_left_alone(fields: dict[str, object], of_hole: dict[str, object]) -> None:
    assert asked([gap(1, 2, **fields)], [hole(1, 2, **of_hole)]) == []


def test_only_the_sweep_begins_what_was_never_begun() -> None:
    assert len(asked([gap(1, 2)], [hole(1, 2, begun=False)], sweep=True)) == 1


def test_damage_is_fetched_again_by_force_though_nothing_is_missing() -> None:
    wrong = Open(uuid4(), BTC, Issue.CHECKSUM_MISMATCH, hole(0, 5).first_us, hole(0, 5).last_us, NOW)
    assert asked([wrong], []) == [Need(BTC, "2026-06-01", frozenset({wrong.id}), force=True)]


def test_a_spent_budget_is_escalated_and_asks_no_more() -> None:
    spent = gap(1, 2, attempts=3)
    found = due([spent], [hole(1, 2)], {"crypto": CRYPTO}, BUDGET, NOW)
    assert (found.needs, found.escalated) == ([], [spent])


def test_each_attempt_waits_four_times_as_long_and_never_more_than_a_day() -> None:
    waits = [(BUDGET.next_at(n, NOW) - NOW) / timedelta(minutes=1) for n in (1, 2, 3, 9, 900)]
    assert waits == [1, 4, 16, 1440, 1440]


@st.composite
def some_needs(draw: st.DrawFn) -> list[Need]:
    keys = KEYS["crypto", "minute"]
    cells = st.tuples(st.sampled_from([BTC, ETH]), st.sampled_from(keys), st.booleans())
    return [
        Need(series, key, frozenset({UUID(int=n)}), force)
        for n, (series, key, force) in enumerate(draw(st.lists(cells)))
    ]


@given(some_needs())
def test_requests_look_at_all_that_is_needed_and_overlap_in_nothing(needs: list[Need]) -> None:
    keys = KEYS["crypto", "minute"]
    requests = plan(needs, KEYS)
    spans = {each: range(keys.index(each.first), keys.index(each.last) + 1) for each in requests}
    for need in needs:
        assert any(
            keys.index(need.partition) in span
            and need.series.symbol in each.symbols
            and each.force == need.force
            and need.entries <= each.entries
            for each, span in spans.items()
        )
    for force in (False, True):
        of_kind = [(each, span) for each, span in spans.items() if each.force == force]
        for n, (one, span) in enumerate(of_kind):
            for other, after in of_kind[n + 1 :]:
                assert not set(span) & set(after)
                if not force:
                    assert max(span.start, after.start) - min(span.stop, after.stop) > BRIDGE, (one, other)
    # Force asks for nothing that was not named.
    named = {(need.series.symbol, need.partition) for need in needs if need.force}
    assert named == {
        (symbol, keys[at]) for each, span in spans.items() if each.force for symbol in each.symbols for at in span
    }


def test_neighbours_become_one_request_newest_first() -> None:
    needs = [Need(BTC, "2026-06-01"), Need(ETH, "2026-06-02"), Need(BTC, "2026-06-10")]
    assert [(each.first, each.last, each.symbols) for each in plan(needs, KEYS)] == [
        ("2026-06-01", "2026-06-10", ("BTC", "ETH"))
    ]
    far = {("crypto", "minute"): CRYPTO.partition_keys(Interval.MINUTE, START - 40 * 86_400_000_000, to_us(NOW))}
    old = far["crypto", "minute"][0]
    assert [each.first for each in plan([Need(BTC, old), Need(BTC, "2026-06-01")], far)] == ["2026-06-01", old]


def test_days_are_requested_by_month() -> None:
    series = Series("crypto", "day", "BTC")
    first = to_us(datetime(2026, 4, 30, tzinfo=UTC))
    entry = Open(uuid4(), series, Issue.GAP, first, first + 86_400_000_000, NOW)
    found = due([entry], [Hole(series, entry.first_us, entry.last_us)], {"crypto": CRYPTO}, BUDGET, NOW)
    assert [need.partition for need in found.needs] == ["2026-04", "2026-05"]
    assert from_us(first).date().isoformat() == "2026-04-30"
