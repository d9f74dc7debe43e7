"""`ohlcv reconcile`: bars against the minutes they are made of, and against a second vendor."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import (
    EndOption,
    IntervalOption,
    JsonOption,
    MarketOption,
    Selected,
    StartOption,
    SymbolsOption,
    open_platform,
    select,
)

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.comparing import Reconciliation
    from ohlcv_pipeline.platform import Platform

COLUMNS = ["symbol", "partition", "verdict", "severity", "bars", "first", "last", "field", "ours", "theirs", "factor"]


def reconcile(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    start: StartOption = None,
    end: EndOption = None,
    cells: Annotated[
        int, typer.Option("--cells", min=0, help="How many cells of a table to ask a second vendor for.")
    ] = 12,
    as_json: JsonOption = False,
) -> int:
    """Compare days with their minutes, and stored bars with those of a second vendor; name each difference.

    Exits 1 when prices differ by an adjustment basis or a unit; smaller differences are shown and leave it at 0.

    - `ohlcv reconcile --market us_equities`
    - `ohlcv reconcile --market us_equities --symbols NVDA --interval day --start 2025-05-01 --end 2025-07-01`
    - `ohlcv reconcile --cells 0` – ask nobody, compare minutes with days only
    """
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, symbols, start, end, now)
    found = [each for of in selected for each in _compare(home, of, cells, now)]
    grave = any(finding.severity == "ERROR" for _, each in found for _, finding in each.findings)
    if as_json:
        console.write_json({"passed": not grave, "comparisons": [_document(table, each) for table, each in found]})
    else:
        for table, each in found:
            _show(table, each)
    return errors.FAILED if grave else errors.SUCCESS


def _compare(home: Platform, of: Selected, cells: int, now: datetime) -> Sequence[tuple[str, Reconciliation]]:
    import asyncio

    from ohlcv_pipeline.bars.comparing import compare_rollups, compare_vendors
    from ohlcv_pipeline.markets import Interval

    table = f"{of.market.name}/ohlcv_{of.interval}"
    found = []
    if of.interval is Interval.DAY:
        rolled = compare_rollups(home.reading.reader, of.market, of.instruments, of.start_us, of.end_us)
        found.append((table, rolled))

    async def ask() -> Reconciliation:
        async with home.sources(of.market) as sources:
            return await compare_vendors(
                home.reading.reader, of.market, of.interval, of.instruments, of.start_us, of.end_us, sources, now, cells
            )

    if cells and len(of.market.vendors) > 1:
        found.append((table, asyncio.run(ask())))
    return found


def _document(table: str, each: Reconciliation) -> dict[str, Any]:
    verdict = each.verdict()
    return {
        "table": table,
        "check": each.check,
        "passed": verdict.passed,
        "severity": verdict.severity,
        **verdict.numbers,
        "compared": [
            {
                "symbol": one.symbol,
                "partition": one.partition,
                "ours": one.ours,
                "theirs": one.theirs,
                "bars": one.comparison.compared,
                "verdict": str(one.comparison.judgement),
            }
            for one in each.compared
        ],
        "differences": each.rows(),
        "unanswered_cells": each.unanswered,
    }


def _show(table: str, each: Reconciliation) -> None:
    console.out.print(f"{table} {each.check}: {each.verdict().summary}.")
    rows = each.rows()
    if rows:
        numbers = {"bars", "ours", "theirs", "factor"}
        console.table("", COLUMNS, [[row[name] for name in COLUMNS] for row in rows], numbers)
    for cell in each.unanswered:
        console.note(f"{cell['symbol']} {cell['partition']}: {cell['vendor']} did not tell ({cell['code']}).")
