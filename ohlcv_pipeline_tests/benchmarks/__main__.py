"""`python -m ohlcv_pipeline_tests.benchmarks [part]`, see `measure` for the parts: exits 1 on a missed must."""

from __future__ import annotations

import sys
import tempfile
from datetime import timedelta
from pathlib import Path

from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.verify import actual_checksums
from ohlcv_pipeline.lake.maintenance import maintain
from ohlcv_pipeline.markets import Interval, market
from ohlcv_pipeline_tests.benchmarks import core, healed, operated, pages, pieces, served, whole
from ohlcv_pipeline_tests.benchmarks.table import Row, render


def measure(which: str, path: Path) -> list[Row]:
    """Return the rows of one part, or of all."""
    rows: list[Row] = []
    # Whole commands first: a child's peak memory counts from that of the process it was forked from.
    if which in ("whole", "all"):
        rows += [*whole.demo(path / "whole"), whole.definitions_load()]
    if which in ("core", "all"):
        row, store = core.throughput(path / "core")
        rows += [row, core.reading(store, "as published")]
        hashes = lambda: run_checksum(actual_checksums(store.reader, market("crypto"), Interval.MINUTE))  # noqa: E731
        maintain(store, hashes, core.NOW, timedelta(days=7), timedelta(days=30))
        rows += [core.reading(store, "after maintenance"), core.verifying(store), core.scrubbing(store)]
        core.revise(store, 1_000)
        rows.append(core.as_of(store, "as published"))
        maintain(store, hashes, core.NOW + timedelta(days=30), timedelta(0), timedelta(days=30))
        rows.append(core.as_of(store, "every snapshot expired"))
        rows += [core.gap_scan(), core.session_gap_scan()]
    if which in ("served", "all"):
        rows += [served.during_a_backfill(path / "busy"), served.of_many_series(path / "many")]
        rows.append(served.lineage(path / "lineage"))
    if which in ("healed", "all"):
        rows.append(healed.gap(path / "healed"))
    if which in ("operated", "all"):
        rows += [operated.evaluating(path / "watched"), operated.cut_off(path / "cut_off")]
    if which in ("pages", "all"):
        rows += pages.web_vitals(path / "pages")
    if which in ("pieces", "all"):
        rows += pieces.rows(path / "pieces")
    return rows


def main() -> None:
    """Measure and print."""
    which = sys.argv[1] if len(sys.argv) > 1 else "all"
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(which, Path(folder))
    render(rows)
    sys.exit(not all(row.met for row in rows))


if __name__ == "__main__":
    main()
