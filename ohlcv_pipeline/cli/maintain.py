"""`ohlcv maintain`: files merged, old snapshots and raw answers let go, and proof that no bar changed."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import JsonOption, open_platform

if TYPE_CHECKING:
    from ohlcv_pipeline.platform import Platform


def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show sizes and what is past its time.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Tidy the lake: merge small files, delete what is past its retention.

    Everything is hashed before and after; nothing is deleted unless both agree.

    - `ohlcv maintain --dry-run`
    - `ohlcv maintain`
    """
    home = open_platform()
    now = datetime.now(UTC)
    # Asked first, so that a lake that is not there is said so, and not made.
    home.reading.reader.query("SELECT 1")
    if dry_run:
        _show({"dry_run": True, **_sizes(home, now)}, "What maintenance would find", as_json)
        return errors.SUCCESS
    from ohlcv_pipeline.bars.upkeep import maintain_all

    begun = time.perf_counter()
    console.note("Hashing, merging and hashing again …")
    done = maintain_all(home, now)
    _show({**vars(done), "seconds": round(time.perf_counter() - begun, 2)}, "Maintenance", as_json)
    return errors.SUCCESS


def _show(document: dict[str, Any], title: str, as_json: bool) -> None:
    if as_json:
        console.write_json(document)
        return
    rows = [
        (name.replace("_", " "), f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else value)
        for name, value in document.items()
    ]
    console.table(title, ["what", "value"], rows, {"value"})


def _sizes(home: Platform, now: datetime) -> dict[str, Any]:
    s = home.settings
    expires, raw_before = now - timedelta(days=s.snapshot_retention_days), now - timedelta(days=s.raw_retention_days)
    snapshots = home.reading.reader.query(
        "SELECT count(*) AS n, count(*) FILTER (snapshot_time < ?) AS old FROM lake.snapshots()", [expires]
    ).to_pylist()[0]
    packs = home.reading.reader.query(
        "SELECT count(DISTINCT pack) AS n FROM (SELECT pack, max(fetched_at) AS newest FROM lake.raw_objects"
        " GROUP BY pack) WHERE newest < ?",
        [raw_before],
    ).to_pylist()[0]
    files, size = _weigh(Path(s.data_path))
    packed, packed_bytes = _weigh(s.raw_path)
    return {
        "parquet_files": files,
        "parquet_bytes": size,
        "raw_files": packed,
        "raw_bytes": packed_bytes,
        "snapshots": snapshots["n"],
        "snapshots_to_expire": snapshots["old"],
        "raw_packs_to_delete_at_most": packs["n"],
    }


def _weigh(folder: Path) -> tuple[int, int]:
    """Return how many files a folder holds and their bytes; a lake on a server's storage is not weighed."""
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    return len(files), sum(path.stat().st_size for path in files)
