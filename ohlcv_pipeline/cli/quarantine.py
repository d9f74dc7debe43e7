"""`ohlcv quarantine`: the rows that were refused or flagged, and what a person decides about them."""

from __future__ import annotations

import getpass
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any
from uuid import uuid4

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import CliError, UsageError
from ohlcv_pipeline.cli.options import (
    IntervalOption,
    JsonOption,
    MarketOption,
    SymbolsOption,
    open_platform,
    split,
    tables,
    usage,
)
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.quarantine import Row
    from ohlcv_pipeline.markets import Interval, Market
    from ohlcv_pipeline.platform import Platform

app = typer.Typer(
    no_args_is_help=True,
    help="List, show, release and discard rows that broke a rule. Each decision is kept beside its row.",
)

NEIGHBOURS = 2

RowArgument = Annotated[str, typer.Argument(help="Id of a row, or its first digits.", show_default=False)]
ByOption = Annotated[str | None, typer.Option("--by", help="Who decides. Default: the user of this machine.")]
NoteOption = Annotated[str, typer.Option("--note", help="Why, for whoever asks later.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")]


@app.command("list")
def show_all(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Only these, e.g. bad_ohlc,negative.")] = None,
    start: Annotated[str | None, typer.Option("--start", help="First bucket: a date or ISO time with zone.")] = None,
    end: Annotated[str | None, typer.Option("--end", help="End, exclusive: a date or ISO time with zone.")] = None,
    state: Annotated[str, typer.Option("--state", help="open, released, discarded or all.")] = "open",
    as_json: JsonOption = False,
) -> int:
    """List the rows of the quarantine; those that are still open unless `--state` says otherwise.

    - `ohlcv quarantine list`
    - `ohlcv quarantine list --symbols BTC --reason duplicate_conflict,ratio_shift --start 2026-11-01`
    - `ohlcv quarantine list --state all --json`
    """
    home = open_platform()
    chosen = tables(home.settings, market, interval)
    from ohlcv_pipeline.bars.access import instant_us
    from ohlcv_pipeline.bars.quarantine import Decision, rows
    from ohlcv_pipeline.bars.schema import Reason
    from ohlcv_pipeline.markets import to_us

    reasons = None if reason is None else frozenset(part.strip() for part in reason.split(","))
    if unknown := (reasons or frozenset()) - set(Reason):
        raise UsageError(f"--reason {', '.join(sorted(unknown))}: the reasons are {', '.join(Reason)}")
    if state not in (*Decision, "all"):
        raise UsageError(f"--state {state}: it is one of {', '.join(Decision)}, all")
    with usage():
        first, last = (None if text is None else instant_us(text) for text in (start, end))

    def within(row: Row) -> bool:
        if first is None and last is None:
            return True
        at = None if row["bucket_start"] is None else to_us(row["bucket_start"])
        return at is not None and (first is None or first <= at) and (last is None or at < last)

    found = [
        row
        for of, each in chosen
        for row in rows(home.reading.reader, of, each, split(symbols))
        if state in (row.state, "all") and (reasons is None or row["reason"] in reasons) and within(row)
    ]
    if as_json:
        console.write_json({"rows": [_document(row) for row in found]})
    elif found:
        columns = ["id", "market", "symbol", "interval", "bucket", "reason", "vendor", "stored", "state", "values"]
        console.table("Quarantine", columns, [_line(row) for row in found])
        counts = Counter(row["reason"] for row in found)
        told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        console.out.print(f"{many(len(found), 'row')}: {told}.")
    else:
        console.out.print("No row." if state == "all" else f"No {state} row.")
    return errors.SUCCESS


@app.command()
def show(row_id: RowArgument, as_json: JsonOption = False) -> int:
    """Show one row with the answer it came in and the bars around it.

    - `ohlcv quarantine show 3f2a91c07b5d`
    """
    home = open_platform()
    one = _find(home, row_id)
    document = _document(one.row) | {"answer": one.answer(), "around": one.around()}
    if as_json:
        console.write_json(document)
        return errors.SUCCESS
    facts = [(name, each) for name, each in document.items() if name not in ("answer", "around") and each is not None]
    if document["answer"] is not None:
        facts += [(f"answer {name}", value) for name, value in document["answer"].items()]
    console.table("Quarantined row", ["what", "value"], facts)
    names = ["bucket_start", "open", "high", "low", "close", "volume"]
    console.table("Bars around it", names, [[bar[name] for name in names] for bar in document["around"]], names[1:])
    return errors.SUCCESS


@app.command()
def release(
    row_id: RowArgument,
    by: ByOption = None,
    note: NoteOption = "",
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> int:
    """Publish a row as a bar, with the vendor and the answer it came from, in one transaction with the decision.

    It replaces the stored bar, which goes to `bar_revisions`. A row that breaks a rule every bar must keep is
    refused, naming the rule; a flagged row, which is stored already, is confirmed.

    - `ohlcv quarantine release 3f2a91c07b5d --dry-run`
    - `ohlcv quarantine release 3f2a91c07b5d --note 'the exchange confirmed the print'`
    """
    home = open_platform()
    one = _find(home, row_id)
    now, run_id = datetime.now(UTC), str(uuid4())
    from ohlcv_pipeline.bars.quarantine import RefusedError, values_of
    from ohlcv_pipeline.bars.quarantine import release as release_row

    published = 0
    try:
        if not one.row["published"]:
            values = values_of(one.row)
        before = one.stored()
        if not dry_run:
            instrument = _instrument(home, one)
            published = release_row(
                home.store, one.market, one.interval, instrument, one.row, now, run_id=run_id, by=_who(by), note=note
            ).rows
    except RefusedError as error:
        raise CliError(str(error)) from error
    released = before if one.row["published"] else values
    document = {
        "id": one.row.id, "released": not dry_run, "rows": published, "run_id": None if dry_run else run_id,
        "before": before, "after": released,
    }  # fmt: skip
    if as_json:
        console.write_json(document)
    elif one.row["published"]:
        console.out.print(f"{one.title} is stored as delivered; it {'would be' if dry_run else 'is now'} confirmed.")
    else:
        names = ["open", "high", "low", "close", "volume"]
        lines = [["stored", *((before or {}).get(name) for name in names)], ["released", *(values[n] for n in names)]]
        console.table(one.title, ["", *names], lines, names)
        console.out.print("Nothing was changed." if dry_run else f"{many(published, 'bar')} published.")
    return errors.SUCCESS


@app.command()
def discard(row_id: RowArgument, by: ByOption = None, note: NoteOption = "", as_json: JsonOption = False) -> int:
    """Decide that a row stays out. It is kept as evidence and no longer listed as open.

    - `ohlcv quarantine discard 3f2a91c07b5d --note 'test print of the vendor'`
    """
    home = open_platform()
    one = _find(home, row_id)
    from ohlcv_pipeline.bars.quarantine import RefusedError
    from ohlcv_pipeline.bars.quarantine import discard as discard_row

    try:
        discard_row(home.store, one.market, one.interval, one.row, datetime.now(UTC), by=_who(by), note=note)
    except RefusedError as error:
        raise CliError(str(error)) from error
    if as_json:
        console.write_json({"id": one.row.id, "discarded": True})
    else:
        console.out.print(f"{one.title} is discarded; the row is kept.")
    return errors.SUCCESS


@dataclass(frozen=True)
class _One:
    """One row and where it belongs."""

    home: Platform
    market: Market
    interval: Interval
    row: Row

    @property
    def title(self) -> str:
        bucket = self.row["bucket_start"]
        at = "without a time" if bucket is None else console.instant(bucket)
        return f"{self.row['symbol']} {self.interval} {at} ({self.row['reason']})"

    def around(self, neighbours: int = NEIGHBOURS) -> list[dict[str, Any]]:
        """Return the stored bars around the bucket, its own included."""
        from ohlcv_pipeline.bars.explain import around

        if self.row["bucket_start"] is None:
            return []
        from ohlcv_pipeline.markets import to_us

        bucket = to_us(self.row["bucket_start"])
        bars = around(self.home.reading.reader, self.market, self.interval, self.row["symbol"], bucket, neighbours)
        return [{**bar, "bucket_start": console.instant(bar["bucket_start"])} for bar in bars]

    def stored(self) -> dict[str, Any] | None:
        """Return the bar that is stored in the row's bucket."""
        return next(iter(self.around(0)), None)

    def answer(self) -> dict[str, Any] | None:
        """Return what was asked when the row came, None when the answer is kept no longer."""
        found = self.home.reading.reader.query(
            "SELECT url, status, fetched_at FROM lake.raw_objects WHERE id = ? ORDER BY fetched_at LIMIT 1",
            [self.row["raw_id"]],
        ).to_pylist()
        return {**found[0], "fetched_at": console.instant(found[0]["fetched_at"])} if found else None


def _find(home: Platform, row_id: str) -> _One:
    """Return the one row whose id begins so."""
    from ohlcv_pipeline.bars.quarantine import rows

    found = [
        _One(home, of, interval, row)
        for of, interval in tables(home.settings, None, None)
        for row in rows(home.reading.reader, of, interval)
        if row.id.startswith(row_id.lower())
    ]
    if len(found) != 1:
        many = f"begins {len(found)} ids" if found else "is no id of a row"
        raise UsageError(f"{row_id} {many}; `ohlcv quarantine list --state all` shows them")
    return found[0]


def _instrument(home: Platform, one: _One) -> Any:
    from ohlcv_pipeline.ledger import symbols

    return next(each for each in symbols.all_of(home.ledger, one.market) if each.symbol == one.row["symbol"])


def _who(by: str | None) -> str:
    return by or getpass.getuser()


def _document(row: Row) -> dict[str, Any]:
    shown = {
        name: console.instant(value) if isinstance(value, datetime) else value for name, value in row.columns.items()
    }
    return {"id": row.id, "state": str(row.state), **shown}


def _line(row: Row) -> list[object]:
    bucket = row["bucket_start"]
    return [
        row.id,
        row["market"],
        row["symbol"],
        row["interval"],
        None if bucket is None else console.instant(bucket),
        row["reason"],
        row["vendor"],
        "yes" if row["published"] else "no",
        str(row.state),
        row["raw"],
    ]
