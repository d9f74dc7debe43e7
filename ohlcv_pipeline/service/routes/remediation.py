"""`GET /status/remediation`: what was found wrong, and how it ended."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import Query, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict

from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline.ledger.models import RemediationEntry
from ohlcv_pipeline.operations.remediation import Issue, Resolution
from ohlcv_pipeline.service.context import Ctx
from ohlcv_pipeline.service.cursors import seal, unseal
from ohlcv_pipeline.service.parameters import (
    AssetQuery,
    CursorQuery,
    IntervalQuery,
    MarketQuery,
    known_market,
    known_symbol,
)
from ohlcv_pipeline.service.problems import answers
from ohlcv_pipeline.service.routing import json_response, to_json
from ohlcv_pipeline.service.routing import router as new_router

router = new_router("status")

BLOCK = 1_000
"""How many entries are read at once while a list is streamed."""


class Entry(BaseModel):
    """An entry of the log. The range is of bucket starts, both included."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    market: str
    asset_symbol: str
    interval: Literal["minute", "day"]
    issue_type: Issue
    range_start: datetime
    range_end: datetime
    detected_at: datetime
    resolved: bool
    resolved_at: datetime | None
    resolution: Resolution | None
    run_id: str | None
    notes: str | None


class RemediationBody(BaseModel):
    """A page of the log, newest first."""

    model_config = ConfigDict(extra="forbid")

    items: list[Entry]
    next_cursor: str | None


COLUMNS = tuple(Entry.model_fields)


@router.get(
    "/status/remediation",
    response_model=RemediationBody,
    responses={200: {"content": {"text/csv": {}}}, **answers(404)},
)
def remediation(
    ctx: Ctx,
    asset: AssetQuery = None,
    market: MarketQuery = None,
    interval: IntervalQuery = None,
    issue_type: Annotated[Issue | None, Query(description="Only entries of this kind.")] = None,
    resolved: Annotated[bool | None, Query(description="Only entries that are, or are not, resolved.")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Entries of a page of `json`.")] = 200,
    cursor: CursorQuery = None,
    format: Annotated[Literal["json", "csv"], Query(description="`csv` streams the whole list.")] = "json",
) -> Response:
    """Show what was found wrong, newest first, and how it ended."""
    home = known_market(ctx.platform, market)
    if asset is not None:
        home = known_symbol(ctx.platform, asset, market).market
    of = None if home is None else home.name
    find = partial(
        log.page,
        ctx.platform.ledger,
        market=of,
        symbol=asset,
        interval=interval,
        issue_type=issue_type,
        resolved=resolved,
    )
    if format == "csv":
        headers = {"Content-Disposition": 'attachment; filename="remediation.csv"'}
        return StreamingResponse(_csv(find), headers=headers, media_type="text/csv")
    request = (of, asset, interval, issue_type, resolved, limit)
    after = None
    if cursor is not None:
        position = unseal(cursor, {"at": datetime, "id": UUID}, *request)
        after = position["at"], position["id"]
    rows = find(limit=limit + 1, after=after)
    following = None
    if len(rows) > limit:
        following = seal({"at": rows[limit - 1].detected_at, "id": rows[limit - 1].id}, *request)
    return json_response({"items": [_item(row) for row in rows[:limit]], "next_cursor": following})


def _item(row: RemediationEntry) -> dict[str, Any]:
    return {name: getattr(row, name) for name in COLUMNS}


def _csv(find: partial[list[RemediationEntry]]) -> Iterator[bytes]:
    yield _lines([COLUMNS])
    after: log.Place | None = None
    while rows := find(limit=BLOCK, after=after):
        yield _lines([[_cell(getattr(row, name)) for name in COLUMNS] for row in rows])
        after = rows[-1].detected_at, rows[-1].id


def _lines(rows: Sequence[Sequence[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def _cell(value: object) -> str:
    """Return a value as text that no spreadsheet takes for a formula."""
    if value is None:
        return ""
    text = str(value) if isinstance(value, str | UUID) else to_json(value).decode().strip('"')
    return f"'{text}" if text.startswith(("=", "+", "-", "@")) else text
