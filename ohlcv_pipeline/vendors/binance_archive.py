"""Binance klines as files of data.binance.vision: whole past UTC days and months, each with its SHA-256.

Wire format: github.com/binance/binance-public-data. What is younger than a published file comes from `binance`.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from ohlcv_pipeline.frames import NO_BARS, Floats
from ohlcv_pipeline.markets import DAY_US, Interval, from_us, to_us
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page, Request, Transport
from ohlcv_pipeline.vendors.binance import INTERVALS, KLINE
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed, unusable
from ohlcv_pipeline.vendors.paging import require_ok
from ohlcv_pipeline.vendors.rows import NOTHING, Parsed, bars_from_numbers, unread

DAILY_FILE_HOUR = 3
"""UTC hour by which yesterday's daily file is there."""

NOT_YET_DAYS = 35
REFETCHES = 3
CHECKSUM_LINE = re.compile(rb"([0-9a-fA-F]{64})\s+\*?(\S+)")


@dataclass(frozen=True)
class File:
    """One published file: klines whose opening time lies in [start, end) of µs UTC."""

    span: Literal["daily", "monthly"]
    start_us: int
    end_us: int

    def path(self, symbol: str, interval: Interval) -> str:
        """Return the path below data.binance.vision."""
        day = from_us(self.start_us)
        stamp = f"{day:%Y-%m-%d}" if self.span == "daily" else f"{day:%Y-%m}"
        name = f"{symbol}-{INTERVALS[interval]}-{stamp}.zip"
        return f"/data/spot/{self.span}/klines/{symbol}/{INTERVALS[interval]}/{name}"


def files(interval: Interval, start_us: int, end_us: int) -> Iterator[File]:
    """Yield the files that cover the whole UTC days (minutes) or months (days) in [start, end), oldest first.

    A whole month is one monthly file; the other days of a minute window are daily files.
    """
    at = -(-start_us // DAY_US) * DAY_US
    while at + DAY_US <= end_us:
        month_start, month_end = month_bounds(at)
        if at == month_start and month_end <= end_us:
            yield File("monthly", at, month_end)
            at = month_end
        elif interval is Interval.MINUTE:
            yield File("daily", at, at + DAY_US)
            at += DAY_US
        else:
            at = month_end


def month_bounds(us: int) -> tuple[int, int]:
    """Return [start, end) of the UTC month that holds an instant, in µs."""
    first = from_us(us).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return to_us(first), to_us((first + timedelta(days=32)).replace(day=1))


def monthly_file_from(month_end_us: int) -> int:
    """Return when the file of the month ending there is surely published: a day after the first Monday, µs."""
    first = from_us(month_end_us)
    return month_end_us + ((7 - first.weekday()) % 7 + 1) * DAY_US


def parse_checksum(body: bytes, file_name: str, asked: str) -> str:
    """Return the lower-case SHA-256 of `<sha256 hex>  <file name>`. Raises VendorError (malformed)."""
    match = CHECKSUM_LINE.fullmatch(body.strip())
    if match is None or match[2].decode("latin-1") != file_name:
        raise malformed(f"{asked}: expected the SHA-256 and {file_name}, found {len(body)} other bytes")
    return match[1].decode().lower()


def unzip(body: bytes, asked: str) -> bytes:
    """Return the one CSV of a zip. Raises VendorError (malformed, and permanent: the digest was right)."""
    try:
        with zipfile.ZipFile(io.BytesIO(body)) as archive:
            names = archive.namelist()
            if len(names) == 1:
                return archive.read(names[0])
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise unusable(f"{asked}: expected a zip, found one that cannot be read") from error
    raise unusable(f"{asked}: expected a zip of one file, found {len(names)}")


def parse(text: bytes, file: File, asked: str = "binance file") -> Parsed:
    """Read the CSV of 12 fields, with or without a header row; stamps in ms or µs, row by row.

    vwap = quote volume ÷ volume, null without volume. Raises VendorError (malformed) when the shape differs or
    a row lies outside the days of the file's name, which is how a wrong time unit shows.
    """
    text = text.removeprefix(b"\xef\xbb\xbf")
    if text[:1] and not text[:1].isdigit():
        text = text.partition(b"\n")[2]
    if not text.strip():
        return NOTHING
    lines: list[str] = []

    def row(i: int) -> tuple[Sequence[object], str]:
        if not lines:
            lines.extend(line for line in text.decode("utf-8", "replace").splitlines() if line)
        return next(csv.reader([lines[i]])), lines[i]

    parsed = bars_from_numbers(_numbers(text, asked), KLINE, asked, row)
    times = parsed.bars.bucket_start
    outside = (times < file.start_us) | (times >= file.end_us)
    if outside.any():
        found = from_us(int(times[np.argmax(outside)])).isoformat()
        raise unusable(f"{asked}: expected rows of {from_us(file.start_us):%Y-%m-%d} on, found one of {found}")
    return parsed


def _numbers(text: bytes, asked: str) -> Floats:
    names = [KLINE.fields[i] for i in KLINE.used]
    table = _read_csv(text, names, pa.float64(), asked)
    if table is None:
        # Some cell is no number: count the rows as text and leave the cells to be read one by one.
        table = _read_csv(text, names, pa.string(), asked)
        if table is None:
            raise unusable(f"{asked}: expected {len(KLINE.fields)} fields {KLINE}, found rows of another shape")
        return unread(KLINE, table.num_rows)
    return np.stack([table[name].to_numpy() for name in names])


def _read_csv(text: bytes, names: list[str], kind: pa.DataType, asked: str) -> pa.Table | None:
    try:
        return pacsv.read_csv(
            pa.BufferReader(text),
            # A pool of threads would not survive Dagster's forks, and one thread is fast enough.
            read_options=pacsv.ReadOptions(
                column_names=list(KLINE.fields), use_threads=False, block_size=max(len(text), 1 << 16)
            ),
            convert_options=pacsv.ConvertOptions(
                include_columns=names, column_types=dict.fromkeys(names, kind), null_values=[""]
            ),
        )
    except pa.ArrowInvalid:
        return None


class BinanceArchive:
    """Daily and monthly kline files; a bucket without trades is a row of zero volume."""

    name = "binance_archive"
    version = "1"
    omits_empty_buckets = False
    raw_prices = True

    def serves(self, interval: Interval, start_us: int, end_us: int, now_us: int) -> tuple[int, int] | None:
        """Return the whole past days (minutes) or months (days) of [start, end) that are published at `now`.

        When the last whole month has no monthly file yet, its last day is left out, so that `plan`, which
        knows no clock, asks for its daily files.
        """
        today = now_us - now_us % DAY_US
        hour = (now_us - today) // 3_600_000_000
        end_us = min(end_us - end_us % DAY_US, today if hour >= DAILY_FILE_HOUR else today - DAY_US)
        start_us = -(-start_us // DAY_US) * DAY_US
        last_end = month_bounds(end_us)[0]
        last_start = month_bounds(last_end - 1)[0]
        published = monthly_file_from(last_end) <= now_us
        if interval is Interval.DAY:
            end_us = last_end if published else last_start
            first, following = month_bounds(start_us)
            start_us = start_us if start_us == first else following
        elif not published and start_us <= last_start:
            end_us = last_end - DAY_US
        return (start_us, end_us) if start_us < end_us else None

    def plan(self, symbol: str, vendor_symbol: str, interval: Interval, start_us: int, end_us: int) -> list[Fetch]:
        """Cut [start, end) into files, each a fetch of its CHECKSUM and its zip."""
        fetches = []
        for file in files(interval, start_us, end_us):
            path = file.path(vendor_symbol, interval)
            requests = (Request(self.name, f"{path}.CHECKSUM"), Request(self.name, path))
            fetches.append(Fetch(self.name, symbol, vendor_symbol, interval, file.start_us, file.end_us, requests))
        return fetches

    async def fetch(self, fetch: Fetch, transport: Transport) -> Page:
        """Deliver one file; `Page.answers` holds its CHECKSUM and its zip.

        A file older than 35 days that does not exist is an empty page, a younger one is NOT_YET. A digest that
        does not match is fetched again at most 3 times, both files. Raises VendorError with the answers.
        """
        try:
            checksum, zipped = await _verified(fetch, transport)
        except VendorError as error:
            missing = error.code is Code.BAD_REQUEST and error.answers and error.answers[-1].status == 404
            if not missing:
                raise
            return Page(fetch, NO_BARS, (), error.answers)
        file = File("daily", fetch.start_us, fetch.end_us)
        try:
            parsed = parse(unzip(zipped.body, zipped.url), file, zipped.url)
        except VendorError as error:
            error.answers = (checksum, zipped)
            raise
        return Page(fetch, parsed.bars, parsed.rejects, (checksum, zipped))

    async def announced(self, fetch: Fetch, transport: Transport) -> str:
        """Return the SHA-256 of the zip as its CHECKSUM file tells it: one small request. Raises VendorError."""
        digest, _ = await _announced(fetch, transport)
        return digest


async def _announced(fetch: Fetch, transport: Transport) -> tuple[str, Answer]:
    """Return the digest of the CHECKSUM file, and the answer. Raises VendorError."""
    checksum_request, zip_request = fetch.requests
    name = zip_request.path.rpartition("/")[2]

    def read(answer: Answer) -> str:
        _require_file(answer, fetch)
        return parse_checksum(answer.body, name, answer.url)

    return await transport.get(checksum_request, read)


async def _verified(fetch: Fetch, transport: Transport) -> tuple[Answer, Answer]:
    """Return the CHECKSUM answer and the zip answer it belongs to. Raises VendorError."""
    _, zip_request = fetch.requests

    def read_digest(answer: Answer) -> str:
        _require_file(answer, fetch)
        return hashlib.sha256(answer.body).hexdigest()

    for _ in range(1 + REFETCHES):
        expected, checksum = await _announced(fetch, transport)
        found, zipped = await transport.get(zip_request, read_digest)
        if found == expected:
            return checksum, zipped
    error = malformed(f"{zipped.url}: expected SHA-256 {expected}, found {found}, {1 + REFETCHES} times")
    error.answers = (checksum, zipped)
    raise error


def _require_file(answer: Answer, fetch: Fetch) -> None:
    if answer.status == 404 and answer.received_at - from_us(fetch.end_us) < timedelta(days=NOT_YET_DAYS):
        raise VendorError(Code.NOT_YET, Remedy.GIVE_UP, f"{answer.url}: the file is not published yet")
    require_ok(answer)
