"""The adapters by name. Adding a vendor is one file beside this one and one entry here.

Which vendors a market uses, and in which order, is declared in `markets`; how each is reached in `settings`.
"""

from __future__ import annotations

from collections.abc import Mapping

from ohlcv_pipeline.vendors.base import Adapter
from ohlcv_pipeline.vendors.binance import Binance
from ohlcv_pipeline.vendors.binance_archive import BinanceArchive
from ohlcv_pipeline.vendors.coinbase import Coinbase
from ohlcv_pipeline.vendors.kraken import Kraken

_ALL: tuple[Adapter, ...] = (Coinbase(), Kraken(), Binance(), BinanceArchive())

ADAPTERS: Mapping[str, Adapter] = {each.name: each for each in _ALL}


def adapter(name: str) -> Adapter:
    """Return a vendor's adapter. Raises ValueError for an unknown name."""
    try:
        return ADAPTERS[name]
    except KeyError:
        raise ValueError(f"vendor {name!r} is not one of {', '.join(ADAPTERS)}") from None
