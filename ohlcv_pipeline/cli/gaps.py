"""`ohlcv gaps`: every run of missing bars, why it is missing, and what is done about it."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import UsageError
from ohlcv_pipeline.cli.options import (
    CsvOption,
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
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.inquiry import Absence
    from ohlcv_pipeline.platform import Platform

COLUMNS = [
    "market", "symbol", "interval", "range_start", "range_end", "missing", "cause", "because", "attempts",
    "next_look", "declared_outage",
]  # fmt: skip
SHOWN = ["symbol", "from", "to", "missing", "cause", "because", "attempts", "next look"]


def gaps(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    start: StartOption = None,
    end: EndOption = None,
    min_missing: Annotated[
        int, typer.Option("--min-missing", min=1, help="Leave out shorter gaps than this many buckets.")
    ] = 1,
    cause: Annotated[
        str | None, typer.Option("--cause", help="Only these causes, e.g. vendor_outage,unfillable. no_trades is one.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> int:
    """List every gap: first and last missing bucket, how many, and why.

    Minutes that a vendor has shown to be without trades are no gaps; `--cause no_trades` lists them. Gaps are data:
    the exit code is 0. The JSON holds the evidence of each: which answers lacked the buckets.

    - `ohlcv gaps`
    - `ohlcv gaps --symbols BTC --interval minute --min-missing 30`
    - `ohlcv gaps --cause unfillable,page_boundary --json`
    - `ohlcv gaps --csv > gaps.csv`
    """
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, symbols, start, end, now)
    wanted = _causes(cause)
    rows: list[dict[str, Any]] = []
    for each in selected:
        rows += _rows(home, each, wanted, min_missing, now)
    lost = sum(row["missing"] for row in rows)
    if as_json:
        console.write_json({"gaps": rows, "missing": lost})
    elif as_csv:
        console.write_csv(COLUMNS, rows)
    elif rows:
        several = len({row["market"] for row in rows}) > 1
        console.table("Gaps", SHOWN, [_shown(row, several) for row in rows], {"missing", "attempts"})
        console.out.print(f"{many(len(rows), 'gap')}, {many(lost, 'missing bar')}.")
    else:
        console.out.print("No gaps.")
    return errors.SUCCESS


def _causes(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    from ohlcv_pipeline.bars.causes import Cause

    asked = frozenset(part.strip() for part in text.split(",") if part.strip())
    if unknown := asked - set(Cause):
        raise UsageError(f"--cause {', '.join(sorted(unknown))}: the causes are {', '.join(Cause)}")
    return asked


def _rows(
    home: Platform, of: Selected, wanted: frozenset[str] | None, min_missing: int, now: datetime
) -> list[dict[str, Any]]:
    from ohlcv_pipeline.bars.gaps import Gap
    from ohlcv_pipeline.bars.inquiry import inquire
    from ohlcv_pipeline.cli.reporting import declared_outages, outage_behind
    from ohlcv_pipeline.ledger import outcomes
    from ohlcv_pipeline.markets import Interval

    def failures(since: datetime) -> list[outcomes.Trouble]:
        return outcomes.troubles(home.ledger, of.market.vendors, since)

    found = [
        each
        for each in inquire(
            home.reading.reader,
            of.market,
            of.interval,
            home.instruments(of.market),
            of.start_us,
            of.end_us,
            now,
            failures,
            [instrument.symbol for instrument in of.instruments],
        )
        if (each.is_gap if wanted is None else each.cause in wanted) and each.missing >= min_missing
    ]
    minutes = of.interval is Interval.MINUTE and any(each.is_gap for each in found)
    outages = declared_outages(home.settings, of.market, of.start_us, of.end_us) if minutes else []
    return [
        as_row(each)
        | {
            "declared_outage": each.is_gap
            and outage_behind(Gap(each.first_us, each.last_us, each.missing), outages, of.start_us, of.end_us)
            is not None
        }
        for each in found
    ]


def as_row(absence: Absence) -> dict[str, Any]:
    """Return a run of absent buckets as JSON shows it; instants as ISO texts in UTC."""
    from ohlcv_pipeline.markets import from_us

    return {
        "market": absence.market,
        "symbol": absence.symbol,
        "interval": absence.interval,
        "range_start": console.instant(from_us(absence.first_us)),
        "range_end": console.instant(from_us(absence.last_us)),
        "missing": absence.missing,
        "cause": str(absence.cause),
        "because": absence.because,
        "attempts": absence.attempts,
        "next_look": None if absence.next_look is None else console.instant(absence.next_look),
        "evidence": [
            {name: console.instant(value) if isinstance(value, datetime) else value for name, value in look.items()}
            for look in map(asdict, absence.evidence)
        ],
    }


def _shown(row: dict[str, Any], several: bool) -> list[object]:
    because = row["because"]
    if row["declared_outage"]:
        because += "; the sandbox's declared outage"
    name = f"{row['symbol']} {row['interval']}"
    return [
        f"{row['market']} {name}" if several else name,
        row["range_start"],
        row["range_end"],
        row["missing"],
        row["cause"],
        because,
        row["attempts"],
        row["next_look"],
    ]
