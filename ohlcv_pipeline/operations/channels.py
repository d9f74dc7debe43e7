"""How a stored message leaves: by SMTP, to a webhook, through apprise. Each channel accepts a message or raises.

What a message says is `alerts`; which one is due, and what follows from a failure, is the outbox's.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import smtplib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from email.policy import SMTP as MAIL
from email.utils import format_datetime
from typing import Any

import httpx
import orjson

from ohlcv_pipeline.ledger.models import Message
from ohlcv_pipeline.operations.alerts import one_line
from ohlcv_pipeline.settings import MailSettings, Settings

MAIL_SECONDS = 20.0
WEBHOOK_SECONDS = 5.0

Deliver = Callable[[Message], str | None]
"""Sends a message. Returns None, or a remark on what was accepted only in part. Raises whatever went wrong."""


class RefusedError(Exception):
    """A channel answered that it does not take the message."""


def channels(settings: Settings) -> dict[str, Deliver]:
    """Return the configured channels by the name under which the outbox knows them.

    `email`, `webhook`, and `apprise-<hash>` for each apprise URL, whose text may hold secrets.
    """
    found: dict[str, Deliver] = {}
    mail = settings.mail
    if mail is not None:
        found["email"] = lambda message: send_mail(mail, message)
    url, secret = settings.alert_webhook_url.get_secret_value(), settings.alert_webhook_secret.get_secret_value()
    if url:
        found["webhook"] = lambda message: post(url, secret, message)
    for each in settings.alert_apprise_urls:
        address = each.get_secret_value()
        name = f"apprise-{hashlib.sha256(address.encode()).hexdigest()[:8]}"
        found[name] = lambda message, address=address: notify(address, message)  # type: ignore[misc]
    return found


def mail_of(mail: MailSettings, message: Message) -> EmailMessage:
    """Return a stored message as a mail: plain UTF-8 text, one message to the whole list."""
    letter = EmailMessage(policy=MAIL.clone(max_line_length=998))
    payload = message.payload
    letter["From"] = one_line(mail.sender)
    letter["To"] = ", ".join(one_line(address) for address in mail.to)
    letter["Subject"] = one_line(payload["subject"])
    letter["Date"] = format_datetime(message.created_at)
    letter["Message-ID"] = one_line(message.message_id)
    if payload["in_reply_to"]:
        letter["In-Reply-To"] = letter["References"] = one_line(payload["in_reply_to"])
    letter["Auto-Submitted"] = "auto-generated"
    for identifier in message.incident_ids:
        letter["X-Incident-Id"] = one_line(identifier)
    letter.set_content(payload["text"])
    return letter


def send_mail(mail: MailSettings, message: Message, seconds: float = MAIL_SECONDS) -> str | None:
    """Hand a message to the mail server, in so many seconds altogether.

    Raises OSError or smtplib.SMTPException when the server cannot be reached, refuses, or takes too long. Accepted
    for some of the recipients it counts as sent: sending it again would tell the others twice.
    """
    with _connected(mail, seconds) as server:
        refused = server.send_message(mail_of(mail, message), mail.sender, list(mail.to))
    return "SomeRecipientsRefused" if refused else None


@contextmanager
def _connected(mail: MailSettings, seconds: float) -> Iterator[smtplib.SMTP]:
    server: smtplib.SMTP = smtplib.SMTP(timeout=seconds)
    if mail.security == "ssl":
        server = smtplib.SMTP_SSL(timeout=seconds, context=ssl.create_default_context())
    # Whom its certificate must name; smtplib knows it only if it connects before the clock below runs.
    server._host = mail.host  # type: ignore[attr-defined]
    # The timeout is of each wait; a server that answers byte by byte would never end.
    deadline = threading.Timer(seconds, _hang_up, [server])
    deadline.daemon = True
    deadline.start()
    try:
        server.connect(mail.host, mail.port)
        if mail.security == "starttls":
            server.starttls(context=ssl.create_default_context())
        if mail.user:
            server.login(mail.user, mail.password.get_secret_value())
        yield server
        _part(server)
    finally:
        deadline.cancel()
        server.close()


def _part(server: smtplib.SMTP) -> None:
    """Say goodbye without waiting for an answer: a sender that dies now would send the accepted message again."""
    try:
        server.putcmd("quit")
    except (OSError, smtplib.SMTPException):
        # How the connection ends changes nothing about what was accepted.
        return


def _hang_up(server: smtplib.SMTP) -> None:
    try:
        if server.sock is not None:
            server.sock.shutdown(2)
    except OSError:
        return


def document(message: Message) -> dict[str, Any]:
    """Return a stored message as the webhook tells it."""
    told: Mapping[str, Any] = message.payload["document"]
    return {"kind": message.kind, "message_id": message.message_id, **told}


def post(url: str, secret: str, message: Message, seconds: float = WEBHOOK_SECONDS) -> None:
    """Post a message as JSON, signed if there is a secret, in so many seconds altogether.

    Raises httpx.HTTPError or TimeoutError, and RefusedError for any answer but a 2xx, a redirect included.
    """
    body = orjson.dumps(document(message))
    headers = {"Content-Type": "application/json"}
    if secret:
        headers["X-Signature"] = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    status = asyncio.run(_status_of_post(url, body, headers, seconds))
    if not 200 <= status < 300:
        raise RefusedError(f"the webhook answered {status}")


async def _status_of_post(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> int:
    async with (
        asyncio.timeout(seconds),
        httpx.AsyncClient(timeout=seconds, trust_env=False) as client,
        client.stream("POST", url, content=body, headers=headers) as answer,
    ):
        return answer.status_code


def notify(url: str, message: Message) -> None:
    """Hand a message to the service that an apprise URL names. Raises RefusedError when it did not take it."""
    import apprise

    to = apprise.Apprise()
    if not to.add(url) or not to.notify(body=message.payload["text"], title=message.payload["subject"]):
        raise RefusedError("apprise could not deliver the message")
