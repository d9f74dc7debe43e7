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
    assert "have never been fetched; `ohlcv actions fetch --market us_equities` fetches them" in refused.err
    assert "adjust='splits' is not one of raw, split, all" in equities.here("export", *window, "--adjust", "splits").err


def test_actions_are_fetched_by_a_run_and_prices_adjusted_by_them(cli: Cli) -> None:
    made = cli.using(OHLCV_MARKETS="us_equities")
    window = ("--start", "2025-05-01", "--end", "2025-07-01")
    assert made.here("backfill", "--interval", "day", "--symbols", "NVDA", *window).code == 0
    told = made.here("actions", "fetch")
    assert told.code == 0, told.err
    assert told.out.startswith("us_equities/corporate_actions: ")
    assert " of 10 symbols." in told.out
    shown = made.here("actions", "list", "--symbols", "NVDA", "--json").json()["actions"]
    (split,) = [row for row in shown if row["kind"] == "split" and row["ex_date"] > "2025"]
    assert (split["symbol"], split["ex_date"], split["value"]) == ("NVDA", "2025-06-10T00:00:00Z", 4.0)
    assert "│ NVDA   │ 2025-06-10 │ split" in made.here("actions", "list", "--symbols", "NVDA").out
    export = ("export", "--symbol", "NVDA", "--interval", "day", *window)
    raw, adjusted = (made.here(*export, *more).out.splitlines()[1] for more in ((), ("--adjust", "split")))
    assert float(raw.split(",")[2]) == pytest.approx(4 * float(adjusted.split(",")[2]))
    (run,) = made.here("actions", "fetch", "--json").json()["runs"]
    assert (run["asset"], run["success"], run["failed"]) == ("us_equities/corporate_actions", True, {})


def test_a_symbol_whose_actions_cannot_be_had_is_named_and_the_others_are_published(cli: Cli, faulty: Exchange) -> None:
    made = cli.using(OHLCV_MARKETS="us_equities")
    faulty.fault(kind="text", vendor="tiingo", symbol="NVDA", message="We will be right back")
    told = made.here("actions", "fetch")
    assert (told.code, "NVDA (malformed_response)" in told.err) == (2, True)
    symbols = {row["symbol"] for row in made.here("actions", "list", "--json").json()["actions"]}
    assert "NVDA" not in symbols
    assert symbols
    faulty.clear()
    faulty.fault(kind="outage", vendor="tiingo", status=503)
    assert made.using(OHLCV_VENDORS__TIINGO__ATTEMPTS="1").here("actions", "fetch", "--json").code == 1


def test_a_market_without_shares_has_no_actions(cli: Cli) -> None:
    refused = cli.using(OHLCV_MARKETS="crypto").here("actions", "fetch")
    assert (refused.code, "crypto: no splits or dividends there" in refused.err) == (64, True)
