"""What an alert says, and what arrives of it: at a real mail server, a real webhook, through apprise."""

from __future__ import annotations

import hashlib
import hmac
import json
import smtplib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, ClassVar
from uuid import UUID

import pytest
from pydantic import SecretStr

from ohlcv_pipeline.ledger.models import Message
from ohlcv_pipeline.operations.alerts import Circumstances, Notice, Writer, one_line
from ohlcv_pipeline.operations.channels import RefusedError, channels, mail_of, notify, post, send_mail
from ohlcv_pipeline.operations.incidents import Incident, Kind, Topic
from ohlcv_pipeline.settings import NO_KEY, MailSettings, Settings
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange

NOW = datetime(2025, 11, 21, 10, 50, 2, tzinfo=UTC)
ID = UUID("6b0d1b0e-8f5a-4f57-9a52-3d6d1c1f6a10")
WRITER = Writer("https://status.example.org", "https://dagster.example.org", "example.org")
SOL = Incident(
    ID, Topic(Kind.FRESHNESS, "crypto", "SOL", "minute"), "open", NOW, NOW, lag_minutes=64.98, threshold_minutes=60.0
)
ABOUT = Circumstances(
    vendor_status="rate_limited",
    last_bucket=datetime(2025, 11, 21, 9, 45, tzinfo=UTC),
    last_success_at=datetime(2025, 11, 21, 9, 47, 31, tzinfo=UTC),
    last_run_started_at=datetime(2025, 11, 21, 10, 45, tzinfo=UTC),
)


def opened(incident: Incident = SOL, about: Circumstances = ABOUT) -> Notice:
    (notice,) = WRITER.opened([incident], {incident.id: about}, "freshness", 7)
    return notice


def stored(notice: Notice) -> Message:
    return Message(
        channel="email",
        kind=notice.kind,
        incident_ids=[str(identifier) for identifier in notice.incident_ids],
        message_id=notice.message_id,
        payload=json.loads(json.dumps(notice.payload())),
        created_at=NOW,
    )


def test_a_late_series_is_told_as_the_contract_says() -> None:
    notice = opened()
    assert notice.subject == "[OHLCV] SOL minute data is 64 min behind"
    assert notice.message_id == f"<incident-{ID}.open@example.org>"
    assert notice.text == (
        "market: crypto\n"
        "asset: SOL\n"
        "interval: minute\n"
        "lag_minutes: 65.0\n"
        "threshold_minutes: 60\n"
        "vendor_status: rate_limited\n"
        f"incident_id: {ID}\n"
        "last_bucket: 2025-11-21T09:45:00Z\n"
        "last_success_at: 2025-11-21T09:47:31Z\n"
        "last_run_started_at: 2025-11-21T10:45:00Z\n"
        "details: https://status.example.org/status?market=crypto&asset=SOL&interval=minute\n"
    )


def test_what_is_not_known_reads_never() -> None:
    text = opened(about=Circumstances()).text
    for name in ("vendor_status", "last_bucket", "last_success_at", "last_run_started_at"):
        assert f"{name}: never\n" in text


@pytest.mark.parametrize(
    ("topic", "subject"),
    [
        (Topic(Kind.VENDOR_DOWN, "crypto"), "[OHLCV] every vendor of crypto is down"),
        (Topic(Kind.RUN_FAILED, subject="verify_lake"), "[OHLCV] a run of verify_lake has failed"),
        (
            Topic(Kind.CHECK_FAILED, "crypto", interval="day", subject="schema of crypto/ohlcv_day"),
            "[OHLCV] check schema of crypto/ohlcv_day is red",
        ),
        (
            Topic(Kind.CHECKSUM_MISMATCH, "crypto", interval="day"),
            "[OHLCV] crypto day data does not match its checksum",
        ),
        (Topic(Kind.SENSOR_FAILED, subject="sensor run_monitor"), "[OHLCV] sensor run_monitor fails"),
        (
            Topic(Kind.MONITOR_STOPPED, subject="freshness"),
            "[OHLCV] freshness has not been evaluated for 64 min",
        ),
    ],
)
def test_every_kind_has_words_of_its_own(topic: Topic, subject: str) -> None:
    notice = opened(replace(SOL, topic=topic), Circumstances(more={"behind": "crypto BTC minute"}))
    assert notice.subject == subject
    assert f"kind: {topic.kind}\n" in notice.text
    assert "behind: crypto BTC minute\n" in notice.text
    assert "*" not in notice.text
    assert "None" not in notice.text


def test_a_failed_run_links_to_it() -> None:
    failed = replace(SOL, topic=Topic(Kind.RUN_FAILED, subject="verify_lake"), run_id="abc")
    assert "details: https://dagster.example.org/runs/abc\n" in opened(failed).text


def test_a_digest_lists_every_incident_with_its_link() -> None:
    names = [f"S{number}" for number in range(12)]
    many = [replace(SOL, id=UUID(int=i), topic=replace(SOL.topic, symbol=name)) for i, name in enumerate(names)]
    (notice,) = WRITER.opened(many, {each.id: ABOUT for each in many}, "freshness", 41)
    assert notice.subject == "[OHLCV] 12 series are behind"
    assert notice.message_id == "<digest-41.open@example.org>"
    lines = notice.text.splitlines()
    assert len(lines) == len(notice.document["incidents"]) == 12
    assert lines[3] == (
        f"crypto, S3, minute, lag 65.0 min, vendor rate_limited, {UUID(int=3)}, "
        "https://status.example.org/status?market=crypto&asset=S3&interval=minute"
    )
    (of_checks,) = WRITER.opened(
        [replace(each, topic=Topic(Kind.CHECK_FAILED, subject=str(i))) for i, each in enumerate(many)], {}, "checks", 41
    )
    assert (of_checks.subject, of_checks.message_id) == (
        "[OHLCV] 12 incidents have opened",
        "<digest-checks-41.open@example.org>",
    )


def test_no_name_can_begin_a_header_or_a_line() -> None:
    evil = replace(SOL, topic=replace(SOL.topic, symbol="SOL\r\nBcc: everyone@example.org\x00"))
    notice = opened(evil)
    mail = mail_of(MAIL, stored(notice))
    assert mail["Bcc"] is None
    assert "\nBcc" not in notice.text
    assert one_line("a\r\nb\tc\x00d\u2028e") == "abcde"


MAIL = MailSettings("127.0.0.1", 1, "none", "", NO_KEY, "ohlcv@example.org", ("oncall@example.org", "desk@example.org"))


@pytest.fixture(scope="module")
def sink() -> Iterator[Exchange]:
    with running_exchange() as exchange:
        yield exchange


@pytest.fixture
def mailbox(sink: Exchange) -> Iterator[Exchange]:
    yield sink
    sink.refuse_mail(False)
    sink.forget_mails()


def to(mailbox: Exchange) -> MailSettings:
    return replace(MAIL, port=mailbox.mail_port)


def test_one_mail_reaches_the_whole_list(mailbox: Exchange) -> None:
    notice = opened()
    assert send_mail(to(mailbox), stored(notice)) is None
    (mail,) = mailbox.mails()
    headers = dict(mail["headers"])
    assert mail["recipients"] == ["oncall@example.org", "desk@example.org"]
    assert headers["To"] == "oncall@example.org, desk@example.org"
    assert headers["From"] == mail["sender"] == "ohlcv@example.org"
    assert headers["Subject"] == notice.subject
    assert headers["Message-ID"] == notice.message_id
    assert headers["Auto-Submitted"] == "auto-generated"
    assert headers["X-Incident-Id"] == str(ID)
    assert headers["Date"] == "Fri, 21 Nov 2025 10:50:02 +0000"
    assert headers["Content-Type"] == 'text/plain; charset="utf-8"'
    assert "Content-Transfer-Encoding" in headers
    assert mail["text"].replace("\r\n", "\n") == notice.text


def test_a_cleared_notice_replies_to_the_first(mailbox: Exchange) -> None:
    send_mail(to(mailbox), stored(WRITER.cleared(replace(SOL, state="cleared", cleared_at=NOW + timedelta(hours=1)))))
    (mail,) = mailbox.mails()
    headers = dict(mail["headers"])
    assert headers["In-Reply-To"] == headers["References"] == opened().message_id
    assert headers["Message-ID"] == f"<incident-{ID}.cleared@example.org>"
    assert headers["Subject"] == "[OHLCV] SOL minute data is 64 min behind is over"


def test_a_server_that_refuses_is_an_error(mailbox: Exchange) -> None:
    mailbox.refuse_mail(True)
    with pytest.raises(smtplib.SMTPDataError):
        send_mail(to(mailbox), stored(opened()))
    assert mailbox.mails() == []


def test_a_server_without_starttls_gets_no_password(mailbox: Exchange) -> None:
    with pytest.raises(smtplib.SMTPException):
        send_mail(replace(to(mailbox), security="starttls", user="me", password=SecretStr("hunter2")), stored(opened()))
    assert mailbox.mails() == []


def test_a_server_that_answers_byte_by_byte_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def drip() -> None:
            connection, _ = listener.accept()
            with connection:
                try:
                    connection.sendall(b"220-")
                    while not stop.wait(0.05):
                        connection.sendall(b"x")
                except OSError:
                    return

        threading.Thread(target=drip, daemon=True).start()
        begun = time.monotonic()
        with pytest.raises((OSError, smtplib.SMTPException)):
            send_mail(replace(MAIL, port=listener.getsockname()[1]), stored(opened()), seconds=0.5)
        stop.set()
        assert time.monotonic() - begun < 30


class Hook(BaseHTTPRequestHandler):
    """Answers as it is told, and remembers what it was sent."""

    status: ClassVar[int] = 204
    got: ClassVar[list[tuple[dict[str, str], bytes]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.got.append((dict(self.headers), body))
        self.send_response(self.status)
        self.send_header("Location", "/elsewhere")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        return


@contextmanager
def hook(status: int) -> Iterator[str]:
    Hook.status, Hook.got = status, []
    with HTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/hook"
        server.shutdown()


def test_the_webhook_gets_the_same_fields_signed() -> None:
    with hook(204) as url:
        post(url, "secret", stored(opened()))
    ((headers, body),) = Hook.got
    assert headers["X-Signature"] == f"sha256={hmac.new(b'secret', body, hashlib.sha256).hexdigest()}"
    told = json.loads(body)
    assert (told["kind"], told["asset"], told["lag_minutes"], told["incident_id"]) == ("incident", "SOL", 65.0, str(ID))
    assert told["message_id"] == opened().message_id


@pytest.mark.parametrize("status", [301, 307, 400, 500])
def test_any_answer_of_a_webhook_but_2xx_is_a_refusal(status: int) -> None:
    with hook(status) as url, pytest.raises(RefusedError):
        post(url, "", stored(opened()))
    assert len(Hook.got) == 1


def test_a_webhook_that_is_silent_is_left_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises((TimeoutError, OSError)):
        post(f"http://127.0.0.1:{listener.getsockname()[1]}/", "", stored(opened()), seconds=0.3)


def test_apprise_takes_a_message_or_refuses() -> None:
    with hook(200) as url:
        notify(url.replace("http://", "json://"), stored(opened()))
    told = json.loads(Hook.got[0][1])
    assert (told["title"], "asset: SOL" in told["message"]) == (opened().subject, True)
    with hook(500) as url, pytest.raises(RefusedError):
        notify(url.replace("http://", "json://"), stored(opened()))
    with pytest.raises(RefusedError):
        notify("no such service", stored(opened()))


def settings(**given: Any) -> Settings:
    return Settings(_env_file=None, **given)  # type: ignore[call-arg]


def test_channels_are_those_that_are_configured() -> None:
    assert channels(settings(profile="live")) == {}
    assert list(channels(settings(profile="live", smtp_host="h", alert_mail_to="a@b"))) == ["email"]
    assert list(channels(settings(profile="live", alert_webhook_url="http://h"))) == ["webhook"]
    names = list(channels(settings(profile="live", alert_apprise_urls="json://a,json://b")))
    assert len(set(names)) == 2
    assert names == list(channels(settings(profile="live", alert_apprise_urls="json://a,json://b")))


def test_the_sandbox_profile_writes_to_the_sandbox() -> None:
    mail = settings(profile="sandbox", sandbox_url="http://127.0.0.1:8950").mail
    assert mail is not None
    assert (mail.host, mail.port, mail.security, mail.to) == ("127.0.0.1", 8975, "none", ("oncall@example.org",))
    own = settings(profile="sandbox", smtp_host="mail.example.org", alert_mail_to="me@example.org").mail
    assert own is not None
    assert (own.host, own.port, own.security) == ("mail.example.org", 587, "starttls")


@pytest.mark.parametrize("wrong", ["crypto=5", "crypto/hour=5", "crypto/day=0", "crypto/day=x", "crypto/day"])
def test_a_wrong_threshold_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match="freshness_thresholds"):
        settings(freshness_thresholds=wrong)


def test_thresholds_and_addresses_are_lists() -> None:
    chosen = settings(freshness_thresholds="crypto/minute=15, us_equities/day=120", alert_mail_to="a@b.c, d@e.f")
    assert chosen.freshness_thresholds == {"crypto/minute": 15.0, "us_equities/day": 120.0}
    assert chosen.alert_mail_to == ("a@b.c", "d@e.f")
    with pytest.raises(ValueError, match="no mail address"):
        settings(alert_mail_to="nobody")
