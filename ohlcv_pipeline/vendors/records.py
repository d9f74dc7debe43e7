"""Rows with named fields, and parallel arrays, to columns of bars; what changed about them is named.

A field that is missing or of another type in every row is a change of the format and refuses the answer; in some
rows it refuses those rows. A new field is reported and changes nothing. Rows without names are read in `rows`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import Floats, Micros
from ohlcv_pipeline.vendors.errors import VendorError, malformed
from ohlcv_pipeline.vendors.rows import NOTHING, Layout, Parsed, bars_from_numbers, is_blank, kind, kinds

Times = Callable[[Sequence[Any], str], Micros]
"""Turns the column of times into µs UTC. Raises VendorError (malformed); the text says what was asked and where."""


@dataclass(frozen=True)
class Record:
    """What the fields of a vendor's rows mean: its name of each → the name in a `Layout`; all are required.

    `known` fields are documented and not read. `title` names the rows in what is said about them.
    """

    title: str
    fields: Mapping[str, str]
    known: frozenset[str] = frozenset()

    @cached_property
    def layout(self) -> Layout:
        """The fields that are read, in their order."""
        return Layout(tuple(self.fields.values()))

    @cached_property
    def time(self) -> str:
        """The vendor's name of the opening time."""
        return next(name for name, meaning in self.fields.items() if meaning == "time")


def bars_from_records(rows: object, record: Record, times: Times, asked: str) -> Parsed:
    """Turn an array of objects into bars, rejects and drift.

    Raises VendorError (malformed) naming the field, what was expected and what was found when a field is missing
    in every row, holds no number in any, or when a row has no readable time.
    """
    if not isinstance(rows, list):
        raise malformed(f"{asked}: expected an array of {record.title}, found {kind(rows)}")
    if not rows:
        return NOTHING
    if others := kinds(rows) - {"object"}:
        found = ", ".join(sorted(others))
        raise malformed(f"{asked}: expected an array of {record.title} as objects, found {found}")
    drift = drifted(rows, record, asked)
    columns = _columns(rows, record)
    seconds = times(columns[record.time], f"{asked}: field {record.time!r}") / 1e6
    numbers = [
        seconds if name == record.time else _numbers(column, name, record, asked) for name, column in columns.items()
    ]

    def row(i: int) -> tuple[Sequence[object], str]:
        cells = [seconds[i].item() if name == record.time else rows[i].get(name) for name in record.fields]
        return cells, json.dumps(rows[i], separators=(",", ":"))

    stacked = np.stack([numbers[i] for i in record.layout.used])
    return bars_from_numbers(stacked, record.layout, asked, row)._replace(drift=drift)


def bars_from_arrays(arrays: Mapping[str, object], record: Record, times: Times, asked: str) -> Parsed:
    """Turn parallel arrays by name into bars, rejects and drift.

    Raises VendorError (malformed) as `bars_from_records` does, and when the arrays differ in length.
    """
    missing = [name for name in record.fields if name not in arrays]
    if missing:
        raise _missing(missing[0], record, asked)
    columns: list[list[object]] = []
    for name in record.fields:
        values = arrays[name]
        if not isinstance(values, list):
            raise malformed(f"{asked}: expected an array in field {name!r}, found {kind(values)}")
        columns.append(values)
    lengths = dict(zip(record.fields, map(len, columns), strict=True))
    if len(set(lengths.values())) != 1:
        raise malformed(f"{asked}: expected arrays of one length, found {lengths}")
    rows = [dict(zip(record.fields, cells, strict=True)) for cells in zip(*columns, strict=True)]
    drift = new_fields([arrays], {*record.fields, *record.known}, record.title)
    return bars_from_records(rows, record, times, asked)._replace(drift=drift)


def drifted(rows: Sequence[Mapping[str, object]], record: Record, asked: str) -> tuple[str, ...]:
    """Return what is new about the fields. Raises VendorError (malformed) for one that no row has any more."""
    present = set().union(*set(map(tuple, rows)))
    for name in record.fields:
        if name not in present:
            raise _missing(name, record, asked)
    return new_fields(rows, {*record.fields, *record.known}, record.title)


def new_fields(rows: Sequence[Mapping[str, object]], known: Set[str], title: str) -> tuple[str, ...]:
    """Return a sentence for each field that is not a known one, with the kind of its first value."""
    found: dict[str, str] = {}
    for shape in set(map(tuple, rows)):
        for name in shape:
            if name not in known and name not in found:
                found[name] = kind(next(row[name] for row in rows if name in row))
    return tuple(f"{title}: new field {name!r} ({found[name]})" for name in sorted(found))


def _columns(rows: Sequence[Mapping[str, Any]], record: Record) -> dict[str, Sequence[Any]]:
    try:
        columns = zip(*map(itemgetter(*record.fields), rows), strict=True)
    except KeyError:
        return {name: [row.get(name) for row in rows] for name in record.fields}
    return dict(zip(record.fields, columns, strict=True))


def _missing(name: str, record: Record, asked: str) -> VendorError:
    return malformed(f"{asked}: expected field {name!r} ({record.fields[name]}) of {record.title}, found it missing")


def _numbers(column: Sequence[Any], name: str, record: Record, asked: str) -> Floats:
    """Return a column as float64, NaN where a cell has to be looked at by itself."""
    if set(map(type, column)) <= {int, float}:
        try:
            return np.fromiter(column, np.float64, len(column))
        except OverflowError:
            pass
    filled = kinds(cell for cell in column if not is_blank(cell))
    if filled and "number" not in filled:
        meaning, found = record.fields[name], ", ".join(sorted(filled))
        raise malformed(f"{asked}: expected a number in field {name!r} ({meaning}) of {record.title}, found {found}")
    return np.fromiter(map(_number, column), np.float64, len(column))


def _number(cell: object) -> float:
    if kind(cell) != "number":
        return math.nan
    try:
        return float(cell)  # type: ignore[arg-type]
    except OverflowError:
        return math.nan


def instants(column: Sequence[Any], where: str) -> Micros:
    """Read RFC 3339 instants with their zone, as µs UTC; digits beyond the microsecond are cut.

    Raises VendorError (malformed) for any other text, one without a zone among them, and for years before 1970.
    """
    found = kinds(column) - {"text"}
    if found:
        raise malformed(f"{where}: expected an instant with its zone, found {', '.join(sorted(found))}")
    for unit, ticks in (("us", 1), ("ns", 1_000)):
        try:
            texts = pa.array(column, pa.string())
            stamps: Micros = np.asarray(texts.cast(pa.timestamp(unit, tz="UTC")).cast(pa.int64())) // ticks
        except ValueError:
            continue
        if (stamps < 0).any():
            raise malformed(f"{where}: expected an instant since 1970, found an earlier one")
        return stamps
    raise malformed(f"{where}: expected an instant with its zone, found another text")


def unix_seconds(column: Sequence[Any], where: str) -> Micros:
    """Read unix seconds as µs UTC. Raises VendorError (malformed) for anything but numbers of seconds."""
    found = kinds(column) - {"number"}
    if found:
        raise malformed(f"{where}: expected unix seconds, found {', '.join(sorted(found))}")
    seconds = np.fromiter(column, np.float64, len(column))
    if not ((seconds >= 0) & (seconds < 1e11)).all():
        raise malformed(f"{where}: expected unix seconds, found a number of another size")
    return np.asarray((seconds * 1e6).round(), np.int64)
