"""The pages for people: `/status` and one for each series; and the data that their scripts and exports ask for.

Handlers run in threads: rendering takes milliseconds, and the page of a series reads the lake.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Annotated, Any
from urllib.parse import urlencode

import orjson
from fastapi import Depends, Query
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from ohlcv_pipeline.markets import Instrument, Interval, Market
from ohlcv_pipeline.service.context import Context, Ctx
from ohlcv_pipeline.service.parameters import AssetName, IntervalName, MarketName, known_market
from ohlcv_pipeline.service.problems import not_found
from ohlcv_pipeline.service.routing import json_response
from ohlcv_pipeline.service.routing import router as new_router
from ohlcv_pipeline.service.series import MOST_BARS, candles, detail
from ohlcv_pipeline.service.templating import render
from ohlcv_pipeline.service.views import Filters, View

router = new_router("pages")

EXCEPTIONS = 12
"""Cells without all their bars that are named beside the map."""

RANGES = {
    Interval.MINUTE: [(120, "120 bars"), (390, "390 bars"), (1440, "1,440 bars")],
    Interval.DAY: [(90, "90 days"), (365, "365 days"), (MOST_BARS, "All")],
}
"""How many bars a chart offers to show; the first at once."""

_FORMULA = ("=", "+", "-", "@")

Text = Annotated[str, Query(max_length=40)]


def _filters(
    problems: Text = "", gaps: Text = "", market: Text = "", interval: Text = "", asset: Text = "", sort: Text = ""
) -> Filters:
    given = {"problems": problems, "gaps": gaps, "market": market, "interval": interval, "asset": asset, "sort": sort}
    return Filters.of(given)


Wanted = Annotated[Filters, Depends(_filters)]
"""As a parameter of a handler: the filters of the URL."""


@lru_cache(maxsize=2)
def _parsed(summary: bytes) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(summary)
    return found


def _summary(ctx: Context) -> dict[str, Any]:
    """Return the summary as `GET /status/summary` gives it; it is parsed once a snapshot."""
    return _parsed(ctx.summary.current().whole)


def _view(ctx: Context, filters: Filters) -> View:
    return View(_summary(ctx), filters)


@router.get("/", include_in_schema=False)
async def home() -> RedirectResponse:
    """Lead to the status page."""
    return RedirectResponse("/status")


@router.get("/status", include_in_schema=False)
def status(ctx: Ctx, filters: Wanted) -> HTMLResponse:
    """Show how everything does."""
    view, board = _view(ctx, filters), ctx.boards.current()
    grids = board.grids.values()
    exceptions = [cell for grid in grids for cell in grid.exceptions()]
    export = {"market": filters.market, "interval": filters.interval, "format": "csv"}
    return render(
        "status.html",
        sandbox=ctx.platform.settings.profile == "sandbox",
        view=view,
        panels=board.panels,
        incidents=board.panels.incidents,
        exceptions=exceptions[:EXCEPTIONS],
        short=len(exceptions),
        cells=sum(len(cells) for grid in grids for cells in grid.series.values()),
        quarantine=board.undecided,
        remediation_link=f"/status/remediation?{urlencode({name: value for name, value in export.items() if value})}",
    )


@router.get("/status/coverage.json", include_in_schema=False)
def coverage(ctx: Ctx, interval: IntervalName = Interval.MINUTE) -> Response:
    """Give the cells of the coverage map."""
    return json_response(ctx.boards.current().grids[interval].as_json())


@router.get("/status/series.json", include_in_schema=False)
def series_json(ctx: Ctx, filters: Wanted) -> Response:
    """Export the rows that the page shows, in its order."""
    return _attached(orjson.dumps(_view(ctx, filters).shown), "application/json", "series.json")


@router.get("/status/series.csv", include_in_schema=False)
def series_csv(ctx: Ctx, filters: Wanted) -> Response:
    """Export the rows that the page shows, in its order."""
    view, text = _view(ctx, filters), io.StringIO()
    names = list(view.rows[0]) if view.rows else []
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row[name]) for name in names] for row in view.shown)
    return _attached(text.getvalue().encode(), "text/csv; charset=utf-8", "series.csv")


def _cell(value: object) -> object:
    """Return a cell that a spreadsheet does not take for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def _attached(body: bytes, media_type: str, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(body, headers=headers, media_type=media_type)


@dataclass(frozen=True)
class _Series:
    """The series that a path names."""

    market: Market
    instruments: Sequence[Instrument]
    instrument: Instrument
    interval: Interval


def _named(ctx: Ctx, market: MarketName, asset: AssetName, interval: IntervalName) -> _Series:
    """Return an enabled series. Raises ProblemError when there is none."""
    home = known_market(ctx.platform, market)
    assert home is not None
    enabled = ctx.platform.instruments(home)
    for instrument in enabled:
        if instrument.symbol == asset:
            return _Series(home, enabled, instrument, interval)
    raise not_found("there is no such symbol")


Named = Annotated[_Series, Depends(_named)]


@router.get("/status/{market}/{asset}/{interval}", include_in_schema=False)
def series(ctx: Ctx, named: Named) -> HTMLResponse:
    """Show one series: candles, gaps, revisions, quarantine, partitions, runs, incidents."""
    market, instrument, interval = named.market, named.instrument, named.interval
    wanted = (market.name, instrument.symbol, str(interval))
    rows = _summary(ctx)["assets"]
    row = next((row for row in rows if (row["market"], row["asset"], row["interval"]) == wanted), None)
    if row is None:
        raise not_found("there is no such series yet")
    reader, ledger = ctx.platform.reading.reader, ctx.platform.ledger
    found = detail(reader, ledger, market, named.instruments, instrument, interval, ctx.clock())
    day = {"asset": instrument.symbol, "market": market.name, "interval": str(interval), "format": "csv"}
    if found.bars:
        newest = found.bars[0]["bucket_start"]
        day["start"], day["end"] = (
            f"{each:%Y-%m-%dT%H:%M:%SZ}" for each in (newest - timedelta(days=1), newest + timedelta(minutes=1))
        )
    return render(
        "series.html",
        sandbox=ctx.platform.settings.profile == "sandbox",
        row=row,
        name=instrument.name,
        quote=market.quote,
        detail=found,
        ranges=RANGES[interval],
        lineage_link=f"/lineage?{urlencode(day)}",
    )


@router.get("/status/{market}/{asset}/{interval}/bars.json", include_in_schema=False)
def bars(ctx: Ctx, named: Named, count: Annotated[int, Query(ge=1, le=MOST_BARS)] = 120) -> Response:
    """Give the newest bars of one series, for its chart."""
    return json_response(candles(ctx.platform.reading.reader, named.market, named.instrument, named.interval, count))
