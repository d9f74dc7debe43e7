"""`GET /status/summary`: how complete and how fresh every series is."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal

from fastapi import Header, Query, Response
from pydantic import BaseModel, ConfigDict

from ohlcv_pipeline.operations.overview import SeriesStatus, Status
from ohlcv_pipeline.service.context import Ctx
from ohlcv_pipeline.service.parameters import AssetQuery, IntervalQuery, MarketQuery
from ohlcv_pipeline.service.problems import answers
from ohlcv_pipeline.service.routing import router as new_router

router = new_router("status")


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class SummaryRow(_Strict):
    """One series."""

    asset: str
    market: str
    interval: Literal["minute", "day"]
    coverage_start: datetime | None
    coverage_end: datetime | None
    coverage_pct: float | None
    latest_timestamp: datetime | None
    freshness_minutes: float | None
    status: Status
    is_stale: bool
    open_gaps: int
    vendor_status: Literal["up", "degraded", "down", "rate_limited"]
    alert_status: Literal["open", "cleared"] | None
    last_alerted_at: datetime | None
    last_alert_lag_minutes: float | None
    last_success_at: datetime | None
    last_checksum: str | None


class Channel(_Strict):
    """The alert channels."""

    status: Literal["ok", "retrying", "failing", "off"]
    pending: int
    oldest_pending_minutes: float | None


class SummaryBody(_Strict):
    """The status summary."""

    generated_at: datetime
    last_evaluation_at: datetime | None
    monitor_ok: bool
    alert_channel: Channel
    assets: list[SummaryRow]


@router.get(
    "/status/summary",
    response_model=SummaryBody,
    responses={304: {"description": "Nothing has changed since the answer with this ETag"}, **answers(404)},
)
async def summary(
    ctx: Ctx,
    only_stale: Annotated[bool, Query(description="Leave out the rows whose status is `healthy`.")] = False,
    market: MarketQuery = None,
    interval: IntervalQuery = None,
    asset: AssetQuery = None,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Show how complete and how fresh every series is: a row for each enabled symbol and interval."""
    snapshot = ctx.summary.current()
    if market is not None or asset is not None:
        snapshot.check(asset, market)
    headers = {"ETag": snapshot.tag, "Cache-Control": "no-cache"}
    if if_none_match is not None and snapshot.tag in (tag.strip() for tag in if_none_match.split(",")):
        return Response(status_code=304, headers=headers)

    everything = not only_stale and market is None and interval is None and asset is None
    keep: Callable[[SeriesStatus], bool] | None = None
    if not everything:

        def keep(row: SeriesStatus) -> bool:
            return (
                (not only_stale or row.status is not Status.HEALTHY)
                and market in (None, row.market)
                and interval in (None, row.interval)
                and asset in (None, row.asset)
            )

    return Response(snapshot.body(keep), headers=headers, media_type="application/json")
