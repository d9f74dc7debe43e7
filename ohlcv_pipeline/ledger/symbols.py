"""The symbols of each market: which exist, which are enabled, since when they are listed.

What a symbol's row must look like lives in `models`; the symbols to begin with are declared in `markets`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import SymbolExistsError, UnknownSymbolError
from ohlcv_pipeline.ledger.models import Symbol
from ohlcv_pipeline.markets import Instrument, Market


def seed(ledger: Ledger, markets: Iterable[Market], now: datetime) -> int:
    """Create the configured symbols that have no row yet and return how many that were.

    Existing rows are left as they are, whatever the configuration says. Raises ValueError, before anything
    is written, when a configured symbol breaks a rule.
    """
    with ledger.read() as session:
        known = set(session.execute(select(Symbol.market, Symbol.symbol)).tuples())
    rows = [
        _values(market, instrument, now)
        for market in markets
        for instrument in market.instruments
        if (market.name, instrument.symbol) not in known
    ]
    return _insert_new(ledger, rows) if rows else 0


def enabled(ledger: Ledger, market: Market) -> list[Instrument]:
    """Return the market's enabled instruments in alphabetical order."""
    return _instruments(ledger, _of(market).where(Symbol.enabled))


def all_of(ledger: Ledger, market: Market) -> list[Instrument]:
    """Return the market's instruments in alphabetical order, enabled or not."""
    return _instruments(ledger, _of(market))


def add(
    ledger: Ledger,
    market: Market,
    symbol: str,
    now: datetime,
    *,
    name: str,
    base: str,
    vendor_symbols: Mapping[str, str] | None = None,
) -> Instrument:
    """Create an enabled symbol, quoted as its market is, and return it.

    `vendor_symbols` maps a vendor to its spelling; without them no vendor can be asked for the symbol.
    Raises ValueError when a value breaks a rule, SymbolExistsError when the market has the symbol already.
    """
    instrument = Instrument(symbol, name, base, market.quote, dict(vendor_symbols or {}))
    if not _insert_new(ledger, [_values(market, instrument, now)]):
        raise SymbolExistsError(f"market {market.name} already has the symbol {symbol}")
    return instrument


def enable(ledger: Ledger, market: Market, symbol: str, now: datetime) -> Instrument:
    """Enable a symbol; `enabled_at` becomes `now` unless it was enabled already. Raises UnknownSymbolError."""
    with ledger.write() as session:
        row = _row(session, market, symbol)
        if not row.enabled:
            row.enabled, row.enabled_at, row.updated_at = True, now, now
        return _instrument(row)


def disable(ledger: Ledger, market: Market, symbol: str, now: datetime) -> Instrument:
    """Disable a symbol, which changes nothing if it is disabled already. Raises UnknownSymbolError."""
    with ledger.write() as session:
        row = _row(session, market, symbol)
        if row.enabled:
            row.enabled, row.updated_at = False, now
        return _instrument(row)


def set_listing_start(
    ledger: Ledger, market: Market, symbol: str, listing_start: datetime, now: datetime
) -> Instrument:
    """Record the first bucket (UTC) that any vendor has of a symbol. Raises UnknownSymbolError."""
    with ledger.write() as session:
        row = _row(session, market, symbol)
        if row.listing_start != listing_start:
            row.listing_start, row.updated_at = listing_start, now
        return _instrument(row)


def _of(market: Market) -> Select[tuple[Symbol]]:
    return select(Symbol).where(Symbol.market == market.name).order_by(Symbol.symbol)


def _instruments(ledger: Ledger, query: Select[tuple[Symbol]]) -> list[Instrument]:
    with ledger.read() as session:
        return [_instrument(row) for row in session.scalars(query)]


def _row(session: Session, market: Market, symbol: str) -> Symbol:
    query = select(Symbol).where(Symbol.market == market.name, Symbol.symbol == symbol)
    row = session.scalars(query.with_for_update()).one_or_none()
    if row is None:
        raise UnknownSymbolError(
            f"{symbol!r} is not a symbol of market {market.name}; it must be configured or added first"
        )
    return row


def _insert_new(ledger: Ledger, rows: list[dict[str, Any]]) -> int:
    # Another process may seed or add the same symbol at this moment: whoever is first keeps its row.
    insert = ledger.insert(Symbol).on_conflict_do_nothing().returning(Symbol.id)
    with ledger.write() as session:
        return len(session.connection().execute(insert.values(rows)).all())


def _values(market: Market, instrument: Instrument, now: datetime) -> dict[str, Any]:
    if instrument.quote != market.quote:
        raise ValueError(
            f"{instrument.symbol} is quoted in {instrument.quote}, its market {market.name} in {market.quote}"
        )
    # Through the model, because an INSERT alone would not run its rules.
    row = Symbol(
        id=uuid4(),
        market=market.name,
        symbol=instrument.symbol,
        name=instrument.name,
        base=instrument.base,
        quote=instrument.quote,
        vendor_symbols=instrument.vendor_symbols,
        enabled=instrument.enabled,
        enabled_at=now if instrument.enabled else None,
        listing_start=instrument.listing_start,
        delisted_at=instrument.delisted_at,
        created_at=now,
        updated_at=now,
    )
    return {column.key: getattr(row, column.key) for column in Symbol.__table__.columns}


def _instrument(row: Symbol) -> Instrument:
    return Instrument(
        symbol=row.symbol,
        name=row.name,
        base=row.base,
        quote=row.quote,
        vendor_symbols=row.vendor_symbols,
        enabled=row.enabled,
        listing_start=row.listing_start,
        delisted_at=row.delisted_at,
        enabled_at=row.enabled_at,
    )
