"""The ledger's tables as typed models, and the rules that a single row must keep.

Queries live in the module of each aggregate; how tables come into being lives in `migrations`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, ClassVar
from uuid import UUID, uuid4

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, validates
from sqlalchemy.types import JSON, TypeEngine

from ohlcv_pipeline.ledger.errors import NaiveTimestampError

SYMBOL_PATTERN = re.compile(r"[A-Z0-9][A-Z0-9.]{0,15}")


class Timestamp(TypeDecorator[datetime]):
    """An instant: aware on the way in, UTC on the way out, on both engines, to the microsecond.

    Raises NaiveTimestampError for a datetime without a time zone.
    """

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the instant in UTC."""
        if value is None:
            return None
        if value.utcoffset() is None:
            raise NaiveTimestampError(f"{value.isoformat()} has no time zone; the ledger keeps aware UTC only")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Return the instant in UTC. SQLite keeps it as text without a zone, Postgres in the session's."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """The common metadata. Every constraint has a name, so that a later migration can drop it."""

    metadata = MetaData(
        naming_convention={
            "pk": "pk_%(table_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        }
    )
    type_annotation_map: ClassVar[dict[Any, TypeEngine[Any] | type[TypeEngine[Any]]]] = {
        datetime: Timestamp,
        str: Text,
        float: Double,
        dict[str, str]: JSON,
        dict[str, Any]: JSON,
        list[str]: JSON,
        list[dict[str, Any]]: JSON,
    }


class Symbol(Base):
    """One symbol of a market (`symbols`). Raises ValueError when given a value that breaks a rule."""

    __tablename__ = "symbols"
    __table_args__ = (
        UniqueConstraint("market", "symbol"),
        Index(None, "enabled"),
        CheckConstraint("market <> ''", name="market_not_empty"),
        CheckConstraint("base <> ''", name="base_not_empty"),
        CheckConstraint("quote <> ''", name="quote_not_empty"),
        # SQLite has no regular expressions and Postgres has no GLOB: the same rule in each one's words.
        CheckConstraint(
            "length(symbol) <= 16 AND symbol GLOB '[A-Z0-9]*' AND symbol NOT GLOB '*[^A-Z0-9.]*'",
            name="symbol_pattern",
        ).ddl_if(dialect="sqlite"),
        CheckConstraint("symbol ~ '^[A-Z0-9][A-Z0-9.]{0,15}$'", name="symbol_pattern").ddl_if(dialect="postgresql"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    market: Mapped[str]
    symbol: Mapped[str]
    name: Mapped[str]
    base: Mapped[str]
    quote: Mapped[str]
    vendor_symbols: Mapped[dict[str, str]]
    enabled: Mapped[bool]
    enabled_at: Mapped[datetime | None]
    listing_start: Mapped[datetime | None]
    delisted_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]

    @validates("symbol")
    def _symbol_matches(self, _key: str, value: str) -> str:
        if not SYMBOL_PATTERN.fullmatch(value):
            raise ValueError(f"symbol {value!r} is not 1 to 16 capital letters, digits and dots that begin with no dot")
        return value

    @validates("market", "name", "base", "quote")
    def _not_empty(self, key: str, value: str) -> str:
        if not value.strip():
            raise ValueError(f"{key} of a symbol must not be empty")
        return value

    @validates("vendor_symbols")
    def _spellings(self, _key: str, value: Mapping[str, str]) -> dict[str, str]:
        for vendor, spelling in value.items():
            if not vendor or not isinstance(spelling, str) or not spelling:
                raise ValueError(f"vendor_symbols maps vendor {vendor!r} to {spelling!r}, which is no spelling")
        return dict(value)


class VendorBudget(Base):
    """What is left of one vendor's limits (`vendor_budgets`), as of `refilled_at`.

    `refilled_at` lies in the future while the vendor is blocked: the buckets start empty after a block.
    """

    __tablename__ = "vendor_budgets"

    vendor: Mapped[str] = mapped_column(primary_key=True)
    request_tokens: Mapped[float]
    weight_tokens: Mapped[float]
    refilled_at: Mapped[datetime]
    blocked_until: Mapped[datetime | None]


class VendorRequest(Base):
    """One attempt to ask a vendor (`vendor_requests`). `status` is null when no HTTP answer came."""

    __tablename__ = "vendor_requests"
    __table_args__ = (Index(None, "vendor", "requested_at"),)

    # SQLite numbers rows by itself only in a column of type INTEGER.
    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    vendor: Mapped[str]
    requested_at: Mapped[datetime]
    seconds: Mapped[float]
    status: Mapped[int | None]
    code: Mapped[str]
    attempt: Mapped[int]
    bytes: Mapped[int] = mapped_column(BigInteger)


class Monitor(Base):
    """The newest evaluation of one monitor (`monitors`): an older `sequence` than the stored one is ignored."""

    __tablename__ = "monitors"

    name: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(BigInteger)
    evaluated_at: Mapped[datetime]


class MaintenanceWindow(Base):
    """A time in which no alert is raised (`maintenance_windows`), for one market, or for all where it is null."""

    __tablename__ = "maintenance_windows"
    __table_args__ = (CheckConstraint("ends_at > starts_at", name="ends_after_start"),)

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    market: Mapped[str | None]
    starts_at: Mapped[datetime]
    ends_at: Mapped[datetime]
    reason: Mapped[str]


class Incident(Base):
    """Something that is wrong with one series, or with one thing that many depend on (`incidents`).

    `symbol` and `interval` are `*` where the incident is about a whole market, a vendor, a job or the monitor, which
    `subject` then names. `suppressed_by` is why it has not been mailed: `maintenance`, `no_channel`, or the id of the
    incident that explains it; null once a message is in the outbox, whose lag is `alert_lag_minutes`. Of incidents
    that are not cleared there is one for each subject and kind.
    """

    __tablename__ = "incidents"
    __table_args__ = (
        Index(
            "ux_incidents_not_cleared",
            "market", "symbol", "interval", "kind", "subject",
            unique=True,
            sqlite_where=text("state <> 'cleared'"),
            postgresql_where=text("state <> 'cleared'"),
        ),
        Index(None, "first_breach_at"),
        CheckConstraint("state IN ('pending', 'open', 'clearing', 'cleared')", name="state"),
    )  # fmt: skip

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    market: Mapped[str]
    symbol: Mapped[str]
    interval: Mapped[str]
    kind: Mapped[str]
    subject: Mapped[str] = mapped_column(default="")
    state: Mapped[str]
    first_breach_at: Mapped[datetime]
    opened_at: Mapped[datetime | None]
    cleared_at: Mapped[datetime | None]
    lag_minutes: Mapped[float | None]
    peak_lag_minutes: Mapped[float | None]
    alert_lag_minutes: Mapped[float | None]
    threshold_minutes: Mapped[float | None]
    breach_count: Mapped[int] = mapped_column(default=0)
    healthy_count: Mapped[int] = mapped_column(default=0)
    flap_count: Mapped[int] = mapped_column(default=0)
    suppressed_by: Mapped[str | None]
    notified_at: Mapped[datetime | None]
    run_id: Mapped[str | None]


class Message(Base):
    """A message that must reach its channel (`outbox`). `message_id` follows from what it tells, so it is unique.

    `payload` holds all that the sender needs. `last_error` is the class of an error, never its text.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        UniqueConstraint("message_id", "channel"),
        Index(None, "status", "next_attempt_at"),
        CheckConstraint("status IN ('pending', 'sent', 'given_up')", name="status"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    channel: Mapped[str]
    kind: Mapped[str]
    incident_ids: Mapped[list[str]]
    message_id: Mapped[str]
    payload: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]
    next_attempt_at: Mapped[datetime]
    attempts: Mapped[int] = mapped_column(default=0)
    lease_until: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    acknowledged_at: Mapped[datetime | None]
    status: Mapped[str] = mapped_column(default="pending")
    last_error: Mapped[str | None]


class RemediationEntry(Base):
    """Something that is to be put right (`remediation_log`). The range is of bucket starts, both included.

    `attempts` counts the runs that were launched for it, `escalated_at` is when they were given up.
    """

    __tablename__ = "remediation_log"
    __table_args__ = (
        Index(None, "resolved", "market", "asset_symbol", "interval"),
        Index(None, "detected_at", "id"),
        CheckConstraint("issue_type IN ('gap', 'duplicate', 'checksum_mismatch', 'partial_source')", name="issue_type"),
        CheckConstraint("range_end >= range_start", name="range_in_order"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    market: Mapped[str]
    asset_symbol: Mapped[str]
    interval: Mapped[str]
    issue_type: Mapped[str]
    range_start: Mapped[datetime]
    range_end: Mapped[datetime]
    detected_at: Mapped[datetime]
    run_id: Mapped[str | None]
    notes: Mapped[str | None]
    resolved: Mapped[bool] = mapped_column(default=False)
    resolved_at: Mapped[datetime | None]
    resolution: Mapped[str | None]
    supersedes: Mapped[UUID | None]
    attempts: Mapped[int] = mapped_column(default=0)
    next_attempt_at: Mapped[datetime | None]
    escalated_at: Mapped[datetime | None]


class RemediationStep(Base):
    """What was done about an entry (`remediation_steps`): planned, launched, verified, resolved or escalated."""

    __tablename__ = "remediation_steps"
    __table_args__ = (Index(None, "entry_id"),)

    id: Mapped[int] = mapped_column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    entry_id: Mapped[UUID] = mapped_column(ForeignKey("remediation_log.id", ondelete="CASCADE"))
    happened_at: Mapped[datetime]
    step: Mapped[str]
    run_id: Mapped[str | None]
    notes: Mapped[str | None]


class VendorStatus(Base):
    """How a vendor does (`vendor_status`), as of `checked_at`, with the probes that failed in a row until then."""

    __tablename__ = "vendor_status"
    __table_args__ = (CheckConstraint("status IN ('up', 'degraded', 'down', 'rate_limited')", name="status"),)

    vendor: Mapped[str] = mapped_column(primary_key=True)
    status: Mapped[str]
    since: Mapped[datetime]
    checked_at: Mapped[datetime]
    data_age_seconds: Mapped[float | None]
    failed_probes: Mapped[int] = mapped_column(default=0)
    details: Mapped[str | None]


class IngestionRun(Base):
    """What one run was asked for and what came of it (`ingestion_runs`).

    A parent has no `parent_id` and the symbol `*`; it is also the request, stored before anything is launched, and
    has one child for each symbol. Windows are [start, end). `done_units` of `total_units` is how far it is.
    """

    __tablename__ = "ingestion_runs"
    __table_args__ = (
        Index(None, "parent_id"),
        Index(None, "market", "interval", "started_at"),
        Index(None, "market", "interval", "asset_symbol", "status", "ended_at"),
        Index(None, "status", "phase"),
        Index(None, "dagster_run_id"),
        CheckConstraint("status IN ('running', 'success', 'partial', 'failed')", name="status"),
        CheckConstraint("phase IN ('queued', 'fetching', 'writing', 'verifying', 'done')", name="phase"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("ingestion_runs.id", ondelete="CASCADE"))
    market: Mapped[str]
    asset_symbol: Mapped[str]
    interval: Mapped[str]
    status: Mapped[str]
    phase: Mapped[str]
    row_count: Mapped[int] = mapped_column(BigInteger, default=0)
    checksum_sha256: Mapped[str]
    checksum_version: Mapped[int]
    started_at: Mapped[datetime]
    ended_at: Mapped[datetime | None]
    trigger: Mapped[str]
    attempt: Mapped[int] = mapped_column(default=1)
    backfill_window_start: Mapped[datetime]
    backfill_window_end: Mapped[datetime]
    error_summary: Mapped[str | None]
    retries: Mapped[int] = mapped_column(default=0)
    heartbeat_at: Mapped[datetime | None]
    symbols: Mapped[list[str] | None]
    force: Mapped[bool] = mapped_column(default=False)
    launched_at: Mapped[datetime | None]
    dagster_run_id: Mapped[str | None]
    done_units: Mapped[int] = mapped_column(BigInteger, default=0)
    total_units: Mapped[int | None] = mapped_column(BigInteger)
    report: Mapped[list[dict[str, Any]] | None]


class IdempotencyKey(Base):
    """A key that a client gave to a request, so that sending it again does nothing more (`idempotency_keys`)."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    run_id: Mapped[UUID]
    created_at: Mapped[datetime]
