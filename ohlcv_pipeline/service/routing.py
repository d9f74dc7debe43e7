"""Routes that take nothing they do not know, and answers in the service's own JSON.

Every module of `routes/` makes its router with `router(…)`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute

from ohlcv_pipeline.service.problems import BAD_REQUEST, EVERYWHERE, ProblemError, bad_field

_JSON = orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS


def to_json(value: object) -> bytes:
    """Return a value as JSON: times in UTC with `Z`, to the second."""
    return orjson.dumps(value, option=_JSON)


def json_response(value: object, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer of JSON."""
    return Response(to_json(value), status, headers, "application/json")


class StrictRoute(APIRoute):
    """A route that refuses query parameters it does not declare, repeated ones, and a body it does not read."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler behind the refusals."""
        handle = super().get_route_handler()
        known = _query_names(self.dependant)
        takes_body = self.body_field is not None

        async def strictly(request: Request) -> Response:
            query = request.query_params
            if query:
                _refuse_unknown([name for name, _ in query.multi_items()], known)
            if not takes_body and request.headers.get("content-length", "0") != "0":
                raise bad_field("body", "unknown", "this request takes no body")
            return await handle(request)

        return strictly


def router(tag: str, prefix: str = "") -> APIRouter:
    """Return a router of strict routes whose common problems are documented."""
    return APIRouter(prefix=prefix, tags=[tag], route_class=StrictRoute, responses=EVERYWHERE)


def _query_names(dependant: Dependant) -> frozenset[str]:
    own = {param.alias for param in dependant.query_params}
    return frozenset(own.union(*(_query_names(each) for each in dependant.dependencies)))


def _refuse_unknown(given: list[str], known: frozenset[str]) -> None:
    unknown = sorted({name for name in given if name not in known})
    if unknown:
        takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
        raise ProblemError(
            BAD_REQUEST, f"a parameter is unknown; {takes}", [(_shown(name), "unknown_parameter") for name in unknown]
        )
    repeated = sorted({name for name in given if given.count(name) > 1})
    if repeated:
        raise ProblemError(
            BAD_REQUEST, f"{repeated[0]} is given more than once", [(name, "repeated_parameter") for name in repeated]
        )


def _shown(name: str) -> str:
    """Return what may be repeated of a name that a stranger has chosen."""
    return name if name.isidentifier() and name.isascii() and len(name) <= 40 else "(unknown)"
