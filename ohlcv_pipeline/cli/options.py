"""The options that commands share, and what they select: tables, symbols and a window.

A value that does not exist is a usage error that names those that do.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_pipeline.cli.errors import UsageError

if TYPE_CHECKING:
    from ohlcv_pipeline.markets import Instrument, Interval, Market
    from ohlcv_pipeline.platform import Platform
    from ohlcv_pipeline.settings import Settings

MarketOption = Annotated[str | None, typer.Option("--market", help="Market, e.g. crypto. Default: every enabled one.")]
IntervalOption = Annotated[str | None, typer.Option("--interval", help="minute or day (1m, 1d). Default: both.")]
SymbolsOption = Annotated[str | None, typer.Option("--symbols", help="E.g. BTC,ETH. Default: every enabled one.")]
StartOption = Annotated[
    str | None, typer.Option("--start", help="First bucket: a date or ISO time with zone. Default: target window.")
]
EndOption = Annotated[
    str | None, typer.Option("--end", help="End, exclusive: a date or ISO time with zone. Default: now.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document to stdout, nothing else.")]
CsvOption = Annotated[bool, typer.Option("--csv", help="Print CSV to stdout, nothing else.")]


@dataclass(frozen=True)
class Selected:
    """One table with the instruments and the window [start, end) that a command is about."""

    market: Market
    interval: Interval
    instruments: Sequence[Instrument]
    start_us: int
    end_us: int


@contextmanager
def usage() -> Iterator[None]:
    """Turn a ValueError of the block, which must only read what the user gave, into a usage error."""
    try:
        yield
    except ValueError as error:
        raise UsageError(str(error)) from error


def load_settings() -> Settings:
    """Return the settings of this process. Raises UsageError naming the variable that is wrong."""
    from pydantic import ValidationError

    from ohlcv_pipeline.settings import settings

    try:
        return settings()
    except ValidationError as error:
        wrong = "; ".join(
            f"OHLCV_{'__'.join(str(part) for part in each['loc']).upper()}: {each['msg'].removeprefix('Value error, ')}"
            for each in error.errors()
        )
        raise UsageError(f"the settings cannot be used, correct the environment or .env: {wrong}") from error


def open_platform() -> Platform:
    """Return the installation of this process."""
    chosen = load_settings()
    from ohlcv_pipeline.platform import Platform

    return Platform(chosen)


def tables(chosen: Settings, market_name: str | None, interval_name: str | None) -> list[tuple[Market, Interval]]:
    """Return the tables that `--market` and `--interval` select."""
    from ohlcv_pipeline.markets import Interval, market

    with usage():
        names = chosen.markets if market_name is None else (market(market_name).name,)
        intervals = list(Interval) if interval_name is None else [Interval.parse(interval_name)]
    off = [name for name in names if name not in chosen.markets]
    if off:
        raise UsageError(
            f"market {off[0]} is switched off; set OHLCV_MARKETS={','.join([*chosen.markets, *off])} to use it"
        )
    return [(market(name), interval) for name in names for interval in intervals]


def select(
    home: Platform,
    market_name: str | None,
    interval_name: str | None,
    symbols: str | None,
    start: str | None,
    end: str | None,
    now: datetime,
) -> list[Selected]:
    """Return what the shared options select, table by table; a table without any of the symbols is left out."""
    chosen = tables(home.settings, market_name, interval_name)
    only = split(symbols)
    found = {of.name: _instruments(home, of, only) for of, _ in chosen}
    if only is not None:
        known = {instrument.symbol for each in found.values() for instrument in each}
        unknown = [symbol for symbol in only if symbol not in known]
        if unknown:
            names = ", ".join(found)
            raise UsageError(
                f"{', '.join(unknown)}: not an enabled symbol of {names}; `ohlcv symbols list` shows those there are"
            )
    return [
        Selected(of, interval, found[of.name], *window(of, interval, start, end, now))
        for of, interval in chosen
        if found[of.name]
    ]


def split(text: str | None) -> list[str] | None:
    """Return the parts of a comma-separated option. Raises UsageError when there are none."""
    if text is None:
        return None
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise UsageError("--symbols is empty; write e.g. --symbols BTC,ETH")
    return parts


def _instruments(home: Platform, of: Market, only: Sequence[str] | None) -> list[Instrument]:
    enabled = home.instruments(of)
    return enabled if only is None else [instrument for instrument in enabled if instrument.symbol in only]


def window(of: Market, interval: Interval, start: str | None, end: str | None, now: datetime) -> tuple[int, int]:
    """Return [start, end) in µs; the target window where not given, and never beyond now."""
    from ohlcv_pipeline.bars.access import instant_us
    from ohlcv_pipeline.markets import from_us, to_us

    first, last = of.target_window(interval, now)
    with usage():
        if start is not None:
            first = instant_us(start)
        if end is not None:
            last = min(instant_us(end), to_us(now))
    history = of.history_start[interval]
    if from_us(first).date() < history:
        raise UsageError(f"--start {start}: {of.name} {interval} bars are kept from {history} on")
    if last <= first:
        raise UsageError(
            f"the window from {start or from_us(first).isoformat()} to {end or 'now'} is empty;"
            " --start must lie in the past and before --end"
        )
    return first, last
