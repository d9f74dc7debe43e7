"""`GET /healthz` and `GET /readyz`: for whatever starts the service and sends it requests."""

from __future__ import annotations

from typing import Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict

from ohlcv_pipeline.service.context import Ctx
from ohlcv_pipeline.service.routing import json_response
from ohlcv_pipeline.service.routing import router as new_router

router = new_router("health")


class Alive(BaseModel):
    """The process answers."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ok"]


class Ready(BaseModel):
    """Lake and ledger can be read."""

    model_config = ConfigDict(extra="forbid")

    status: Literal["ready"]


@router.get("/healthz", response_model=Alive)
async def healthz() -> Response:
    """Tell that the process answers. It asks nothing of lake and ledger: restarting would not bring them back."""
    return json_response({"status": "ok"})


@router.get("/readyz", response_model=Ready)
async def readyz(ctx: Ctx) -> Response:
    """Tell whether lake and ledger could be read within the last half minute; 503 if not."""
    ctx.summary.require_reached()
    return json_response({"status": "ready"})
