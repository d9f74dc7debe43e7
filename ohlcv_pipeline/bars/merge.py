"""What changes when freshly delivered bars meet the stored ones, and what a cell amounts to afterwards.

Pure: two tables in, the difference out. The rules are those of publishing: new buckets are inserted, changed ones
replaced by a vendor of the same or a higher rank, unchanged ones left with the run that delivered them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.checksum import Records, checksum, records
from ohlcv_pipeline.frames import VALUE_COLUMNS, Micros, floats, micros
from ohlcv_pipeline.markets import Interval

RATIO_GUARD_BARS = 20
RATIO_GUARD_SPREAD = 0.001
RATIO_GUARD_FACTOR = 0.01

Rank = Callable[[str], int]
"""A vendor's place in the market's order; 0 is preferred."""


@dataclass(frozen=True)
class Merged:
    """One symbol's stored bars after a merge, and the way there.

    `inserted` and `superseded` are what to write and what to take out; `refused` counts bars on which a
    lower-ranked vendor disagrees; `shifted` tells that all prices moved by one factor, so nothing is changed.
    """

    bars: pa.Table
    inserted: pa.Table
    superseded: pa.Table
    refused: int = 0
    shifted: bool = False


def merge(stored: pa.Table, offered: pa.Table, rank: Rank, *, force: bool = False, guarded: bool = True) -> Merged:
    """Merge offered bars into stored ones.

    Both tables have the stored columns, belong to one symbol and are sorted by `bucket_start`; what is offered
    is unique.
    `force` lets any vendor replace any bar, and accepts a constant price factor; so does a merge that is not
    `guarded`, which repeats one that was accepted.
    """
    nothing = offered.slice(0, 0)
    if not stored.num_rows:
        return Merged(offered, offered, nothing)
    if not offered.num_rows:
        return Merged(stored, nothing, nothing)
    held, new = micros(stored["bucket_start"]), micros(offered["bucket_start"])
    position = np.minimum(np.searchsorted(held, new), len(held) - 1)
    known = held[position] == new
    before, after = _values(stored)[:, position], _values(offered)
    # A bucket that stands twice in the table is damage; whatever is offered for it replaces both.
    repeated = np.append(held[1:] == held[:-1], False)
    changed = known & ((before != after).any(axis=0) | repeated[position])
    if not force:
        allowed = _ranks(offered, rank) <= _ranks(stored, rank)[position]
        if guarded and _shifted(before[:4, changed & allowed], after[:4, changed & allowed]):
            return Merged(stored, nothing, nothing, shifted=True)
    else:
        allowed = np.ones(len(new), bool)
    replaced = changed & allowed
    taken = pa.array(np.flatnonzero(~known | replaced))
    inserted = offered.take(taken)
    goes = pa.array(np.isin(held, new[replaced]))
    bars = pa.concat_tables([stored.filter(pc.invert(goes)), inserted]).sort_by("bucket_start")
    return Merged(bars, inserted, stored.filter(goes), refused=int((changed & ~allowed).sum()))


def _values(bars: pa.Table) -> npt.NDArray[np.float64]:
    return np.vstack([floats(bars[name]) for name in VALUE_COLUMNS])


def _ranks(bars: pa.Table, rank: Rank) -> npt.NDArray[np.int64]:
    encoded = bars["source_vendor"].combine_chunks().dictionary_encode()
    ranks = np.array([rank(vendor) for vendor in encoded.dictionary.to_pylist()], np.int64)
    of_bar: npt.NDArray[np.int64] = ranks[encoded.indices.to_numpy()]
    return of_bar


def _shifted(before: npt.NDArray[np.float64], after: npt.NDArray[np.float64]) -> bool:
    """Return whether more than 20 bars changed by one constant price factor: a split or a change of unit."""
    if before.shape[1] <= RATIO_GUARD_BARS:
        return False
    ratio = after / before
    factor = float(ratio.mean())
    return bool(np.ptp(ratio) < RATIO_GUARD_SPREAD * factor and abs(factor - 1) > RATIO_GUARD_FACTOR)


@dataclass(frozen=True)
class Account:
    """What a cell amounts to: the measured part of its manifest row. Times are bucket starts in µs."""

    rows: int
    expected_rows: int
    no_trades_rows: int
    unfillable_rows: int
    first_bucket: int | None
    last_bucket: int | None
    checksum: str
    vendor: str | None
    complete: bool


@dataclass(frozen=True)
class Series:
    """One symbol's bars as arrays, sorted by bucket: its cells are counted and hashed without copying a column."""

    symbol: str
    interval: Interval
    buckets: Micros
    records: Records
    vendor_codes: npt.NDArray[np.int32]
    vendors: Sequence[str]

    @classmethod
    def of(cls, symbol: str, interval: Interval, bars: pa.Table) -> Series:
        """Take apart the bars of one symbol, which have the stored columns and are sorted."""
        encoded = bars["source_vendor"].combine_chunks().dictionary_encode()
        return cls(
            symbol,
            interval,
            micros(bars["bucket_start"]),
            records(bars),
            encoded.indices.to_numpy(),
            encoded.dictionary.to_pylist(),
        )

    def account(
        self, start_us: int, end_us: int, *, expected: int, no_trades: int, unfillable: int, ended: bool
    ) -> Account:
        """Count and hash the bars of the cell [start, end).

        Args:
            start_us: where the cell's partition begins.
            end_us: where it ends.
            expected: how many buckets the calendar expects of it by now.
            no_trades: how many of its buckets are settled as having had no trades.
            unfillable: how many were asked for twice in vain.
            ended: whether the partition's last bucket is final.
        """
        lo, hi = np.searchsorted(self.buckets, [start_us, end_us]).tolist()
        codes = np.unique(self.vendor_codes[lo:hi])
        return Account(
            rows=hi - lo,
            expected_rows=expected,
            no_trades_rows=no_trades,
            unfillable_rows=unfillable,
            first_bucket=int(self.buckets[lo]) if hi > lo else None,
            last_bucket=int(self.buckets[hi - 1]) if hi > lo else None,
            checksum=checksum(self.symbol, self.interval, self.records[lo:hi]),
            vendor=self.vendors[codes[0]] if len(codes) == 1 else "mixed" if len(codes) else None,
            complete=ended and hi - lo + no_trades == expected,
        )
