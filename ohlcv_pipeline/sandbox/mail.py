"""A mailbox on loopback: takes every mail by SMTP, sends none on, and shows the newest as JSON below `/admin/mail`.

It stands in for the mail server of an installation, and can be told to refuse, as those do.
"""

from __future__ import annotations

from collections import deque
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd.smtp import SMTP, Envelope, Session

KEPT_MAILS = 500
LARGEST_BYTES = 262_144


class Mailbox:
    """The newest mails, oldest first; `received` counts all. While `refusing` every mail is answered with 451."""

    def __init__(self) -> None:
        self.mails: deque[dict[str, Any]] = deque(maxlen=KEPT_MAILS)
        self.received = 0
        self.refusing = False

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        """Take one mail; the name is aiosmtpd's."""
        if self.refusing:
            return "451 this mailbox refuses for now"
        self.received += 1
        self.mails.append(_shown(envelope, self.received))
        return "250 OK"

    def protocol(self) -> SMTP:
        """Return what speaks with one client."""
        return SMTP(self, data_size_limit=LARGEST_BYTES, ident="sandbox", hostname="localhost", enable_SMTPUTF8=True)

    def as_json(self) -> dict[str, Any]:
        """Return the mails, each with its headers as a list of [name, value] and its text."""
        return {"received": self.received, "refusing": self.refusing, "mails": list(self.mails)}

    def reset(self) -> None:
        """Forget the mails."""
        self.mails.clear()
        self.received = 0


def _shown(envelope: Envelope, number: int) -> dict[str, Any]:
    content = envelope.content
    mail = message_from_bytes(content.encode() if isinstance(content, str) else content or b"", policy=default)
    assert isinstance(mail, EmailMessage)
    text = mail.get_body(("plain",))
    return {
        "id": number,
        "received_at": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "sender": envelope.mail_from,
        "recipients": envelope.rcpt_tos,
        "subject": mail["subject"] or "",
        "headers": [[name, str(value)] for name, value in mail.items()],
        "text": "" if text is None else text.get_content(),
    }
