"""The application: routes, problems, the guard around them, and what runs beside them while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, Response
from fastapi.staticfiles import StaticFiles
from sqlalchemy.exc import DBAPIError

from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.ledger.errors import LedgerError
from ohlcv_pipeline.operations.evaluation import deliver_due, watch
from ohlcv_pipeline.operations.lineage import CellCache
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service import problems, routes
from ohlcv_pipeline.service.board import Boards
from ohlcv_pipeline.service.context import Clock, Context
from ohlcv_pipeline.service.guard import Guard, RateLimit, log
from ohlcv_pipeline.service.metrics import Monitoring
from ohlcv_pipeline.service.routing import StrictRoute, to_json
from ohlcv_pipeline.service.snapshot import Summary
from ohlcv_pipeline.service.templating import render
from ohlcv_pipeline.version import __version__

STATIC = Path(__file__).parent / "static"

READERS = 8
"""So many requests read lake or ledger at once; more would only take the processor from one another."""

SUMMARY_SECONDS = 1.0
"""How often is looked whether lake or ledger have changed."""

WATCH_SECONDS, OUTBOX_SECONDS = 60.0, 5.0
"""How often the monitor is watched, and how often the outbox is looked into: Dagster's sensors may be down."""


class UnsafeSettingsError(Exception):
    """The service may not run with these settings."""


def utc_now() -> datetime:
    """Return the current instant."""
    return datetime.now(UTC)


def create_app(platform: Platform, clock: Clock = utc_now) -> FastAPI:
    """Return the service of one installation. Raises UnsafeSettingsError where operator routes would be open to all."""
    settings = platform.settings
    if settings.profile == "live" and not settings.admin_token.get_secret_value():
        raise UnsafeSettingsError("the live profile needs OHLCV_ADMIN_TOKEN, which operators send as X-Admin-Token")
    context = Context(platform, clock, Summary(platform, clock), CellCache(), Boards(platform, clock))
    monitoring = Monitoring(context)
    app = FastAPI(
        title="ohlcv_pipeline",
        description="Status, lineage, ingestion and alerts of market data in which every bar is accounted for.",
        version=__version__,
        lifespan=_lifespan(context, monitoring),
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
    )
    app.state.context, app.state.monitoring = context, monitoring
    app.router.route_class = StrictRoute
    problems.install(app)
    for router in routes.routers(settings):
        app.include_router(router)
    _describe(app)
    app.mount("/static", _Static(directory=STATIC), name="static")
    app.add_middleware(
        Guard,
        reads=RateLimit(settings.read_rate_per_minute),
        writes=RateLimit(settings.write_rate_per_minute),
        seconds=settings.request_seconds,
        observe=monitoring.observe,
    )
    return app


class _Static(StaticFiles):
    """Files that a browser keeps, and asks about each time whether they are still the same."""

    def file_response(self, *arguments: Any, **named: Any) -> Response:
        response = super().file_response(*arguments, **named)
        response.headers.setdefault("Cache-Control", "no-cache")
        return response


def _describe(app: FastAPI) -> None:
    """Add the OpenAPI document and a page that shows it without a script."""
    document = app.openapi()
    problems.describe(document)
    body = to_json(document)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        return Response(body, media_type="application/json")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return render("docs.html", document=document)


def _lifespan(context: Context, monitoring: Monitoring) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = READERS
        summary, *others = _chores(context)
        await summary.once()
        tasks = [asyncio.create_task(chore.forever()) for chore in (summary, *others)]
        try:
            with monitoring.listening():
                yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return lifespan


def _chores(context: Context) -> list[Chore]:
    platform, clock = context.platform, context.clock
    return [
        Chore("the summary", SUMMARY_SECONDS, context.summary.refresh),
        Chore("the watchdog", WATCH_SECONDS, lambda: watch(platform.ledger, platform.settings, clock())),
        Chore("the outbox", OUTBOX_SECONDS, lambda: deliver_due(platform.ledger, platform.settings, clock())),
    ]


@dataclass
class Chore:
    """Work that is done again and again beside the requests, with a pause of some seconds between."""

    name: str
    seconds: float
    work: Callable[[], object]
    failing: bool = False

    async def forever(self) -> None:
        """Work until cancelled."""
        while True:
            await asyncio.sleep(self.seconds)
            await self.once()

    async def once(self) -> None:
        """Work once. That lake or ledger cannot be reached is logged once, until they can be again."""
        try:
            await asyncio.to_thread(self.work)
        except (LakeError, LedgerError, DBAPIError) as error:
            if not self.failing:
                log.warning("%s cannot be brought up to date: %s", self.name, error)
            self.failing = True
        except Exception:  # noqa: BLE001 - a defect is logged, and must not end what is to run for ever
            log.exception("%s has a defect", self.name)
        else:
            if self.failing:
                log.info("%s is brought up to date again", self.name)
            self.failing = False
