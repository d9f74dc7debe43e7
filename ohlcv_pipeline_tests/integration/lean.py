"""Recorded bars in QuantConnect's LEAN format, turned into the folder that the vendor `files` reads.

Format: a zip of one CSV without a header. Equities: prices × 10,000 and times of New York; crypto: plain decimals and
UTC. A minute's time is milliseconds of the day in the file's name, a day's is `YYYYMMDD HH:MM`.
"""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

COLUMNS = ("time", "open", "high", "low", "close", "volume")
Row = tuple[str, float, float, float, float, float]


@dataclass(frozen=True)
class Lean:
    """How LEAN writes the bars of one kind of market."""

    zone: tzinfo
    scale: int

    def minutes(self, body: bytes, day: str) -> list[Row]:
        """Read the minutes of a day `YYYYMMDD`."""
        midnight = datetime.fromisoformat(day)
        rows = []
        for ms, *values in _cells(body):
            # The wall clock's arithmetic, then the zone: a day of 23 hours has no other milliseconds.
            at = (midnight + timedelta(milliseconds=int(ms))).replace(tzinfo=self.zone)
            rows.append((at.astimezone(UTC).isoformat(), *self._values(values)))
        return rows

    def days(self, body: bytes) -> list[Row]:
        """Read a file of days."""
        return [(f"{datetime.fromisoformat(at):%Y-%m-%d}", *self._values(values)) for at, *values in _cells(body)]

    def _values(self, cells: list[str]) -> tuple[float, float, float, float, float]:
        open_, high, low, close = (float(Decimal(cell) / self.scale) for cell in cells[:4])
        return open_, high, low, close, float(cells[4])


EQUITY = Lean(ZoneInfo("America/New_York"), 10_000)
CRYPTO = Lean(UTC, 1)


def _cells(body: bytes) -> Iterable[list[str]]:
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        (name,) = archive.namelist()
        return list(csv.reader(io.StringIO(archive.read(name).decode())))


def write(path: Path, rows: list[Row]) -> None:
    """Write rows as CSV or Parquet, by the ending of the name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(zip(COLUMNS, zip(*rows, strict=True), strict=True)))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        pacsv.write_csv(table, path)
