"""Every error of the API as RFC 9457 `application/problem+json`: stable types, one safe sentence, no insides.

Handlers raise `ProblemError`; what FastAPI, lake and ledger raise by themselves is translated here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, ProgrammingError
from starlette.exceptions import HTTPException

from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.ledger.errors import LedgerOpenError

MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
"""When to come back after an answer 503."""


@dataclass(frozen=True)
class Kind:
    """One row of the table of problems."""

    status: int
    slug: str
    title: str


BAD_REQUEST = Kind(400, "bad-request", "Bad request")
UNAUTHORIZED = Kind(401, "unauthorized", "Unauthorized")
FORBIDDEN = Kind(403, "forbidden", "Forbidden")
NOT_FOUND = Kind(404, "not-found", "Not found")
METHOD_NOT_ALLOWED = Kind(405, "method-not-allowed", "Method not allowed")
CONFLICT = Kind(409, "conflict", "Conflict")
TOO_LARGE = Kind(413, "too-large", "Too large")
RATE_LIMITED = Kind(429, "rate-limited", "Rate limited")
INTERNAL = Kind(500, "internal", "Internal error")
UNAVAILABLE = Kind(503, "unavailable", "Unavailable")

KINDS: Mapping[int, Kind] = {
    kind.status: kind
    for kind in (
        BAD_REQUEST, UNAUTHORIZED, FORBIDDEN, NOT_FOUND, METHOD_NOT_ALLOWED, CONFLICT, TOO_LARGE, RATE_LIMITED,
        INTERNAL, UNAVAILABLE,
    )
}  # fmt: skip

_SENTENCES: Mapping[int, str] = {
    404: "there is nothing at this address",
    405: "this address does not take that method",
}


class FieldError(BaseModel):
    """What is wrong with one field of a request."""

    model_config = ConfigDict(extra="forbid")

    field: str
    code: str


class ProblemBody(BaseModel):
    """An error. `errors` is present with status 400 only, `run_id` where a running backfill is in the way."""

    model_config = ConfigDict(extra="forbid")

    type: str
    title: str
    status: int
    detail: str
    request_id: str
    errors: list[FieldError] | None = None
    run_id: str | None = None


class ProblemError(Exception):
    """An error that ends a request. `detail` is one sentence that is safe to show to anybody."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        run_id: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})
        self.run_id = run_id


def bad_field(field: str, code: str, detail: str) -> ProblemError:
    """Return the problem of a request with one wrong field."""
    return ProblemError(BAD_REQUEST, detail, [(field, code)])


def not_found(detail: str) -> ProblemError:
    """Return the problem of a request for something that does not exist."""
    return ProblemError(NOT_FOUND, detail)


def unavailable() -> ProblemError:
    """Return the problem of a request that lake or ledger cannot answer now."""
    return ProblemError(
        UNAVAILABLE, "the data cannot be reached right now", headers={"Retry-After": str(RETRY_SECONDS)}
    )


def too_large() -> ProblemError:
    """Return the problem of a request whose body is too large."""
    return ProblemError(TOO_LARGE, "a request may hold 64 KiB at most")


def body_of(problem: ProblemError, request_id: str) -> bytes:
    """Return a problem as JSON."""
    body: dict[str, Any] = {
        "type": f"urn:ohlcv-pipeline:problem:{problem.kind.slug}",
        "title": problem.kind.title,
        "status": problem.kind.status,
        "detail": problem.detail,
    }
    if problem.kind is BAD_REQUEST:
        body["errors"] = [{"field": field, "code": code} for field, code in problem.errors]
    if problem.run_id is not None:
        body["run_id"] = problem.run_id
    return orjson.dumps({**body, "request_id": request_id})


def answers(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI entries of the problems that a route answers with, beside those of every route."""
    return {
        status: {
            "description": KINDS[status].title,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
        for status in statuses
    }


def describe(document: dict[str, Any]) -> None:
    """Put the schema of problems into an OpenAPI document, in place of what FastAPI would answer instead."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)
    schemas = document["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    body = ProblemBody.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(body.pop("$defs"), ProblemBody=body)


EVERYWHERE = answers(400, 403, 413, 429, 500, 503)
"""The problems that any route may answer with."""


def install(app: FastAPI) -> None:
    """Answer every error of an application with a problem."""

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return _response(request, error)

    async def on_invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _response(request, _of_validation(error))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        kind = KINDS.get(error.status_code, BAD_REQUEST)
        detail = _SENTENCES.get(kind.status, "the request cannot be read")
        return _response(request, ProblemError(kind, detail, headers=error.headers))

    async def on_unreachable(request: Request, error: Exception) -> Response:
        if isinstance(error, DataError | IntegrityError | ProgrammingError):
            raise error
        return _response(request, unavailable())

    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(RequestValidationError, on_invalid)
    app.add_exception_handler(HTTPException, on_http)
    for unreachable in (LakeError, LedgerOpenError, DBAPIError):
        app.add_exception_handler(unreachable, on_unreachable)


def _response(request: Request, problem: ProblemError) -> Response:
    body = body_of(problem, request.scope["request_id"])
    return Response(body, problem.kind.status, problem.headers, MEDIA_TYPE)


_CODES: Mapping[str, str] = {
    "missing": "missing",
    "extra_forbidden": "unknown",
    "json_invalid": "not_json",
    "value_error": "invalid",
}


def _of_validation(error: RequestValidationError) -> ProblemError:
    """Return the problem of a request that its declaration refuses; the values that were sent are not repeated."""
    errors, sentences = [], []
    for each in error.errors():
        names = [str(part) for part in each["loc"][1:] if isinstance(part, str)]
        field = ".".join(names) or str(each["loc"][0])
        code = str(each.get("ctx", {}).get("code") or _CODES.get(each["type"], each["type"]))
        errors.append((field, code))
        text = str(each["msg"]).removeprefix("Value error, ")
        sentences.append(f"{field}: {text[:1].lower()}{text[1:]}")
    return ProblemError(BAD_REQUEST, "; ".join(sentences), errors)
