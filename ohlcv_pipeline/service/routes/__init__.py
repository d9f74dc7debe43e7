"""One module a group of routes, each with a `router`."""

from __future__ import annotations

from fastapi import APIRouter

from ohlcv_pipeline.service.routes import alerts, demo, health, ingestion, lineage, pages, remediation, status
from ohlcv_pipeline.settings import Settings


def routers(settings: Settings) -> list[APIRouter]:
    """Return the routers of an installation. Of two routes that fit a path, the first one answers."""
    found = [
        status.router,
        remediation.router,
        lineage.router,
        ingestion.router,
        alerts.router,
        health.router,
        pages.router,
    ]
    return [*found, demo.router] if settings.profile == "sandbox" else found
