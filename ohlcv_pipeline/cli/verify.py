"""`ohlcv verify`: every stored bar and file hashed again and held against manifest and seal; `--repair` heals it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.progress import Progress

    from ohlcv_pipeline.bars.repair import Repair
    from ohlcv_pipeline.bars.verify import Verification
    from ohlcv_pipeline.markets import Interval, Market
    from ohlcv_pipeline.platform import Platform

_LINES = 100
"""How many things a table names; `--json` has all of them."""


def verify(
    market: MarketOption = None,
    interval: IntervalOption = None,
    symbols: SymbolsOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Heal what is damaged, from kept answers first, then from the vendors.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --repair: say what would be done.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Hash every stored bar again and compare it with the manifest.

    Without options the files of the lake are hashed as well, byte by byte. Exits 1 when anything differs, with
    `--repair` when anything still does at the end.

    - `ohlcv verify` – everything
    - `ohlcv verify --interval day --symbols BTC` – one series
    - `ohlcv verify --repair` – everything, and healed
    - `ohlcv verify --repair --dry-run` – what would be healed, and how
    """
    if dry_run and not repair:
        raise errors.UsageError("--dry-run belongs to --repair; `ohlcv verify` alone changes nothing")
    home = open_platform()
    chosen = tables(home.settings, market, interval)
    only = split(symbols)
    everything = market is None and interval is None and only is None
    with console.progress() as bars:
        if not repair:
            clock = _Clock()
            total = _verified(home, chosen, only, clock, bars, files=everything)
            _show(total, home.settings.data_path, clock, as_json)
            return errors.SUCCESS if total.passed else errors.FAILED
        from ohlcv_pipeline.bars.upkeep import repair_all

        # Asked first, so that a lake that is not there is said so, and not made.
        home.reading.reader.query("SELECT 1")
        # A damaged file may hold bars of any series, so files are looked at even if some series were chosen.
        found, done, left = repair_all(
            home,
            lambda: _verified(home, chosen, only, _Clock(), bars, files=True),
            datetime.now(UTC),
            apply=not dry_run,
        )
    _show_repair(found, done, left, dry_run=dry_run, as_json=as_json)
    return errors.SUCCESS if left.passed else errors.FAILED


@dataclass
class _Clock:
    """Seconds of a verification: in all, and of the hashing of bars alone."""

    seconds: float = 0.0
    hashing: float = 0.0


def _verified(
    home: Platform,
    chosen: Sequence[tuple[Market, Interval]],
    only: Sequence[str] | None,
    clock: _Clock,
    bars: Progress,
    *,
    files: bool,
) -> Verification:
    """Verify these tables, and the files of the lake if asked to."""
    from ohlcv_pipeline.bars.verify import Verification, verify_files
    from ohlcv_pipeline.bars.verify import verify as verify_table
    from ohlcv_pipeline.lake.catalog import LakeError

    reader = home.reading.reader
    begun = time.perf_counter()
    total = Verification()
    if files:
        task = bars.add_task("files", total=None, unit="files")
        total = verify_files(reader)
        bars.update(task, completed=total.files, total=total.files)
    hashing = time.perf_counter()
    for of, each in chosen:
        task = bars.add_task(f"{of.name}/ohlcv_{each}", total=None, unit="bars")

        def seen(chunk: pa.Table, rows: int, task: Any = task) -> None:
            bars.update(task, total=rows, advance=chunk.num_rows)

        try:
            total.add(verify_table(reader, of, each, only, None, seen))
        except LakeError as error:
            if not total.files:
                raise
            total.unreadable.append(f"{of.name} {each}: {error}")
    clock.seconds, clock.hashing = time.perf_counter() - begun, time.perf_counter() - hashing
    return total


def _show(total: Verification, folder: str, clock: _Clock, as_json: bool) -> None:
    rate = round(total.rows / clock.hashing) if clock.hashing > 0 else 0
    if as_json:
        console.write_json({"passed": total.passed, **vars(total), "seconds": clock.seconds, "rows_per_second": rate})
        return
    seconds = clock.seconds
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
        console.note("`ohlcv verify --repair` heals them; with --dry-run it says how.")
    else:
        console.out.print("Everything that is stored is what was published.")
    if total.unsealed:
        console.note(f"{many(len(total.unsealed), 'file has', 'files have')} no seal: a run goes on, or was killed.")
        console.note("`ohlcv verify --repair` seals them once their bars are proven.")


def _show_repair(found: Verification, done: Repair, left: Verification, *, dry_run: bool, as_json: bool) -> None:
    from ohlcv_pipeline.bars.upkeep import problems

    if as_json:
        shown = {"passed": left.passed, "dry_run": dry_run, "found": vars(found), **asdict(done), "left": vars(left)}
        console.write_json(shown)
        return
    rows: list[Sequence[object]] = [("file", path.rsplit("/", 1)[-1], "from its second copy") for path in done.restored]
    rows += [("file", path.rsplit("/", 1)[-1], "its bars are in new files") for path in done.replaced]
    for what, cells, told in (
        ("healed", done.healed, "how"), ("revised", done.revised, "why"), ("not healed", done.unhealed, "why")
    ):  # fmt: skip
        rows += [(what, f"{c['market']} {c['interval']} {c['symbol']} {c['partition']}", c[told]) for c in cells]
    if rows:
        title = "What would be repaired" if dry_run else "What was repaired"
        console.table(title, ["what", "where", "how or why"], rows[:_LINES])
        if len(rows) > _LINES:
            console.out.print(f"… and {len(rows) - _LINES:,} more.")
        healed = f"{many(len(done.healed), 'cell')} {'can be ' if dry_run else ''}healed"
        console.out.print(f"{healed}, {len(done.revised):,} revised, {len(done.unhealed):,} not healed.")
    if done.sealed:
        console.note(f"{many(done.sealed, 'file')} without a seal: sealed now that all bars are proven.")
    if left.passed:
        console.out.print("Everything that is stored is what was published.")
    elif not dry_run:
        wrong = [(row["what"], row["where"]) for row in problems(left)]
        console.table("What is still not as it was published", ["what", "where"], wrong[:_LINES])
