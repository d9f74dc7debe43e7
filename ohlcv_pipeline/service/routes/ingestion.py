"""`/ingestion/…`: asking for a backfill, and what has come of every run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from fastapi import Body, Header, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from ohlcv_pipeline.bars.checksum import CHECKSUM_VERSION
from ohlcv_pipeline.ledger import requests, runs
from ohlcv_pipeline.ledger.errors import KeyReusedError, OverlapError, UnknownSymbolError
from ohlcv_pipeline.ledger.models import IngestionRun
from ohlcv_pipeline.markets import Interval, Market, from_us, to_us
from ohlcv_pipeline.service.context import Context, Ctx, Operator
from ohlcv_pipeline.service.cursors import seal, unseal
from ohlcv_pipeline.service.parameters import (
    AssetName,
    AssetQuery,
    CursorQuery,
    IntervalName,
    IntervalQuery,
    MarketName,
    MarketQuery,
    Time,
    in_order,
    known_market,
    known_symbol,
)
from ohlcv_pipeline.service.problems import CONFLICT, ProblemError, answers, bad_field, not_found
from ohlcv_pipeline.service.routing import json_response
from ohlcv_pipeline.service.routing import router as new_router

router = new_router("ingestion", prefix="/ingestion")

RunStatus = Literal["running", "success", "partial", "failed"]
WindowDays = Annotated[int, Query(ge=1, le=90, description="How many days back.")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class BackfillBody(_Strict):
    """What is to be fetched. Without a window it is the target window of the interval."""

    market: MarketName = "crypto"
    interval: IntervalName = Interval.DAY
    window_start: Time | None = Field(None, description="The first bucket.")
    window_end: Time | None = Field(None, description="The end, exclusive; at most now.")
    symbols: Annotated[list[AssetName], Field(min_length=1, max_length=1_000)] | None = Field(
        None, description="All enabled ones if left out."
    )
    force: StrictBool = Field(False, description="Fetch what is complete, too, and let any vendor replace any bar.")


class GapRange(_Strict):
    """Consecutive expected buckets that are missing; both ends are bucket starts."""

    range_start: datetime
    range_end: datetime
    missing: int


class DuplicateRange(_Strict):
    """Consecutive buckets that are stored more than once; both ends are bucket starts."""

    range_start: datetime
    range_end: datetime


class ReportEntry(_Strict):
    """What came of one symbol, measured in the lake after the write."""

    asset_symbol: str
    interval: Literal["minute", "day"]
    status: RunStatus
    expected_rows: int
    actual_rows: int
    missing_rows: int
    pending_tail_rows: int
    coverage_pct: float | None
    partitions: int
    vendor: str | None
    checksum_sha256: str
    gaps: list[GapRange]
    gaps_total: int
    duplicates: list[DuplicateRange]
    duplicates_total: int


class RunItem(_Strict):
    """A run: a parent, whose symbol is `*`, or its child for one symbol."""

    id: UUID
    market: str
    asset_symbol: str
    interval: Literal["minute", "day"]
    status: RunStatus
    phase: Literal["queued", "fetching", "writing", "verifying", "done"]
    row_count: int
    checksum_sha256: str
    checksum_version: int
    started_at: datetime
    ended_at: datetime | None
    trigger: Literal["manual", "scheduled"]
    attempt: int
    backfill_window_start: datetime
    backfill_window_end: datetime
    error_summary: str | None


class RunBody(RunItem):
    """A run with its report."""

    report: list[ReportEntry]


class RunsBody(_Strict):
    """A page of runs, newest first."""

    items: list[RunItem]
    next_cursor: str | None


class FailureItem(_Strict):
    """A run of one symbol that did not account for everything."""

    run_id: UUID
    market: str
    asset_symbol: str
    interval: Literal["minute", "day"]
    status: Literal["partial", "failed"]
    started_at: datetime
    ended_at: datetime | None
    error_code: str | None
    error_summary: str | None
    retries: int
    attempt: int


class FailuresBody(_Strict):
    """A page of failures, newest first."""

    window_days: int
    items: list[FailureItem]
    next_cursor: str | None


class SuccessRateBody(_Strict):
    """How many of the ended runs of single symbols were successes; attempts of one run count once."""

    window_days: int
    runs: int
    success: int
    partial: int
    failed: int
    success_rate: float
    target: float
    met: bool


@router.post(
    "/backfill",
    status_code=202,
    response_model=RunBody,
    dependencies=[Operator],
    responses=answers(401, 404, 409),
)
def backfill(
    ctx: Ctx,
    body: Annotated[BackfillBody | None, Body()] = None,
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$", description="Kept for 24 hours."),
    ] = None,
) -> Response:
    """Ask for a backfill. It is stored before this answers, and appears in Dagster within seconds."""
    asked = body or BackfillBody()
    now = ctx.clock()
    market = known_market(ctx.platform, asked.market)
    assert market is not None
    start, end = _window(market, asked, now)
    symbols = None if asked.symbols is None else list(dict.fromkeys(asked.symbols))
    if symbols is not None:
        try:
            ctx.platform.instruments(market, symbols)
        except UnknownSymbolError:
            raise bad_field("symbols", "unknown_symbol", "a symbol is unknown or disabled") from None
    ask = requests.Ask(market.name, str(asked.interval), start, end, CHECKSUM_VERSION, symbols, asked.force)
    try:
        row = requests.request(ctx.platform.ledger, ask, now, _key(idempotency_key, asked))
    except OverlapError as error:
        detail = "a backfill that overlaps is queued or running"
        raise ProblemError(CONFLICT, detail, run_id=str(error.run_id)) from None
    except KeyReusedError:
        raise ProblemError(CONFLICT, "the Idempotency-Key was used for another request") from None
    return json_response(runs.told(ctx.platform.ledger, row), 202)


def _window(market: Market, asked: BackfillBody, now: datetime) -> tuple[datetime, datetime]:
    """Return the window of a request, up to now. Raises ProblemError for one in which nothing can be fetched."""
    target = market.target_window(asked.interval, now)
    start = from_us(target[0]) if asked.window_start is None else asked.window_start
    end = min(now, now if asked.window_end is None else asked.window_end)
    if start >= now:
        raise bad_field("window_start", "in_the_future", "window_start must lie in the past")
    if asked.window_end is not None and asked.window_end <= start:
        raise bad_field("window_end", "not_after_start", "window_end must be after window_start")
    in_order(start, end)
    if start.date() < market.history_start[asked.interval]:
        raise bad_field("window_start", "before_retention", "bars are not kept from that early on")
    if not market.partition_keys(asked.interval, to_us(start), to_us(end)):
        raise bad_field("window_start", "outside_calendar", "the exchange does not open within the window")
    return start, end


def _key(value: str | None, asked: BackfillBody) -> requests.Key | None:
    if value is None:
        return None
    body = orjson.dumps(asked.model_dump(mode="json", exclude_unset=True), option=orjson.OPT_SORT_KEYS)
    return requests.Key(value, hashlib.sha256(body).hexdigest())


@router.get("/runs/latest", response_model=RunBody, responses=answers(404))
def latest(
    ctx: Ctx,
    interval: Annotated[IntervalName, Query(description="`minute` or `day`; `1m` and `1d` for short.")],
    market: MarketQuery = None,
    asset: AssetQuery = None,
) -> Response:
    """Show the newest run of a table, or of one symbol of it."""
    of = _market(ctx, market, asset)
    found = runs.page(ctx.platform.ledger, limit=1, market=of, interval=interval, symbol=asset)
    if not found:
        raise not_found("there is no such run yet")
    return json_response(runs.told(ctx.platform.ledger, found[0]))


@router.get("/runs/{id}", response_model=RunBody, responses=answers(404))
def run(ctx: Ctx, id: Annotated[str, Path(description="Of a run, or of its newest run in Dagster.")]) -> Response:
    """Show a run with its report."""
    try:
        found = runs.run(ctx.platform.ledger, UUID(id))
    except ValueError:
        found = None
    if found is None:
        raise not_found("there is no such run")
    return json_response(runs.told(ctx.platform.ledger, found))


@router.get("/runs", response_model=RunsBody, responses=answers(404))
def listing(
    ctx: Ctx,
    market: MarketQuery = None,
    interval: IntervalQuery = None,
    status: Annotated[RunStatus | None, Query(description="Only runs of this status.")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Runs of a page.")] = 50,
    cursor: CursorQuery = None,
) -> Response:
    """Show the runs, newest first, without their reports."""
    of = _market(ctx, market, None)
    request = ("runs", of, interval, status, limit)
    rows = runs.page(
        ctx.platform.ledger,
        limit=limit + 1,
        market=of,
        interval=interval,
        status=status,
        after=_place(cursor, request),
    )
    items = [_item(row) for row in rows[:limit]]
    return json_response({"items": items, "next_cursor": _following(rows, limit, request)})


@router.get("/failures", response_model=FailuresBody, responses=answers(404))
def failures(
    ctx: Ctx,
    window_days: WindowDays = 30,
    market: MarketQuery = None,
    interval: IntervalQuery = None,
    asset: AssetQuery = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="Failures of a page.")] = 100,
    cursor: CursorQuery = None,
) -> Response:
    """Show which runs of single symbols failed or remained partial, and why, newest first."""
    of = _market(ctx, market, asset)
    request = ("failures", window_days, of, interval, asset, limit)
    rows = runs.failures(
        ctx.platform.ledger,
        ctx.clock() - timedelta(days=window_days),
        limit=limit + 1,
        market=of,
        interval=interval,
        symbol=asset,
        after=_place(cursor, request),
    )
    items = [
        {
            "run_id": row.id,
            "market": row.market,
            "asset_symbol": row.asset_symbol,
            "interval": row.interval,
            "status": row.status,
            "started_at": row.started_at,
            "ended_at": row.ended_at,
            "error_code": row.error_summary.partition(":")[0] if row.error_summary else None,
            "error_summary": row.error_summary,
            "retries": row.retries,
            "attempt": row.attempt,
        }
        for row in rows[:limit]
    ]
    following = _following(rows, limit, request)
    return json_response({"window_days": window_days, "items": items, "next_cursor": following})


@router.get("/success-rate", response_model=SuccessRateBody, responses=answers(404))
def success_rate(
    ctx: Ctx,
    window_days: WindowDays = 30,
    market: MarketQuery = None,
    interval: IntervalQuery = None,
) -> Response:
    """Show which share of the runs of single symbols were successes."""
    of = _market(ctx, market, None)
    rate = runs.success_rate(ctx.platform.ledger, ctx.clock() - timedelta(days=window_days), of, interval)
    return json_response(
        {
            "window_days": window_days,
            "runs": rate.runs,
            "success": rate.success,
            "partial": rate.partial,
            "failed": rate.failed,
            "success_rate": rate.success_rate,
            "target": runs.SUCCESS_TARGET,
            "met": rate.met,
        }
    )


def _market(ctx: Context, market: str | None, asset: str | None) -> str | None:
    """Return the name of the market that a request is about. Raises ProblemError for what there is none of."""
    if asset is not None:
        return known_symbol(ctx.platform, asset, market).market.name
    found = known_market(ctx.platform, market)
    return None if found is None else found.name


def _item(row: IngestionRun) -> dict[str, Any]:
    return {name: getattr(row, name) for name in runs.FACTS}


def _place(cursor: str | None, request: tuple[object, ...]) -> runs.Place | None:
    if cursor is None:
        return None
    position = unseal(cursor, {"at": datetime, "id": UUID}, *request)
    return position["at"], position["id"]


def _following(rows: Sequence[IngestionRun], limit: int, request: tuple[object, ...]) -> str | None:
    if len(rows) <= limit:
        return None
    return seal({"at": rows[limit - 1].started_at, "id": rows[limit - 1].id}, *request)
