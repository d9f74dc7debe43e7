"""The platform's nightly and weekly duties: verify what is stored and heal it, keep the lake tidy.

Thin: what is damaged is found in `verify` and healed in `repair`; here is how much of the lake a night is about.
"""

import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.bars.checksum import run_checksum
from ohlcv_pipeline.bars.ingest import ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.repair import Repair, repair
from ohlcv_pipeline.bars.verify import Verification, actual_checksums, unaccounted, verify, verify_files
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.maintenance import Maintenance, maintain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.ledger import remediation
from ohlcv_pipeline.ledger.remediation import NewEntry
from ohlcv_pipeline.markets import MARKETS, Interval, Market, from_us
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

RECENT = timedelta(days=7)
"""What was published within it is verified every night."""

NIGHTS = 30
"""In as many nights everything else is verified once."""

SCRUB_KEY = dg.AssetKey(["lake", "scrub"])
UNDAMAGED = "undamaged"


def scrubbed(home: Platform, now: datetime) -> Verification:
    """Verify every file, the bars published within a week, and one thirtieth of all others."""
    reader = home.store.reader
    total = verify_files(reader)
    for market in home.markets:
        for interval in Interval:
            try:
                keys = tonight(home, market, interval, now)
                if keys:
                    total.add(verify(reader, market, interval, partitions=keys))
                total.unaccounted += unaccounted(reader, market, interval)
            except LakeError as error:
                total.unreadable.append(f"{market.name} {interval}: {error}")
    return total


def tonight(home: Platform, market: Market, interval: Interval, now: datetime) -> list[str]:
    """Return the partitions of tonight: those published to within a week, and one in thirty of the rest."""
    manifest = home.store.reader.manifest(market.name, interval).select(["partition", "fetched_at"]).to_pylist()
    recent = {row["partition"] for row in manifest if row["fetched_at"] >= now - RECENT}
    turn = now.date().toordinal() % NIGHTS
    others = {row["partition"] for row in manifest} - recent
    return sorted(recent | {key for key in others if zlib.crc32(key.encode()) % NIGHTS == turn})


def repair_all(
    home: Platform,
    check: Callable[[], Verification],
    now: datetime,
    *,
    tables: Sequence[tuple[Market, Interval]] | None = None,
    apply: bool = True,
) -> tuple[Verification, Repair, Verification]:
    """Heal what `check` finds damaged: from the raw answers, and what they do not give from the vendors.

    Returns what was found, what was done, and what `check` finds afterwards. Raises LakeError.
    """
    every = [(market, interval) for market in home.markets for interval in Interval]

    def ask(store: Store, market: Market, interval: Interval, wanted: Mapping[str, Sequence[str]]) -> None:
        interrupts.run(_ask(home, store, market, interval, wanted))

    return repair(home.store, every if tables is None else tables, check, now, ask=ask, apply=apply)


async def _ask(
    home: Platform, store: Store, market: Market, interval: Interval, wanted: Mapping[str, Sequence[str]]
) -> None:
    run_id = str(uuid.uuid4())
    async with home.sources(market) as sources:
        for symbol, partitions in wanted.items():
            order = Order(market, interval, [market.instrument(symbol)], sorted(partitions), run_id, force=True)
            await ingest(order, store, sources, lambda: datetime.now(UTC), home.settings.batch_rows)


def maintain_all(home: Platform, now: datetime) -> Maintenance:
    """Tidy the lake and prove that no bar changed. Raises LakeError."""

    def fingerprint() -> str:
        return run_checksum(
            checksum
            for market in home.markets
            for interval in Interval
            for checksum in actual_checksums(home.store.reader, market, interval)
        )

    s = home.settings
    return maintain(
        home.store, fingerprint, now, timedelta(days=s.snapshot_retention_days), timedelta(days=s.raw_retention_days)
    )


def problems(result: Verification) -> list[dict[str, str]]:
    """Return what is wrong as rows for a table, cells first."""
    rows = [
        {"what": "checksum", "where": f"{r['market']} {r['interval']} {r['symbol']} {r['partition']}"}
        for r in result.mismatched
    ]
    rows += [
        {"what": "unaccounted", "where": f"{r['market']} {r['interval']} {r['symbol']}"} for r in result.unaccounted
    ]
    rows += [{"what": "damaged file", "where": path.rsplit("/", 1)[-1]} for path in result.damaged_files]
    return rows + [{"what": "unreadable", "where": text} for text in result.unreadable]


def figures(found: Verification, done: Repair, left: Verification) -> dict[str, Any]:
    """Return what a scrub did as numbers, and a table of what had been damaged."""
    counts: dict[str, Any] = {
        "rows": found.rows,
        "cells": found.cells,
        "files": found.files,
        "damaged_files": len(found.damaged_files),
        "restored_files": len(done.restored),
        "replaced_files": len(done.replaced),
        "healed_cells": len(done.healed),
        "revised_cells": len(done.revised),
        "unhealed": len(problems(left)),
        "sealed_files": done.sealed,
    }
    if not found.passed:
        counts["damage"] = dg.MetadataValue.table([dg.TableRecord(row) for row in problems(found)[:50]])
    return counts


def damage(done: Repair, now: datetime, run_id: str) -> list[NewEntry]:
    """Return what the remediation log is told of a scrub: an entry a damaged cell, open where it is not healed."""
    entries = []
    for cells, note, resolution in (
        (done.healed + done.revised, "healed", "rewritten"),
        (done.unhealed, "mismatch", None),
    ):
        for cell in cells:
            of, interval = MARKETS[cell["market"]], Interval(cell["interval"])
            entry = damaged_cell(of, interval, cell["symbol"], cell["partition"], now)
            entries.append(replace(entry, note=note, run_id=run_id, resolution=resolution))
    return entries


def damaged_cell(market: Market, interval: Interval, symbol: str, partition: str, now: datetime) -> NewEntry:
    """Return the entry about one symbol of a partition whose bars are not what was published."""
    buckets = market.buckets(interval, *market.partition_bounds(interval, partition))
    return NewEntry(
        market=market.name,
        symbol=symbol,
        interval=str(interval),
        issue_type="checksum_mismatch",
        range_start=from_us(buckets[0]),
        range_end=from_us(buckets[-1]),
        note="mismatch",
        detected_at=now,
    )


@dg.asset(
    key=SCRUB_KEY,
    group_name="lake",
    kinds={"ducklake", "parquet"},
    code_version="1",
    check_specs=[
        dg.AssetCheckSpec(
            UNDAMAGED, asset=SCRUB_KEY, description="No file and no bar was damaged. Healed damage is a warning."
        )
    ],
    description=(
        "Every file is held against its seal, the bars of the last week and a thirtieth of all others against their "
        "manifest. What is damaged is healed from the vendors' answers and proven; the run fails only if it cannot be."
    ),
)
def scrub(context: dg.AssetExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster takes an argument for several outputs
    """Verify tonight's part of the lake and heal it; fail with a table of what could not be healed."""
    home, now = platform.platform, datetime.now(UTC)
    found, done, left = repair_all(home, lambda: scrubbed(home, now), now)
    remediation.log(home.ledger, damage(done, now, context.run.run_id), now)
    if not left.passed:
        wrong = problems(left)
        raise dg.Failure(
            description=f"{len(wrong)} parts of the lake are not what was published, and could not be healed",
            metadata={"worst": dg.MetadataValue.table([dg.TableRecord(row) for row in wrong[:50]])},
            allow_retries=False,
        )
    if done:
        context.log.warning(f"{len(problems(found))} parts of the lake were damaged and are healed")
    metadata = figures(found, done, left)
    undamaged = dg.AssetCheckResult(
        check_name=UNDAMAGED, passed=not done, severity=dg.AssetCheckSeverity.WARN, metadata=metadata
    )
    return dg.MaterializeResult(metadata=metadata, check_results=[undamaged])


@dg.op
def tidy_lake(context: dg.OpExecutionContext, platform: dg.ResourceParam[PlatformResource]) -> None:
    """Merge small files, let go of old snapshots and raw answers, and prove that no bar changed."""
    done = maintain_all(platform.platform, datetime.now(UTC))
    context.add_output_metadata(vars(done))


verify_lake = dg.define_asset_job(
    "verify_lake",
    dg.AssetSelection.assets(SCRUB_KEY),
    description="Files held against their seals, bars against the manifest, and what is damaged healed.",
)


@dg.job(
    description="Files merged, snapshots and raw answers past their retention deleted; rows and hashes proven equal."
)
def lake_maintenance() -> None:
    """Keep the lake tidy."""
    tidy_lake()


def upkeep_schedules(status: dg.DefaultScheduleStatus) -> Sequence[dg.ScheduleDefinition]:
    """Return the schedules of both jobs: the scrub at 02:30 each night, maintenance on Sundays at 04:30, UTC."""
    return [
        dg.ScheduleDefinition(name="verify", job=verify_lake, cron_schedule="30 2 * * *", default_status=status),
        dg.ScheduleDefinition(
            name="lake_maintenance", job=lake_maintenance, cron_schedule="30 4 * * 0", default_status=status
        ),
    ]
