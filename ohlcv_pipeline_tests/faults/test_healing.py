"""Proof: whatever single bit of a stored file flips, the lake is healed without a network, to exactly what it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ohlcv_pipeline.bars.repair import Repair, repair
from ohlcv_pipeline.bars.verify import Verification, verify, verify_files
from ohlcv_pipeline.lake.maintenance import maintain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import BTC, CRYPTO, DAY, ETH, MINUTE, Vendor, fill, new_store, utc
from ohlcv_pipeline_tests.faults.workers import fingerprint

NOW = utc("2025-11-21 12:00")
DAYS = ["2025-11-16", "2025-11-17", "2025-11-18", "2025-11-19", "2025-11-20"]
TABLES = [(CRYPTO, MINUTE), (CRYPTO, DAY)]
RUNS = [f"{n}b1d7a52-7d0e-4a3b-9c53-2f6a1f0b8e11" for n in range(6)]


def corrected(symbol: str, rows: list[list[Any]]) -> list[list[Any]]:
    """Tell other values of every seventh minute than before."""
    return [
        [row[0], *(value * 1.001 for value in row[1:5]), row[5]] if row[0] // 60_000_000 % 7 == 0 else row
        for row in rows
    ]


def at(hours: int) -> Any:
    return NOW + timedelta(hours=hours)


def vendors(hours: int, **options: Any) -> list[Vendor]:
    """Return both vendors of the market as they are some hours later; the second one has another opinion."""
    first = Vendor(received_at=at(hours), **options)
    return [first, Vendor("kraken", omits_empty_buckets=False, received_at=at(hours))]


def build(home: Path) -> None:
    """Make a lake with merged files and young ones, both intervals, two vendors, a correction and its marks."""
    store = new_store(home)
    options: dict[str, Any] = {"instruments": [BTC, ETH]}
    silent = {("BTC", bucket) for bucket in range(1763510400000000, 1763510400000000 + 3_600_000_000, 60_000_000)}
    fill(store, DAYS[:2], vendors(0), at(0), run_id=RUNS[0], **options)
    fill(store, ["2025-10", "2025-11"], vendors(1), at(1), run_id=RUNS[1], interval=DAY, **options)
    fill(store, DAYS[1:2], vendors(2, edit=corrected), at(2), run_id=RUNS[2], force=True, **options)
    maintain(store, lambda: fingerprint(store), at(2), timedelta(days=7), timedelta(days=400))
    fill(store, DAYS[2:4], vendors(3, silent=silent), at(3), run_id=RUNS[3], **options)
    fill(store, DAYS[4:], vendors(4), at(4), run_id=RUNS[4], **options)
    fill(store, DAYS[4:], vendors(5, edit=corrected), at(5), run_id=RUNS[5], force=True, instruments=[ETH])
    store.catalog.close()


@dataclass
class Lake:
    """A lake that can be put back to how it was built."""

    home: Path
    pristine: Path
    store: Store

    def again(self) -> None:
        self.store.catalog.close()
        shutil.rmtree(self.home)
        shutil.copytree(self.pristine, self.home)
        self.store = new_store(self.home)

    def files(self) -> list[Path]:
        return sorted({Path(p) for file in self.store.reader._files() for p in (file.path, file.marks) if p})

    def contents(self) -> dict[str, Any]:
        """Return everything that must be as before: bars with their provenance, and every account but the seals."""
        query = self.store.reader.query
        names = [
            "manifest",
            "bar_revisions",
            "quarantine",
            "absent_buckets",
            "raw_objects",
            "crypto.ohlcv_minute",
            "crypto.ohlcv_day",
        ]
        return {name: query(f"SELECT * FROM lake.{name} ORDER BY ALL") for name in names}

    def check(self) -> Verification:
        total = verify_files(self.store.reader)
        for market, interval in TABLES:
            total.add(verify(self.store.reader, market, interval))
        return total

    def repair(self, **options: Any) -> tuple[Verification, Repair, Verification]:
        adapters = {vendor.name: vendor for vendor in vendors(9)}
        return repair(self.store, TABLES, self.check, at(9), adapters=adapters, **options)  # type: ignore[arg-type]


@pytest.fixture
def lake(tmp_path: Path) -> Iterator[Lake]:
    home, pristine = tmp_path / "home", tmp_path / "pristine"
    build(home)
    shutil.copytree(home, pristine)
    made = Lake(home, pristine, new_store(home))
    yield made
    made.store.catalog.close()


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


@pytest.mark.parametrize("flips", [40, pytest.param(1000, marks=pytest.mark.long)])
def test_every_flipped_bit_is_found_and_healed_offline(lake: Lake, flips: int) -> None:
    sound, dice, done = lake.contents(), np.random.default_rng(flips), 0
    while done < flips:
        lake.again()
        files = lake.files()
        bits = {path: int(dice.integers(8 * path.stat().st_size)) for path in files}
        for path, bit in bits.items():
            flip(path, bit)
        _, repaired, left = lake.repair()
        assert {Path(p) for p in [*repaired.restored, *repaired.replaced]} == set(files), bits
        assert left.passed, bits
        assert not left.unsealed
        assert not repaired.unhealed
        assert {cell["how"] for cell in repaired.healed} == {"raw answers"}
        contents = lake.contents()
        assert [name for name, rows in contents.items() if not rows.equals(sound[name])] == [], bits
        done += len(files)
