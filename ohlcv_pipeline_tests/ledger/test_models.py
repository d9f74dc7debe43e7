from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from uuid import uuid4

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import IntegrityError

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import NaiveTimestampError
from ohlcv_pipeline.ledger.models import Symbol, VendorBudget

NOON = datetime(2025, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)


def row(**changes: object) -> dict[str, object]:
    return {
        "id": uuid4(), "market": "crypto", "symbol": "BTC", "name": "Bitcoin", "base": "BTC", "quote": "USD",
        "vendor_symbols": {"kraken": "XBTUSD"}, "enabled": True, "enabled_at": None, "listing_start": None,
        "delisted_at": None, "created_at": NOON, "updated_at": NOON,
    } | changes  # fmt: skip


def budget(refilled_at: datetime, vendor: str = "kraken") -> VendorBudget:
    return VendorBudget(vendor=vendor, request_tokens=1.5, weight_tokens=2.5, refilled_at=refilled_at)


def test_instants_come_back_as_utc_to_the_microsecond(ledger: Ledger) -> None:
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    with ledger.write() as session:
        session.add(budget(tokyo))
    with ledger.read() as session:
        if ledger.engine.dialect.name == "postgresql":
            session.execute(text("SET TIME ZONE 'America/New_York'"))
        found = session.scalars(select(VendorBudget)).one()
    assert found.refilled_at == NOON
    assert found.refilled_at.tzinfo is UTC


def test_instants_compare_in_the_database_as_instants(ledger: Ledger) -> None:
    with ledger.write() as session:
        session.add_all([budget(NOON, "at noon"), budget(NOON + timedelta(microseconds=1), "later")])
    tokyo = NOON.astimezone(timezone(timedelta(hours=9)))
    with ledger.read() as session:
        later = session.scalars(select(VendorBudget.vendor).where(VendorBudget.refilled_at > tokyo)).all()
    assert later == ["later"]


def test_naive_instant_is_refused_when_stored_and_when_compared(ledger: Ledger) -> None:
    naive = NOON.replace(tzinfo=None)
    with pytest.raises(NaiveTimestampError, match="no time zone"), ledger.write() as session:
        session.add(budget(naive))
    with pytest.raises(NaiveTimestampError, match="no time zone"), ledger.read() as session:
        session.execute(select(VendorBudget).where(VendorBudget.refilled_at < naive))


@pytest.mark.parametrize("symbol", ["BTC", "BRK.B", "1INCH", "A", "A234567890123456"])
def test_good_symbol_is_taken_by_model_and_database(ledger: Ledger, symbol: str) -> None:
    with ledger.write() as session:
        session.add(Symbol(**row(symbol=symbol)))
    with ledger.read() as session:
        assert session.scalars(select(Symbol.symbol)).all() == [symbol]


@pytest.mark.parametrize(
    "symbol", ["", "btc", ".BTC", "BTC-USD", "BTC/USD", "A2345678901234567", "BTC\n", "BTĆ", "B C"]
)
def test_bad_symbol_is_refused_by_model_and_database(ledger: Ledger, symbol: str) -> None:
    with pytest.raises(ValueError, match="capital letters, digits and dots"):
        Symbol(**row(symbol=symbol))
    with pytest.raises(IntegrityError, match="symbol_pattern"), ledger.write() as session:
        session.connection().execute(insert(Symbol), row(symbol=symbol))


@pytest.mark.parametrize("column", ["base", "quote", "market"])
def test_empty_text_is_refused_by_model_and_database(ledger: Ledger, column: str) -> None:
    with pytest.raises(ValueError, match=f"{column} of a symbol must not be empty"):
        Symbol(**row(**{column: " "}))
    with pytest.raises(IntegrityError, match=f"{column}_not_empty"), ledger.write() as session:
        session.connection().execute(insert(Symbol), row(**{column: ""}))


def test_empty_vendor_spelling_is_refused() -> None:
    with pytest.raises(ValueError, match="'kraken' to ''"):
        Symbol(**row(vendor_symbols={"kraken": ""}))


def test_symbol_is_unique_in_its_market_only(ledger: Ledger) -> None:
    with ledger.write() as session:
        session.add_all([Symbol(**row()), Symbol(**row(market="crypto_usdt", quote="USDT"))])
    with pytest.raises(IntegrityError, match=r"(?i)unique"), ledger.write() as session:
        session.add(Symbol(**row()))
