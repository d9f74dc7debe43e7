"""One installation, opened from its settings: lake, ledger, and the vendors ready to be asked.

The Dagster resource, the command line and the tests all come in through here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from ohlcv_pipeline.lake.store import Store, open_store, prepare_store
from ohlcv_pipeline.lake.tables import migrate
from ohlcv_pipeline.ledger import outcomes, symbols
from ohlcv_pipeline.ledger.budget import SharedBudget
from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.ledger.errors import UnknownSymbolError
from ohlcv_pipeline.markets import Instrument, Market, market
from ohlcv_pipeline.settings import Settings, VendorSettings
from ohlcv_pipeline.vendors.failover import Source
from ohlcv_pipeline.vendors.registry import adapter, transport
from ohlcv_pipeline.vendors.transport import Outcome


@dataclass(frozen=True)
class Platform:
    """Lake and ledger of one installation. Both are opened on first use."""

    settings: Settings

    @cached_property
    def store(self) -> Store:
        """The lake, ready for writing."""
        s = self.settings
        return prepare_store(s.catalog_path, s.data_path, s.raw_path, s.markets)

    @cached_property
    def reading(self) -> Store:
        """The lake as it is, without creating anything; that of an older release is migrated."""
        s = self.settings
        found = open_store(s.catalog_path, s.data_path, s.raw_path)
        migrate(found.catalog)
        return found

    @cached_property
    def ledger(self) -> Ledger:
        """The ledger, migrated, with a row for every configured symbol."""
        ledger = open_ledger(self.settings.ledger)
        symbols.seed(ledger, self.markets, datetime.now(UTC))
        return ledger

    @property
    def markets(self) -> list[Market]:
        """The markets that are switched on."""
        return [market(name) for name in self.settings.markets]

    def instruments(self, of: Market, only: Sequence[str] | None = None) -> list[Instrument]:
        """Return the enabled instruments of a market, or those named. Raises UnknownSymbolError."""
        enabled = symbols.enabled(self.ledger, of)
        if not only:
            return enabled
        by_symbol = {instrument.symbol: instrument for instrument in enabled}
        unknown = [symbol for symbol in only if symbol not in by_symbol]
        if unknown:
            raise UnknownSymbolError(
                f"{', '.join(unknown)}: not an enabled symbol of {of.name}; it has {', '.join(by_symbol)}"
            )
        return [by_symbol[symbol] for symbol in only]

    def record_listings(self, of: Market, starts: Mapping[str, datetime], now: datetime) -> None:
        """Remember when symbols were listed; nothing is expected of them before."""
        for symbol, start in starts.items():
            symbols.set_listing_start(self.ledger, of, symbol, start, now)

    @asynccontextmanager
    async def sources(
        self, of: Market, adjusted: Callable[[VendorSettings], VendorSettings] = lambda each: each
    ) -> AsyncIterator[dict[str, Source]]:
        """Yield the market's vendors, connected. Every request's outcome is in the ledger when this ends.

        `adjusted` may change how they are asked, e.g. how patiently.
        """
        recorded: list[Outcome] = []
        settings = {name: adjusted(self.settings.vendor(name)) for name in of.vendors}
        budget = SharedBudget(self.ledger, settings)
        transports = {name: transport(name, chosen, budget, recorded.append) for name, chosen in settings.items()}
        try:
            for way in transports.values():
                await way.__aenter__()
            yield {name: Source(adapter(name, settings[name]), way) for name, way in transports.items()}
        finally:
            for way in transports.values():
                await way.__aexit__(None, None, None)
            outcomes.append(self.ledger, recorded)
