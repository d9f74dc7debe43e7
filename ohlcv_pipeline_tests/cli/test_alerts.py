"""`ohlcv alerts` as an operator uses it, with the sandbox as mail server."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from ohlcv_pipeline.ledger import outbox
from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.operations.evaluation import record
from ohlcv_pipeline.operations.incidents import Kind, Sighting, Topic
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.cli.conftest import Cli
from ohlcv_pipeline_tests.exchange import Exchange

NOW = datetime(2026, 11, 21, 11, tzinfo=UTC)


@pytest.fixture
def mail(cli: Cli, exchange: Exchange) -> Iterator[Cli]:
    """A command line whose mail goes to the sandbox."""
    yield cli.using(
        OHLCV_SMTP_HOST="127.0.0.1", OHLCV_SMTP_PORT=str(exchange.mail_port), OHLCV_SMTP_SECURITY="none",
        OHLCV_ALERT_MAIL_TO="oncall@example.org",
    )  # fmt: skip
    exchange.refuse_mail(False)
    exchange.forget_mails()


@pytest.fixture
def ledger(mail: Cli) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{mail.home / 'sandbox' / 'ledger.sqlite'}")
    yield opened
    opened.close()


def open_incident(ledger: Ledger, kind: Kind = Kind.FRESHNESS, subject: str = "") -> str:
    settings = Settings(_env_file=None, profile="live", smtp_host="h", alert_mail_to="a@b.c")  # type: ignore[call-arg,arg-type]
    seen = Sighting(Topic(kind, "crypto", "SOL", "minute", subject), True, 64.0, 60.0)
    recorded = record(ledger, settings, "test", 1, [seen], NOW, kinds=[kind])
    assert recorded.step is not None
    return str(recorded.step.told[0].id)


def test_a_sample_goes_through_every_channel(mail: Cli, exchange: Exchange) -> None:
    assert mail.here("alerts", "test", "--json").json() == {"sent": 1, "failed": []}
    assert [each["subject"] for each in exchange.mails()] == ["[OHLCV] TEST SAMPLE minute data is 61 min behind"]


def test_a_sample_that_is_refused_exits_1_and_is_sent_later(mail: Cli, exchange: Exchange) -> None:
    exchange.refuse_mail(True)
    assert mail.here("alerts", "test").code == 1
    assert mail.here("alerts", "list", "--json").json()["unsent"][0]["last_error"] == "SMTPDataError"
    exchange.refuse_mail(False)
    assert mail.here("alerts", "send", "--json").json() == {"sent": 1, "failed": []}
    assert mail.here("alerts", "list", "--json").json()["unsent"] == []


def test_without_a_channel_a_sample_says_what_to_set(cli: Cli) -> None:
    ended = cli.using(OHLCV_PROFILE="live").here("alerts", "test")
    assert (ended.code, "OHLCV_SMTP_HOST" in ended.err) == (1, True)


def test_incidents_are_listed_and_shown_with_their_message(mail: Cli, ledger: Ledger) -> None:
    identifier = open_incident(ledger)
    listed = mail.here("alerts", "list", "--json").json()
    assert [row["id"] for row in listed["incidents"]] == [identifier]
    assert listed["unsent"][0]["subject"] == "[OHLCV] SOL minute data is 64 min behind"
    shown = mail.here("alerts", "show", identifier[:8])
    assert "[OHLCV] SOL minute data is 64 min behind" in shown.out
    assert "crypto SOL minute" in mail.here("alerts", "list").out
    assert mail.here("alerts", "show", "ffffffff").code == 64


def test_only_what_does_not_end_by_itself_is_acknowledged(mail: Cli, ledger: Ledger) -> None:
    late = open_incident(ledger)
    assert mail.here("alerts", "ack", late[:8]).code == 64
    assert mail.here("alerts", "ack").code == 64


def test_a_failed_run_is_acknowledged(mail: Cli, ledger: Ledger) -> None:
    failed = open_incident(ledger, Kind.RUN_FAILED, "verify_lake")
    assert mail.here("alerts", "ack", failed[:8], "--json").json() == {"messages": [], "incidents": [failed]}
    assert mail.here("alerts", "list", "--json").json()["incidents"] == []


def test_a_message_that_was_given_up_is_acknowledged(mail: Cli, ledger: Ledger) -> None:
    open_incident(ledger)
    message = outbox.claim(ledger, ["email"], NOW)
    assert message is not None
    outbox.mark_failed(ledger, message, NOW + timedelta(days=8), "TimeoutError")
    assert mail.here("alerts", "ack", "--all", "--json").json()["messages"] == [str(message.id)]
    assert mail.here("alerts", "list", "--json").json()["unsent"] == []


def test_alerts_are_muted_for_a_while_and_the_while_is_ended(mail: Cli) -> None:
    muted = mail.here("alerts", "mute", "--for", "2h", "--market", "crypto", "--reason", "upgrade", "--json").json()
    (window,) = muted["windows"]
    assert (window["market"], window["reason"]) == ("crypto", "upgrade")
    later = mail.here("alerts", "mute", "--for", "1d", "--start", "2099-01-01T00:00Z", "--reason", "x", "--json").json()
    assert later["windows"][0]["starts_at"] == "2099-01-01T00:00:00Z"
    assert len(mail.here("alerts", "mutes", "--json").json()["windows"]) == 2
    assert mail.here("alerts", "unmute", window["id"][:8]).code == 0
    assert [w["reason"] for w in mail.here("alerts", "mutes", "--json").json()["windows"]] == ["x"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--for", "soon", "--reason", "x"], "30m"),
        (["--for", "0h", "--reason", "x"], "30m"),
        (["--for", "1h", "--reason", " "], "--reason"),
        (["--for", "1h", "--reason", "x", "--market", "tulips"], "tulips"),
        (["--for", "1h", "--reason", "x", "--start", "2026-01-01T00:00"], "time zone"),
    ],
)
def test_a_while_that_makes_no_sense_is_refused(cli: Cli, arguments: list[str], told: str) -> None:
    ended = cli.here("alerts", "mute", *arguments)
    assert (ended.code, told in ended.err) == (64, True), ended.err
