"""What passes between the server and the imitated vendors: request, parsed question, reply.

Pure values and the parsing of instants. Sockets are `app`'s business, formats are the vendor modules'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import orjson

MINUTE = 60
DAY = 86_400

JSON = b"application/json; charset=utf-8"
TEXT = b"text/plain; charset=utf-8"
HTML = b"text/html; charset=utf-8"

Headers = tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. `path` has no vendor prefix; header names are lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[bytes, bytes]


@dataclass(frozen=True, slots=True)
class Reply:
    """One HTTP answer, without `Date` and `Content-Length`, which the server adds."""

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Ask:
    """A parsed request.

    `symbols` are those of the market ("BTC", "BRK.B"), `step` 60 or 86400, and [`start`, `end`) the bucket
    starts asked for in unix seconds; the bucket of a session's day is 00:00Z of its date. A request for no
    bars (a time probe) leaves all four empty. `refusal` is the vendor's answer to a request that it does not
    understand. `form` is the vendor module's own note.
    """

    vendor: str
    symbols: tuple[str, ...] = ()
    step: int = 0
    start: int = 0
    end: int = 0
    weight: int = 1
    form: str = ""
    refusal: Reply | None = None

    @property
    def symbol(self) -> str:
        """The symbol of a request about one; empty for a request for no bars."""
        return self.symbols[0] if self.symbols else ""


def json_reply(status: int, value: object, headers: Headers = ()) -> Reply:
    """Return a reply with a JSON body."""
    return Reply(status, orjson.dumps(value), JSON, headers)


def parse_instant(text: str) -> int | None:
    """Return an ISO-8601 instant (UTC when it names no zone) or unix seconds as unix seconds.

    A fraction of a second is cut. Returns None for anything else.
    """
    if text.isdecimal():
        return int(text) if len(text) < 12 else None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        return None
    return int((instant if instant.tzinfo else instant.replace(tzinfo=UTC)).timestamp())


def iso(seconds: float) -> str:
    """Return unix seconds as `2026-11-20T12:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
