"""Cursors of pages: opaque to clients, and good only for the request that they continue."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from ohlcv_pipeline.markets import from_us, to_us
from ohlcv_pipeline.service.problems import ProblemError, bad_field

_VERSION = 1
_LARGEST = 2**62


def seal(position: Mapping[str, int | datetime | UUID], *request: object) -> str:
    """Return a cursor that holds a position in the answer to a request with these parameters."""
    content = {name: to_us(value) if isinstance(value, datetime) else value for name, value in position.items()}
    return (
        base64.urlsafe_b64encode(orjson.dumps({"v": _VERSION, **content, "of": _digest(request)})).decode().rstrip("=")
    )


def unseal(cursor: str, names: Mapping[str, type], *request: object) -> dict[str, Any]:
    """Return the position in a cursor: for each name a value of its type, which is `int`, `datetime` or `UUID`.

    Raises ProblemError: `bad_cursor` for what never was one, `cursor_mismatch` for one of another request.
    """
    try:
        content = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if content["v"] != _VERSION:
            raise _bad_cursor()
        if content["of"] != _digest(request):
            raise bad_field("cursor", "cursor_mismatch", "cursor belongs to a request with other parameters")
        return {name: _READERS[kind](content[name]) for name, kind in names.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError):
        raise _bad_cursor() from None


def _whole(value: object) -> int:
    if type(value) is not int or not -_LARGEST <= value <= _LARGEST:
        raise ValueError("no number of a cursor")
    return value


_READERS: Mapping[type, Callable[[Any], object]] = {
    int: _whole,
    datetime: lambda value: from_us(_whole(value)),
    UUID: UUID,
}


def _bad_cursor() -> ProblemError:
    return bad_field("cursor", "bad_cursor", "cursor is not one that this service gave out")


def _digest(request: tuple[object, ...]) -> str:
    return hashlib.sha256(repr([str(each) for each in request]).encode()).hexdigest()[:16]
