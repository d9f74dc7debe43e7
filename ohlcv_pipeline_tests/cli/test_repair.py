"""`ohlcv verify --repair` and `ohlcv backfill --replay`: healed and rebuilt with nobody to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline_tests.cli.conftest import Cli

DAYS = ("--interval", "day", "--symbols", "BTC,ETH", "--start", "2026-10-01", "--end", "2026-11-01")


@pytest.fixture(scope="module")
def alone(filled: Cli) -> Cli:
    """The filled lake on a machine whose vendors cannot be reached."""
    return filled.using(OHLCV_SANDBOX_URL="http://127.0.0.1:9")


def day_file(cli: Cli) -> Path:
    """Return the file of day bars that was written last."""
    files = (cli.home / "sandbox" / "lake" / "data" / "crypto" / "ohlcv_day").glob("*.parquet")
    return max(files, key=lambda path: path.stat().st_mtime_ns)


def lose_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)


def run(cli: Cli, *words: str, code: int = 0) -> Any:
    ended = cli.here(*words, "--json")
    assert ended.code == code, ended.err
    return ended.json()


def test_verify_repair_heals_a_flipped_bit_without_vendors_and_proves_it(alone: Cli) -> None:
    path = day_file(alone)
    lose_a_byte(path)
    assert run(alone, "verify", code=1)["damaged_files"] == [str(path)]
    planned = run(alone, "verify", "--repair", "--dry-run", code=1)
    assert planned["replaced"] == [str(path)]
    assert run(alone, "verify", code=1)["damaged_files"] == [str(path)]
    done = run(alone, "verify", "--repair")
    assert {(cell["symbol"], cell["how"]) for cell in done["healed"]} == {
        ("BTC", "raw answers"),
        ("ETH", "raw answers"),
    }
    assert done["passed"]
    assert run(alone, "verify")["passed"]


def test_verify_repair_tells_a_person_what_it_did(alone: Cli) -> None:
    lose_a_byte(day_file(alone))
    ended = alone.here("verify", "--repair")
    assert ended.code == 0
    assert "raw answers" in ended.out
    assert "2 cells healed, 0 revised, 0 not healed." in ended.out
    assert "Everything that is stored is what was published." in ended.out


def test_replay_proves_the_stored_bars_and_sends_nothing(alone: Cli) -> None:
    (table,) = run(alone, "backfill", "--replay", *DAYS)["tables"]
    assert (table["asset"], table["proven"], table["restored"]) == ("crypto/ohlcv_day", 2, [])
    assert "nothing was sent" in alone.here("backfill", "--replay", *DAYS).out


@pytest.mark.parametrize("words", [("backfill", "--replay", "--force"), ("verify", "--dry-run")])
def test_options_that_contradict_each_other_are_a_usage_error(alone: Cli, words: tuple[str, ...]) -> None:
    assert alone.here(*words).code == 64
