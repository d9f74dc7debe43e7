"""`ohlcv gaps`: every run of missing bars, and what is known about it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import (
    CsvOption,
    EndOption,
    IntervalOption,
    JsonOption,
    MarketOption,
    StartOption,
    SymbolsOption,
    open_platform,
    select,
)

if TYPE_CHECKING:
    from ohlcv_pipeline.cli.reporting import TableReport
    from ohlcv_pipeline.platform import Platform

COLUMNS = ["market", "symbol", "interval", "range_start", "range_end", "missing", "unanswered", "unfillable", "known"]


def gaps(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    start: StartOption = None,
    end: EndOption = None,
    min_missing: Annotated[
        int, typer.Option("--min-missing", min=1, help="Leave out shorter gaps than this many buckets.")
    ] = 1,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> int:
    """List every gap: first and last missing bucket, how many, and what is known about it.

    Minutes that a vendor has shown to be without trades are no gaps. Gaps are data: the exit code is 0.

    - `ohlcv gaps`
    - `ohlcv gaps --symbols BTC --interval minute --min-missing 30`
    - `ohlcv gaps --csv > gaps.csv`
    """
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, symbols, start, end, now)
    from ohlcv_pipeline.cli.reporting import report_table

    rows: list[dict[str, Any]] = []
    for each in selected:
        rows += _rows(home, report_table(home.reading.reader, home.settings, each, now), min_missing)
    if as_json:
        console.write_json({"gaps": rows, "missing": sum(row["missing"] for row in rows)})
    elif as_csv:
        console.write_csv(COLUMNS, rows)
    elif rows:
        numbers = {"missing", "unanswered", "unfillable"}
        console.table("Gaps", COLUMNS, [[row[name] for name in COLUMNS] for row in rows], numbers)
        lost = sum(row["missing"] for row in rows)
        console.out.print(f"{console.many(len(rows), 'gap')}, {console.many(lost, 'missing bar')}.")
    else:
        console.out.print("No gaps.")
    return errors.SUCCESS


def _rows(home: Platform, found: TableReport, min_missing: int) -> list[dict[str, Any]]:
    import numpy as np

    from ohlcv_pipeline.bars.planning import Cause
    from ohlcv_pipeline.cli.reporting import known_from
    from ohlcv_pipeline.frames import micros

    of = found.selected
    named = [entry.symbol for entry in found.entries if entry.gaps]
    if not named:
        return []
    keys = of.market.partition_keys(of.interval, of.start_us, of.end_us)
    absent = home.reading.reader.absent(of.market.name, of.interval, named, keys)
    names, causes, starts = np.asarray(absent["symbol"]), np.asarray(absent["cause"]), micros(absent["bucket_start"])
    rows = []
    for entry in found.entries:
        own = names == entry.symbol
        for gap, shown in zip(entry.gaps, entry.as_json()["gaps"], strict=True):
            if gap.missing < min_missing:
                continue
            inside = own & (starts >= gap.first_us) & (starts <= gap.last_us)
            unanswered = int(np.sum(inside & (causes == Cause.UNANSWERED)))
            unfillable = int(np.sum(inside & (causes == Cause.UNFILLABLE)))
            known = known_from(gap, found.known(gap), unanswered, unfillable)
            rows.append(
                {
                    "market": entry.market,
                    "symbol": entry.symbol,
                    "interval": entry.interval,
                    **shown,
                    "unanswered": unanswered,
                    "unfillable": unfillable,
                    "declared_outage": known.declared,
                    "known": str(known),
                }
            )
    return rows
