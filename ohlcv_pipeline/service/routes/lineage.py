"""`GET /lineage`: where each stored bar comes from, a page at a time or as one stream."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Literal

import orjson
from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.snapshots import Snapshot, SnapshotExpiredError, newest, require
from ohlcv_pipeline.markets import to_us
from ohlcv_pipeline.operations import lineage as rules
from ohlcv_pipeline.service.context import Ctx
from ohlcv_pipeline.service.cursors import seal, unseal
from ohlcv_pipeline.service.parameters import (
    AssetName,
    CursorQuery,
    IntervalName,
    MarketQuery,
    Time,
    in_order,
    known_symbol,
)
from ohlcv_pipeline.service.problems import answers, bad_field
from ohlcv_pipeline.service.routing import json_response
from ohlcv_pipeline.service.routing import router as new_router

router = new_router("lineage")


class LineageItem(BaseModel):
    """One stored bar."""

    model_config = ConfigDict(extra="forbid")

    asset_symbol: str
    market: str
    bucket_start: datetime
    interval: Literal["minute", "day"]
    run_id: str
    source_vendor: str
    fetched_at: datetime
    checksum_sha256: str
    checksum_version: int
    partition_checksum: str


class LineageBody(BaseModel):
    """A page of bars, oldest first."""

    model_config = ConfigDict(extra="forbid")

    items: list[LineageItem]
    next_cursor: str | None


@router.get(
    "/lineage",
    response_model=LineageBody,
    responses={
        200: {"content": {"application/x-ndjson": {}, "text/csv": {}}},
        **answers(404),
    },
)
def lineage(
    ctx: Ctx,
    asset: Annotated[AssetName, Query(description="A symbol, e.g. `BTC`, in any case of letters.")],
    interval: Annotated[IntervalName, Query(description="`minute` or `day`; `1m` and `1d` for short.")],
    start: Annotated[Time, Query(description="The first bucket.")],
    end: Annotated[Time, Query(description="The end, exclusive.")],
    market: MarketQuery = None,
    limit: Annotated[int, Query(ge=1, le=50_000, description="Bars of a page of `json`.")] = 5_000,
    cursor: CursorQuery = None,
    format: Annotated[
        Literal["json", "ndjson", "csv"], Query(description="`ndjson` and `csv` stream the whole window.")
    ] = "json",
) -> Response:
    """Show where each stored bar comes from: its run, vendor, fetch time and checksums, oldest bar first."""
    in_order(start, end)
    named = known_symbol(ctx.platform, asset, market)
    series = rules.Series(named.market, interval, named.symbol)
    request = (named.market.name, named.symbol, interval, start, end, limit, format)
    start_us, end_us = to_us(start), to_us(end)
    reader = ctx.platform.reading.reader
    if cursor is None:
        snapshot = newest(reader)
    else:
        position = unseal(cursor, {"snapshot": int, "next": int}, *request)
        snapshot, start_us = _pinned(reader, position["snapshot"]), max(start_us, position["next"])
    cells = ctx.cells.of(snapshot, series)
    if format != "json":
        return _stream(format, rules.blocks(snapshot, cells, series, start_us, end_us), named.symbol)
    found = rules.page(snapshot, cells, series, start_us, end_us, limit)
    following = None
    if found.next_us is not None:
        following = seal({"snapshot": snapshot.number, "next": found.next_us}, *request)
    return json_response({"items": found.rows, "next_cursor": following})


def _pinned(reader: Reader, number: int) -> Snapshot:
    try:
        return require(reader, number)
    except SnapshotExpiredError:
        detail = "the lake no longer keeps the snapshot that the first page was read from; begin again"
        raise bad_field("cursor", "cursor_expired", detail) from None


def _stream(form: Literal["ndjson", "csv"], blocks: Iterator[list[rules.Row]], name: str) -> Response:
    """Return all blocks as one answer; what prevents the first one is a problem, not an answer that breaks off."""
    first = next(blocks, [])
    write, media_type = _WRITERS[form]

    def parts() -> Iterator[bytes]:
        if form == "csv":
            yield _table([rules.COLUMNS])
        yield write(first)
        for block in blocks:
            yield write(block)

    headers = {"Content-Disposition": f'attachment; filename="lineage-{name}.{form}"'}
    return StreamingResponse(parts(), headers=headers, media_type=media_type)


def _ndjson(rows: Sequence[rules.Row]) -> bytes:
    return b"".join(orjson.dumps(row) + b"\n" for row in rows)


def _csv(rows: Sequence[rules.Row]) -> bytes:
    return _table([row.values() for row in rows])


def _table(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


_WRITERS: Mapping[str, tuple[Callable[[Sequence[rules.Row]], bytes], str]] = {
    "ndjson": (_ndjson, "application/x-ndjson"),
    "csv": (_csv, "text/csv"),
}
