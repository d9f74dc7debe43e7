"""When something that is wrong becomes an incident, when one is told of, and when it is over.

A pure state machine: what is known and what was seen go in, what changes and what is to be told comes out. It knows no
database, no message and no Dagster; `evaluation` joins it to the ledger, `alerts` writes what is told.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Literal
from uuid import UUID

EVERY = "*"
"""Stands for the market, symbol or interval of a topic that is not about a single one."""

MAINTENANCE = "maintenance"
NO_CHANNEL = "no_channel"
"""Why an incident is not told of yet; the id of the incident that explains it is the third reason."""

State = Literal["pending", "open", "clearing", "cleared"]


class Kind(StrEnum):
    """What an incident is about."""

    FRESHNESS = "freshness"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    VENDOR_DOWN = "vendor_down"
    RUN_FAILED = "run_failed"
    CHECK_FAILED = "check_failed"
    SENSOR_FAILED = "sensor_failed"
    MONITOR_STOPPED = "monitor_stopped"


@dataclass(frozen=True)
class Topic:
    """What is watched. At most one incident that is not cleared exists for each."""

    kind: Kind
    market: str = EVERY
    symbol: str = EVERY
    interval: str = EVERY
    subject: str = ""


@dataclass(frozen=True)
class Sighting:
    """What one evaluation saw of a topic. `cause` is the topic that explains the breach, if one does."""

    topic: Topic
    breached: bool
    lag_minutes: float | None = None
    threshold_minutes: float | None = None
    run_id: str | None = None
    cause: Topic | None = None


@dataclass(frozen=True)
class Incident:
    """An incident as it is remembered. Instants are aware; `suppressed_by` says why it has not been told of."""

    id: UUID
    topic: Topic
    state: State
    first_breach_at: datetime
    opened_at: datetime | None = None
    cleared_at: datetime | None = None
    lag_minutes: float | None = None
    peak_lag_minutes: float | None = None
    alert_lag_minutes: float | None = None
    threshold_minutes: float | None = None
    breach_count: int = 0
    healthy_count: int = 0
    flap_count: int = 0
    suppressed_by: str | None = None
    run_id: str | None = None

    @property
    def active(self) -> bool:
        """Whether it has opened and is not over."""
        return self.state in ("open", "clearing")

    @property
    def told(self) -> bool:
        """Whether a message of it was handed to the outbox."""
        return self.opened_at is not None and self.suppressed_by is None


@dataclass(frozen=True)
class Rules:
    """How often a breach must be seen to open an incident, and its absence to clear it, in evaluations in a row."""

    open_after: int = 1
    clear_after: int = 2
    reopen_within: timedelta = timedelta(minutes=30)


@dataclass(frozen=True)
class Step:
    """What an evaluation changes: incidents to store as they now are, incidents to forget, and what is to be told.

    `told` have each to be told of once, now; `cleared` are over and were told of.
    """

    stored: Sequence[Incident] = ()
    forgotten: Sequence[UUID] = ()
    told: Sequence[Incident] = ()
    cleared: Sequence[Incident] = ()


def step(
    known: Collection[Incident],
    seen: Sequence[Sighting],
    now: datetime,
    rules: Rules,
    muted: Callable[[str], str | None],
    new_id: Callable[[], UUID],
    *,
    complete: bool = True,
) -> Step:
    """Return what one evaluation makes of the known incidents.

    Args:
        known: of each topic that was looked at the incident that is not cleared, or else the one that was cleared last
            if that was within `rules.reopen_within`.
        seen: one sighting a topic; a cause is one of them.
        now: the instant of the evaluation, aware.
        rules: of opening and clearing.
        muted: market → why nothing of it is told now, None where it is.
        new_id: makes the id of a new incident.
        complete: whether everything of these kinds was looked at, so that what was not seen is no longer watched and
            ends in silence.
    """
    turn = _Turn(now, rules, muted, new_id, {incident.topic: incident for incident in known})
    causes = {sighting.cause for sighting in seen} | {turn.by_id.get(each.suppressed_by) for each in known}
    # Causes first: what they explain is judged by how they are now.
    for sighting in sorted(seen, key=lambda each: each.topic not in causes):
        turn.take(sighting)
    if complete:
        looked_at = {sighting.topic for sighting in seen}
        for topic, incident in list(turn.current.items()):
            if topic not in looked_at and incident.state != "cleared":
                turn.end(incident)
    return Step(turn.stored, turn.forgotten, turn.told, turn.cleared)


@dataclass
class _Turn:
    now: datetime
    rules: Rules
    muted: Callable[[str], str | None]
    new_id: Callable[[], UUID]
    current: dict[Topic, Incident]
    stored: list[Incident] = field(default_factory=list)
    forgotten: list[UUID] = field(default_factory=list)
    told: list[Incident] = field(default_factory=list)
    cleared: list[Incident] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.by_id: Mapping[str | None, Topic] = {str(each.id): topic for topic, each in self.current.items()}

    def take(self, seen: Sighting) -> None:
        incident = self.current.get(seen.topic)
        if seen.breached:
            self._breach(seen, incident)
        elif incident is not None and incident.state != "cleared":
            self._healthy(seen, incident)

    def end(self, incident: Incident) -> None:
        """End an incident that nobody watches any longer, without a word."""
        if incident.state == "pending":
            self._forget(incident)
        else:
            self._keep(replace(incident, state="cleared", cleared_at=self.now))

    def _breach(self, seen: Sighting, found: Incident | None) -> None:
        if found is None or (found.state == "cleared" and not self._may_reopen(found)):
            found = Incident(self.new_id(), seen.topic, "pending", self.now)
        incident = replace(
            found,
            lag_minutes=seen.lag_minutes,
            peak_lag_minutes=_larger(found.peak_lag_minutes, seen.lag_minutes),
            threshold_minutes=seen.threshold_minutes,
            breach_count=found.breach_count + 1,
            healthy_count=0,
            run_id=seen.run_id or found.run_id,
        )
        if found.state in ("clearing", "cleared"):
            incident = replace(incident, state="open", cleared_at=None, flap_count=found.flap_count + 1)
        elif found.state == "pending" and incident.breach_count >= self.rules.open_after:
            incident = replace(incident, state="open", opened_at=self.now)
        if incident.state == "open" and not found.told:
            incident = replace(incident, suppressed_by=self._silence(seen, found))
            if incident.told:
                incident = replace(incident, alert_lag_minutes=seen.lag_minutes)
                self.told.append(incident)
        self._keep(incident)

    def _healthy(self, seen: Sighting, found: Incident) -> None:
        if found.state == "pending":
            self._forget(found)
            return
        incident = replace(found, state="clearing", lag_minutes=seen.lag_minutes, healthy_count=found.healthy_count + 1)
        if incident.healthy_count >= self.rules.clear_after:
            incident = replace(incident, state="cleared", cleared_at=self.now)
            if incident.told:
                self.cleared.append(incident)
        self._keep(incident)

    def _may_reopen(self, incident: Incident) -> bool:
        return incident.cleared_at is not None and self.now - incident.cleared_at <= self.rules.reopen_within

    def _silence(self, seen: Sighting, found: Incident) -> str | None:
        """Return why a breach is not told of now."""
        reason = self.muted(seen.topic.market)
        if reason is not None:
            return reason
        # An explanation holds until it is over, not only while it is seen: its end takes evaluations of its own.
        for topic in (seen.cause, self.by_id.get(found.suppressed_by)):
            explaining = self.current.get(topic) if topic is not None else None
            if explaining is not None and explaining.active:
                return str(explaining.id)
        return None

    def _keep(self, incident: Incident) -> None:
        self.current[incident.topic] = incident
        self.stored.append(incident)

    def _forget(self, incident: Incident) -> None:
        del self.current[incident.topic]
        self.forgotten.append(incident.id)


def _larger(a: float | None, b: float | None) -> float | None:
    return max((value for value in (a, b) if value is not None), default=None)
