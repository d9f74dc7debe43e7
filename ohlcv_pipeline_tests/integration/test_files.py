"""The how-to `read bars from files`, followed to the letter: its folder, its market, its setting."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ohlcv_pipeline import markets
from ohlcv_pipeline.bars.inspection import CHECKS
from ohlcv_pipeline.bars.rebuild import rebuild
from ohlcv_pipeline.bars.report import report
from ohlcv_pipeline.cli.doctor import _vendors
from ohlcv_pipeline.frames import Micros, floats
from ohlcv_pipeline.markets import MARKETS, Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline_tests.bars.vendor import series
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import NOW, Installation, stop_time
from ohlcv_pipeline_tests.integration.lean import Row, write
from ohlcv_pipeline_tests.pages import DOCS, blocks

AFTER_THANKSGIVING = datetime(2025, 11, 28, 18, 5, tzinfo=UTC)
HOLES = slice(100, 104)


def rows(symbol: str, interval: Interval, buckets: Micros) -> list[Row]:
    times = [from_us(us).isoformat() if interval is Interval.MINUTE else f"{from_us(us):%Y-%m-%d}" for us in buckets]
    return list(zip(times, *series(symbol, interval, buckets).tolist(), strict=True))


def around(market: Market, day: date) -> Micros:
    """The minutes of a session, ten before its open, and the print of the closing auction."""
    start, end = market.partition_bounds(Interval.MINUTE, day.isoformat())
    return np.arange(start - 600_000_000, end + 60_000_000, 60_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "bars"


@pytest.fixture
def acme(install: Install, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation with the market of the how-to, and a folder laid out as it says."""
    space: dict[str, Any] = {"__name__": "how-to"}
    declaration = next(b for b in blocks(DOCS / "how-to/read-bars-from-files.md", "python") if "Market(" in b.text)
    exec(declaration.text, space)
    market: Market = space["my_shares"]
    monkeypatch.setitem(markets.MARKETS, market.name, market)  # type: ignore[arg-type]
    full, half = date(2025, 11, 26), date(2025, 11, 28)
    write(folder / "minute/ACME/2025-11-26.csv", rows("ACME", Interval.MINUTE, np.delete(around(market, full), HOLES)))
    write(folder / "minute/ACME/2025-11-28.parquet", rows("ACME", Interval.MINUTE, around(market, half)))
    days = market.buckets(Interval.DAY, to_us(datetime(2025, 11, 1, tzinfo=UTC)), to_us(AFTER_THANKSGIVING))
    write(folder / "day/ACME.csv", rows("ACME", Interval.DAY, days))
    made = install(markets=(market.name,), profile="live", vendors={"files": VendorSettings(folder=str(folder))})
    stop_time(monkeypatch, AFTER_THANKSGIVING)
    return made


def gaps(made: Installation, start: datetime, end: datetime) -> Sequence[tuple[int, int, int]]:
    (entry,) = report(
        made.platform.store.reader, made.market, Interval.MINUTE, made.platform.instruments(made.market),
        to_us(start), to_us(end), AFTER_THANKSGIVING,
    )  # fmt: skip
    return [(gap.first_us, gap.last_us, gap.missing) for gap in entry.gaps]


def test_minutes_of_a_folder_are_in_the_lake_and_their_hole_is_a_gap(acme: Installation, folder: Path) -> None:
    run = acme.materialise("2025-11-26", "2025-11-28", table="my_shares/ohlcv_minute")
    assert run.success, run
    assert run.materialised == ["2025-11-26", "2025-11-28"]
    assert run.green == set(CHECKS) - {"gaps"}
    # Ten minutes before each open and each auction; a hole is looked at twice, and so are the rows around it.
    assert run.metadata("2025-11-28")["dropped"] == {"out_of_session": 33}
    cells = {key: cell for (_, key), cell in acme.manifest().items()}
    assert {key: (cell["rows"], cell["expected_rows"], cell["vendor"]) for key, cell in cells.items()} == {
        "2025-11-26": (386, 390, "files"), "2025-11-28": (210, 210, "files"),
    }  # fmt: skip
    start = datetime(2025, 11, 26, 14, 30, tzinfo=UTC)
    hole = to_us(start) + 90 * 60_000_000
    assert gaps(acme, start, AFTER_THANKSGIVING) == [(hole, hole + 3 * 60_000_000, 4)]

    kept = acme.query("SELECT * FROM lake.raw_objects ORDER BY url")
    assert [each["url"] for each in kept] == ["minute/ACME/2025-11-26.csv", "minute/ACME/2025-11-28.parquet"]
    for each in kept:
        assert acme.platform.store.raw.read(each["pack"], each["id"]).body == (folder / each["url"]).read_bytes()
        assert each["id"] in cells[Path(each["url"]).stem]["raw_ids"]


def test_kept_files_are_read_again_without_the_folder(acme: Installation, folder: Path) -> None:
    keys = ["2025-11-26", "2025-11-28"]
    assert acme.materialise(*keys, table="my_shares/ohlcv_minute").success
    shutil.rmtree(folder)
    instruments = acme.platform.instruments(acme.market)
    rebuilt = rebuild(acme.platform.store, acme.market, Interval.MINUTE, instruments, keys, AFTER_THANKSGIVING)
    assert (rebuilt.proven, rebuilt.unproven) == (2, [])


def test_a_month_of_days_is_all_there(acme: Installation) -> None:
    run = acme.materialise("2025-11", table="my_shares/ohlcv_day")
    assert run.success, run
    (cell,) = acme.manifest(Interval.DAY).values()
    # Of the half day's bar the market wants to be sure for a minute, which has passed.
    assert (cell["rows"], cell["expected_rows"]) == (19, 19)


def test_the_doctor_looks_at_the_folder(acme: Installation, folder: Path) -> None:
    (finding,) = _vendors(acme.settings)
    assert (finding.what, finding.state, finding.found) == ("vendor files", "ok", str(folder))
    gone = acme.settings.model_copy(update={"vendors": {"files": VendorSettings(folder=str(folder / "gone"))}})
    unset = acme.settings.model_copy(update={"vendors": {}})
    for settings in (gone, unset):
        (finding,) = _vendors(settings)
        assert finding.state == "fail"
        assert "OHLCV_VENDORS__FILES__FOLDER" in finding.advice


def test_what_the_files_lack_comes_from_the_next_vendor(
    install: Install, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    market = Market(
        name="my_coins", title="Coins from files first", calendar_name="24/7", quote="USD",
        vendors=("files", "coinbase"),
        instruments=(Instrument("BTC", "Bitcoin", "BTC", "USD", {"files": "btc", "coinbase": "BTC-USD"}),),
        publish_delay=MARKETS["crypto"].publish_delay,
        history_start=MARKETS["crypto"].history_start,
    )  # fmt: skip
    monkeypatch.setitem(markets.MARKETS, market.name, market)  # type: ignore[arg-type]
    morning = np.arange(to_us(NOW - timedelta(hours=36)), to_us(NOW - timedelta(hours=24)), 60_000_000)
    write(folder / "minute/btc.csv", rows("BTC", Interval.MINUTE, morning))
    made = install(markets=(market.name,), vendors={"files": VendorSettings(folder=str(folder))})
    run = made.materialise("2026-06-09", table="my_coins/ohlcv_minute")
    assert run.success, run
    (cell,) = made.manifest().values()
    assert (cell["rows"], cell["vendor"]) == (1_440, "mixed")
    stored = made.platform.store.reader.bars("my_coins", Interval.MINUTE, "BTC", int(morning[0]), int(morning[-1]) + 1)
    assert floats(stored["close"]).tolist() == series("BTC", Interval.MINUTE, morning)[3].tolist()
