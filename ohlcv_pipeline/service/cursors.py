"""Cursors of pages: opaque to clients, and good only for the request that they continue."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from ohlcv_pipeline.service.problems import ProblemError, bad_field

_VERSION = 1
_LARGEST = 2**62


def seal(position: Mapping[str, Any], *request: object) -> str:
    """Return a cursor that holds a position (JSON values) in the answer to a request with these parameters."""
    content = {"v": _VERSION, **position, "of": _digest(request)}
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def unseal(cursor: str, names: Mapping[str, type], *request: object) -> dict[str, Any]:
    """Return the position in a cursor: a value of its type for each name.

    Raises ProblemError: `bad_cursor` for what never was one, `cursor_mismatch` for one of another request.
    """
    try:
        content = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, orjson.JSONDecodeError, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("v") != _VERSION:
        raise _bad_cursor()
    if content.get("of") != _digest(request):
        raise bad_field("cursor", "cursor_mismatch", "cursor belongs to a request with other parameters")
    position = {name: content.get(name) for name in names}
    for name, value in position.items():
        if type(value) is not names[name] or (isinstance(value, int) and not -_LARGEST <= value <= _LARGEST):
            raise _bad_cursor()
    return position


def _bad_cursor() -> ProblemError:
    return bad_field("cursor", "bad_cursor", "cursor is not one that this service gave out")


def _digest(request: tuple[object, ...]) -> str:
    return hashlib.sha256(repr([str(each) for each in request]).encode()).hexdigest()[:16]
