"""What is listed where: vendors, venues, spellings, and how coins trade: grids, liquidity, declared outages.

The instruments come from `markets.MARKETS`; a coin that has no profile here gets one derived from its name.
How the bars are made of it is `series`. How shares trade is `shares`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b

from ohlcv_pipeline.markets import MARKETS
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE

SHARE_VENDORS = ("alpaca", "tiingo")
VENDORS = ("coinbase", "kraken", "binance", "binance_archive", *SHARE_VENDORS)
VENUES: Mapping[str, str] = {
    "coinbase": "coinbase",
    "kraken": "kraken",
    "binance": "binance",
    "binance_archive": "binance",
    **{vendor: vendor for vendor in SHARE_VENDORS},
}
"""Whose record of the trades a vendor tells from: Binance's files and its API share one, Alpaca and Tiingo
each keep their own of the same tape."""

FIRST_DAY = 16_436
"""2015-01-01 as days since the epoch: the first day with bars."""

OUTAGE_MINUTES = 45
OUTAGE_EVERY_DAYS = 90


def spellings(vendor: str) -> dict[str, str]:
    """Return the vendor's spelling of each listed instrument, mapped to the market's symbol."""
    return {
        instrument.vendor_symbols[vendor]: instrument.symbol
        for market in MARKETS.values()
        for instrument in market.instruments
        if vendor in instrument.vendor_symbols
    }


def stable_hash(*parts: object) -> int:
    """Return 64 bits that depend on the parts alone, the same in every process."""
    return int.from_bytes(blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Coin:
    """How a coin trades: a typical price in dollars, daily volatility, coins per minute, silence.

    `silent` is the share of minutes without a trade; `decimals` the price grid of each venue.
    """

    price: float
    volatility: float
    volume: float
    silent: float = 0.0
    stable: bool = False
    decimals: Mapping[str, int] = field(default_factory=lambda: {"coinbase": 2, "kraken": 2, "binance": 2})


def _grid(coinbase: int, kraken: int, binance: int) -> dict[str, int]:
    return {"coinbase": coinbase, "kraken": kraken, "binance": binance}


_COINS: Mapping[str, Coin] = {
    "BTC": Coin(62_000, 0.028, 6.0, decimals=_grid(2, 1, 2)),
    "ETH": Coin(2_600, 0.036, 70.0, decimals=_grid(2, 2, 2)),
    "SOL": Coin(130, 0.047, 900.0, 0.001),
    "USDC": Coin(1.0, 0.0003, 9_000.0, 0.02, stable=True, decimals=_grid(5, 5, 5)),
    "USDT": Coin(1.0, 0.0005, 30_000.0, 0.03, stable=True, decimals=_grid(5, 5, 5)),
    "AAVE": Coin(150, 0.052, 12.0, 0.02),
    "LINK": Coin(15, 0.046, 900.0, 0.005, decimals=_grid(3, 5, 3)),
    "DOGE": Coin(0.15, 0.052, 400_000.0, 0.002, decimals=_grid(5, 7, 5)),
    "BNB": Coin(420, 0.033, 9.0, 0.01),
    "XRP": Coin(0.9, 0.043, 60_000.0, 0.001, decimals=_grid(4, 5, 4)),
}


@lru_cache(maxsize=256)
def coin(symbol: str) -> Coin:
    """Return the profile of a base coin."""
    if symbol in _COINS:
        return _COINS[symbol]
    price = 10.0 ** (stable_hash("price", symbol) % 3)
    return Coin(price, 0.05, 20_000.0 / price, 0.01, decimals=_grid(4, 4, 4))


@dataclass(frozen=True)
class Venue:
    """A trading venue: premium over the common path (log), share of the volume, declared outages.

    On days with `epoch_day % 90 == outage_day` the venue stands still for 45 minutes from
    `outage_minute` on; None: never.
    """

    name: str
    premium: float
    share: float
    outage_day: int | None = None
    outage_minute: int = 0


VENUE: Mapping[str, Venue] = {
    venue.name: venue
    for venue in (
        Venue("coinbase", 0.0, 1.0, 37, 13 * 60 + 7),
        Venue("kraken", 0.00008, 0.2),
        Venue("binance", -0.0003, 3.0, 61, 11 * 60 + 23),
    )
}


def outages(vendor: str, start: int, end: int) -> list[tuple[int, int]]:
    """Return the outages of a vendor of coins that touch [start, end): first and last missing minute, unix seconds."""
    venue = VENUE[VENUES[vendor]]
    if venue.outage_day is None or end <= start:
        return []
    first = start // DAY
    first += (venue.outage_day - first) % OUTAGE_EVERY_DAYS
    found = []
    for day in range(first, (end - 1) // DAY + 1, OUTAGE_EVERY_DAYS):
        begin = day * DAY + venue.outage_minute * MINUTE
        last = begin + (OUTAGE_MINUTES - 1) * MINUTE
        if begin < end and last + MINUTE > start:
            found.append((begin, last))
    return found
