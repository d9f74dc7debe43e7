"""`ohlcv export`: the bars of one symbol as CSV, Parquet or JSON."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, cast

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import CliError, UsageError
from ohlcv_pipeline.cli.options import load_settings, usage
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.access import Bars
    from ohlcv_pipeline.bars.adjust import Adjust


class Format(StrEnum):
    """What a file is written as."""

    CSV = "csv"
    PARQUET = "parquet"
    JSON = "json"


def export(
    symbol: Annotated[str, typer.Option("--symbol", help="E.g. BTC.")],
    start: Annotated[str, typer.Option("--start", help="First bucket: a date or ISO time with zone.")],
    end: Annotated[str, typer.Option("--end", help="End, exclusive: a date or ISO time with zone.")],
    interval: Annotated[
        str, typer.Option("--interval", help="minute, day, or rolled up from minutes: 5m 15m 30m 1h 4h 1d 1w.")
    ] = "day",
    market: Annotated[str | None, typer.Option("--market", help="Where the symbol is in more than one.")] = None,
    adjust: Annotated[
        str, typer.Option("--adjust", help="raw, split, or all: for splits and dividends after each bar.")
    ] = "raw",
    form: Annotated[Format | None, typer.Option("--format", help="Default: by the file's ending, else csv.")] = None,
    output: Annotated[str, typer.Option("--output", "-o", help="File, or - for stdout.")] = "-",
) -> int:
    """Write the bars of one symbol to a file or to stdout.

    Times are UTC and label the start of a bar. Prices are written so that they read back as the same numbers.

    - `ohlcv export --symbol BTC --interval 1h --start 2026-11-01 --end 2026-11-08 -o btc.csv`
    - `ohlcv export --symbol ETH --interval minute --start 2026-11-01 --end 2026-11-02 -o eth.parquet`
    - `ohlcv export --symbol SOL --start 2025-01-01 --end 2026-01-01 --format json | jq length`
    """
    load_settings()
    from ohlcv_pipeline.bars.access import open_lake

    written = form or next((each for each in Format if output.endswith(f".{each}")), Format.CSV)
    if written is Format.PARQUET and output == "-" and sys.stdout.isatty():
        raise UsageError("Parquet is not text; name a file with --output bars.parquet")
    with usage():
        bars = open_lake().bars(symbol, interval, start, end, market=market, adjust=cast("Adjust", adjust))
    if bars.empty:
        console.note(f"No {interval} bars of {symbol} are stored from {start} to {end}; `ohlcv backfill` fetches them.")
    if output == "-":
        _write(bars, written, sys.stdout.buffer)
        sys.stdout.flush()
        return errors.SUCCESS
    try:
        with Path(output).open("wb") as file:
            _write(bars, written, file)
    except OSError as error:
        raise CliError(f"{output} cannot be written: {error.strerror}; choose another --output") from error
    console.note(f"{many(len(bars), 'bar')} written to {output}.")
    return errors.SUCCESS


def _write(bars: Bars, form: Format, target: BinaryIO) -> None:
    if form is Format.PARQUET:
        import pyarrow.parquet as pq

        pq.write_table(bars.arrow(), target)
        return
    flat = bars.reset_index()
    flat["bucket_start"] = flat["bucket_start"].dt.strftime("%Y-%m-%dT%H:%M:%SZ")
    if form is Format.CSV:
        target.write(flat.to_csv(index=False, lineterminator="\n").encode())
        return
    import orjson

    rows = [{k: None if v != v else v for k, v in row.items()} for row in flat.to_dict(orient="records")]
    target.write(orjson.dumps(rows, option=orjson.OPT_APPEND_NEWLINE, default=_plain))


def _plain(value: object) -> None:
    """Write pandas' own missing value as null."""
    import pandas as pd

    if value is pd.NA:
        return
    raise TypeError(f"{type(value).__name__} has no form in JSON")
