"""The values that travel between an adapter, the transport and whoever asked for bars.

An adapter is pure but for `fetch`, which hands its requests to a transport. Nothing here opens a connection.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import TIMESTAMP, BarColumns, Micros
from ohlcv_pipeline.markets import Interval

T = TypeVar("T")

ACTION_SCHEMA = pa.schema(
    [
        pa.field("ex_date", TIMESTAMP, nullable=False),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""Corporate actions of one symbol. `ex_date` is the session date at 00:00Z; `value` of a `split` is the number of
shares that one became (4.0, or 0.1 for one in ten), of a `dividend` dollars a share as paid then."""


@dataclass(frozen=True)
class Request:
    """One HTTP GET: a path below the vendor's base URL, its query, and what it costs of the weight budget.

    Query values are text or int, never float: vendors misread `1572651390.0`.
    """

    vendor: str
    path: str
    params: Mapping[str, str | int] = field(default_factory=dict)
    weight: int = 1


@dataclass(frozen=True)
class Answer:
    """A response as it came: kept byte for byte before anything is read from it. `url` holds no secret.

    `attempt` counts from 1: how often it was asked for until it came.
    """

    request: Request
    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime
    attempt: int = 1

    @cached_property
    def id(self) -> str:
        """The SHA-256 of the body in hex: the name under which the raw store keeps it."""
        return hashlib.sha256(self.body).hexdigest()


@dataclass(frozen=True)
class Reject:
    """A row that could not become a bar: the text of the row and one reason code of the quarantine.

    `bucket_start` is in microseconds since the epoch, None when the row has no readable time.
    """

    bucket_start: int | None
    reason: str
    raw: str


@dataclass(frozen=True)
class Fetch:
    """One unit of fetching: the requests that together deliver the buckets in [start, end) of one symbol."""

    vendor: str
    symbol: str
    vendor_symbol: str
    interval: Interval
    start_us: int
    end_us: int
    requests: tuple[Request, ...]


@dataclass(frozen=True)
class Page:
    """What one fetch delivered: bars in the vendor's order, rejects, and the raw answers.

    `drift` says what is new about the vendor's format. `seams` are the buckets with which the second answer and
    those after it begin, where the vendor cut a fetch into several.
    """

    fetch: Fetch
    bars: BarColumns
    rejects: tuple[Reject, ...]
    answers: tuple[Answer, ...]
    drift: tuple[str, ...] = ()
    seams: tuple[int, ...] = ()

    @cached_property
    def buckets(self) -> Micros:
        """The bucket starts of what was delivered in µs, sorted, rows that were refused included."""
        starts = self.bars.bucket_start
        refused = [reject.bucket_start for reject in self.rejects if reject.bucket_start is not None]
        if refused:
            return np.sort(np.append(starts, refused))
        if len(starts) and starts[0] > starts[-1]:
            starts = starts[::-1]
        return starts if (starts[1:] >= starts[:-1]).all() else np.sort(starts)

    @property
    def answered(self) -> list[Micros]:
        """The buckets of each answer by itself: what lies between two answers was proven by neither."""
        return np.split(self.buckets, np.searchsorted(self.buckets, self.seams)) if self.seams else [self.buckets]


@dataclass(frozen=True)
class Actions:
    """The splits and dividends of one symbol, and the sessions of which the vendor says what happened, sorted.

    `table` has the columns of `ACTION_SCHEMA`. A session without a row had no action; one that is not listed is
    not spoken of.
    """

    sessions: Micros
    table: pa.Table


class Transport(Protocol):
    """Sends a request, retries it by the rules, and returns what `decode` made of the answer."""

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        """Return the decoded value and its answer. Raises VendorError once the retries are spent."""
        ...


class Adapter(Protocol):
    """One vendor's bars.

    `omits_empty_buckets`: a bucket without trades is absent from its answers. `raw_prices`: its prices are as
    traded, not adjusted for splits; a vendor without them is no market's source, only something to compare with.
    `version` names the parser: it is raised whenever the same answer would be read differently.
    """

    name: str
    version: str
    omits_empty_buckets: bool
    raw_prices: bool

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the part of [start, end) this vendor can deliver at `now`, None if it has none of it."""
        ...

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Cut [start, end), which the vendor serves, into fetches, oldest first."""
        ...

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one fetch. Raises VendorError."""
        ...


@runtime_checkable
class SumsMinutes(Protocol):
    """An adapter whose day bars sum up the same trades as its minute bars: one answer speaks for weeks of minutes.

    Only of a market that never closes: elsewhere auctions and late prints are in the day alone.
    """

    days_sum_minutes: bool


@runtime_checkable
class Announces(Protocol):
    """An adapter that can tell what a fetch would deliver without delivering it."""

    async def announced(self, fetch: Fetch, transport: Transport) -> str:
        """Return the SHA-256 of the body, which is its raw id, in lower-case hex. Raises VendorError."""
        ...


@runtime_checkable
class ActionSource(Protocol):
    """An adapter that tells of splits and dividends, too."""

    async def actions(
        self, vendor_symbol: str, start_us: int, end_us: int, transport: Transport
    ) -> tuple[Actions, Answer]:
        """Return the actions with start <= ex-date < end. Raises VendorError."""
        ...
