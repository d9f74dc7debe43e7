"""`ohlcv revisions`: each bar that was replaced, with its old and new values."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import (
    CsvOption,
    EndOption,
    IntervalOption,
    JsonOption,
    MarketOption,
    StartOption,
    open_platform,
    select,
    usage,
)
from ohlcv_pipeline.wording import many

_VALUES = ("open", "high", "low", "close", "volume")
COLUMNS = [
    "market", "interval", "symbol", "bucket_start", *(f"{side}_{name}" for name in _VALUES for side in ("old", "new")),
    "old_vendor", "new_vendor", "first_seen", "superseded_at", "superseded_by_run", "revision", "cause",
]  # fmt: skip
_SHOWN = ["symbol", "interval", "bucket_start", "changed", "vendor", "first_seen", "superseded_at", "cause"]


def revisions(
    symbols: Annotated[str | None, typer.Argument(help="E.g. BTC or BTC,ETH. Default: every enabled one.")] = None,
    market: MarketOption = None,
    interval: IntervalOption = None,
    start: StartOption = None,
    end: EndOption = None,
    since: Annotated[
        str | None, typer.Option("--since", help="Only what was replaced since: a date or ISO time with zone.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: CsvOption = False,
) -> int:
    """List every bar that was replaced: old and new values, vendor, since when it was held, until when, and why.

    The cause is `late_correction` (the same vendor sent other values), `better_vendor`, `forced` or `repair`.

    - `ohlcv revisions BTC --interval minute --start 2026-11-10`
    - `ohlcv revisions --since 2026-11-17 --json`
    """
    now = datetime.now(UTC)
    home = open_platform()
    selected = select(home, market, interval, symbols, start, end, now)
    from ohlcv_pipeline.bars.access import instant_us
    from ohlcv_pipeline.lake.history import History

    with usage():
        since_us = 0 if since is None else instant_us(since)
    history = History(home.reading.reader)
    rows: list[dict[str, Any]] = []
    for each in selected:
        named = [instrument.symbol for instrument in each.instruments]
        found = history.revisions(each.market.name, each.interval, named, each.start_us, each.end_us, since_us)
        rows += [{"market": each.market.name, "interval": str(each.interval), **_written(row)} for row in found]
    if as_json:
        console.write_json({"revisions": rows})
    elif as_csv:
        console.write_csv(COLUMNS, rows)
    elif rows:
        console.table("Revisions", _SHOWN, [[_shown(row)[name] for name in _SHOWN] for row in rows])
        console.out.print(f"{many(len(rows), 'revision')}.")
    else:
        console.out.print("No bar was replaced.")
    return errors.SUCCESS


def _written(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row with its instants as ISO texts in UTC."""
    return {
        name: value.astimezone(UTC).isoformat().replace("+00:00", "Z") if isinstance(value, datetime) else value
        for name, value in row.items()
    }


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row for the eye: the values that differ, one a line."""
    if row["new_vendor"] is None:
        changed = "withdrawn"
    else:
        pairs = [(name, row[f"old_{name}"], row[f"new_{name}"]) for name in _VALUES]
        changed = "\n".join(f"{name} {old} → {new}" for name, old, new in pairs if old != new) or "nothing"
    old, new = row["old_vendor"], row["new_vendor"]
    return row | {"changed": changed, "vendor": old if new in (old, None) else f"{old} → {new}"}
