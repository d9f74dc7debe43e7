"""What a handler is given: the installation, the clock, what is kept ready; and who may call it."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader

from ohlcv_pipeline.operations.lineage import CellCache
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.service.board import Boards
from ohlcv_pipeline.service.guard import RateLimit
from ohlcv_pipeline.service.problems import UNAUTHORIZED, ProblemError
from ohlcv_pipeline.service.snapshot import Summary

Clock = Callable[[], datetime]

TESTS_PER_MINUTE = 5
"""So many test alerts may be asked for."""


@dataclass(frozen=True)
class Context:
    """One running service. `clock` returns the current instant, aware, in UTC."""

    platform: Platform
    clock: Clock
    summary: Summary
    cells: CellCache
    boards: Boards
    tests: RateLimit = field(default_factory=lambda: RateLimit(TESTS_PER_MINUTE))


def context_of(request: Request) -> Context:
    """Return the context of the application that serves a request."""
    context: Context = request.app.state.context
    return context


Ctx = Annotated[Context, Depends(context_of)]
"""As a parameter of a handler: `def handler(ctx: Ctx)`."""

_TOKEN = APIKeyHeader(name="X-Admin-Token", scheme_name="operator", auto_error=False)


def require_operator(ctx: Ctx, given: Annotated[str | None, Depends(_TOKEN)]) -> None:
    """Let only those pass who know the admin token; without one in the settings, everybody. Raises ProblemError."""
    token = ctx.platform.settings.admin_token.get_secret_value()
    if token and not hmac.compare_digest((given or "").encode(), token.encode()):
        raise ProblemError(
            UNAUTHORIZED, "X-Admin-Token is missing or wrong", headers={"WWW-Authenticate": "X-Admin-Token"}
        )


Operator = Depends(require_operator)
"""As a dependency of a route: `@router.post(…, dependencies=[Operator])`."""
