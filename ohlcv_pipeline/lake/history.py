"""What the lake held at an instant of the past, and how its bars have been revised since.

Read from the bars and from `bar_revisions`, which say from when to when each was valid: exact after any number of
revisions, and when every old snapshot has expired.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ohlcv_pipeline.frames import BAR_SCHEMA, VALUE_COLUMNS, micros
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.tables import VALID_FROM, bars_table, valid_from
from ohlcv_pipeline.markets import Interval

_BARS = ", ".join(BAR_SCHEMA.names)
_OF_SYMBOL = "symbol = ? AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)"


@dataclass(frozen=True)
class History:
    """Reads the past of one lake. All instants are in µs since the epoch, UTC."""

    reader: Reader

    def bars(self, market: str, interval: Interval, symbol: str, start_us: int, end_us: int, at_us: int) -> pa.Table:
        """Return the bars of `BAR_SCHEMA` with start <= `bucket_start` < end that the lake held at an instant, sorted.

        A publication counts from its instant on. Raises LakeError.
        """
        window = [symbol, start_us, end_us]
        # First what is held now: a bar that is replaced between the two reads is then in both, never in neither.
        held = self.reader.dated_bars(market, interval, symbol, start_us, end_us)
        replaced = self.reader.query(
            f"SELECT {_BARS} FROM lake.bar_revisions WHERE market = ? AND interval = ? AND {_OF_SYMBOL}"
            " AND valid_from <= make_timestamptz(?) AND superseded_at > make_timestamptz(?)"
            " ORDER BY bucket_start, superseded_at",
            [market, interval, *window, at_us, at_us],
        ).cast(BAR_SCHEMA)
        return _overlaid(held, replaced, at_us)

    def reaches(self, market: str, interval: Interval, symbol: str, start_us: int, at_us: int) -> bool:
        """Return whether the lake held at an instant a bar of a symbol with `bucket_start` >= start."""
        of_symbol = "symbol = ? AND bucket_start >= make_timestamptz(?)"
        found = self.reader.query(
            f"(SELECT 1 FROM {bars_table(market, interval)}"
            f" WHERE {of_symbol} AND {VALID_FROM} <= make_timestamptz(?) LIMIT 1)"
            f" UNION ALL (SELECT 1 FROM lake.bar_revisions WHERE market = ? AND interval = ? AND {of_symbol}"
            " AND valid_from <= make_timestamptz(?) AND superseded_at > make_timestamptz(?) LIMIT 1)",
            [symbol, start_us, at_us, market, interval, symbol, start_us, at_us, at_us],
        )
        return bool(found.num_rows)

    def revisions(
        self,
        market: str,
        interval: Interval,
        symbols: Sequence[str],
        start_us: int,
        end_us: int,
        since_us: int = 0,
    ) -> list[dict[str, Any]]:
        """Return every replacement of a bar in [start, end) since an instant, oldest bar first.

        Each row has `symbol`, `bucket_start`, the five values before (`old_open` …) and after (`new_open` …, null
        where the bar was withdrawn), `old_vendor`, `new_vendor`, `revision`, `first_seen`, `superseded_at`,
        `superseded_by_run` and `cause` (null in a lake of version 1).
        """
        names = ("revision", "superseded_at", "superseded_by_run", "cause")
        values = [
            f"{side}.{name} AS {label}_{name}" for name in VALUE_COLUMNS for side, label in (("o", "old"), ("n", "new"))
        ]
        sql = f"""
            WITH old AS (
                SELECT * FROM lake.bar_revisions
                WHERE market = ? AND interval = ? AND list_contains(?, symbol)
                  AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)
            ), versions AS (
                SELECT symbol, bucket_start, {", ".join(VALUE_COLUMNS)}, source_vendor, superseded_at FROM old
                UNION ALL
                SELECT symbol, bucket_start, {", ".join(VALUE_COLUMNS)}, source_vendor, 'infinity'::TIMESTAMPTZ
                FROM {bars_table(market, interval)}
                WHERE list_contains(?, symbol)
                  AND bucket_start >= make_timestamptz(?) AND bucket_start < make_timestamptz(?)
            )
            SELECT o.symbol, o.bucket_start, {", ".join(values)}, o.source_vendor AS old_vendor,
                n.source_vendor AS new_vendor, o.valid_from AS first_seen, {", ".join(f"o.{name}" for name in names)}
            FROM old o
            ASOF LEFT JOIN versions n
                ON n.symbol = o.symbol AND n.bucket_start = o.bucket_start AND n.superseded_at > o.superseded_at
            WHERE o.superseded_at >= make_timestamptz(?)
            ORDER BY o.symbol, o.bucket_start, o.superseded_at
        """
        window = [list(symbols), start_us, end_us]
        found: list[dict[str, Any]] = self.reader.query(sql, [market, interval, *window, *window, since_us]).to_pylist()
        return found


def _overlaid(held: pa.Table, replaced: pa.Table, at_us: int) -> pa.Table:
    """Return what is held now and was then, and in the place of successors the bars that have been replaced since."""
    starts, buckets = micros(held["bucket_start"]), micros(replaced["bucket_start"])
    # Of two versions, which only a lake of version 1 has of an instant, the one that went first was the one held.
    first = np.append(True, buckets[1:] != buckets[:-1])[: len(buckets)]
    kept = micros(valid_from(held)) <= at_us
    if len(buckets) and len(starts):
        at = np.minimum(np.searchsorted(starts, buckets), len(starts) - 1)
        kept[at[starts[at] == buckets]] = False
    bars = held.select(BAR_SCHEMA.names)
    if not len(buckets):
        return bars if kept.all() else bars.filter(pa.array(kept))
    rows = np.append(np.flatnonzero(kept), len(starts) + np.flatnonzero(first))
    rows = rows[np.argsort(np.append(starts, buckets)[rows], kind="stable")]
    return pa.concat_tables([bars, replaced]).take(pa.array(rows))
