"""How often a vendor may be asked, shared by all processes: two token buckets and a block per vendor.

`spend` is the arithmetic, pure; `SharedBudget` keeps its state in the ledger. When to ask again after a
failure, and what a 429 looks like, is decided by the vendors' transport.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sqlalchemy import bindparam, select, update
from sqlalchemy.orm import Session

from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import VendorBudget
from ohlcv_pipeline.markets import from_us, to_us
from ohlcv_pipeline.settings import VendorSettings

_SECOND_US = 1_000_000


@dataclass(frozen=True)
class Bucket:
    """A limit: at most `capacity` tokens at once, `per_second` new ones."""

    capacity: float
    per_second: float


@dataclass(frozen=True)
class Limits:
    """A vendor's two limits; None lifts one."""

    requests: Bucket | None
    weight: Bucket | None

    @classmethod
    def of(cls, vendor: VendorSettings) -> Limits:
        """Derive the buckets. Raises ValueError for a weight limit below 2 a minute.

        The weight bucket holds a tenth of the limit and refills the rest within a minute, so that no window
        of 60 s exceeds the limit, wherever it begins.
        """
        requests = weight = None
        if vendor.requests_per_second is not None:
            requests = Bucket(vendor.burst, vendor.requests_per_second)
        if vendor.weight_per_minute is not None:
            if vendor.weight_per_minute < 2:
                raise ValueError(f"weight_per_minute must be at least 2, not {vendor.weight_per_minute}")
            capacity = max(vendor.weight_per_minute / 10, 1.0)
            weight = Bucket(capacity, (vendor.weight_per_minute - capacity) / 60)
        return cls(requests, weight)


@dataclass(frozen=True)
class State:
    """What was left in both buckets at `refilled_us`, and until when nobody may ask (0: never blocked).

    Instants are microseconds since the epoch.
    """

    request_tokens: float
    weight_tokens: float
    refilled_us: int
    blocked_us: int = 0

    @classmethod
    def full(cls, limits: Limits, now_us: int) -> State:
        """Return the state of a vendor that was never asked."""
        return cls(
            request_tokens=limits.requests.capacity if limits.requests else 0.0,
            weight_tokens=limits.weight.capacity if limits.weight else 0.0,
            refilled_us=now_us,
        )


def spend(state: State, weight: int, limits: Limits, now_us: int) -> tuple[State, float]:
    """Take one request of some weight out of both buckets.

    Returns the new state and 0.0 if granted, else the same state and the seconds after which it would be,
    if nobody else asks. Time before `refilled_us` grants nothing, so a clock set back earns no tokens. Raises
    ValueError for a weight that is not positive, or that the bucket can never hold.
    """
    if weight < 1:
        raise ValueError(f"the weight of a request is at least 1, not {weight}")
    if limits.weight is not None and weight > limits.weight.capacity:
        raise ValueError(
            f"a request of weight {weight} can never be sent: at most {limits.weight.capacity:g} are granted "
            "at once, a tenth of weight_per_minute; raise it, or ask for less in one request"
        )
    elapsed = max(0, now_us - state.refilled_us) / _SECOND_US
    # Waits count from here: before `refilled_us` no token arrives.
    start_us = max(now_us, state.refilled_us)
    granted_us = max(now_us, state.blocked_us)
    left = []
    for limit, tokens, cost in (
        (limits.requests, state.request_tokens, 1),
        (limits.weight, state.weight_tokens, weight),
    ):
        if limit is None:
            left.append(tokens)
            continue
        present = min(limit.capacity, tokens + elapsed * limit.per_second)
        if present < cost:
            missing_us = math.ceil((cost - present) / limit.per_second * _SECOND_US)
            granted_us = max(granted_us, start_us + missing_us)
        left.append(present - cost)
    if granted_us > now_us:
        # Two microseconds more than computed: float seconds since the epoch round by about one.
        return state, (granted_us - now_us + 2) / _SECOND_US
    return replace(state, request_tokens=left[0], weight_tokens=left[1], refilled_us=start_us), 0.0


def drained(state: State, until_us: int) -> State:
    """Return the state with empty buckets that begin to refill at `until_us`, blocked at least until then."""
    return State(
        request_tokens=0.0,
        weight_tokens=0.0,
        refilled_us=max(state.refilled_us, until_us),
        blocked_us=max(state.blocked_us, until_us),
    )


_OF_VENDOR = VendorBudget.vendor == bindparam("of_vendor")
_READ = select(
    VendorBudget.request_tokens,
    VendorBudget.weight_tokens,
    VendorBudget.refilled_at,
    VendorBudget.blocked_until,
).where(_OF_VENDOR)
_READ_LOCKED = _READ.with_for_update()
_STORE = update(VendorBudget).where(_OF_VENDOR)


class SharedBudget:
    """The budget of every vendor, one for all processes on the same ledger.

    Instants are seconds since the epoch (UTC). Every method blocks for a transaction; none sleeps. Raises
    LookupError for a vendor without limits.
    """

    def __init__(self, ledger: Ledger, vendors: Mapping[str, VendorSettings]) -> None:
        self._ledger = ledger
        self._limits = {name: Limits.of(vendor) for name, vendor in vendors.items()}

    def take(self, vendor: str, weight: int, now: float) -> float:
        """Ask for one request: 0.0 if it may be sent, else the seconds to wait before asking again.

        Raises ValueError for a weight below 1 or beyond what the vendor's limit can ever grant.
        """
        limits, now_us = self._of(vendor), math.floor(now * _SECOND_US)
        if limits.requests is None and limits.weight is None:
            # Nothing is counted, so nothing is written: only a block can stand in the way.
            with self._ledger.read() as session:
                state = _read(session, vendor) or State.full(limits, now_us)
            return spend(state, weight, limits, now_us)[1]
        with self._ledger.write() as session:
            before = self._locked(session, vendor, now_us)
            after, wait = spend(before, weight, limits, now_us)
            if after is not before:
                _store(session, vendor, after)
        return wait

    def drain(self, vendor: str, until: float) -> None:
        """Empty the vendor's buckets and let nobody ask before `until`; a longer block stays as it is."""
        until_us = math.ceil(until * _SECOND_US)
        with self._ledger.write() as session:
            _store(session, vendor, drained(self._locked(session, vendor, until_us), until_us))

    def blocked_until(self, vendor: str, now: float) -> float:
        """Return the instant at which the vendor's block ends, 0.0 if none is in force at `now`."""
        self._of(vendor)
        with self._ledger.read() as session:
            state = _read(session, vendor)
        until = state.blocked_us / _SECOND_US if state else 0.0
        return until if until > now else 0.0

    def _of(self, vendor: str) -> Limits:
        try:
            return self._limits[vendor]
        except KeyError:
            raise LookupError(f"vendor {vendor!r} has no limits; there are {', '.join(self._limits)}") from None

    def _locked(self, session: Session, vendor: str, now_us: int) -> State:
        state = _read(session, vendor, lock=True)
        if state is None:
            full = State.full(self._of(vendor), now_us)
            new = self._ledger.insert(VendorBudget).on_conflict_do_nothing()
            session.connection().execute(new, {"vendor": vendor, **_columns(full)})
            # On Postgres another process may have been first: its row counts.
            state = _read(session, vendor, lock=True) or full
        return state


def _read(session: Session, vendor: str, *, lock: bool = False) -> State | None:
    query = _READ_LOCKED if lock else _READ
    row = session.connection().execute(query, {"of_vendor": vendor}).tuples().one_or_none()
    if row is None:
        return None
    request_tokens, weight_tokens, refilled_at, blocked_until = row
    return State(request_tokens, weight_tokens, to_us(refilled_at), to_us(blocked_until) if blocked_until else 0)


def _store(session: Session, vendor: str, state: State) -> None:
    session.connection().execute(_STORE, {"of_vendor": vendor, **_columns(state)})


def _columns(state: State) -> dict[str, object]:
    return {
        "request_tokens": state.request_tokens,
        "weight_tokens": state.weight_tokens,
        "refilled_at": from_us(state.refilled_us),
        "blocked_until": from_us(state.blocked_us) if state.blocked_us else None,
    }
