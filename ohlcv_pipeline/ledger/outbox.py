"""Messages on their way: stored with what they tell, claimed by one sender at a time, sent, tried again, given up.

Nothing unsent is ever deleted. What a message says, and how it is sent, lives in `operations`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, delete, func, or_, select, update
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, Message

LEASE = timedelta(seconds=120)
"""For how long a claimed message belongs to its sender. A sender that dies frees it by that."""
KEEP_TRYING = timedelta(days=7)

_FIRST_WAITS = (30, 60, 120, 240, 480)
_LATER_WAIT = 900

TEST = "test"
"""The kind of a message that tells of no incident."""


@dataclass(frozen=True)
class Draft:
    """A message that is to be stored. `payload` is all that a sender needs to know."""

    channel: str
    kind: str
    message_id: str
    payload: Mapping[str, Any]
    incident_ids: Sequence[UUID] = ()


def wait_after(attempts: int) -> timedelta:
    """Return how long to wait after so many failures, the first being 1."""
    return timedelta(seconds=_FIRST_WAITS[attempts - 1] if attempts <= len(_FIRST_WAITS) else _LATER_WAIT)


def add(session: Session, drafts: Iterable[Draft], now: datetime) -> None:
    """Store messages inside an open write transaction, due at once."""
    session.add_all(
        Message(
            channel=draft.channel,
            kind=draft.kind,
            incident_ids=[str(identifier) for identifier in draft.incident_ids],
            message_id=draft.message_id,
            payload=dict(draft.payload),
            created_at=now,
            next_attempt_at=now,
        )
        for draft in drafts
    )


def claim(ledger: Ledger, channels: Collection[str], now: datetime) -> Message | None:
    """Return the oldest message that is due on one of the channels, for the caller alone for `LEASE`; None if none is.

    The message counts one attempt more. Nothing is written when nothing is due.
    """
    due = (
        select(Message)
        .where(
            Message.status == "pending",
            Message.channel.in_(channels),
            Message.next_attempt_at <= now,
            or_(Message.lease_until.is_(None), Message.lease_until <= now),
        )
        .order_by(Message.created_at, Message.id)
        .limit(1)
    )
    with ledger.read() as session:
        if session.scalars(due).first() is None:
            return None
    with ledger.write() as session:
        row = session.scalars(due.with_for_update(skip_locked=True)).first()
        if row is None:
            return None
        row.lease_until, row.attempts = now + LEASE, row.attempts + 1
        session.flush()
        session.expunge(row)
    return row


def mark_sent(ledger: Ledger, message: Message, now: datetime, remark: str | None = None) -> None:
    """Record that a channel has accepted a message, and that the incidents it tells of are known now."""
    with ledger.write() as session:
        session.execute(
            update(Message)
            .where(Message.id == message.id, Message.status != "sent")
            .values(status="sent", sent_at=now, lease_until=None, last_error=remark)
        )
        if message.kind != TEST:
            ids = [UUID(text) for text in message.incident_ids]
            session.execute(
                update(Incident).where(Incident.id.in_(ids), Incident.notified_at.is_(None)).values(notified_at=now)
            )


def mark_failed(ledger: Ledger, message: Message, now: datetime, error: str) -> None:
    """Record a failed attempt by the class of its error: the message waits, or is given up after `KEEP_TRYING`.

    Whoever took the message over after the lease ended decides about it; then nothing changes.
    """
    late = now - message.created_at >= KEEP_TRYING
    with ledger.write() as session:
        session.execute(
            update(Message)
            .where(Message.id == message.id, Message.status == "pending", Message.attempts == message.attempts)
            .values(
                status="given_up" if late else "pending",
                lease_until=None,
                last_error=error,
                next_attempt_at=now + wait_after(message.attempts),
            )
        )


def give_up_unreachable(ledger: Ledger, channels: Collection[str], now: datetime) -> None:
    """Give up what has waited for `KEEP_TRYING` on a channel that is no longer configured."""
    stranded = (
        Message.status == "pending",
        Message.channel.not_in(channels),
        Message.created_at <= now - KEEP_TRYING,
    )
    with ledger.read() as session:
        if session.scalar(select(Message.id).where(*stranded).limit(1)) is None:
            return
    with ledger.write() as session:
        session.execute(update(Message).where(*stranded).values(status="given_up", last_error="ChannelNotConfigured"))


def listed(ledger: Ledger, *, unsent: bool, limit: int = 100) -> list[Message]:
    """Return messages, newest first; with `unsent` only those that wait or were given up and not acknowledged."""
    conditions: list[ColumnElement[bool]] = []
    if unsent:
        conditions = [Message.status != "sent", Message.acknowledged_at.is_(None)]
    query = select(Message).where(*conditions).order_by(Message.created_at.desc(), Message.id).limit(limit)
    with ledger.read() as session:
        return list(session.scalars(query))


def of_incident(ledger: Ledger, identifier: UUID) -> list[Message]:
    """Return the messages that tell of an incident, oldest first."""
    told = func.replace(Message.incident_ids.cast(Message.message_id.type), " ", "").contains(f'"{identifier}"')
    query = select(Message).where(told).order_by(Message.created_at, Message.id)
    with ledger.read() as session:
        return list(session.scalars(query))


def acknowledge(ledger: Ledger, identifiers: Collection[UUID] | None, now: datetime) -> int:
    """Acknowledge the messages that were given up, all of them if none is named; return how many that were."""
    conditions = [Message.status == "given_up", Message.acknowledged_at.is_(None)]
    if identifiers is not None:
        conditions.append(Message.id.in_(identifiers))
    with ledger.write() as session:
        result = session.connection().execute(update(Message).where(*conditions).values(acknowledged_at=now))
        return result.rowcount


def prune(session: Session, before: datetime) -> int:
    """Delete the messages that were sent before an instant (aware) and return how many that were."""
    gone = (Message.status == "sent", Message.sent_at < before)
    return session.connection().execute(delete(Message).where(*gone)).rowcount


def hasten(ledger: Ledger, now: datetime) -> None:
    """Make every message due now that waits after a failure."""
    waits = (Message.status == "pending", Message.next_attempt_at > now)
    with ledger.write() as session:
        session.execute(update(Message).where(*waits).values(next_attempt_at=now))
