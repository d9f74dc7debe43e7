"""From sightings to messages in the ledger, on both engines, and from there to a channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from ohlcv_pipeline.ledger import incidents, maintenance, monitors, outbox
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, Message
from ohlcv_pipeline.operations.evaluation import (
    FRESHNESS,
    Delivery,
    Recorded,
    deliver_due,
    enqueue_test,
    record,
    watch,
)
from ohlcv_pipeline.operations.incidents import Kind, Sighting, Topic
from ohlcv_pipeline.settings import Settings

NOW = datetime(2025, 11, 21, 11, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
MAIL = {"smtp_host": "127.0.0.1", "alert_mail_to": ("oncall@example.org",), "alert_mail_from": "ohlcv@example.org"}


def settings(**given: object) -> Settings:
    chosen = {"profile": "live", "markets": ("crypto",), **MAIL, **given}
    return Settings(_env_file=None, **chosen)  # type: ignore[call-arg, arg-type]


def seen(*symbols: str, breached: bool = True, market: str = "crypto") -> list[Sighting]:
    return [
        Sighting(Topic(Kind.FRESHNESS, market, symbol, "minute"), breached, 64.0 if breached else 2.0, 60.0)
        for symbol in symbols
    ]


def evaluate(
    ledger: Ledger, sightings: Sequence[Sighting], now: datetime = NOW, chosen: Settings | None = None
) -> Recorded:
    sequence = monitors.next_sequence(ledger, FRESHNESS)
    return record(ledger, chosen or settings(), FRESHNESS, sequence, sightings, now, kinds=[Kind.FRESHNESS])


def messages(ledger: Ledger) -> list[Message]:
    return outbox.listed(ledger, unsent=False)


def only(ledger: Ledger) -> Incident:
    (incident,) = incidents.page(ledger, "all")
    return incident


@dataclass
class Channel:
    """Takes messages, or fails for as long as it is told to."""

    broken: bool = False
    took: list[str] = field(default_factory=list)

    def __call__(self, message: Message) -> str | None:
        if self.broken:
            raise ConnectionRefusedError("nobody is there")
        self.took.append(message.message_id)
        return None


def test_an_incident_and_its_message_are_stored_together(ledger: Ledger) -> None:
    evaluate(ledger, seen("BTC"))
    (message,), incident = messages(ledger), only(ledger)
    assert (incident.state, incident.alert_lag_minutes, incident.notified_at) == ("open", 64.0, None)
    assert message.incident_ids == [str(incident.id)]
    assert message.message_id == f"<incident-{incident.id}.open@example.org>"
    assert message.payload["subject"] == "[OHLCV] BTC minute data is 64 min behind"


def test_an_evaluation_that_fails_leaves_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("the disk is full")

    monkeypatch.setattr(outbox, "add", fail)
    with pytest.raises(RuntimeError):
        evaluate(ledger, seen("BTC"))
    assert incidents.page(ledger, "all") == []
    assert monitors.last_evaluation(ledger, FRESHNESS) is None


def test_every_channel_has_a_message_of_its_own(ledger: Ledger) -> None:
    chosen = settings(alert_webhook_url="http://127.0.0.1:9/hook", alert_apprise_urls="json://127.0.0.1:9,xml://h")
    evaluate(ledger, seen("BTC"), chosen=chosen)
    names = sorted(message.channel for message in messages(ledger))
    assert (names[2:], [name[:8] for name in names[:2]]) == (["email", "webhook"], ["apprise-"] * 2)
    assert not any("127.0.0.1" in name for name in names)


def test_more_than_five_make_one_digest(ledger: Ledger) -> None:
    evaluate(ledger, seen(*"ABCDE"))
    assert len(messages(ledger)) == 5
    evaluate(ledger, seen(*"ABCDEFGHIJKL"), NOW + 10 * MINUTE)
    digest = messages(ledger)[0]
    assert digest.message_id == "<digest-2.open@example.org>"
    assert digest.payload["subject"] == "[OHLCV] 7 series are behind"
    assert len(digest.incident_ids) == 7
    channel = Channel()
    assert deliver_due(ledger, settings(), NOW + 11 * MINUTE, ways={"email": channel}) == Delivery(6, [])
    assert all(each.notified_at is not None for each in incidents.page(ledger, "open"))


def test_without_a_channel_a_breach_is_told_once_there_is_one(ledger: Ledger) -> None:
    silent = settings(smtp_host="")
    evaluate(ledger, seen("BTC"), chosen=silent)
    assert (only(ledger).suppressed_by, messages(ledger)) == ("no_channel", [])
    evaluate(ledger, seen("BTC"), NOW + 10 * MINUTE)
    assert len(messages(ledger)) == 1


def test_a_window_silences_its_market_and_no_other(ledger: Ledger) -> None:
    maintenance.mute(ledger, "crypto", NOW, NOW + 15 * MINUTE, "upgrade")
    both = [*seen("BTC"), *seen("AAPL", market="us_equities")]
    evaluate(ledger, both)
    assert [message.payload["document"]["asset"] for message in messages(ledger)] == ["AAPL"]
    evaluate(ledger, both, NOW + 10 * MINUTE)
    assert len(messages(ledger)) == 1
    evaluate(ledger, both, NOW + 20 * MINUTE)
    assert [message.payload["document"]["asset"] for message in messages(ledger)] == ["BTC", "AAPL"]


@pytest.mark.parametrize("notice", [False, True])
def test_the_end_is_told_only_on_request_and_in_reply(ledger: Ledger, notice: bool) -> None:
    chosen = settings(alert_cleared_notice=notice)
    evaluate(ledger, seen("BTC"), chosen=chosen)
    for minutes in (10, 20):
        evaluate(ledger, seen("BTC", breached=False), NOW + minutes * MINUTE, chosen)
    told = messages(ledger)
    assert only(ledger).state == "cleared"
    assert len(told) == 1 + notice
    if notice:
        assert told[0].message_id == f"<incident-{only(ledger).id}.cleared@example.org>"
        assert told[0].payload["in_reply_to"] == told[1].message_id


def test_an_evaluation_that_comes_late_changes_nothing(ledger: Ledger) -> None:
    late = monitors.next_sequence(ledger, FRESHNESS)
    evaluate(ledger, seen("BTC", breached=False))
    found = record(ledger, settings(), FRESHNESS, late, seen("BTC"), NOW, kinds=[Kind.FRESHNESS])
    assert found.step is None
    assert incidents.page(ledger, "all") == []


def test_a_dead_channel_delays_and_loses_nothing(ledger: Ledger) -> None:
    evaluate(ledger, seen("BTC"))
    channel, now = Channel(broken=True), NOW
    for _ in range(10):
        now += 6 * MINUTE
        deliver_due(ledger, settings(), now, ways={"email": channel})
    for minutes in (61, 71):
        evaluate(ledger, seen("BTC", breached=False), NOW + minutes * MINUTE)
    assert (only(ledger).state, messages(ledger)[0].last_error) == ("cleared", "ConnectionRefusedError")
    channel.broken = False
    for minutes in (90, 110, 130):
        deliver_due(ledger, settings(), NOW + minutes * MINUTE, ways={"email": channel})
    assert channel.took == [f"<incident-{only(ledger).id}.open@example.org>"]


def test_one_failing_channel_does_not_hold_up_another(ledger: Ledger) -> None:
    evaluate(ledger, seen("BTC"), chosen=settings(alert_webhook_url="http://127.0.0.1:9/"))
    good = Channel()
    ways = {"email": Channel(broken=True), "webhook": good}
    assert deliver_due(ledger, settings(), NOW, ways=ways) == Delivery(1, ["ConnectionRefusedError"])
    assert len(good.took) == 1


def test_a_sample_goes_to_every_channel_and_opens_nothing(ledger: Ledger) -> None:
    assert enqueue_test(ledger, settings(smtp_host=""), NOW) == []
    assert enqueue_test(ledger, settings(), NOW) == ["email"]
    (message,) = messages(ledger)
    assert message.payload["subject"] == "[OHLCV] TEST SAMPLE minute data is 61 min behind"
    assert message.payload["document"]["incident_id"].startswith("test-")
    assert deliver_due(ledger, settings(), NOW, ways={"email": Channel()}) == Delivery(1, [])
    assert incidents.page(ledger, "all") == []


def test_a_monitor_that_stops_is_noticed_once_and_its_return_as_well(ledger: Ledger) -> None:
    evaluate(ledger, [])
    for minutes in (10, 20):
        watch(ledger, settings(), NOW + minutes * MINUTE)
    assert incidents.page(ledger, "all") == []
    for minutes in (21, 22, 40):
        watch(ledger, settings(), NOW + minutes * MINUTE)
    (message,), incident = messages(ledger), only(ledger)
    assert message.payload["subject"] == "[OHLCV] freshness has not been evaluated for 21 min"
    assert (incident.kind, incident.state) == ("monitor_stopped", "open")
    evaluate(ledger, [], NOW + 41 * MINUTE)
    watch(ledger, settings(), NOW + 42 * MINUTE)
    assert only(ledger).state == "cleared"


def test_a_monitor_that_never_began_has_twenty_minutes_from_the_first_look(ledger: Ledger) -> None:
    watch(ledger, settings(schedules=False), NOW - 60 * MINUTE)
    assert monitors.last_sign(ledger, FRESHNESS) is None
    watch(ledger, settings(), NOW)
    watch(ledger, settings(), NOW + 20 * MINUTE)
    assert incidents.page(ledger, "all") == []
    watch(ledger, settings(), NOW + 21 * MINUTE)
    assert only(ledger).kind == "monitor_stopped"
