"""The faults that a test can switch on: their kinds, parameters, and which request each one hits.

What a kind does to an answer is `damage`; corrections and splits change the series itself and become its
rewrite rule here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from ohlcv_pipeline.sandbox.listing import SHARE_VENDORS, VENDORS, VENUES, spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Ask
from ohlcv_pipeline.sandbox.series import CLOSE, COUNT, HIGH, LOW, OPEN, QUOTE, TURNOVERS, VOLUME, Ints, Rewrite

DEFECTS = (
    "high_below_low", "negative_low", "close_above_high", "nan", "negative_volume", "spike_x100",
    "duplicate_conflict", "off_grid", "absurd_volume", "null_value", "string_number",
)  # fmt: skip

Check = Callable[[object], bool]
_STEPS = {"minute": MINUTE, "1m": MINUTE, "day": DAY, "1d": DAY}


def _number(low: float, high: float) -> Check:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _boolean(value: object) -> bool:
    return isinstance(value, bool)


def _text(value: object) -> bool:
    return isinstance(value, str)


@dataclass(frozen=True)
class Kind:
    """A kind of fault: its own parameters with their checks and meanings, fields it needs, vendors it fits."""

    parameters: Mapping[str, tuple[Check, str]]
    needs: tuple[str, ...] = ()
    vendors: tuple[str, ...] = VENDORS
    lasting: bool = False


_FACTOR = {"factor": (_number(1e-6, 1e6), "a positive number")}

KINDS: Mapping[str, Kind] = {
    "outage": Kind({"status": (_number(500, 526), "a status from 500 to 526")}),
    "latency": Kind({"seconds": (_number(0, 600), "seconds from 0 to 600")}, ("seconds",)),
    "drop": Kind({"mid_body": (_boolean, "true or false")}),
    "rate_limit": Kind(
        {
            "retry_after": (lambda value: isinstance(value, str | int | float), "a number or a string, sent as it is"),
            "reset": (_number(0, 86_400), "seconds from 0 to 86400"),
        }
    ),
    "ban": Kind({"seconds": (_number(0, 1e6), "seconds")}, vendors=("binance",)),
    "truncated": Kind({"mismatch": (_boolean, "true (Content-Length of the whole body) or false")}),
    "html": Kind({}),
    "text": Kind({"message": (_text, "a string")}),
    "empty_body": Kind({}),
    "empty": Kind({}),
    "nan": Kind({}),
    "missing": Kind({}, ("start", "end")),
    "duplicate": Kind({"identical": (_boolean, "true or false")}),
    "unsorted": Kind({}),
    "bad_bar": Kind({"defect": (DEFECTS.__contains__, "one of " + ", ".join(DEFECTS))}, ("start", "defect")),
    "early_row": Kind({}),
    "correction": Kind(_FACTOR, ("symbol", "start", "factor"), lasting=True),
    "split": Kind(_FACTOR, ("symbol", "end", "factor"), lasting=True),
    "wrong_checksum": Kind({}, vendors=("binance_archive",)),
    "corrupt_zip": Kind({}, vendors=("binance_archive",)),
    "not_yet": Kind({}, vendors=("binance_archive",)),
    "bad_gzip": Kind({}),
    "wrong_pair": Kind({}, vendors=("kraken", "alpaca")),
    "extra_field": Kind({}),
    "missing_field": Kind({}),
    "renamed_field": Kind({}, vendors=SHARE_VENDORS),
    "stale": Kind({}, ("start", "end")),
    "repeated_token": Kind({}, vendors=("alpaca",)),
    "wrong_currency": Kind({}, vendors=("alpaca",)),
    "recent_sip": Kind({}, vendors=("alpaca",)),
}

_COMMON = ("kind", "vendor", "symbol", "interval", "start", "end", "times")


class FaultError(ValueError):
    """A fault that cannot be switched on; the text names the field and what it may be."""


@dataclass
class Fault:
    """A fault that is switched on. `step` 0, empty `symbol` and None bounds mean any.

    Bounds are unix seconds, [start, end). `times` counts the requests still to be hit; None: no end.
    """

    number: int
    kind: str
    vendor: str
    symbol: str
    step: int
    start: int | None
    end: int | None
    times: int | None
    parameters: Mapping[str, Any]
    given: Mapping[str, Any]

    def hits(self, ask: Ask) -> bool:
        """Whether a request is one that this fault is about."""
        if self.vendor != ask.vendor or KINDS[self.kind].lasting:
            return False
        if (self.symbol and self.symbol not in ask.symbols) or (self.step and self.step != ask.step):
            return False
        if self.start is None and self.end is None:
            return True
        first, last = self.bounds(ask.step)
        return ask.step > 0 and ask.start < last and ask.end > first

    def bounds(self, step: int) -> tuple[float, float]:
        """Return [start, end) of the bars meant; with a start alone, that one bar."""
        first = -np.inf if self.start is None else self.start
        return first, first + step if self.end is None else self.end

    def as_json(self) -> dict[str, Any]:
        """Return what was posted, with its `id` and the `times` left."""
        left = {} if self.times is None else {"times": self.times}
        return {"id": self.number, **self.given, **left}


class Faults:
    """The faults switched on, in the order in which they were."""

    def __init__(self) -> None:
        self._active: list[Fault] = []
        self._number = 0

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._active)

    def __len__(self) -> int:
        return len(self._active)

    def add(self, fields: object) -> Fault:
        """Switch on one fault. Raises FaultError."""
        fault = parse_fault(fields, self._number + 1)
        self._number += 1
        self._active.append(fault)
        return fault

    def clear(self) -> int:
        """Switch all faults off; return how many there were."""
        count = len(self._active)
        self._active.clear()
        return count

    def hitting(self, ask: Ask) -> list[Fault]:
        """Return the faults that a request runs into."""
        return [fault for fault in self._active if fault.hits(ask)]

    def spent(self, fault: Fault) -> None:
        """Count one use of a fault; the last one switches it off."""
        if fault.times is None:
            return
        fault.times -= 1
        if fault.times <= 0 and fault in self._active:
            self._active.remove(fault)

    def rewrite(self) -> Rewrite | None:
        """Return the rule of all corrections and splits in force; None when there are none."""
        lasting = [fault for fault in self._active if KINDS[fault.kind].lasting]
        return _rule(lasting) if lasting else None


def _rule(lasting: list[Fault]) -> Rewrite:
    def rewrite(venue: str, symbol: str, time: Ints, cells: Ints) -> None:
        for fault in lasting:
            if VENUES[fault.vendor] != venue or fault.symbol != symbol:
                continue
            factor = float(fault.parameters["factor"])
            if fault.kind == "split":
                part = time < (fault.end or 0)
                if not part.any():
                    continue
                traded = part & (cells[OPEN] > 0)
                cells[: CLOSE + 1, traded] = np.maximum(np.rint(cells[: CLOSE + 1, traded] * factor), 1)
                cells[TURNOVERS, part] = cells[TURNOVERS, part] * factor
            elif fault.start is not None:
                # A day is made of its minutes: its close is that of the last one with a trade.
                bounds = np.searchsorted(time, [fault.start, fault.start + (fault.step or MINUTE)])
                traded = np.flatnonzero(cells[QUOTE, slice(*bounds.tolist())])
                if len(traded):
                    _correct(cells, int(bounds[0] + traded[-1]), factor)

    return rewrite


def _correct(cells: Ints, at: int, factor: float) -> None:
    """Let a trade come in late: the last of its minute, at another price, of a hundredth of the minute's volume."""
    for row in (VOLUME, QUOTE):
        cells[row, at] += max(int(cells[row, at]) // 100, 1)
    cells[COUNT, at] += 1
    cells[CLOSE, at] = max(round(cells[CLOSE, at] * factor), 1)
    cells[HIGH, at] = max(cells[HIGH, at], cells[CLOSE, at])
    cells[LOW, at] = min(cells[LOW, at], cells[CLOSE, at])


def parse_fault(fields: object, number: int) -> Fault:
    """Check one posted fault. Raises FaultError with a sentence that names the field."""
    listing = "Kinds: " + ", ".join(KINDS) + "."
    if not isinstance(fields, dict):
        raise FaultError(f"A fault is a JSON object with at least kind and vendor. {listing}")
    kind = KINDS.get(str(fields.get("kind")))
    if kind is None:
        raise FaultError(f"kind: {fields.get('kind')!r} is not a kind of fault. {listing}")
    name = fields["kind"]

    def refuse(field: str, reason: str) -> FaultError:
        return FaultError(f"{field}: {reason} (fault of kind {name}). {listing}")

    vendor = fields.get("vendor")
    if vendor not in VENDORS:
        raise refuse("vendor", f"{vendor!r} is not one of {', '.join(VENDORS)}")
    if vendor not in kind.vendors:
        raise refuse("vendor", f"this kind is for {', '.join(kind.vendors)} only")
    for field in fields:
        if field not in _COMMON and field not in kind.parameters:
            known = ", ".join((*_COMMON, *kind.parameters))
            raise refuse(field, f"unknown field; this kind takes {known}")
    for field in kind.needs:
        if fields.get(field) is None:
            raise refuse(field, "is required")
    for field, (check, meaning) in kind.parameters.items():
        if fields.get(field) is not None and not check(fields[field]):
            raise refuse(field, f"{fields[field]!r} is not {meaning}")
    times = fields.get("times")
    if times is not None and (kind.lasting or not isinstance(times, int) or isinstance(times, bool) or times < 1):
        reason = "changes history until cleared, so it takes no times" if kind.lasting else "must be a whole number ≥ 1"
        raise refuse("times", reason)
    interval = fields.get("interval")
    if interval is not None and interval not in _STEPS:
        raise refuse("interval", f"{interval!r} is not one of {', '.join(_STEPS)}")
    start, end = _instant(fields, "start", refuse), _instant(fields, "end", refuse)
    if start is not None and end is not None and end <= start:
        raise refuse("end", "must lie after start")
    step = _STEPS.get(interval or "", 0)
    if name == "correction" and start is not None and start % (step or MINUTE):
        raise refuse("start", "must be the start of a bar")
    return Fault(
        number=number,
        kind=name,
        vendor=vendor,
        symbol=_symbol(fields, vendor, refuse),
        step=step,
        start=start,
        end=end,
        times=times,
        parameters={field: fields[field] for field in kind.parameters if fields.get(field) is not None},
        given={field: value for field, value in fields.items() if value is not None},
    )


def _instant(fields: Mapping[str, Any], field: str, refuse: Callable[[str, str], FaultError]) -> int | None:
    value = fields.get(field)
    if value is None:
        return None
    try:
        instant = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        instant = None
    if instant is None or instant.tzinfo is None:
        raise refuse(field, f"{value!r} is not an instant with a time zone, e.g. 2026-11-19T10:30:00Z")
    return int(instant.timestamp())


def _symbol(fields: Mapping[str, Any], vendor: str, refuse: Callable[[str, str], FaultError]) -> str:
    value = fields.get("symbol")
    if value is None:
        return ""
    known = spellings(vendor)
    if value in known:
        return known[value]
    if value not in known.values():
        raise refuse("symbol", f"{value!r} is not one of {', '.join([*known.values(), *known])}")
    return str(value)
