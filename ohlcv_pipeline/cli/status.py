"""`ohlcv status`: one row for each symbol and interval, with coverage, lag and checksum."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import (
    CsvOption,
    IntervalOption,
    JsonOption,
    MarketOption,
    SymbolsOption,
    open_platform,
    select,
)

COLUMNS = [
    "market",
    "symbol",
    "interval",
    "coverage_pct",
    "rows",
    "newest",
    "lag_minutes",
    "state",
    "vendor",
    "checksum",
]


def status(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> int:
    """Show how complete and how fresh every series is.

    Coverage is of the target window; the lag counts only minutes in which the market was open.

    - `ohlcv status`
    - `ohlcv status --interval minute --symbols BTC,ETH`
    - `ohlcv status --json | jq '.series[] | select(.state == "stale")'`
    """
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, symbols, None, None, now)
    from ohlcv_pipeline.bars.inspection import lag_of_each
    from ohlcv_pipeline.bars.report import report

    reader = home.reading.reader
    rows: list[dict[str, Any]] = []
    for each in selected:
        of, instruments = (each.market, each.interval), each.instruments
        threshold = home.settings.freshness_threshold(each.market.name, each.interval)
        lags = lag_of_each(reader, *of, instruments, now, threshold)
        for entry in report(reader, *of, instruments, each.start_us, each.end_us, now):
            lag = lags[entry.symbol]
            rows.append(
                {
                    "market": entry.market,
                    "symbol": entry.symbol,
                    "interval": entry.interval,
                    "coverage_pct": entry.coverage_pct,
                    "rows": entry.actual_rows,
                    "expected_rows": entry.expected_rows,
                    "newest": entry.as_json()["newest_bucket"],
                    "lag_minutes": None if lag.lag_minutes is None else round(lag.lag_minutes, 1),
                    "threshold_minutes": threshold,
                    "state": "stale" if lag.stale else "fresh",
                    "vendor": entry.vendor,
                    "checksum": entry.checksum_sha256,
                }
            )
    if as_json:
        console.write_json({"at": now, "series": rows})
    elif as_csv:
        console.write_csv(COLUMNS, rows)
    else:
        shown = [
            [
                *(row["market"], row["symbol"], row["interval"]),
                None if row["coverage_pct"] is None else f"{row['coverage_pct']:.2f}",
                *(f"{row['rows']:,}", row["newest"], row["lag_minutes"], row["state"], row["vendor"]),
                row["checksum"][:12],
            ]
            for row in rows
        ]
        console.table("Series", COLUMNS, shown, {"coverage_pct", "rows", "lag_minutes"})
        stale = sum(row["state"] == "stale" for row in rows)
        if stale:
            console.note(
                f"{stale} of {len(rows)} series are further behind, in market time, than their threshold;"
                " `ohlcv backfill` catches up."
            )
    return errors.SUCCESS
