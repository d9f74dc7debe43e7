"""`ohlcv symbols`: which instruments a market has, and which of them are fetched."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import UsageError
from ohlcv_pipeline.cli.options import JsonOption, MarketOption, open_platform, tables, usage

if TYPE_CHECKING:
    from ohlcv_pipeline.markets import Instrument, Market
    from ohlcv_pipeline.platform import Platform

app = typer.Typer(
    no_args_is_help=True,
    help="List, add, enable and disable symbols. A disabled symbol is not fetched; its bars stay.",
)

SymbolArgument = Annotated[str, typer.Argument(help="E.g. BTC.", show_default=False)]
OneMarket = Annotated[str | None, typer.Option("--market", help="Market; may be left out where only one fits.")]


@app.command("list")
def show(market: MarketOption = None, as_json: JsonOption = False) -> int:
    """List the symbols of a market.

    - `ohlcv symbols list`
    - `ohlcv symbols list --market crypto --json`
    """
    home = open_platform()
    from ohlcv_pipeline.ledger import symbols

    names = {of.name: of for of, _ in tables(home.settings, market, "day")}
    rows = [_row(of, instrument) for of in names.values() for instrument in symbols.all_of(home.ledger, of)]
    _print(rows, as_json)
    return errors.SUCCESS


@app.command()
def add(
    symbol: Annotated[str, typer.Option("--symbol", help="As the platform spells it, e.g. SHIB.")],
    vendor: Annotated[
        list[str], typer.Option("--vendor", help="A vendor's spelling, e.g. coinbase=SHIB-USD. Repeatable.")
    ],
    market: OneMarket = None,
    name: Annotated[str | None, typer.Option("--name", help="E.g. 'Shiba Inu'. Default: the symbol.")] = None,
    base: Annotated[str | None, typer.Option("--base", help="What is traded. Default: the symbol.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Add a symbol and enable it; the next backfill fetches its whole window.

    - `ohlcv symbols add --symbol SHIB --name 'Shiba Inu' --vendor coinbase=SHIB-USD --vendor kraken=SHIBUSD`
    """
    home = open_platform()
    named = {text.partition("=")[0] for text in vendor}
    of = _market(home, market, lambda each: named <= set(each.vendors))
    spellings = _spellings(of, vendor)
    if not re.fullmatch(r"[A-Z0-9][A-Z0-9.]{0,15}", symbol):
        raise UsageError(f"--symbol {symbol}: up to 16 capital letters, digits and points, e.g. SHIB")
    from ohlcv_pipeline.ledger import symbols

    with usage():
        added = symbols.add(
            home.ledger,
            of,
            symbol,
            datetime.now(UTC),
            name=name or symbol,
            base=base or symbol,
            vendor_symbols=spellings,
        )
    console.note(f"{symbol} was added to {of.name}; `ohlcv backfill --symbols {symbol}` fetches its bars.")
    _print([_row(of, added)], as_json)
    return errors.SUCCESS


@app.command()
def enable(symbol: SymbolArgument, market: OneMarket = None, as_json: JsonOption = False) -> int:
    """Fetch a symbol from now on.

    - `ohlcv symbols enable BNB`
    """
    home = open_platform()
    of = _market_with(home, market, symbol)
    from ohlcv_pipeline.ledger import symbols

    _print([_row(of, symbols.enable(home.ledger, of, symbol, datetime.now(UTC)))], as_json)
    return errors.SUCCESS


@app.command()
def disable(symbol: SymbolArgument, market: OneMarket = None, as_json: JsonOption = False) -> int:
    """Fetch a symbol no longer; what is stored of it stays.

    - `ohlcv symbols disable BNB --market crypto`
    """
    home = open_platform()
    of = _market_with(home, market, symbol)
    from ohlcv_pipeline.ledger import symbols

    _print([_row(of, symbols.disable(home.ledger, of, symbol, datetime.now(UTC)))], as_json)
    return errors.SUCCESS


def _market(home: Platform, name: str | None, fits: Callable[[Market], bool]) -> Market:
    """Return the market of that name, or the only one that is on and fits."""
    on = [of for of, _ in tables(home.settings, name, "day")]
    fitting = on if name is not None else [of for of in on if fits(of)] or on
    if len(fitting) > 1:
        raise UsageError(f"say which market: --market {' or --market '.join(of.name for of in fitting)}")
    return fitting[0]


def _market_with(home: Platform, name: str | None, symbol: str) -> Market:
    from ohlcv_pipeline.ledger import symbols

    def has(of: Market) -> bool:
        return symbol in {instrument.symbol for instrument in symbols.all_of(home.ledger, of)}

    if name is None and not any(has(of) for of in home.markets):
        raise UsageError(f"{symbol} is a symbol of none of {', '.join(of.name for of in home.markets)}")
    return _market(home, name, has)


def _spellings(of: Market, given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        vendor, mark, spelling = text.partition("=")
        if not mark or not spelling:
            raise UsageError(f"--vendor {text}: write vendor=spelling, e.g. {of.vendors[0]}=SHIB-USD")
        if vendor not in of.vendors:
            raise UsageError(f"--vendor {text}: market {of.name} has the vendors {', '.join(of.vendors)}")
        found[vendor] = spelling
    return found


def _row(of: Market, instrument: Instrument) -> dict[str, Any]:
    return {
        "market": of.name,
        "symbol": instrument.symbol,
        "name": instrument.name,
        "base": instrument.base,
        "quote": instrument.quote,
        "enabled": instrument.enabled,
        "vendor_symbols": dict(instrument.vendor_symbols),
        "listing_start": instrument.listing_start,
    }


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        console.write_json({"symbols": rows})
        return
    console.table(
        "Symbols",
        ["market", "symbol", "name", "base", "quote", "enabled", "vendors"],
        [
            (
                row["market"],
                row["symbol"],
                row["name"],
                row["base"],
                row["quote"],
                "yes" if row["enabled"] else "no",
                ", ".join(f"{vendor}={spelling}" for vendor, spelling in sorted(row["vendor_symbols"].items())),
            )
            for row in rows
        ],
    )
