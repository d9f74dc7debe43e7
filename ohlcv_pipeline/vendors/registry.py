"""The adapters by name, and the way to each. Adding a vendor is one file beside this one and one entry here.

Which vendors a market uses, and in which order, is declared in `markets`; how each is reached in `settings`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ohlcv_pipeline.settings import FOLDER_VENDORS, VendorSettings
from ohlcv_pipeline.vendors.alpaca import Alpaca
from ohlcv_pipeline.vendors.base import Adapter
from ohlcv_pipeline.vendors.binance import Binance
from ohlcv_pipeline.vendors.binance_archive import BinanceArchive
from ohlcv_pipeline.vendors.coinbase import Coinbase
from ohlcv_pipeline.vendors.files import Files
from ohlcv_pipeline.vendors.finnhub import Finnhub
from ohlcv_pipeline.vendors.folder import FolderTransport
from ohlcv_pipeline.vendors.kraken import Kraken
from ohlcv_pipeline.vendors.tiingo import Tiingo
from ohlcv_pipeline.vendors.transport import Budget, HttpTransport, Outcome

_ALL: tuple[Adapter, ...] = (
    Coinbase(), Kraken(), Binance(), BinanceArchive(), Alpaca(), Tiingo(), Finnhub(), Files()
)  # fmt: skip

ADAPTERS: Mapping[str, Adapter] = {each.name: each for each in _ALL}
"""Every adapter as it is without settings."""

_CONFIGURED: Mapping[str, Callable[[VendorSettings], Adapter]] = {
    "alpaca": lambda settings: Alpaca(settings.feed),
    "files": lambda settings: Files(settings.folder),
}
"""The adapters that ask differently by their settings."""


def adapter(name: str, settings: VendorSettings | None = None) -> Adapter:
    """Return a vendor's adapter, as its settings want it. Raises ValueError for an unknown name."""
    try:
        if settings is not None and name in _CONFIGURED:
            return _CONFIGURED[name](settings)
        return ADAPTERS[name]
    except KeyError:
        raise ValueError(f"vendor {name!r} is not one of {', '.join(ADAPTERS)}") from None


def transport(
    name: str, settings: VendorSettings, budget: Budget, record: Callable[[Outcome], None]
) -> HttpTransport | FolderTransport:
    """Return the way to a vendor, to be entered before it is used. Raises ValueError for one without an address."""
    if name in FOLDER_VENDORS:
        return FolderTransport(name, settings, record)
    return HttpTransport(name, settings, budget, record)
