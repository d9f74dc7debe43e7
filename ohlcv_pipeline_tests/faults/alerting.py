"""A process that evaluates, stores and sends for as long as it lives, and the mail server that it writes to.

What is wrong is a function of the evaluation's number, so that what must be told is known whatever is killed when.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from typing import Any

from sqlalchemy.orm import configure_mappers

from ohlcv_pipeline.ledger import monitors
from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.operations.evaluation import FRESHNESS, deliver_due, record
from ohlcv_pipeline.operations.incidents import Kind, Sighting, Topic
from ohlcv_pipeline.sandbox.mail import Mailbox
from ohlcv_pipeline.settings import Settings

START = datetime(2025, 11, 21, tzinfo=UTC)
PERIOD = timedelta(minutes=10)
SERIES = 30

# Once in the server that forks, and not in every process, which is to spend its short life on evaluating.
configure_mappers()


def settings(mail_port: int) -> Settings:
    return Settings(  # type: ignore[call-arg]
        _env_file=None, profile="live", markets=("crypto",), smtp_host="127.0.0.1", smtp_port=mail_port,
        smtp_security="none", alert_mail_to=("oncall@example.org",), alert_mail_from="ohlcv@example.org",
    )  # fmt: skip


def seen(sequence: int) -> list[Sighting]:
    """Return what an evaluation sees: each series breaks and heals in a rhythm of its own, at times all at once."""
    sightings = []
    for number in range(SERIES):
        stale = sequence % 23 == 0 or (sequence + 3 * number) % (8 + number % 5) < 2
        topic = Topic(Kind.FRESHNESS, "crypto", f"S{number}", "minute")
        sightings.append(Sighting(topic, stale, 64.0, 60.0))
    return sightings


def at(sequence: int) -> datetime:
    return START + sequence * PERIOD


def evaluate(ledger: Ledger, chosen: Settings, sequence: int) -> None:
    record(ledger, chosen, FRESHNESS, sequence, seen(sequence), at(sequence), kinds=[Kind.FRESHNESS])
    deliver_due(ledger, chosen, at(sequence))


def evaluate_for_ever(url: str, mail_port: int, tells: Connection) -> None:
    """Evaluate, store and send until killed; `tells` when it begins, and after each evaluation."""
    ledger, chosen = open_ledger(url), settings(mail_port)
    while True:
        sequence = monitors.next_sequence(ledger, FRESHNESS)
        tells.send(sequence)
        evaluate(ledger, chosen, sequence)


class Sink(Mailbox):
    """Keeps every mail."""

    def __init__(self) -> None:
        super().__init__()
        self.mails: deque[dict[str, Any]] = deque()

    def ids(self) -> list[tuple[str, Sequence[str]]]:
        """Return the Message-ID and the incidents of every mail."""
        return [
            (
                next(value for name, value in mail["headers"] if name == "Message-ID"),
                [value for name, value in mail["headers"] if name == "X-Incident-Id"],
            )
            for mail in list(self.mails)
        ]


@contextmanager
def running_sink() -> Iterator[tuple[Sink, int]]:
    """Run a mail server on a free port of loopback."""
    sink, loop = Sink(), asyncio.new_event_loop()
    server = loop.run_until_complete(loop.create_server(sink.protocol, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield sink, server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    server.close()
