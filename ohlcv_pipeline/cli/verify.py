"""`ohlcv verify`: every stored bar and file hashed again and held against manifest and seal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import (
    IntervalOption,
    JsonOption,
    MarketOption,
    SymbolsOption,
    open_platform,
    split,
    tables,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from ohlcv_pipeline.bars.verify import Verification


def verify(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    as_json: JsonOption = False,
) -> int:
    """Hash every stored bar again and compare it with the manifest.

    Without options the files of the lake are hashed as well, byte by byte. Exits 1 when anything differs.

    - `ohlcv verify` – everything
    - `ohlcv verify --interval day --symbols BTC` – one series
    """
    home = open_platform()
    chosen = tables(home.settings, market, interval)
    only = split(symbols)
    from ohlcv_pipeline.bars.verify import Verification, verify_files
    from ohlcv_pipeline.bars.verify import verify as verify_table
    from ohlcv_pipeline.lake.catalog import LakeError

    reader = home.reading.reader
    everything = market is None and interval is None and only is None
    begun = time.perf_counter()
    total = Verification()
    with console.progress() as bars:
        if everything:
            task = bars.add_task("files", total=None, unit="files")
            total = verify_files(reader)
            bars.update(task, completed=total.files, total=total.files)
        hashing = time.perf_counter()
        for of, each in chosen:
            task = bars.add_task(f"{of.name}/ohlcv_{each}", total=None, unit="bars")

            def seen(chunk: pa.Table, rows: int, task: Any = task) -> None:
                bars.update(task, total=rows, advance=chunk.num_rows)

            try:
                part = verify_table(reader, of, each, only, None, seen)
            except LakeError as error:
                if not total.files:
                    raise
                total.unreadable.append(f"{of.name} {each}: {error}")
                continue
            total.cells += part.cells
            total.rows += part.rows
            total.mismatched += part.mismatched
            total.unaccounted += part.unaccounted
            total.unreadable += part.unreadable
    seconds, hashed = time.perf_counter() - begun, time.perf_counter() - hashing
    _show(total, home.settings.data_path, seconds, hashed, as_json)
    return errors.SUCCESS if total.passed else errors.FAILED


def _show(total: Verification, folder: str, seconds: float, hashed: float, as_json: bool) -> None:
    rate = round(total.rows / hashed) if hashed > 0 else 0
    if as_json:
        console.write_json({"passed": total.passed, **vars(total), "seconds": seconds, "rows_per_second": rate})
        return
    console.table(
        "Verified",
        ["bars", "cells", "files", "seconds", "bars/s"],
        [(f"{total.rows:,}", f"{total.cells:,}", f"{total.files:,}", f"{seconds:.2f}", f"{rate:,}")],
        {"bars", "cells", "files", "seconds", "bars/s"},
    )
    wrong = [
        *(
            ("checksum", f"{r['market']} {r['interval']} {r['symbol']} {r['partition']}",
             f"manifest {r['checksum'][:12]}, stored {r['actual'][:12]}")
            for r in total.mismatched
        ),
        *(
            ("unaccounted", f"{r['market']} {r['interval']} {r['symbol']}",
             f"{r['rows']:,} bars stored, {r['manifest']:,} in the manifest")
            for r in total.unaccounted
        ),
        *(
            ("damaged file", path.removeprefix(folder).lstrip("/"), "not the bytes it was sealed with")
            for path in total.damaged_files
        ),
        *(("unreadable", "", " ".join(text.split())) for text in total.unreadable),
    ]  # fmt: skip
    if wrong:
        console.table("What is not as it was published", ["what", "where", "found"], wrong)
        console.note("Fetch the named cells again with `ohlcv backfill --force --start … --end …`.")
    else:
        console.out.print("Everything that is stored is what was published.")
