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
    Index,
    Integer,
    MetaData,
    Text,
    TypeDecorator,
    UniqueConstraint,
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
