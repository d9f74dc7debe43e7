"""From what a monitor saw to the ledger: incidents and messages in one transaction, numbered, so that none comes late.

Also what sends the messages, and what watches the monitor itself. The rules are `incidents`, the words `alerts`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger import incidents as stored_incidents
from ohlcv_pipeline.ledger import maintenance, monitors, outbox
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident as IncidentRow
from ohlcv_pipeline.operations.alerts import Circumstances, Notice, Writer
from ohlcv_pipeline.operations.channels import Deliver, channels
from ohlcv_pipeline.operations.incidents import (
    MAINTENANCE,
    NO_CHANNEL,
    Incident,
    Kind,
    Rules,
    Sighting,
    Step,
    Topic,
    step,
)
from ohlcv_pipeline.settings import Settings

FRESHNESS = "freshness"
WATCHDOG = "watchdog"
"""Names of monitors."""

STOPPED_AFTER = timedelta(minutes=20)
"""An evaluation older than this means that nobody watches."""

SENDING_SECONDS = 30.0
"""A round of sending starts no further message after this; a sensor's tick may take a minute."""


@dataclass(frozen=True)
class Recorded:
    """What became of an evaluation: None where a newer one had been recorded already."""

    sequence: int
    step: Step | None


@dataclass(frozen=True)
class Delivery:
    """What a round of sending did: messages that were accepted, and the class of error of each that was not."""

    sent: int
    failed: Sequence[str]


def record(
    ledger: Ledger,
    settings: Settings,
    monitor: str,
    sequence: int,
    seen: Sequence[Sighting],
    now: datetime,
    *,
    kinds: Collection[Kind],
    rules: Rules | None = None,
    complete: bool = True,
    circumstances: Callable[[Session, Sequence[Incident]], Mapping[UUID, Circumstances]] = lambda session, told: {},
) -> Recorded:
    """Store what one evaluation makes of its sightings: incidents and messages, or nothing at all.

    Args:
        ledger: where they are kept.
        settings: channels, notices, addresses.
        monitor: the name of who evaluated.
        sequence: the evaluation's number, from `monitors.next_sequence` before anything was looked at.
        seen: what was seen.
        now: when, aware.
        kinds: the kinds of incident that this monitor alone decides about.
        rules: of opening and clearing; by default those of the settings.
        complete: whether everything of these kinds was looked at.
        circumstances: what messages tell beside the incidents, asked only of those that are told.
    """
    rules = rules or Rules(open_after=settings.alert_open_after)
    names = list(channels(settings))
    with ledger.write() as session:
        if not monitors.advance(ledger, session, monitor, sequence, now):
            return Recorded(sequence, None)
        rows = {row.id: row for row in stored_incidents.current(session, kinds, now - rules.reopen_within)}
        off = maintenance.muted_markets(session, now)

        def muted(market: str) -> str | None:
            if None in off or market in off:
                return MAINTENANCE
            return None if names else NO_CHANNEL

        known = [_incident(row) for row in rows.values()]
        result = step(known, seen, now, rules, muted, uuid4, complete=complete)
        _store(session, rows, result)
        writer = writer_of(settings)
        notices = writer.opened(result.told, circumstances(session, result.told), monitor, sequence)
        if settings.alert_cleared_notice:
            notices += [writer.cleared(incident) for incident in result.cleared]
        outbox.add(session, drafts(notices, names), now)
    return Recorded(sequence, result)


def drafts(notices: Sequence[Notice], names: Sequence[str]) -> list[outbox.Draft]:
    """Return each notice as a message for each channel."""
    return [
        outbox.Draft(name, notice.kind, notice.message_id, notice.payload(), notice.incident_ids)
        for notice in notices
        for name in names
    ]


def writer_of(settings: Settings) -> Writer:
    """Return who writes the notices of an installation."""
    return Writer(settings.public_url.rstrip("/"), settings.dagster_url.rstrip("/"), settings.message_domain)


def enqueue_test(ledger: Ledger, settings: Settings, now: datetime) -> list[str]:
    """Store a sample message for every configured channel and return their names, none if there are none.

    For `POST /alerts/test`: no channel is its 409. `deliver_due` sends it.
    """
    names = list(channels(settings))
    with ledger.write() as session:
        outbox.add(session, drafts([writer_of(settings).test(uuid4())], names), now)
    return names


def deliver_due(
    ledger: Ledger, settings: Settings, now: datetime, *, ways: Mapping[str, Deliver] | None = None
) -> Delivery:
    """Send what is due, oldest first, until nothing is or `SENDING_SECONDS` have passed.

    Any process may call it at any time, also several at once: a message is claimed before it is sent, and given back
    when its sender dies. A failure is recorded by the class of its error and never raised. Call it from a thread, not
    from an event loop: it waits for mail servers.
    """
    ways = channels(settings) if ways is None else ways
    outbox.give_up_unreachable(ledger, list(ways), now)
    begun = time.monotonic()

    def clock() -> datetime:
        return now + timedelta(seconds=time.monotonic() - begun)

    sent, failed = 0, []
    while time.monotonic() - begun < SENDING_SECONDS:
        message = outbox.claim(ledger, list(ways), clock())
        if message is None:
            break
        try:
            remark = ways[message.channel](message)
        except Exception as error:  # noqa: BLE001 - whatever a channel raises, the message waits for its next try
            failed.append(type(error).__name__)
            outbox.mark_failed(ledger, message, clock(), type(error).__name__)
        else:
            sent += 1
            outbox.mark_sent(ledger, message, clock(), remark)
    return Delivery(sent, failed)


def watch(ledger: Ledger, settings: Settings, now: datetime) -> Recorded | None:
    """Notice from outside Dagster that freshness is no longer evaluated, and that it is again.

    The service calls it every minute, and `deliver_due` after it: with the daemon down, nobody else does. When the last
    evaluation is older than `STOPPED_AFTER`, an incident `monitor_stopped` opens; it clears with the first evaluation.
    An installation that has never evaluated is given the same time from the first call on. Returns None if there is
    nothing to watch: the schedules are off, and nobody has switched the monitor on.
    """
    since = monitors.last_sign(ledger, FRESHNESS)
    if since is None:
        if settings.schedules:
            monitors.arm(ledger, FRESHNESS, now)
        return None
    silent = max(now - since, timedelta())
    seen = Sighting(
        Topic(Kind.MONITOR_STOPPED, subject=FRESHNESS),
        breached=silent > STOPPED_AFTER,
        lag_minutes=silent / timedelta(minutes=1),
        threshold_minutes=STOPPED_AFTER / timedelta(minutes=1),
    )
    sequence = monitors.next_sequence(ledger, WATCHDOG)
    return record(
        ledger, settings, WATCHDOG, sequence, [seen], now, kinds=[Kind.MONITOR_STOPPED], rules=Rules(clear_after=1)
    )


_SAME = [name.name for name in fields(Incident) if name.name not in ("topic",)]


def _incident(row: IncidentRow) -> Incident:
    topic = Topic(Kind(row.kind), row.market, row.symbol, row.interval, row.subject)
    return Incident(topic=topic, **{name: getattr(row, name) for name in _SAME})


def _store(session: Session, rows: Mapping[UUID, IncidentRow], result: Step) -> None:
    for incident in result.stored:
        row = rows.get(incident.id)
        if row is None:
            topic = incident.topic
            row = IncidentRow(
                kind=topic.kind,
                market=topic.market,
                symbol=topic.symbol,
                interval=topic.interval,
                subject=topic.subject,
            )
            session.add(row)
        # Only what differs is written: a sender may set `notified_at` of the same row meanwhile.
        for name in _SAME:
            if getattr(row, name) != getattr(incident, name):
                setattr(row, name, getattr(incident, name))
    for identifier in result.forgotten:
        session.delete(rows[identifier])
