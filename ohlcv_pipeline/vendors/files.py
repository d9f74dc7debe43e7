"""Bars from a folder of CSV and Parquet files, laid out as docs/how-to/read-bars-from-files.md says.

The folder is `<interval>/<symbol>.csv`, or `<interval>/<symbol>/<period>.csv` with periods as 2013, 2013-10 and
2013-10-07 of UTC; Parquet is named `.parquet`. Reading bytes from the disk is `folder`.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from ohlcv_pipeline.frames import TIMESTAMP, Floats, Mask, Micros
from ohlcv_pipeline.markets import DAY_US, Interval, to_us
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Reject, Request, Transport
from ohlcv_pipeline.vendors.errors import bad_symbol, unusable
from ohlcv_pipeline.vendors.paging import closed_part, require_ok
from ohlcv_pipeline.vendors.rows import BLANKS, NOTHING, NUMBER, Layout, Parsed, bars_from_numbers, micros

SUFFIXES = (".csv", ".parquet")
REQUIRED = ("time", "open", "high", "low", "close", "volume")
OPTIONAL = ("trades", "vwap")
SPELLINGS: Mapping[str, str] = {
    **{name: name for name in (*REQUIRED, *OPTIONAL)}, "bucket_start": "time", "trade_count": "trades"
}  # fmt: skip
"""Column → what it means; capitals do not count. The last two are how `ohlcv export` writes them."""

PERIOD = re.compile(r"(\d{4})(?:-(\d\d))?(?:-(\d\d))?")
NUMBERS = (1e8, 1e19)
"""Smaller numbers are no seconds since the epoch but dates, as 20131007, which is why they begin in 1973."""

BOM = b"\xef\xbb\xbf"

Window = tuple[int, int]


def parse(body: bytes, interval: Interval, asked: str = "file") -> Parsed:
    """Read a table by the names of its columns, CSV or Parquet by its first bytes; other columns are not read.

    `time` is an instant with its zone, or s, ms, µs or ns since the epoch; of a day also its date. Single times
    without a zone refuse their rows, `naive_time`. Raises VendorError (malformed, permanent) when the table cannot
    be read, lacks a column, has one that holds no numbers, or has no time with a zone at all.
    """
    table = _parquet(body, asked) if body.startswith(b"PAR1") else _csv(body, asked)
    if not table.num_rows:
        return NOTHING
    fields = (*REQUIRED, *(name for name in OPTIONAL if name in table.column_names and not _blank(table[name])))
    table = table.select(fields)
    times, naive = _times(table["time"], interval, asked)
    if naive.all():
        raise unusable(f"{asked}: no time has a zone (naive_time); write 2013-10-07T13:30:00Z or …-04:00")
    rejects = tuple(Reject(None, "naive_time", _text(table, int(i))) for i in np.flatnonzero(naive))
    if rejects:
        table, times = table.filter(pa.array(~naive)), times[~naive]
    numbers = np.stack([times / 1e6, *(_numbers(table[name], name, asked) for name in fields[1:])])

    def row(i: int) -> tuple[Sequence[object], str]:
        cells = [table[name][i].as_py() for name in fields[1:]]
        return [times[i].item() / 1e6, *cells], _text(table, i)

    parsed = bars_from_numbers(numbers, Layout(fields), asked, row)
    return parsed._replace(rejects=rejects + parsed.rejects)


def _text(table: pa.Table, i: int) -> str:
    return json.dumps(table.slice(i, 1).to_pylist()[0], separators=(",", ":"), default=str)


def _parquet(body: bytes, asked: str) -> pa.Table:
    try:
        file = pq.ParquetFile(pa.BufferReader(body))
        names = _meanings(file.schema_arrow.names, asked)
        table = file.read(columns=list(names.values()), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise unusable(f"{asked}: expected a Parquet file, found one that cannot be read") from error
    columns = {meaning: table[name] for meaning, name in names.items()}
    # Polars writes its texts as large ones.
    return pa.table({m: c.cast(pa.string()) if pa.types.is_large_string(c.type) else c for m, c in columns.items()})


def _csv(body: bytes, asked: str) -> pa.Table:
    text = body.removeprefix(BOM)
    header = text.partition(b"\n")[0].decode("utf-8", "replace").rstrip("\r")
    try:
        columns = next(csv.reader([header]), [])
    except csv.Error as error:
        raise unusable(f"{asked}: expected a table, found {len(body)} bytes without the names of columns") from error
    names = _meanings(columns, asked)
    try:
        table = pacsv.read_csv(
            pa.BufferReader(text),
            # A pool of threads would not survive Dagster's forks, and one thread is fast enough.
            read_options=pacsv.ReadOptions(
                column_names=columns, skip_rows=1, use_threads=False, block_size=max(len(text), 1 << 16)
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=list(names.values()), column_types=dict.fromkeys(columns, pa.string())
            ),
        )
    except pa.ArrowInvalid as error:
        raise unusable(f"{asked}: expected rows of {len(columns)} columns, found rows of another shape") from error
    return pa.table({meaning: table[name] for meaning, name in names.items()})


def _meanings(columns: Sequence[str], asked: str) -> dict[str, str]:
    """Return meaning → column. Raises VendorError for a meaning that no column has, or two have."""
    names: dict[str, str] = {}
    for column in columns:
        meaning = SPELLINGS.get(column.strip().lower())
        if meaning in names:
            raise unusable(f"{asked}: expected one column for {meaning!r}, found {names[meaning]!r} and {column!r}")
        if meaning is not None:
            names[meaning] = column
    if missing := [name for name in REQUIRED if name not in names]:
        raise unusable(f"{asked}: expected a column {missing[0]!r}, found {', '.join(columns)[:200] or 'none'}")
    return names


def _blank(column: pa.ChunkedArray) -> bool:
    """Whether no cell of a column has a value."""
    if pa.types.is_string(column.type):
        trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(column))
        column = pc.if_else(pc.is_in(trimmed, pa.array(sorted(BLANKS))), pa.scalar(None, pa.string()), column)
    return bool(pc.all(pc.is_null(column, nan_is_null=True)).as_py())


def _numbers(column: pa.ChunkedArray, name: str, asked: str) -> Floats:
    """Return a column as float64, NaN where a cell has to be looked at by itself."""
    kind = column.type
    if pa.types.is_string(kind):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            return np.array([_float(cell) for cell in column.to_pylist()])
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        column = column.cast(pa.float64(), safe=False)
    else:
        raise unusable(f"{asked}: expected numbers in column {name!r}, found {kind}")
    return np.asarray(column.to_numpy())


def _float(cell: str | None) -> float:
    text = "" if cell is None else cell.strip()
    return float(text) if NUMBER.fullmatch(text) else math.nan


def _times(column: pa.ChunkedArray, interval: Interval, asked: str) -> tuple[Micros, Mask]:
    """Return the opening times in µs UTC, and which of them have no zone. Raises VendorError."""
    kind = column.type
    if column.null_count:
        raise unusable(f"{asked}: expected a time in every row, found none in {column.null_count}")
    zoned = np.zeros(len(column), np.bool_)
    if pa.types.is_timestamp(kind):
        return _whole(column.cast(pa.timestamp("us", kind.tz), safe=False)), zoned | (kind.tz is None)
    if pa.types.is_date(kind) and interval is Interval.DAY:
        return _whole(column.cast(pa.timestamp("us"))), zoned
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return _since_epoch(np.asarray(column.cast(pa.float64(), safe=False)), asked), zoned
    if not pa.types.is_string(kind):
        raise unusable(f"{asked}: expected instants with their zone in column 'time', found {kind}")
    for form in (pa.float64(), TIMESTAMP, pa.timestamp("ns", "UTC"), *([pa.date32()] * (interval is Interval.DAY))):
        try:
            return _times(column.cast(form), interval, asked)
        except pa.ArrowInvalid:
            continue
    cells = [_instant(cell, interval, asked) for cell in column.to_pylist()]
    naive = np.array([cell is None for cell in cells])
    return np.array([cell or 0 for cell in cells], np.int64), naive


def _whole(column: pa.ChunkedArray) -> Micros:
    return np.asarray(column.cast(pa.int64()))


def _since_epoch(stamps: Floats, asked: str) -> Micros:
    if not ((stamps >= NUMBERS[0]) & (stamps < NUMBERS[1])).all():
        raise unusable(f"{asked}: expected instants, or numbers since the epoch after 1973, found another number")
    return micros(stamps)


def _instant(cell: str, interval: Interval, asked: str) -> int | None:
    """Return one time in µs UTC, None for one without a zone. Raises VendorError for what is no time."""
    text = cell.strip()
    if NUMBER.fullmatch(text):
        return int(_since_epoch(np.array([float(text)]), asked)[0])
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise unusable(f"{asked}: expected a time in column 'time', found another text") from error
    if at.tzinfo is None and interval is Interval.DAY and len(text) == len("2013-10-07"):
        at = at.replace(tzinfo=UTC)
    return None if at.tzinfo is None else to_us(at)


def decode(answer: Answer, interval: Interval) -> Parsed:
    """Read a file of bars of an interval. Raises VendorError: a file that is not there is a bad symbol."""
    if answer.status == 404:
        message = f"files: there is neither {answer.url}, nor that as .parquet, nor a folder of that name"
        raise bad_symbol(message)
    require_ok(answer)
    return parse(answer.body, interval, answer.url)


# One object an interval: by it the transport knows that a file was decoded the same way before.
_DECODE = {interval: partial(decode, interval=interval) for interval in Interval}


def period(name: str) -> Window | None:
    """Return [start, end) in µs UTC of a year, a month or a day as 2013, 2013-10 or 2013-10-07; None of no period."""
    match = PERIOD.fullmatch(name)
    if match is None:
        return None
    parts = [int(part) for part in match.groups() if part is not None]
    try:
        first = date(*parts, *[1, 1][len(parts) - 1 :])
        following = first + timedelta(days=(366, 31, 1)[len(parts) - 1])
    except (ValueError, OverflowError):
        return None
    end = following if len(parts) == 3 else following.replace(day=1)
    start_us, end_us = (to_us(datetime(at.year, at.month, at.day, tzinfo=UTC)) for at in (first, end))
    return start_us, end_us


class Files:
    """The files of a folder. That a bucket is absent from them proves nothing about its trades.

    `plan` looks into the folder, because which files there are decides what is read.
    """

    name = "files"
    version = "1"
    omits_empty_buckets = False
    raw_prices = True

    def __init__(self, folder: str = "") -> None:
        self._folder = Path(folder) if folder else None

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the closed minutes of [start, end), or its days that have begun."""
        if interval is Interval.MINUTE:
            return closed_part(interval, start_us, end_us, now_us)
        end_us = min(end_us, now_us)
        return (start_us, end_us) if start_us < end_us else None

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Plan one fetch for each file that may hold buckets of [start, end), those of longer periods first.

        Of two answers the later counts, and so does the file of the shorter period. Where there is no file at all
        the missing one is asked for, so that it is missed by name.
        """
        fetches = []
        for name, span in self._files(interval, vendor_symbol) or [(f"{vendor_symbol}.csv", None)]:
            first, end = (start_us, end_us) if span is None else (max(start_us, span[0]), min(end_us, span[1]))
            if first < end:
                request = Request(self.name, f"/{interval}/{name}")
                fetches.append(Fetch(self.name, symbol, vendor_symbol, interval, first, end, (request,)))
        return fetches

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one file: its rows of the UTC days that the window touches. Raises VendorError.

        The page's window is these days, so that rows outside a session are seen, and seen for what they are.
        """
        (request,) = fetch.requests
        parsed, answer = await transport.get(request, _DECODE[fetch.interval])
        start, end = fetch.start_us // DAY_US * DAY_US, -(-fetch.end_us // DAY_US) * DAY_US
        times = parsed.bars.bucket_start
        bars = parsed.bars.take(np.flatnonzero((times >= start) & (times < end)))
        rejects = tuple(r for r in parsed.rejects if r.bucket_start is None or start <= r.bucket_start < end)
        return Page(replace(fetch, start_us=start, end_us=end), bars, rejects, (answer,))

    def _files(self, interval: Interval, spelling: str) -> list[tuple[str, Window | None]]:
        """Return a symbol's files by their names below the interval, with their periods, the longest first."""
        if self._folder is None:
            return []
        home = self._folder / interval
        whole = [(f"{spelling}{suffix}", None) for suffix in SUFFIXES if (home / f"{spelling}{suffix}").is_file()]
        try:
            found = sorted((home / spelling).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            found = []
        parts = [
            (f"{spelling}/{file.name}", span)
            for file in found
            if file.suffix in SUFFIXES and (span := period(file.stem)) is not None
        ]
        return [*whole, *sorted(parts, key=lambda part: part[1][0] - part[1][1])]
