"""`ohlcv explain`: one bar with everything behind it, or why there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors, processes
from ohlcv_pipeline.cli.errors import UsageError
from ohlcv_pipeline.cli.options import JsonOption, MarketOption, open_platform, tables, usage

if TYPE_CHECKING:
    from ohlcv_pipeline.ledger import outcomes
    from ohlcv_pipeline.markets import Instrument, Interval, Market
    from ohlcv_pipeline.platform import Platform
    from ohlcv_pipeline.settings import Settings

DAGSTER_URL = "http://127.0.0.1:3000"
"""Where `ohlcv up` starts the Dagster UI unless told otherwise."""


def explain(
    symbol: Annotated[str, typer.Argument(help="E.g. BTC.", show_default=False)],
    bucket: Annotated[
        str, typer.Argument(help="Start of the bar: an ISO time with zone, or a date.", show_default=False)
    ],
    interval: Annotated[str, typer.Option("--interval", help="minute or day (1m, 1d).")] = "minute",
    market: MarketOption = None,
    ask: Annotated[bool, typer.Option("--ask", help="Ask every vendor of the market what it says now.")] = False,
    deadline: Annotated[float, typer.Option("--deadline", min=0.1, help="Seconds --ask waits for a vendor.")] = 20.0,
    as_json: JsonOption = False,
) -> int:
    """Show one bar and the whole chain behind it; for a bucket without a bar, why there is none.

    Value, history, manifest, run, request, answer, the vendor's own checksum, parser and calendar, neighbours, and
    what else was said about it. Without `--ask` nothing is sent to anyone: the kept answer is read again.

    - `ohlcv explain BTC 2026-10-05T14:31Z`
    - `ohlcv explain ETH 2026-10-05 --interval day --json`
    - `ohlcv explain BTC 2026-10-05T14:31Z --ask`
    """
    now = datetime.now(UTC)
    home = open_platform()
    of, each, instrument = _series(home, symbol, interval, market)
    from ohlcv_pipeline.bars.access import instant_us
    from ohlcv_pipeline.bars.explain import ask as ask_vendors
    from ohlcv_pipeline.bars.explain import explain as explain_bar
    from ohlcv_pipeline.ledger import outcomes
    from ohlcv_pipeline.vendors.registry import ADAPTERS

    with usage():
        at = instant_us(bucket)
    if at % each.step_us:
        raise UsageError(f"{bucket} is no start of a {each} bar; write a full minute, or a date for a day")

    def failures(since: datetime) -> list[outcomes.Trouble]:
        return outcomes.troubles(home.ledger, of.vendors, since)

    document = explain_bar(home.reading, of, each, instrument, home.instruments(of), at, now, ADAPTERS, failures)
    if document["bar"] is not None:
        document["run"]["url"] = (
            f"{_dagster(home.settings)}/runs/{document['run']['id']}" if document["run"]["cause"] == "fetched" else None
        )

    async def asked() -> list[dict[str, Any]]:
        async with home.sources(of) as sources:
            return await ask_vendors(sources, of, each, instrument, at, document["bar"], now, deadline)

    if ask:
        document["others"] = asyncio.run(asked())
    document = _plain(document)
    if as_json:
        console.write_json(document)
    else:
        _print(document)
    return errors.SUCCESS


def _series(home: Platform, symbol: str, interval: str, market: str | None) -> tuple[Market, Interval, Instrument]:
    """Return the one series that is asked about."""
    from ohlcv_pipeline.ledger import symbols

    found = [
        (of, each, instrument)
        for of, each in tables(home.settings, market, interval)
        for instrument in symbols.all_of(home.ledger, of)
        if instrument.symbol == symbol.upper()
    ]
    if len(found) > 1:
        raise UsageError(f"{symbol} is in {', '.join(of.name for of, _, _ in found)}: say --market …")
    if not found:
        raise UsageError(f"{symbol} is no symbol of an enabled market; `ohlcv symbols list` shows those there are")
    return found[0]


def _dagster(chosen: Settings) -> str:
    started = processes.run_folder(chosen) / "dagster.url"
    return chosen.dagster_url.rstrip("/") or (started.read_text().strip() if started.exists() else DAGSTER_URL)


def _plain(value: Any) -> Any:
    """Return the document with instants as ISO texts in UTC."""
    if isinstance(value, datetime):
        return console.instant(value)
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


def _print(document: Mapping[str, Any]) -> None:
    title = f"{document['market']} {document['symbol']} {document['interval']} {document['bucket_start']}"
    console.table(title, ["what", "found"], list(_lines(document)))
    for name, rows in (
        ("Around it", document["neighbours"]),
        ("What it was before", document["revisions"]),
        ("In the quarantine", document["quarantine"]),
        ("What vendors say now", document["others"]),
    ):
        if rows:
            columns = [column for column in _COLUMNS[name] if any(column in row for row in rows)]
            console.table(name, columns, [[_cell(row.get(column)) for column in columns] for row in rows])


_VALUES = ("open", "high", "low", "close", "volume")
_COLUMNS: Mapping[str, Sequence[str]] = {
    "Around it": ("bucket_start", *_VALUES),
    "What it was before": (
        "revision", *_VALUES, "source_vendor", "valid_from", "superseded_at", "superseded_by_run", "cause",
    ),
    "In the quarantine": ("id", "reason", "published", "state", "raw", "vendor", "decided_by", "note"),
    "What vendors say now": ("vendor", "found", "values", "differs"),
}  # fmt: skip


def _lines(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what the first table says, line by line."""
    calendar = document["calendar"]
    bar, manifest = document["bar"], document["manifest"]
    if bar is None:
        absence = document["absence"]
        yield "bar", "none"
        yield "cause", absence["cause"]
        yield "because", absence["because"]
        if "range_start" in absence:
            yield "gap", f"{absence['range_start']} … {absence['range_end']}, {absence['missing']} missing"
        yield "attempts", str(absence["attempts"])
        yield "next look", absence["next_look"] or "–"
        for look in absence["evidence"]:
            window = f"{look['window_start']} … {look['window_end']}"
            yield (
                "evidence",
                f"{look['looked_at']} {look['vendor']}, {look['rows']} rows for {window}, {look['raw_id']}",
            )
    else:
        yield "value", ", ".join(f"{name} {bar[name]}" for name in _VALUES)
        yield "vwap, trades", f"{_cell(bar['vwap'])}, {_cell(bar['trade_count'])}"
        yield "checksum of the bar", document["bar_checksum"]
        yield "vendor", bar["source_vendor"]
        yield "fetched at", bar["fetched_at"]
        run = document["run"]
        yield "run", f"{run['id']} ({run['cause']})"
        if run["url"]:
            yield "run in Dagster", run["url"]
        yield from _source_lines(document["source"])
    yield "partition", document["partition"] or "none"
    if manifest is not None:
        yield (
            "manifest",
            f"revision {manifest['revision']}, {manifest['rows']} of {manifest['expected_rows']} bars,"
            f" {manifest['no_trades_rows']} without trades, {'complete' if manifest['complete'] else 'not complete'}",
        )
        yield "checksum of the partition", manifest["checksum"]
    yield "calendar", f"{calendar['name']}, {calendar['version']}"


def _source_lines(source: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    request, raw, published = source["request"], source["raw"], source["vendor_checksum"]
    if request is not None:
        answered = f"{request['status']}, {request['bytes']:,} bytes at {request['fetched_at']}"
        yield (
            "request",
            f"{request['url']} → {answered}",
        )
    if raw is not None:
        yield "answer", f"{raw['id']} in {raw['pack']}"
    if published is None:
        yield "vendor's checksum", "none is published"
    else:
        yield "vendor's checksum", f"{published['value']} ({'matches' if published['matches'] else 'DIFFERS'})"
    yield "parser", f"{source['vendor']} version {_cell(source['parser_version'])}"
    yield "read again", source["reread"]


def _cell(value: object) -> str:
    if value is None:
        return "–"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items()) or "–"
    return str(value)
