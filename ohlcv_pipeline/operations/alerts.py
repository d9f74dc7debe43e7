"""What an alert says: the fields of an incident, the text of its message, one digest instead of many messages.

Text only, fixed when the incident opens and stored in the outbox as it will be sent; how it gets there is `channels`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from ohlcv_pipeline.operations.incidents import EVERY, Incident, Kind

DIGEST_ABOVE = 5
"""More incidents than this in one evaluation make one message."""

_NEVER = "never"


@dataclass(frozen=True)
class Circumstances:
    """What a message tells of a series beside its incident. Instants are aware."""

    vendor_status: str | None = None
    last_bucket: datetime | None = None
    last_success_at: datetime | None = None
    last_run_started_at: datetime | None = None
    more: Mapping[str, str] = field(default_factory=dict)
    """Further fields, by name."""


@dataclass(frozen=True)
class Notice:
    """One message for every channel: its id within the domain, subject, text, and the same as a document."""

    kind: str
    message_id: str
    subject: str
    text: str
    document: Mapping[str, Any]
    incident_ids: Sequence[UUID] = ()
    in_reply_to: str | None = None

    def payload(self) -> dict[str, Any]:
        """Return what the outbox keeps."""
        return {
            "subject": self.subject,
            "text": self.text,
            "document": dict(self.document),
            "in_reply_to": self.in_reply_to,
        }


@dataclass(frozen=True)
class Writer:
    """Writes notices for an installation: the address of its status page, of Dagster's UI, and its mail domain."""

    public_url: str
    dagster_url: str
    domain: str

    def opened(
        self, told: Sequence[Incident], circumstances: Mapping[UUID, Circumstances], monitor: str, sequence: int
    ) -> list[Notice]:
        """Return a notice of each incident, or one of all of them when they are many."""
        if len(told) <= DIGEST_ABOVE:
            return [self._opened(incident, circumstances.get(incident.id, Circumstances())) for incident in told]
        return [self._digest(told, circumstances, monitor, sequence)]

    def cleared(self, incident: Incident) -> Notice:
        """Return the notice that an incident is over, in reply to the one that told of it."""
        fields = {"state": "cleared", **self._topic(incident), "cleared_at": _instant(incident.cleared_at)}
        fields["details"] = self.link(incident)
        return self._notice(
            "cleared",
            f"incident-{incident.id}.cleared",
            f"[OHLCV] {_title(incident)} is over",
            fields,
            [incident.id],
            in_reply_to=f"<incident-{incident.id}.open@{self.domain}>",
        )

    def test(self, identifier: UUID) -> Notice:
        """Return a sample that tells of no incident."""
        fields = {
            "market": "sample",
            "asset": "SAMPLE",
            "interval": "minute",
            "lag_minutes": 61.0,
            "threshold_minutes": 60,
            "vendor_status": "up",
            "incident_id": f"test-{identifier}",
            "last_bucket": _NEVER,
            "last_success_at": _NEVER,
            "last_run_started_at": _NEVER,
            "details": f"{self.public_url}/status?{urlencode({'asset': 'SAMPLE', 'interval': 'minute'})}",
        }
        subject = "[OHLCV] TEST SAMPLE minute data is 61 min behind"
        return self._notice("test", f"test-{identifier}.open", subject, fields, [])

    def link(self, incident: Incident) -> str:
        """Return the address that shows an incident, or the run that failed."""
        topic = incident.topic
        if topic.kind is Kind.RUN_FAILED and incident.run_id and self.dagster_url:
            return f"{self.dagster_url}/runs/{incident.run_id}"
        about = {"market": topic.market, "asset": topic.symbol, "interval": topic.interval}
        query = urlencode({name: value for name, value in about.items() if value != EVERY})
        return f"{self.public_url}/status" + (f"?{query}" if query else "")

    def _opened(self, incident: Incident, about: Circumstances) -> Notice:
        fields = {**self._topic(incident), "run_id": incident.run_id, **about.more}
        if incident.topic.kind is Kind.FRESHNESS:
            fields = self._series(incident, about)
        fields = {name: value for name, value in fields.items() if value is not None}
        fields["details"] = self.link(incident)
        return self._notice(
            "incident", f"incident-{incident.id}.open", f"[OHLCV] {_title(incident)}", fields, [incident.id]
        )

    def _series(self, incident: Incident, about: Circumstances) -> dict[str, Any]:
        topic = incident.topic
        return {
            "market": topic.market,
            "asset": topic.symbol,
            "interval": topic.interval,
            "lag_minutes": _rounded(incident.lag_minutes),
            "threshold_minutes": _whole(incident.threshold_minutes),
            "vendor_status": about.vendor_status or _NEVER,
            "incident_id": str(incident.id),
            "last_bucket": _instant(about.last_bucket),
            "last_success_at": _instant(about.last_success_at),
            "last_run_started_at": _instant(about.last_run_started_at),
        }

    def _topic(self, incident: Incident) -> dict[str, Any]:
        topic = incident.topic
        named = {"market": topic.market, "asset": topic.symbol, "interval": topic.interval}
        return {
            "kind": str(topic.kind),
            **{name: value for name, value in named.items() if value != EVERY},
            **({"subject": topic.subject} if topic.subject else {}),
            **({} if incident.lag_minutes is None else {"lag_minutes": _rounded(incident.lag_minutes)}),
            "incident_id": str(incident.id),
            "since": _instant(incident.first_breach_at),
        }

    def _digest(
        self, told: Sequence[Incident], circumstances: Mapping[UUID, Circumstances], monitor: str, sequence: int
    ) -> Notice:
        rows = []
        for incident in told:
            about = circumstances.get(incident.id, Circumstances())
            fields = self._series(incident, about) if incident.topic.kind is Kind.FRESHNESS else self._topic(incident)
            rows.append({**fields, "details": self.link(incident)})
        behind = all(incident.topic.kind is Kind.FRESHNESS for incident in told)
        what = "series are behind" if behind else "incidents have opened"
        name = "digest" if monitor == "freshness" else f"digest-{monitor}"
        text = "\n".join(_digest_line(incident, row) for incident, row in zip(told, rows, strict=True))
        return Notice(
            kind="digest",
            message_id=f"<{name}-{sequence}.open@{self.domain}>",
            subject=f"[OHLCV] {len(told)} {what}",
            text=f"{text}\n",
            document={"incidents": rows},
            incident_ids=[incident.id for incident in told],
        )

    def _notice(
        self,
        kind: str,
        local: str,
        subject: str,
        fields: Mapping[str, Any],
        incident_ids: Sequence[UUID],
        in_reply_to: str | None = None,
    ) -> Notice:
        text = "".join(f"{name}: {one_line(str(value))}\n" for name, value in fields.items())
        return Notice(
            kind=kind,
            message_id=f"<{local}@{self.domain}>",
            subject=one_line(subject),
            text=text,
            document={"subject": one_line(subject), **fields},
            incident_ids=incident_ids,
            in_reply_to=in_reply_to,
        )


def one_line(text: str) -> str:
    """Return a text without control characters, so that it cannot begin a header or a line of its own."""
    return "".join(letter for letter in text if letter.isprintable())


def _digest_line(incident: Incident, row: Mapping[str, Any]) -> str:
    topic = incident.topic
    if topic.kind is not Kind.FRESHNESS:
        return one_line(f"{_title(incident)}, {row['incident_id']}, {row['details']}")
    return one_line(
        f"{topic.market}, {topic.symbol}, {topic.interval}, lag {row['lag_minutes']} min,"
        f" vendor {row['vendor_status']}, {row['incident_id']}, {row['details']}"
    )


def _title(incident: Incident) -> str:
    topic = incident.topic
    match topic.kind:
        case Kind.FRESHNESS:
            return f"{topic.symbol} {topic.interval} data is {math.floor(incident.lag_minutes or 0)} min behind"
        case Kind.CHECKSUM_MISMATCH:
            return f"{topic.market} {topic.interval} data does not match its checksum"
        case Kind.VENDOR_DOWN:
            return f"every vendor of {topic.market} is down"
        case Kind.RUN_FAILED:
            return f"a run of {topic.subject} has failed"
        case Kind.CHECK_FAILED:
            return f"check {topic.subject} is red"
        case Kind.SENSOR_FAILED:
            return f"{topic.subject} fails"
        case Kind.MONITOR_STOPPED:
            return f"freshness has not been evaluated for {math.floor(incident.lag_minutes or 0)} min"


def _rounded(minutes: float | None) -> float | None:
    return None if minutes is None else round(minutes, 1)


def _whole(minutes: float | None) -> float | None:
    return int(minutes) if minutes is not None and minutes == int(minutes) else minutes


def _instant(when: datetime | None) -> str:
    return _NEVER if when is None else when.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
