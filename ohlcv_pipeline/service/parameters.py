"""The parameters that routes share: times, intervals, markets, assets, pages; and the series that they name.

A value that cannot be used is a problem that names its field.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated

from fastapi import Query
from pydantic import BeforeValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from ohlcv_pipeline.ledger import standing
from ohlcv_pipeline.ledger.models import SYMBOL_PATTERN
from ohlcv_pipeline.markets import Interval, Market
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service.problems import bad_field, not_found

_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,9})?([Zz]|[+-]\d\d:\d\d)?", re.ASCII)


def instant(value: object) -> datetime:
    """Return an RFC 3339 time in UTC. Raises PydanticCustomError for a date alone, or a time without zone."""
    if isinstance(value, datetime):
        return value
    found = _RFC_3339.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise PydanticCustomError("not_a_time", "write an RFC 3339 time such as 2025-11-20T14:30:00Z")
    if found[2] is None:
        raise PydanticCustomError("naive_time", "a time needs a zone; write it in UTC, such as 2025-11-20T14:30:00Z")
    try:
        return datetime.fromisoformat(found[0].upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise PydanticCustomError("not_a_time", "there is no such time") from None


def _interval(value: object) -> Interval:
    try:
        return Interval.parse(str(value))
    except ValueError:
        raise PydanticCustomError("unknown_interval", "write minute or day, or 1m or 1d for short") from None


def _asset(value: object) -> str:
    symbol = str(value).upper()
    if not str(value).isascii() or not SYMBOL_PATTERN.fullmatch(symbol):
        raise PydanticCustomError("not_a_symbol", "a symbol has 1 to 16 letters, digits and dots, the first no dot")
    return symbol


def _market(value: object) -> str:
    if not re.fullmatch(r"[a-z0-9_]{1,40}", str(value)):
        raise PydanticCustomError("not_a_market", "a market's name has small letters, digits and underscores")
    return str(value)


Time = Annotated[datetime, BeforeValidator(instant), WithJsonSchema({"type": "string", "format": "date-time"})]
"""An instant as it is written in requests, in UTC."""

IntervalName = Annotated[
    Interval, BeforeValidator(_interval), WithJsonSchema({"type": "string", "enum": ["minute", "day", "1m", "1d"]})
]
AssetName = Annotated[
    str,
    BeforeValidator(_asset),
    WithJsonSchema({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9.]{0,15}$"}),
]
MarketName = Annotated[
    str, BeforeValidator(_market), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9_]{1,40}$"})
]

MarketQuery = Annotated[MarketName | None, Query(description="A market, e.g. `crypto`.")]
IntervalQuery = Annotated[IntervalName | None, Query(description="`minute` or `day`; `1m` and `1d` for short.")]
AssetQuery = Annotated[AssetName | None, Query(description="A symbol, e.g. `BTC`, in any case of letters.")]
CursorQuery = Annotated[
    str | None, Query(max_length=1_000, pattern=r"^[A-Za-z0-9_-]+$", description="`next_cursor` of the page before.")
]


@dataclass(frozen=True)
class Named:
    """One symbol of one market, as a request names it."""

    market: Market
    symbol: str


def known_market(platform: Platform, name: str | None) -> Market | None:
    """Return the market of a name that is switched on, None for no name. Raises ProblemError: there is none."""
    if name is None:
        return None
    for each in platform.markets:
        if each.name == name:
            return each
    raise not_found("there is no such market")


def known_symbol(platform: Platform, asset: str, market: str | None) -> Named:
    """Return the symbol that a request names, enabled or not. Raises ProblemError: there is none, or more than one."""
    wanted = known_market(platform, market)
    names = standing.markets_of(platform.ledger, asset)
    homes = {each.name: each for each in platform.markets if each.name in names and wanted in (None, each)}
    return Named(homes[one_home(asset, list(homes))], asset)


def one_home(asset: str, markets: Sequence[str]) -> str:
    """Return the only market that has a symbol. Raises ProblemError: there is none, or more than one."""
    if not markets:
        raise not_found("there is no such symbol")
    if len(markets) > 1:
        raise bad_field("asset", "ambiguous_symbol", f"{asset} is in {', '.join(markets)}; say market=…")
    return markets[0]


def in_order(start: datetime, end: datetime) -> None:
    """Refuse a window that does not begin before its end. Raises ProblemError."""
    if end <= start:
        raise bad_field("end", "not_after_start", "end must be after start")
