"""Messages that wait, are claimed, sent, tried again and given up."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from sqlalchemy.exc import IntegrityError

from ohlcv_pipeline.ledger import outbox
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, Message
from ohlcv_pipeline.ledger.outbox import Draft

NOW = datetime(2025, 11, 21, 11, tzinfo=UTC)
MAIL = ["email"]


def put(ledger: Ledger, *names: str, now: datetime = NOW, channel: str = "email", ids: Sequence[UUID] = ()) -> None:
    with ledger.write() as session:
        outbox.add(session, [Draft(channel, "incident", f"<{name}>", {"subject": name}, ids) for name in names], now)


def take(ledger: Ledger, now: datetime = NOW) -> Message:
    message = outbox.claim(ledger, MAIL, now)
    assert message is not None
    return message


def only(ledger: Ledger) -> Message:
    (row,) = outbox.listed(ledger, unsent=False)
    return row


def test_a_message_is_claimed_by_one_sender(ledger: Ledger) -> None:
    put(ledger, *"abcdefgh")
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: outbox.claim(ledger, MAIL, NOW), range(16)))
    got = [message.message_id for message in claimed if message is not None]
    assert sorted(got) == sorted({f"<{letter}>" for letter in "abcdefgh"})


def test_a_lease_that_ended_frees_the_message(ledger: Ledger) -> None:
    put(ledger, "a")
    assert take(ledger).attempts == 1
    assert outbox.claim(ledger, MAIL, NOW + timedelta(seconds=119)) is None
    assert take(ledger, NOW + timedelta(seconds=120)).attempts == 2


def test_only_ones_own_channels_are_served(ledger: Ledger) -> None:
    put(ledger, "a", channel="webhook")
    assert outbox.claim(ledger, MAIL, NOW) is None
    assert outbox.claim(ledger, [], NOW) is None
    assert outbox.claim(ledger, ["webhook"], NOW) is not None


def test_a_sent_message_is_never_due_again_and_its_incident_is_notified(ledger: Ledger) -> None:
    incident = Incident(
        id=uuid4(),
        market="crypto",
        symbol="BTC",
        interval="minute",
        kind="freshness",
        state="open",
        first_breach_at=NOW,
    )
    with ledger.write() as session:
        session.add(incident)
        session.flush()
        session.expunge(incident)
    put(ledger, "a", ids=[incident.id])
    outbox.mark_sent(ledger, take(ledger), NOW)
    assert outbox.claim(ledger, MAIL, NOW + timedelta(days=30)) is None
    with ledger.read() as session:
        assert session.get_one(Incident, incident.id).notified_at == NOW
    assert [message.message_id for message in outbox.of_incident(ledger, incident.id)] == ["<a>"]
    assert outbox.of_incident(ledger, uuid4()) == []


def test_failures_wait_longer_and_longer_then_a_quarter_of_an_hour(ledger: Ledger) -> None:
    put(ledger, "a")
    now, waits = NOW, []
    for _ in range(8):
        outbox.mark_failed(ledger, take(ledger, now), now, "TimeoutError")
        due = only(ledger).next_attempt_at
        assert outbox.claim(ledger, MAIL, due - timedelta(seconds=1)) is None
        waits.append((due - now).total_seconds())
        now = due
    assert waits == [30, 60, 120, 240, 480, 900, 900, 900]
    assert only(ledger).last_error == "TimeoutError"


def test_after_seven_days_a_message_is_given_up_and_stays_until_acknowledged(ledger: Ledger) -> None:
    put(ledger, "a")
    just_before = NOW + timedelta(days=7, seconds=-1)
    outbox.mark_failed(ledger, take(ledger, just_before), just_before, "TimeoutError")
    assert only(ledger).status == "pending"
    late = NOW + timedelta(days=7, minutes=1)
    outbox.mark_failed(ledger, take(ledger, late), late, "TimeoutError")
    assert only(ledger).status == "given_up"
    assert [message.message_id for message in outbox.listed(ledger, unsent=True)] == ["<a>"]
    assert outbox.acknowledge(ledger, [only(ledger).id], late) == 1
    assert outbox.acknowledge(ledger, None, late) == 0
    assert outbox.listed(ledger, unsent=True) == []


def test_who_lost_the_lease_decides_nothing(ledger: Ledger) -> None:
    put(ledger, "a")
    slow = take(ledger)
    quick = take(ledger, NOW + timedelta(seconds=121))
    outbox.mark_failed(ledger, slow, NOW + timedelta(seconds=122), "TimeoutError")
    assert only(ledger).last_error is None
    outbox.mark_sent(ledger, quick, NOW + timedelta(seconds=123))
    outbox.mark_sent(ledger, slow, NOW + timedelta(seconds=124))
    outbox.mark_failed(ledger, slow, NOW + timedelta(seconds=125), "TimeoutError")
    assert (only(ledger).status, only(ledger).sent_at) == ("sent", NOW + timedelta(seconds=123))


def test_a_channel_that_is_gone_keeps_its_messages_for_seven_days(ledger: Ledger) -> None:
    put(ledger, "a", channel="webhook")
    outbox.give_up_unreachable(ledger, MAIL, NOW + timedelta(days=6))
    assert only(ledger).status == "pending"
    outbox.give_up_unreachable(ledger, MAIL, NOW + timedelta(days=7))
    assert (only(ledger).status, only(ledger).last_error) == ("given_up", "ChannelNotConfigured")


def test_impatience_makes_everything_due(ledger: Ledger) -> None:
    put(ledger, "a")
    outbox.mark_failed(ledger, take(ledger), NOW, "TimeoutError")
    outbox.hasten(ledger, NOW)
    assert take(ledger).attempts == 2


def test_the_same_message_is_stored_once_a_channel(ledger: Ledger) -> None:
    put(ledger, "a")
    put(ledger, "a", channel="webhook")
    with pytest.raises(IntegrityError):
        put(ledger, "a")
