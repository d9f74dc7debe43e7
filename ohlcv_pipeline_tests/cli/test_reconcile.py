"""`ohlcv reconcile` and adjusted exports, as their users have them."""

from __future__ import annotations

import pytest

from ohlcv_pipeline_tests.cli.conftest import Cli
from ohlcv_pipeline_tests.exchange import Exchange

WINDOW = ("--symbols", "NVDA", "--start", "2026-10-01", "--end", "2026-11-01")


@pytest.fixture(scope="module")
def equities(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> Cli:
    """A month of days of one share. Tests only read it."""
    made = Cli(tmp_path_factory.mktemp("equities"), exchange.url).using(OHLCV_MARKETS="us_equities")
    ended = made.here("backfill", "--interval", "day", *WINDOW)
    assert ended.code == 0, ended.err
    return made


def test_two_vendors_that_agree_are_said_to(equities: Cli) -> None:
    ended = equities.here("reconcile", "--interval", "day", *WINDOW, "--json")
    assert ended.code == 0, ended.err
    rollup, vendors = ended.json()["comparisons"]
    assert (rollup["check"], rollup["compared"]) == ("rollup", [])
    assert vendors["compared"] == [
        {"symbol": "NVDA", "partition": "2026-10", "ours": "alpaca", "theirs": "tiingo", "bars": 22,
         "verdict": "agreement"}
    ]  # fmt: skip
    assert (vendors["passed"], vendors["differences"], vendors["unanswered_cells"]) == (True, [], [])
    asked = equities.requests()
    assert equities.here("reconcile", "--interval", "day", *WINDOW, "--cells", "0").code == 0
    assert equities.requests() == asked


def test_another_basis_is_shown_and_exits_with_one(equities: Cli, faulty: Exchange) -> None:
    faulty.fault(kind="split", vendor="tiingo", symbol="NVDA", end="2026-10-20T00:00:00Z", factor=0.25)
    ended = equities.here("reconcile", "--interval", "day", *WINDOW)
    assert ended.code == 1
    assert "1 adjustment_basis" in ended.out
    assert "0.25" in ended.out
    document = equities.here("reconcile", "--interval", "day", *WINDOW, "--json").json()
    assert not document["passed"]
    (row,) = document["comparisons"][1]["differences"]
    assert (row["verdict"], row["severity"], row["bars"], row["first"]) == (
        "adjustment_basis", "ERROR", 13, "2026-10-01T00:00Z",
    )  # fmt: skip


def test_an_adjusted_export_without_known_actions_is_refused_with_what_to_do(equities: Cli) -> None:
    window = ("--symbol", "NVDA", "--start", "2026-10-01", "--end", "2026-11-01")
    refused = equities.here("export", *window, "--adjust", "all")
    assert refused.code == 64
    assert "have never been fetched; materialise us_equities/corporate_actions" in refused.err
    assert "adjust='splits' is not one of raw, split, all" in equities.here("export", *window, "--adjust", "splits").err
