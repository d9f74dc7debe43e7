"""The state machine by itself: single transitions, and what holds of any sequence of evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from ohlcv_pipeline.operations.incidents import (
    MAINTENANCE,
    Incident,
    Kind,
    Rules,
    Sighting,
    Step,
    Topic,
    step,
)

START = datetime(2025, 11, 21, 10, tzinfo=UTC)
BTC, ETH, SOL = (Topic(Kind.FRESHNESS, "crypto", name, "minute") for name in ("BTC", "ETH", "SOL"))
VENDORS = Topic(Kind.VENDOR_DOWN, "crypto")


@dataclass
class World:
    """What the ledger would keep, over evaluations ten minutes apart."""

    rules: Rules = field(default_factory=Rules)
    now: datetime = START
    incidents: dict[UUID, Incident] = field(default_factory=dict)
    mails: Counter[UUID] = field(default_factory=Counter)
    muted: str | None = None
    ids: Iterator[int] = field(default_factory=lambda: count(1))

    def known(self) -> list[Incident]:
        found: dict[Topic, Incident] = {}
        recent = [
            each
            for each in self.incidents.values()
            if each.state != "cleared" or (each.cleared_at and self.now - each.cleared_at <= self.rules.reopen_within)
        ]
        for each in sorted(recent, key=lambda each: (each.state != "cleared", each.cleared_at or self.now)):
            found[each.topic] = each
        return list(found.values())

    def see(self, *seen: Sighting, complete: bool = True, minutes: float = 10) -> Step:
        self.now += timedelta(minutes=minutes)
        result = step(
            self.known(),
            seen,
            self.now,
            self.rules,
            lambda market: self.muted,
            lambda: UUID(int=next(self.ids)),
            complete=complete,
        )
        for incident in result.stored:
            self.incidents[incident.id] = incident
        for identifier in result.forgotten:
            del self.incidents[identifier]
        self.mails.update(incident.id for incident in result.told)
        return result

    def of(self, topic: Topic) -> Incident:
        return [each for each in self.incidents.values() if each.topic == topic][-1]


def bad(topic: Topic = BTC, lag: float = 64.0, cause: Topic | None = None) -> Sighting:
    return Sighting(topic, True, lag, 60.0, cause=cause)


def good(topic: Topic = BTC) -> Sighting:
    return Sighting(topic, False, 2.0, 60.0)


def test_a_breach_opens_and_is_told_in_the_same_evaluation() -> None:
    world = World()
    (told,) = world.see(bad()).told
    assert (told.state, told.breach_count, told.lag_minutes, told.alert_lag_minutes) == ("open", 1, 64.0, 64.0)
    assert told.opened_at == told.first_breach_at == world.now


def test_a_breach_that_stays_is_told_once_and_remembers_its_peak() -> None:
    world = World()
    for lag in (64.0, 90.0, 80.0):
        world.see(bad(lag=lag))
    incident = world.of(BTC)
    assert (incident.lag_minutes, incident.peak_lag_minutes, incident.alert_lag_minutes) == (80.0, 90.0, 64.0)
    assert world.mails == {incident.id: 1}


def test_with_patience_a_breach_waits_and_may_come_to_nothing() -> None:
    world = World(Rules(open_after=3))
    world.see(bad())
    assert world.of(BTC).state == "pending"
    world.see(good())
    assert world.incidents == {}
    for expected in ("pending", "pending", "open"):
        world.see(bad())
        assert world.of(BTC).state == expected
    assert sum(world.mails.values()) == 1


def test_two_healthy_evaluations_in_a_row_clear() -> None:
    world = World()
    world.see(bad())
    assert not world.see(good()).cleared
    assert world.of(BTC).state == "clearing"
    (cleared,) = world.see(good()).cleared
    assert (cleared.state, cleared.cleared_at) == ("cleared", world.now)


def test_a_relapse_reopens_without_a_word() -> None:
    world = World()
    for seen in (bad(), good(), bad(), good(), good(), bad()):
        world.see(seen)
    incident = world.of(BTC)
    assert (incident.state, incident.flap_count, incident.cleared_at) == ("open", 2, None)
    assert world.mails == {incident.id: 1}


def test_half_an_hour_after_the_end_a_breach_is_a_new_incident() -> None:
    world = World()
    for seen in (bad(), good(), good()):
        world.see(seen)
    world.see(bad(), minutes=30.01)
    assert len(world.incidents) == 2
    assert set(world.mails.values()) == {1}


def test_what_is_no_longer_watched_ends_in_silence() -> None:
    world = World()
    world.see(bad(BTC), bad(ETH))
    result = world.see(bad(ETH))
    assert world.of(BTC).state == "cleared"
    assert (result.told, result.cleared) == ([], [])
    assert world.of(ETH).state == "open"


def test_an_evaluation_of_a_part_says_nothing_of_the_rest() -> None:
    world = World()
    world.see(bad(BTC), bad(ETH))
    world.see(good(ETH), complete=False)
    assert world.of(BTC).state == "open"


def test_a_breach_that_outlasts_its_maintenance_is_told_at_the_end() -> None:
    world = World(muted=MAINTENANCE)
    world.see(bad())
    world.see(bad())
    assert world.of(BTC).suppressed_by == MAINTENANCE
    assert not world.mails
    world.muted = None
    world.see(bad(lag=90.0))
    assert world.of(BTC).alert_lag_minutes == 90.0
    world.see(bad())
    assert sum(world.mails.values()) == 1


def test_a_breach_that_ends_within_its_maintenance_is_never_told() -> None:
    world = World(muted=MAINTENANCE)
    for seen in (bad(), good()):
        world.see(seen)
    world.muted = None
    assert not world.see(good()).cleared
    assert (world.of(BTC).state, sum(world.mails.values())) == ("cleared", 0)


def test_one_cause_makes_one_message() -> None:
    world = World()
    result = world.see(bad(BTC, cause=VENDORS), bad(ETH, cause=VENDORS), bad(VENDORS))
    assert [incident.topic for incident in result.told] == [VENDORS]
    world.see(bad(BTC, cause=VENDORS), bad(ETH, cause=VENDORS), bad(SOL, cause=VENDORS), bad(VENDORS))
    assert world.of(SOL).suppressed_by == str(world.of(VENDORS).id)
    assert sum(world.mails.values()) == 1


def test_what_outlasts_its_cause_is_told_when_that_is_over() -> None:
    world = World()
    world.see(bad(BTC, cause=VENDORS), bad(ETH, cause=VENDORS), bad(VENDORS))
    world.see(bad(BTC), good(ETH), good(VENDORS))
    assert sum(world.mails.values()) == 1
    result = world.see(bad(BTC), good(ETH), good(VENDORS))
    assert [incident.topic for incident in result.told] == [BTC]
    assert world.of(ETH).state == "cleared"


def test_a_cause_that_is_muted_mutes_what_it_explains() -> None:
    world = World(muted=MAINTENANCE)
    world.see(bad(BTC, cause=VENDORS), bad(VENDORS))
    world.muted = None
    result = world.see(bad(BTC, cause=VENDORS), bad(VENDORS))
    assert [incident.topic for incident in result.told] == [VENDORS]


@dataclass(frozen=True)
class Turn:
    """One evaluation: which series are stale, whether the vendors are away, whether all is muted, minutes since."""

    stale: frozenset[Topic]
    away: bool
    muted: bool
    minutes: int


turns = st.lists(
    st.builds(
        Turn,
        stale=st.frozensets(st.sampled_from([BTC, ETH, SOL])),
        away=st.booleans(),
        muted=st.booleans(),
        minutes=st.sampled_from([1, 10, 10, 25, 31, 45]),
    ),
    max_size=30,
)


def evaluate(world: World, turn: Turn) -> Step:
    world.muted = MAINTENANCE if turn.muted else None
    cause = VENDORS if turn.away else None
    seen = [bad(topic, cause=cause) if topic in turn.stale else good(topic) for topic in (BTC, ETH, SOL)]
    seen.append(bad(VENDORS) if turn.away and turn.stale else good(VENDORS))
    return world.see(*seen, minutes=turn.minutes)


def run(history: Sequence[Turn], rules: Rules) -> World:
    world = World(rules)
    for turn in history:
        evaluate(world, turn)
    return world


any_rules = st.builds(Rules, open_after=st.integers(1, 3), clear_after=st.integers(1, 3))


@settings(max_examples=300, deadline=None)
@given(turns, any_rules)
def test_no_incident_is_told_twice_and_no_topic_has_two(history: Sequence[Turn], rules: Rules) -> None:
    world = World(rules)
    for turn in history:
        evaluate(world, turn)
        assert all(times == 1 for times in world.mails.values())
        alive = Counter(each.topic for each in world.incidents.values() if each.state != "cleared")
        assert all(times == 1 for times in alive.values())
        for each in world.incidents.values():
            assert each.told == bool(world.mails[each.id])


@settings(max_examples=300, deadline=None)
@given(turns, any_rules)
def test_every_breach_that_lasts_is_told(history: Sequence[Turn], rules: Rules) -> None:
    """Whatever came before: once nothing mutes or explains it, a lasting breach has been told of."""
    world = run(history, rules)
    for _ in range(rules.open_after + rules.clear_after):
        evaluate(world, Turn(frozenset({BTC}), away=False, muted=False, minutes=10))
    incident = world.of(BTC)
    assert incident.state == "open"
    assert world.mails[incident.id] == 1


@settings(max_examples=300, deadline=None)
@given(turns, any_rules)
def test_every_recovery_clears(history: Sequence[Turn], rules: Rules) -> None:
    world = run(history, rules)
    for _ in range(rules.clear_after):
        evaluate(world, Turn(frozenset(), away=False, muted=False, minutes=10))
    assert all(each.state == "cleared" for each in world.incidents.values())
    before = dict(world.mails)
    evaluate(world, Turn(frozenset(), away=False, muted=False, minutes=10))
    assert world.mails == before


@settings(max_examples=200, deadline=None)
@given(turns)
def test_while_a_cause_is_told_what_it_explains_is_not(history: Sequence[Turn]) -> None:
    world = World()
    for turn in history:
        result = evaluate(world, turn)
        if turn.away:
            assert {incident.topic for incident in result.told} <= {VENDORS}
