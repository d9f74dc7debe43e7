"""The history of replaced bars: why one went, and from when to when it was what the lake held.

Pure. Which bars go is decided in `merge`; reading the history is `lake.history`.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ohlcv_pipeline.bars.merge import Rank
from ohlcv_pipeline.frames import TIMESTAMP, micros
from ohlcv_pipeline.lake.tables import BAR_REVISIONS, STORED_BARS, valid_from
from ohlcv_pipeline.markets import Interval, to_us


class Replaced(StrEnum):
    """Why a stored bar was replaced: what `bar_revisions` keeps as the cause.

    The same vendor sent other values; a vendor of a higher rank sent them; one of a lower rank, which only `force`
    lets in; or the stored bars were no longer those that had been published.
    """

    LATE_CORRECTION = "late_correction"
    BETTER_VENDOR = "better_vendor"
    FORCED = "forced"
    REPAIR = "repair"


def causes(went: pa.Table, came: pa.Table, rank: Rank) -> list[Replaced]:
    """Return why each bar went. Both tables have the stored columns and are sorted; `came` has every successor."""
    at = np.searchsorted(micros(came["bucket_start"]), micros(went["bucket_start"]))
    pairs = zip(went["source_vendor"].to_pylist(), came["source_vendor"].take(pa.array(at)).to_pylist(), strict=True)
    return [_cause(old, new, rank) for old, new in pairs]


def _cause(old: str, new: str, rank: Rank) -> Replaced:
    if old == new:
        return Replaced.LATE_CORRECTION
    return Replaced.BETTER_VENDOR if rank(new) < rank(old) else Replaced.FORCED


def superseded(
    went: pa.Table, market: str, interval: Interval, revision: int, at: datetime, run_id: str, why: Sequence[Replaced]
) -> pa.Table:
    """Return replaced bars as rows of `BAR_REVISIONS`.

    A damaged bar (`repair`) is kept as evidence but valid at no time: it was never published.

    Args:
        went: the bars, with the stored columns.
        market: whose bars they are.
        interval: of the bars.
        revision: of the cell, up to now.
        at: the instant of the publication that replaces them.
        run_id: the run that does.
        why: the cause of each.
    """
    n = went.num_rows
    now = pa.repeat(pa.scalar(at, TIMESTAMP), n)
    damaged = pa.array([cause is Replaced.REPAIR for cause in why], pa.bool_())
    return pa.Table.from_arrays(
        [
            pa.repeat(market, n),
            pa.repeat(str(interval), n),
            *went.drop_columns("published_at").columns,
            pa.array([revision] * n, pa.int64()),
            pc.if_else(damaged, now, valid_from(went)),
            now,
            pa.repeat(run_id, n),
            pa.array(why, pa.string()),
        ],
        schema=BAR_REVISIONS,
    )


def restored(came: pa.Table, damaged: pa.Table, start_us: int, end_us: int, changed_at: datetime) -> pa.Table:
    """Return incoming bars of which those in [start, end) restore what was published: they are held since then.

    `damaged` is what was stored of the cell; a bar that it lacks is held since `changed_at`, the cell's last change.
    """
    buckets = micros(came["bucket_start"])
    since = dict(zip(micros(damaged["bucket_start"]).tolist(), micros(valid_from(damaged)).tolist(), strict=True))
    instants = micros(came["published_at"]).copy()
    for place in np.flatnonzero((buckets >= start_us) & (buckets < end_us)).tolist():
        instants[place] = since.get(int(buckets[place]), to_us(changed_at))
    at = STORED_BARS.get_field_index("published_at")
    return came.set_column(at, STORED_BARS.field(at), pa.array(instants, pa.int64()).view(TIMESTAMP))
