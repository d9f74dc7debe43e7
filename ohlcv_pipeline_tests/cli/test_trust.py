"""What the command line says about trust: causes of gaps, the chain behind a bar, the quarantine; over HTTP."""

from __future__ import annotations

import csv
import hashlib
import io
from typing import Any

import pytest

from ohlcv_pipeline_tests.cli.conftest import END, START, Cli
from ohlcv_pipeline_tests.exchange import Exchange

WINDOW = ("--interval", "minute", "--symbols", "BTC", "--start", START, "--end", END)
CONFLICT = "2026-10-11T03:00:00Z"


@pytest.fixture(scope="module")
def stocked(tmp_path_factory: pytest.TempPathFactory, exchange: Exchange) -> Cli:
    """A day of minutes of BTC, one of which came twice with different values."""
    cli = Cli(tmp_path_factory.mktemp("trust"), exchange.url)
    exchange.fault(
        kind="duplicate", vendor="coinbase", symbol="BTC", identical=False, start=CONFLICT, end="2026-10-11T03:01:00Z"
    )
    try:
        ended = cli.here("backfill", *WINDOW)
    finally:
        exchange.clear()
    assert ended.code == 0, ended.err
    return cli


def explained(cli: Cli, *arguments: str) -> dict[str, Any]:
    ended = cli.here("explain", *arguments, "--json")
    assert ended.code == 0, ended.err
    document: dict[str, Any] = ended.json()
    return document


def test_gaps_gives_each_gap_one_cause_with_its_evidence(stocked: Cli) -> None:
    (gap,) = stocked.here("gaps", *WINDOW, "--json").json()["gaps"]
    assert (gap["range_start"], gap["range_end"]) == ("2026-10-11T13:07:00Z", "2026-10-11T13:51:00Z")
    assert (gap["missing"], gap["cause"], gap["attempts"], gap["declared_outage"]) == (45, "vendor_outage", 1, True)
    assert "one long silence of 45 minutes" in gap["because"]
    assert gap["next_look"] is not None
    assert {look["vendor"] for look in gap["evidence"]} == {"coinbase"}
    assert all(len(look["raw_id"]) == 64 for look in gap["evidence"])


def test_gaps_are_chosen_by_cause(stocked: Cli) -> None:
    assert stocked.here("gaps", *WINDOW, "--cause", "unfillable", "--json").json()["gaps"] == []
    shown = stocked.here("gaps", *WINDOW, "--cause", "vendor_outage,unknown")
    assert "declared outage" in shown.out
    (row,) = csv.DictReader(io.StringIO(stocked.here("gaps", *WINDOW, "--cause", "vendor_outage", "--csv").out))
    assert (row["cause"], row["missing"], row["declared_outage"]) == ("vendor_outage", "45", "True")
    wrong = stocked.here("gaps", "--cause", "rain")
    assert (wrong.code, "page_boundary" in wrong.err) == (64, True)


def test_a_window_never_fetched_is_one_gap_and_no_outage(stocked: Cli) -> None:
    window = ("--interval", "minute", "--symbols", "SOL", "--start", START, "--end", END)
    (gap,) = stocked.here("gaps", *window, "--json").json()["gaps"]
    assert (gap["missing"], gap["cause"], gap["attempts"]) == (1440, "not_fetched", 0)
    assert list(csv.DictReader(io.StringIO(stocked.here("gaps", *window, "--csv", "--min-missing", "1441").out))) == []


def test_explain_shows_the_whole_chain_behind_a_bar(stocked: Cli) -> None:
    before = stocked.requests()
    document = explained(stocked, "BTC", "2026-10-11T05:31Z")
    assert stocked.requests() == before
    bar, source, manifest = document["bar"], document["source"], document["manifest"]
    assert bar["low"] <= bar["open"] <= bar["high"]
    assert (source["vendor"], source["parser_version"], source["reread"]) == ("coinbase", "1", "equal")
    assert source["request"]["url"].startswith(f"{stocked.url}/coinbase/products/BTC-USD/candles?granularity=60")
    pack = stocked.home / "sandbox" / "raw" / source["raw"]["pack"]
    assert pack.exists()
    assert source["raw"]["id"] in manifest["raw_ids"]
    assert (manifest["partition"], manifest["rows"], document["partition"]) == (START, 1395, START)
    assert document["run"]["url"].endswith(f"/runs/{bar['run_id']}")
    assert document["calendar"]["version"].startswith("exchange_calendars ")
    assert len(document["neighbours"]) == 4
    assert document["revisions"] == document["quarantine"] == document["others"] == []
    assert len(bytes.fromhex(document["bar_checksum"])) == hashlib.sha256().digest_size
    shown = stocked.here("explain", "BTC", "2026-10-11T05:31Z")
    assert shown.code == 0, shown.err
    for word in (source["raw"]["id"][:20], "equal", "exchange_calendars", "none is published"):
        assert word in shown.out


def test_explain_links_to_the_dagster_of_the_settings(stocked: Cli) -> None:
    elsewhere = stocked.using(OHLCV_DAGSTER_URL="https://dagster.example.org/")
    document = explained(elsewhere, "BTC", "2026-10-11T05:31Z")
    assert document["run"]["url"] == f"https://dagster.example.org/runs/{document['run']['id']}"


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (("BTC", "2026-10-11T13:20Z"), "vendor_outage"),
        (("SOL", "2026-10-11T13:20Z"), "not_fetched"),
        (("BTC", "2036-10-11T13:20Z"), "not_due"),
    ],
)
def test_explain_says_why_there_is_no_bar(stocked: Cli, arguments: tuple[str, str], cause: str) -> None:
    document = explained(stocked, *arguments)
    assert (document["bar"], document["absence"]["cause"]) == (None, cause)
    shown = stocked.here("explain", *arguments)
    assert (shown.code, cause in shown.out) == (0, True)


def test_explain_of_a_night_names_the_closed_session(stocked: Cli) -> None:
    both = stocked.using(OHLCV_MARKETS="crypto,us_equities")
    assert both.here("backfill", "--market", "us_equities", "--interval", "day", "--symbols", "SPY",
                     "--start", "2026-10-01", "--end", "2026-11-01").code == 0  # fmt: skip
    document = explained(both, "SPY", "2026-10-10T15:00Z", "--market", "us_equities")
    assert document["absence"]["cause"] == "closed_session"
    day = explained(both, "SPY", "2026-10-09", "--interval", "day", "--market", "us_equities")
    assert (day["source"]["vendor"], day["source"]["reread"], day["calendar"]["name"]) == ("alpaca", "equal", "XNYS")


def test_explain_asks_the_other_vendors_only_when_told_to(stocked: Cli, faulty: Exchange) -> None:
    faulty.fault(kind="correction", vendor="coinbase", symbol="BTC", start="2026-10-11T05:31:00Z", factor=1.5)
    document = explained(stocked, "BTC", "2026-10-11T05:31Z", "--ask")
    others = {each["vendor"]: each for each in document["others"]}
    assert set(others) == {"coinbase", "kraken"}
    assert (others["coinbase"]["found"], others["kraken"]["found"]) == ("differs", "does not serve this bucket")
    assert others["coinbase"]["differs"]["close"] == pytest.approx(0.5, rel=1e-3)
    assert "open" not in others["coinbase"]["differs"]


def test_explain_refuses_what_is_no_bar(stocked: Cli) -> None:
    for arguments in (("NOPE", "2026-10-11T05:31Z"), ("BTC", "2026-10-11T05:31:20Z"), ("BTC", "2026-10-11T05:31")):
        ended = stocked.here("explain", *arguments)
        assert (ended.code, ended.out) == (64, ""), arguments


def test_explain_finds_the_checksum_that_a_vendor_publishes(tmp_path: Any, exchange: Exchange) -> None:
    cli = Cli(tmp_path / "home", exchange.url, (("OHLCV_MARKETS", "crypto_usdt"),))
    ended = cli.here(
        "backfill", "--interval", "minute", "--symbols", "ETH", "--start", "2026-10-05", "--end", "2026-10-06"
    )
    assert ended.code == 0, ended.err
    source = explained(cli, "ETH", "2026-10-05T14:31Z")["source"]
    published = source["vendor_checksum"]
    assert (source["vendor"], source["reread"], published["matches"]) == ("binance_archive", "equal", True)
    assert published["value"] == source["raw"]["id"]
    assert published["url"].endswith(".zip.CHECKSUM")


def test_a_quarantined_row_is_listed_shown_and_released(stocked: Cli) -> None:
    (row,) = stocked.here("quarantine", "list", "--reason", "duplicate_conflict", "--json").json()["rows"]
    assert (row["bucket_start"], row["state"], row["published"]) == (CONFLICT, "open", False)
    assert stocked.here("quarantine", "list", "--start", "2026-10-12", "--json").json()["rows"] == []
    shown = stocked.here("quarantine", "show", row["id"], "--json").json()
    assert len(shown["around"]) == 5
    assert "/coinbase/products/BTC-USD/candles" in shown["answer"]["url"]

    rehearsed = stocked.here("quarantine", "release", row["id"][:6], "--dry-run", "--json").json()
    assert (rehearsed["released"], rehearsed["rows"]) == (False, 0)
    assert rehearsed["before"]["close"] != rehearsed["after"]["close"]
    assert explained(stocked, "BTC", CONFLICT)["run"]["cause"] == "fetched"

    done = stocked.here("quarantine", "release", row["id"], "--by", "ann", "--note", "confirmed", "--json").json()
    assert (done["released"], done["rows"]) == (True, 1)
    document = explained(stocked, "BTC", CONFLICT)
    assert document["bar"]["close"] == done["after"]["close"]
    assert document["run"] == {"id": done["run_id"], "cause": "released", "url": None}
    assert document["source"]["reread"] == "equal"
    assert [old["close"] for old in document["revisions"]] == [done["before"]["close"]]
    (decided,) = document["quarantine"]
    assert (decided["state"], decided["decided_by"], decided["note"]) == ("released", "ann", "confirmed")
    verified = stocked.here("verify", "--json").json()
    assert (verified["passed"], verified["unsealed"]) == (True, [])

    again = stocked.here("quarantine", "discard", row["id"])
    assert (again.code, "--force" in again.err) == (1, True)


def test_a_row_that_can_be_no_bar_is_refused_then_discarded(cli: Cli, faulty: Exchange) -> None:
    faulty.fault(kind="bad_bar", vendor="coinbase", symbol="BTC", start=CONFLICT, defect="negative_low")
    assert cli.here("backfill", *WINDOW).code == 0
    rows = cli.here("quarantine", "list", "--json").json()["rows"]
    (row,) = [each for each in rows if each["bucket_start"] == CONFLICT]
    (gap,) = cli.here("gaps", *WINDOW, "--cause", "quarantined", "--json").json()["gaps"]
    assert (gap["range_start"], gap["missing"]) == (CONFLICT, 1)
    refused = cli.here("quarantine", "release", row["id"])
    assert (refused.code, row["reason"] in refused.err) == (1, True)
    assert cli.here("quarantine", "discard", row["id"], "--note", "no trade").code == 0
    assert cli.here("quarantine", "list", "--json").json()["rows"] == []
    assert cli.here("gaps", *WINDOW, "--cause", "quarantined", "--json").json()["gaps"] == []
    (kept,) = cli.here("quarantine", "list", "--state", "discarded", "--json").json()["rows"]
    assert (kept["id"], kept["note"]) == (row["id"], "no trade")


def test_an_unknown_row_or_state_is_a_usage_error(stocked: Cli) -> None:
    assert stocked.here("quarantine", "show", "ffffffffffff").code == 64
    assert stocked.here("quarantine", "list", "--state", "lost").code == 64
    assert stocked.here("quarantine", "list", "--reason", "rain").code == 64
