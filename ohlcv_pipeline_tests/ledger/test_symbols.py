from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select

from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.errors import LedgerError, NaiveTimestampError, SymbolExistsError, UnknownSymbolError
from ohlcv_pipeline.ledger.models import Symbol
from ohlcv_pipeline.markets import MARKETS

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)
CRYPTO, USDT = MARKETS["crypto"], MARKETS["crypto_usdt"]


def stored(ledger: Ledger, symbol: str) -> Symbol:
    with ledger.read() as session:
        query = select(Symbol).where(Symbol.market == "crypto", Symbol.symbol == symbol)
        return session.scalars(query).one()


def test_seed_creates_every_configured_symbol_as_it_is_configured(ledger: Ledger) -> None:
    assert symbols.seed(ledger, MARKETS.values(), NOW) == 29
    configured = sorted(CRYPTO.instruments, key=lambda instrument: instrument.symbol)
    assert symbols.all_of(ledger, CRYPTO) == symbols.enabled(ledger, CRYPTO) == configured
    assert stored(ledger, "BTC").vendor_symbols == {"coinbase": "BTC-USD", "kraken": "XBTUSD"}
    assert stored(ledger, "BTC").enabled_at == stored(ledger, "BTC").created_at == NOW


def test_seed_neither_overwrites_nor_deletes(ledger: Ledger) -> None:
    symbols.seed(ledger, [CRYPTO], NOW)
    symbols.disable(ledger, CRYPTO, "BTC", NOW)
    bitcoin = replace(CRYPTO.instrument("BTC"), name="Renamed")
    new = replace(bitcoin, symbol="DOT", base="DOT")
    assert symbols.seed(ledger, [replace(CRYPTO, instruments=(bitcoin, new))], LATER) == 1
    assert len(symbols.all_of(ledger, CRYPTO)) == 11
    assert stored(ledger, "BTC").name == "Bitcoin"
    assert not stored(ledger, "BTC").enabled
    assert stored(ledger, "BTC").updated_at == NOW
    assert stored(ledger, "DOT").created_at == LATER


def test_seeds_at_once_create_each_symbol_once(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda _: symbols.seed(ledger, MARKETS.values(), NOW), range(4)))
    assert sum(created) == 29
    assert len(symbols.all_of(ledger, CRYPTO)) == 10


def test_seed_with_a_broken_symbol_writes_nothing(ledger: Ledger) -> None:
    broken = replace(CRYPTO, instruments=(*CRYPTO.instruments, replace(CRYPTO.instruments[0], symbol="b/tc")))
    with pytest.raises(ValueError, match="b/tc"):
        symbols.seed(ledger, [broken], NOW)
    assert symbols.all_of(ledger, CRYPTO) == []


def test_disabled_symbol_is_not_enabled_and_still_there(ledger: Ledger) -> None:
    symbols.seed(ledger, MARKETS.values(), NOW)
    assert symbols.disable(ledger, CRYPTO, "BTC", LATER).enabled is False
    assert "BTC" not in [instrument.symbol for instrument in symbols.enabled(ledger, CRYPTO)]
    assert len(symbols.enabled(ledger, CRYPTO)) == 9
    assert len(symbols.all_of(ledger, CRYPTO)) == 10
    assert len(symbols.enabled(ledger, USDT)) == 9


def test_enabling_twice_is_enabling_once(ledger: Ledger) -> None:
    symbols.seed(ledger, [CRYPTO], NOW)
    symbols.enable(ledger, CRYPTO, "BTC", LATER)
    assert (stored(ledger, "BTC").enabled_at, stored(ledger, "BTC").updated_at) == (NOW, NOW)
    symbols.disable(ledger, CRYPTO, "BTC", NOW)
    symbols.disable(ledger, CRYPTO, "BTC", LATER)
    assert stored(ledger, "BTC").updated_at == NOW
    symbols.enable(ledger, CRYPTO, "BTC", LATER)
    assert (stored(ledger, "BTC").enabled_at, stored(ledger, "BTC").updated_at) == (LATER, LATER)


def test_added_symbol_is_enabled_and_quoted_as_its_market(ledger: Ledger) -> None:
    added = symbols.add(ledger, CRYPTO, "DOT", NOW, name="Polkadot", base="DOT")
    assert symbols.enabled(ledger, CRYPTO) == [added]
    assert (added.quote, added.vendor_symbols) == ("USD", {})
    spelled = symbols.add(ledger, CRYPTO, "ADA", NOW, name="Cardano", base="ADA", vendor_symbols={"kraken": "ADAUSD"})
    assert symbols.enabled(ledger, CRYPTO) == [spelled, added]  # fmt: skip


def test_symbol_cannot_be_added_twice(ledger: Ledger) -> None:
    symbols.add(ledger, CRYPTO, "DOT", NOW, name="Polkadot", base="DOT")
    with pytest.raises(SymbolExistsError, match="crypto already has the symbol DOT"):
        symbols.add(ledger, CRYPTO, "DOT", NOW, name="Dot", base="DOT")
    assert stored(ledger, "DOT").name == "Polkadot"


def test_quotes_are_not_mixed_in_a_market(ledger: Ledger) -> None:
    mixed = replace(CRYPTO, instruments=USDT.instruments[:1])
    with pytest.raises(ValueError, match="BTC is quoted in USDT, its market crypto in USD"):
        symbols.seed(ledger, [mixed], NOW)


def test_unknown_symbol_is_named_with_its_market(ledger: Ledger) -> None:
    symbols.seed(ledger, [USDT], NOW)
    for act in (symbols.enable, symbols.disable):
        with pytest.raises(UnknownSymbolError, match="'BTC' is not a symbol of market crypto"):
            act(ledger, CRYPTO, "BTC", NOW)
    with pytest.raises(LookupError):
        symbols.set_listing_start(ledger, CRYPTO, "BTC", NOW, NOW)
    assert issubclass(UnknownSymbolError, LedgerError)


def test_listing_start_is_recorded(ledger: Ledger) -> None:
    symbols.seed(ledger, [CRYPTO], NOW)
    listed = datetime(2018, 6, 1, tzinfo=UTC)
    assert symbols.set_listing_start(ledger, CRYPTO, "AAVE", listed, LATER).listing_start == listed
    assert symbols.all_of(ledger, CRYPTO)[0].listing_start == listed
    symbols.set_listing_start(ledger, CRYPTO, "AAVE", listed, LATER + timedelta(days=1))
    assert stored(ledger, "AAVE").updated_at == LATER


def test_naive_now_is_refused(ledger: Ledger) -> None:
    with pytest.raises(NaiveTimestampError):
        symbols.seed(ledger, [CRYPTO], NOW.replace(tzinfo=None))
