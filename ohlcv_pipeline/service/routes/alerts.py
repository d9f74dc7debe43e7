"""`GET /alerts/incidents` and `POST /alerts/test`: what was wrong and when, and whether alerts get through."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import Query, Response
from pydantic import BaseModel, ConfigDict

from ohlcv_pipeline.ledger import incidents as stored
from ohlcv_pipeline.ledger.models import Incident
from ohlcv_pipeline.operations.evaluation import enqueue_test
from ohlcv_pipeline.operations.incidents import Kind
from ohlcv_pipeline.service.context import TESTS_PER_MINUTE, Ctx, Operator
from ohlcv_pipeline.service.cursors import seal, unseal
from ohlcv_pipeline.service.parameters import AssetQuery, CursorQuery, MarketQuery, known_market, known_symbol
from ohlcv_pipeline.service.problems import CONFLICT, RATE_LIMITED, ProblemError, answers
from ohlcv_pipeline.service.routing import json_response
from ohlcv_pipeline.service.routing import router as new_router

router = new_router("alerts")


class IncidentItem(BaseModel):
    """Something that is, or was, wrong. Market, asset and interval are `*` where it is about more than one."""

    model_config = ConfigDict(extra="forbid")

    id: UUID
    market: str
    asset: str
    interval: str
    kind: Kind
    state: Literal["open", "clearing", "cleared"]
    opened_at: datetime | None
    cleared_at: datetime | None
    lag_minutes: float | None
    peak_lag_minutes: float | None
    threshold_minutes: float | None
    flap_count: int
    notified_at: datetime | None


class IncidentsBody(BaseModel):
    """A page of incidents, newest first."""

    model_config = ConfigDict(extra="forbid")

    items: list[IncidentItem]
    next_cursor: str | None


@router.get("/alerts/incidents", response_model=IncidentsBody, responses=answers(404))
def incidents(
    ctx: Ctx,
    state: Annotated[stored.View, Query(description="`open` for those that are not over.")] = "all",
    market: MarketQuery = None,
    asset: AssetQuery = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Incidents of a page.")] = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Show what was wrong and when, newest first."""
    home = known_market(ctx.platform, market)
    if asset is not None:
        home = known_symbol(ctx.platform, asset, market).market
    of = None if home is None else home.name
    request = (state, of, asset, limit)
    after = None
    if cursor is not None:
        position = unseal(cursor, {"at": datetime, "id": UUID}, *request)
        after = position["at"], position["id"]
    rows = stored.page(ctx.platform.ledger, state, market=of, symbol=asset, limit=limit + 1, after=after)
    following = None
    if len(rows) > limit:
        last = rows[limit - 1]
        following = seal({"at": last.first_breach_at, "id": last.id}, *request)
    return json_response({"items": [_item(row) for row in rows[:limit]], "next_cursor": following})


@router.post(
    "/alerts/test",
    status_code=204,
    dependencies=[Operator],
    responses=answers(401, 409),
)
def test(ctx: Ctx) -> Response:
    """Send a sample through every alert channel. Its outcome shows in `alert_channel` of the summary."""
    wait = ctx.tests.refusal("", time.monotonic())
    if wait is not None:
        detail = f"at most {TESTS_PER_MINUTE} tests a minute"
        raise ProblemError(RATE_LIMITED, detail, headers={"Retry-After": str(wait)})
    if not enqueue_test(ctx.platform.ledger, ctx.platform.settings, ctx.clock()):
        raise ProblemError(CONFLICT, "no alert channel is configured")
    return Response(status_code=204)


def _item(row: Incident) -> dict[str, object]:
    return {
        "id": row.id,
        "market": row.market,
        "asset": row.symbol,
        "interval": row.interval,
        "kind": row.kind,
        "state": row.state,
        "opened_at": row.opened_at,
        "cleared_at": row.cleared_at,
        "lag_minutes": _rounded(row.lag_minutes),
        "peak_lag_minutes": _rounded(row.peak_lag_minutes),
        "threshold_minutes": row.threshold_minutes,
        "flap_count": row.flap_count,
        "notified_at": row.notified_at,
    }


def _rounded(minutes: float | None) -> float | None:
    return None if minutes is None else round(minutes, 1)
