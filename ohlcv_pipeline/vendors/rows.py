"""Rows of a JSON answer or a CSV file to columns of bars, the same way for every vendor.

Here a row is refused only when it cannot become a column. Windows, order, duplicates, alignment and the rules
about prices are the business of `bars/`; which field means what is a `Layout` declared by each adapter.
"""

from __future__ import annotations

import json
import math
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa

from ohlcv_pipeline.frames import NO_BARS, BarColumns, Floats, Micros
from ohlcv_pipeline.vendors.base import Reject
from ohlcv_pipeline.vendors.errors import malformed

BLANKS = frozenset({"", "-", "n/a", "none", "null"})
NOT_FINITE = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
KINDS: Mapping[type, str] = {
    int: "number", float: "number", str: "text", list: "array", dict: "object", bool: "true or false",
    type(None): "null",
}  # fmt: skip
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


class Parsed(NamedTuple):
    """Bars in the order they came, the rows that could not become bars, and what is new about the format."""

    bars: BarColumns
    rejects: tuple[Reject, ...] = ()
    drift: tuple[str, ...] = ()


NOTHING = Parsed(NO_BARS)


@dataclass(frozen=True)
class Layout:
    """What the fields of a row mean. `fields` names them in order, the way the vendor documents them.

    The opening time is `time`; `vwap`, or `quote_volume` to compute it from, and `trades` are optional.
    """

    fields: tuple[str, ...]

    @cached_property
    def used(self) -> tuple[int, ...]:
        """The positions of time, open, high, low, close, volume, then of the optional fields."""
        names = ("time", "open", "high", "low", "close", "volume", *self.extras)
        return tuple(self.fields.index(name) for name in names)

    @cached_property
    def extras(self) -> tuple[str, ...]:
        """The optional fields that this layout has."""
        return tuple(name for name in ("trades", "vwap", "quote_volume") if name in self.fields)

    def __str__(self) -> str:
        return f"[{', '.join(self.fields)}]"


class _UnreadableError(Exception):
    """A cell is no number; the reason is a code of the quarantine."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def micros(stamps: npt.NDArray[np.float64] | Micros) -> Micros:
    """Return stamps in s, ms, µs or ns since the epoch as int64 µs, each by its own magnitude.

    Below 1e11 seconds, below 1e14 milliseconds, below 1e17 microseconds, else nanoseconds: Binance's files
    went from ms to µs on 2025-01-01 (github.com/binance/binance-public-data).
    """
    size = np.abs(stamps)
    if len(stamps) and size.max() < 1e11:
        return np.asarray((stamps * 1_000_000).round(), np.int64)
    scale = np.select([size < 1e11, size < 1e14, size < 1e17], [1e6, 1e3, 1.0], 1e-3)
    return np.asarray((stamps * scale).round(), np.int64)


def load_json(body: bytes, asked: str) -> object:
    """Return the parsed body. A NaN or Infinity token becomes that float, for the row to be refused by itself.

    Raises VendorError (malformed) when the body is truncated or no JSON.
    """
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body)
    except ValueError as error:
        raise malformed(f"{asked}: expected JSON, found {len(body)} bytes that end or break off early") from error


def bars_from_rows(rows: object, layout: Layout, asked: str) -> Parsed:
    """Turn parsed rows into bars and rejects.

    Raises VendorError (malformed) naming what was expected and found when the rows are not of the layout or
    a row has no readable time: then nothing about the answer can be trusted.
    """
    if not isinstance(rows, list):
        raise malformed(f"{asked}: expected an array of {layout}, found {kind(rows)}")
    if not rows:
        return NOTHING
    if others := kinds(rows) - {"array"}:
        raise malformed(f"{asked}: expected rows {layout}, found {', '.join(sorted(others))}")
    lengths = set(map(len, rows))
    if lengths != {len(layout.fields)}:
        raise malformed(f"{asked}: expected {len(layout.fields)} fields {layout}, found {_changed(layout, lengths)}")
    try:
        numbers = _numbers(rows, layout)
    except (ValueError, TypeError, OverflowError, pa.ArrowInvalid):
        _refuse_retyped(list(zip(*rows, strict=True)), layout, asked)
        numbers = unread(layout, len(rows))
    return bars_from_numbers(numbers, layout, asked, lambda i: (rows[i], _json_text(rows[i])))


def unread(layout: Layout, rows: int) -> Floats:
    """Return numbers of which every cell is still to be read one by one."""
    return np.full((len(layout.used), rows), np.nan)


def bars_from_numbers(
    numbers: Floats, layout: Layout, asked: str, row: Callable[[int], tuple[Sequence[object], str]]
) -> Parsed:
    """Turn numbers of shape (len(layout.used), n) into bars and rejects.

    NaN marks a cell that has to be looked at: `row(i)` returns the cells of row i and its text. Raises
    VendorError (malformed) for a row without a readable time.
    """
    trades = 6 if "trades" in layout.extras else None
    doubtful = ~np.isfinite(numbers).all(axis=0)
    if trades is not None:
        doubtful |= numbers[trades] != np.rint(numbers[trades])
    if not doubtful.any():
        return Parsed(_columns(numbers, layout, trades))
    keep = np.ones(numbers.shape[1], np.bool_)
    rejects = []
    for i in map(int, np.flatnonzero(doubtful)):
        cells, text = row(i)
        try:
            stamp = _cell(cells[layout.used[0]])
        except _UnreadableError as error:
            raise malformed(f"{asked}: expected a numeric time in {layout}, found {error.reason}") from error
        try:
            numbers[:, i] = stamp, *_read(cells, layout)
        except _UnreadableError as error:
            keep[i] = False
            rejects.append(Reject(int(micros(np.array([stamp]))[0]), error.reason, text))
    return Parsed(_columns(numbers[:, keep], layout, trades), tuple(rejects))


def _columns(numbers: Floats, layout: Layout, trades: int | None) -> BarColumns:
    volume = numbers[5]
    vwap = None
    if "vwap" in layout.extras:
        vwap = np.where(volume == 0, np.nan, numbers[-1])
    elif "quote_volume" in layout.extras:
        vwap = np.divide(numbers[-1], volume, out=np.full(len(volume), np.nan), where=volume != 0)
    return BarColumns.of(micros(numbers[0]), numbers[1:6], None if trades is None else numbers[trades], vwap)


def _read(cells: Sequence[object], layout: Layout) -> list[float]:
    numbers = [_cell(cells[i]) for i in layout.used[1:6]]
    for name, i in zip(layout.extras, layout.used[6:], strict=True):
        if name == "trades":
            count = _cell(cells[i])
            if not count.is_integer():
                raise _UnreadableError("bad_number")
            numbers.append(count)
        else:
            # A bar without vwap is whole, so null is no reason to refuse it.
            numbers.append(math.nan if is_blank(cells[i]) else _cell(cells[i]))
    return numbers


def _numbers(rows: list[list[Any]], layout: Layout) -> Floats:
    """Return the used cells as numbers of shape (len(layout.used), n). Raises what a cell that is no number raises."""
    if any(isinstance(rows[0][i], str) for i in layout.used):
        columns = list(zip(*rows, strict=True))
        numbers = np.stack([_column(columns[i]) for i in layout.used])
    else:
        numbers = _floats(chain.from_iterable(rows)).reshape(len(rows), -1).T[list(layout.used)]
    # To Python true is 1. Asking each cell for its type would take as long as reading all of them.
    for place, i in np.argwhere((numbers == 0) | (numbers == 1)).tolist():
        if isinstance(rows[i][layout.used[place]], bool):
            raise TypeError("true and false are no numbers")
    return numbers


def _column(column: Sequence[Any]) -> Floats:
    # Arrow reads text numbers three times faster than float(), to the same nearest float64.
    if isinstance(column[0], str):
        return np.asarray(pa.array(column, pa.string()).cast(pa.float64()).to_numpy(zero_copy_only=False))
    return _floats(column)


def _floats(cells: Iterable[Any]) -> Floats:
    """Return numbers as float64. Raises TypeError for text and null, where numpy would read "1_000"."""
    return np.frombuffer(array("d", cells))


def _json_text(row: object) -> str:
    return json.dumps(row, separators=(",", ":"))


def _refuse_retyped(columns: Sequence[Sequence[object]], layout: Layout, asked: str) -> None:
    """Raise VendorError (malformed) for a field that holds another kind of value in every row, of two or more."""
    for i in layout.used:
        found_kinds = kinds(cell for cell in columns[i] if not is_blank(cell))
        if len(columns[i]) > 1 and found_kinds and not found_kinds & {"number", "text"}:
            found = ", ".join(sorted(found_kinds))
            raise malformed(f"{asked}: expected numbers in field {layout.fields[i]!r} of {layout}, found {found}")


def _changed(layout: Layout, lengths: set[int]) -> str:
    other = {length: length - len(layout.fields) for length in sorted(lengths - {len(layout.fields)})}
    return ", ".join(f"{length} ({abs(n)} {'new' if n > 0 else 'missing'})" for length, n in other.items())


def kind(value: object) -> str:
    """Return what JSON calls a value: number, text, array, object, null, or true or false."""
    return KINDS.get(type(value), type(value).__name__)


def kinds(values: Iterable[object]) -> set[str]:
    """Return what JSON calls the values of a column."""
    return {KINDS.get(each, each.__name__) for each in set(map(type, values))}


def is_blank(value: object) -> bool:
    """Whether a cell says that there is no value."""
    return value is None or (isinstance(value, str) and value.strip().lower() in BLANKS)


def _cell(value: object) -> float:
    if is_blank(value):
        raise _UnreadableError("null_value")
    if isinstance(value, str):
        if NOT_FINITE.fullmatch(value.strip()):
            raise _UnreadableError("not_finite")
        if not NUMBER.fullmatch(value.strip()):
            raise _UnreadableError("bad_number")
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnreadableError("bad_number")
    try:
        number = float(value)
    except OverflowError:
        raise _UnreadableError("not_finite") from None
    if not math.isfinite(number):
        raise _UnreadableError("not_finite")
    return number
