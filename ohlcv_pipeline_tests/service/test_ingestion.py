"""Asking for backfills, and what the service tells of runs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from ohlcv_pipeline.ledger import requests, runs, symbols
from ohlcv_pipeline.ledger.runs import Account, Begun
from ohlcv_pipeline_tests.service.conftest import NOW, TOKEN, Home, new_home

OPERATOR = {"X-Admin-Token": TOKEN}
RUN_KEYS = {
    "id", "market", "asset_symbol", "interval", "status", "phase", "row_count", "checksum_sha256", "checksum_version",
    "started_at", "ended_at", "trigger", "attempt", "backfill_window_start", "backfill_window_end", "error_summary",
}  # fmt: skip
WINDOW = {"window_start": "2025-11-01T00:00:00Z", "window_end": "2025-11-10T00:00:00Z"}

WEEKEND = {"window_start": "2025-11-15T00:00:00Z", "window_end": "2025-11-16T00:00:00Z"}


def post(home: Home, body: object = None, **headers: str) -> Any:
    options = {} if body is None else {"json": body}
    return home.ask("POST", "/ingestion/backfill", headers={**OPERATOR, **headers}, **options)


def refused(answer: Any) -> tuple[int, list[tuple[str, str]]]:
    return answer.status_code, [(each["field"], each["code"]) for each in answer.json().get("errors", [])]


def ended(home: Home, *accounts: Account, at: datetime = NOW, **changes: object) -> UUID:
    fields: dict[str, object] = {
        "id": uuid4(), "market": "crypto", "interval": "minute", "symbols": [each.symbol for each in accounts],
        "window_start": NOW - timedelta(days=1), "window_end": NOW, "trigger": "scheduled", "checksum_version": 1,
    }  # fmt: skip
    run = Begun(**(fields | changes))  # type: ignore[arg-type]
    runs.begin(home.platform.ledger, run, at)
    runs.end(home.platform.ledger, run.id, accounts, "ab" * 32, at + timedelta(seconds=5))
    return run.id


def account(symbol: str, status: str = "success", code: str | None = None, retries: int = 0) -> Account:
    report = {
        "asset_symbol": symbol, "interval": "minute", "status": status, "expected_rows": 1440, "actual_rows": 1438,
        "missing_rows": 2, "pending_tail_rows": 0, "coverage_pct": 99.86, "partitions": 1, "vendor": "coinbase",
        "checksum_sha256": "cd" * 32, "gaps_total": 1, "duplicates": [], "duplicates_total": 0,
        "gaps": [{"range_start": "2025-11-20T03:00:00Z", "range_end": "2025-11-20T03:01:00Z", "missing": 2}],
    }  # fmt: skip
    return Account(symbol, status, 1438, "cd" * 32, code, retries, report)


def test_a_backfill_is_stored_before_the_answer_with_the_target_window(home: Home) -> None:
    answer = post(home)
    assert answer.status_code == 202
    body = answer.json()
    assert set(body) == RUN_KEYS | {"report"}
    assert (body["market"], body["interval"], body["asset_symbol"]) == ("crypto", "day", "*")
    assert (body["status"], body["phase"], body["trigger"], body["attempt"]) == ("running", "queued", "manual", 1)
    assert (body["backfill_window_start"], body["backfill_window_end"]) == (
        "2022-11-21T00:00:00Z", "2025-11-21T12:00:00Z",
    )  # fmt: skip
    assert (body["row_count"], body["report"], body["ended_at"], body["error_summary"]) == (0, [], None, None)
    assert body["checksum_sha256"] == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (row,) = requests.queued(home.platform.ledger)
    assert str(row.id) == body["id"]
    assert home.get(f"/ingestion/runs/{row.id}").json() == body


def test_a_backfill_may_be_narrowed_and_forced(home: Home) -> None:
    body = post(home, {"interval": "1m", "symbols": ["btc", "ETH", "BTC"], "force": True, **WINDOW}).json()
    (row,) = requests.queued(home.platform.ledger)
    assert (row.interval, row.symbols, row.force) == ("minute", ["BTC", "ETH"], True)
    assert body["backfill_window_end"] == "2025-11-10T00:00:00Z"


def test_a_window_that_reaches_into_the_future_ends_now(home: Home) -> None:
    body = post(home, {"window_start": "2025-11-01T00:00:00Z", "window_end": "2026-01-01T00:00:00Z"}).json()
    assert body["backfill_window_end"] == "2025-11-21T12:00:00Z"


@pytest.mark.parametrize(
    ("body", "errors"),
    [
        ({**WINDOW, "window_end": "2025-10-31T00:00:00Z"}, [("window_end", "not_after_start")]),
        ({**WINDOW, "window_end": WINDOW["window_start"]}, [("window_end", "not_after_start")]),
        ({"window_start": "2025-11-21T12:00:01Z"}, [("window_start", "in_the_future")]),
        ({"window_start": "2016-12-31T00:00:00Z"}, [("window_start", "before_retention")]),
        ({"window_start": "2025-11-10T00:00:00"}, [("window_start", "naive_time")]),
        ({"window_start": "2025-11-10"}, [("window_start", "not_a_time")]),
        (
            {"market": "us_equities", "interval": "minute", **WEEKEND},
            [("window_start", "outside_calendar")],
        ),
        ({"symbols": ["NOPE"]}, [("symbols", "unknown_symbol")]),
        ({"symbols": []}, [("symbols", "too_short")]),
        ({"symbols": [""]}, [("symbols", "not_a_symbol")]),
        ({"interval": "hour"}, [("interval", "unknown_interval")]),
        ({"force": "yes"}, [("force", "bool_type")]),
        ({"forced": True}, [("forced", "unknown")]),
        ([], [("body", "model_attributes_type")]),
    ],
)  # fmt: skip
def test_a_backfill_that_cannot_be_done_is_refused(home: Home, body: object, errors: list[tuple[str, str]]) -> None:
    assert refused(post(home, body)) == (400, errors)
    assert requests.queued(home.platform.ledger) == []


def test_a_disabled_symbol_is_refused_and_an_unknown_market_is_not_found(home: Home) -> None:
    crypto = home.platform.markets[0]
    symbols.disable(home.platform.ledger, crypto, "XRP", NOW)
    assert refused(post(home, {"symbols": ["XRP"]})) == (400, [("symbols", "unknown_symbol")])
    assert post(home, {"market": "moon"}).status_code == 404


def test_only_an_operator_may_ask(home: Home) -> None:
    assert home.ask("POST", "/ingestion/backfill").status_code == 401
    assert requests.queued(home.platform.ledger) == []


def test_a_double_click_is_told_which_run_is_at_work(home: Home) -> None:
    first = post(home).json()["id"]
    again = post(home, WINDOW)
    assert (again.status_code, again.json()["run_id"]) == (409, first)
    assert again.json()["type"] == "urn:ohlcv-pipeline:problem:conflict"
    assert post(home, {"interval": "minute"}).status_code == 202


def test_the_same_key_and_body_give_the_same_run(home: Home) -> None:
    first = post(home, WINDOW, **{"Idempotency-Key": "k1"})
    home.clock.turn(hours=23)
    again = post(home, dict(reversed(WINDOW.items())), **{"Idempotency-Key": "k1"})
    assert (again.status_code, again.json()) == (202, first.json())
    other = post(home, {"interval": "minute"}, **{"Idempotency-Key": "k1"})
    assert other.status_code == 409
    assert "run_id" not in other.json()


@pytest.mark.parametrize("key", ["", "k" * 65, "a b"])
def test_a_key_that_is_none_is_refused(home: Home, key: str) -> None:
    assert post(home, **{"Idempotency-Key": key}).status_code == 400


def test_a_run_shows_the_reports_of_its_symbols_and_a_child_its_own(home: Home) -> None:
    id_ = ended(home, account("ETH"), account("BTC", "partial", "incomplete_window"), dagster_run_id=str(uuid4()))
    body = home.get(f"/ingestion/runs/{id_}").json()
    assert set(body) == RUN_KEYS | {"report"}
    assert [(each["asset_symbol"], each["status"]) for each in body["report"]] == [
        ("BTC", "partial"),
        ("ETH", "success"),
    ]
    assert body["report"][0] == account("BTC", "partial").report
    assert (body["status"], body["row_count"]) == ("partial", 2876)
    (child, _) = runs.children(home.platform.ledger, id_)
    shown = home.get(f"/ingestion/runs/{child.id}").json()
    assert (shown["asset_symbol"], len(shown["report"])) == ("BTC", 1)
    parent = runs.run(home.platform.ledger, id_)
    assert parent is not None
    assert home.get(f"/ingestion/runs/{parent.dagster_run_id}").json()["id"] == str(id_)


@pytest.mark.parametrize("id_", ["nope", "00000000-0000-0000-0000-000000000000", "%00", "1" * 500])
def test_a_run_that_is_none_is_not_found(home: Home, id_: str) -> None:
    assert home.get(f"/ingestion/runs/{id_}").status_code == 404


def test_the_latest_run_is_of_a_table_or_of_a_symbol(home: Home) -> None:
    assert home.get("/ingestion/runs/latest", interval="minute").status_code == 404
    ended(home, account("BTC"), at=NOW - timedelta(hours=1))
    newest = ended(home, account("ETH"))
    assert home.get("/ingestion/runs/latest", interval="1m").json()["id"] == str(newest)
    assert home.get("/ingestion/runs/latest", interval="minute", asset="btc").json()["asset_symbol"] == "BTC"
    assert home.get("/ingestion/runs/latest", interval="day").status_code == 404
    assert home.get("/ingestion/runs/latest", interval="minute", asset="NOPE").status_code == 404
    assert refused(home.get("/ingestion/runs/latest")) == (400, [("interval", "missing")])


def test_runs_are_listed_newest_first_and_page_by_page(home: Home) -> None:
    ids = [ended(home, account("BTC"), at=NOW - timedelta(minutes=n // 2)) for n in range(7)]
    seen: list[Any] = []
    cursor: dict[str, str] = {}
    while True:
        body = home.get("/ingestion/runs", limit=3, market="crypto", **cursor).json()
        seen += body["items"]
        if body["next_cursor"] is None:
            break
        cursor = {"cursor": body["next_cursor"]}
    assert {set(each) == RUN_KEYS for each in seen} == {True}
    assert sorted(each["id"] for each in seen) == sorted(str(id_) for id_ in ids)
    times = [each["started_at"] for each in seen]
    assert times == sorted(times, reverse=True)
    assert home.get("/ingestion/runs", status="failed").json() == {"items": [], "next_cursor": None}
    assert refused(home.get("/ingestion/runs", limit=3, **cursor)) == (400, [("cursor", "cursor_mismatch")])
    assert refused(home.get("/ingestion/runs", limit=0)) == (400, [("limit", "greater_than_equal")])


def test_failures_name_their_code_and_retries(home: Home) -> None:
    ended(home, account("XRP", "failed", "rate_limited", 4), account("BTC"), at=NOW - timedelta(days=3))
    ended(home, account("XRP", "failed", "auth_failed"), at=NOW - timedelta(days=31))
    body = home.get("/ingestion/failures").json()
    assert (body["window_days"], body["next_cursor"]) == (30, None)
    (item,) = body["items"]
    assert item.pop("run_id")
    assert item == {
        "market": "crypto", "asset_symbol": "XRP", "interval": "minute", "status": "failed",
        "started_at": "2025-11-18T12:00:00Z", "ended_at": "2025-11-18T12:00:05Z", "error_code": "rate_limited",
        "error_summary": "rate_limited: a vendor wants to be asked less often", "retries": 4, "attempt": 1,
    }  # fmt: skip
    assert len(home.get("/ingestion/failures", window_days=90, asset="XRP").json()["items"]) == 2
    for days in (0, 91):
        assert home.get("/ingestion/failures", window_days=days).status_code == 400


def test_success_rate_of_no_runs_is_one_and_of_some_is_rounded_down(home: Home) -> None:
    empty = {"window_days": 30, "runs": 0, "success": 0, "partial": 0, "failed": 0}
    assert home.get("/ingestion/success-rate").json() == {**empty, "success_rate": 1.0, "target": 0.99, "met": True}
    ended(home, account("BTC"), account("ETH"), account("SOL", "partial", "incomplete_window"))
    assert home.get("/ingestion/success-rate", window_days=1, interval="minute").json() == {
        "window_days": 1, "runs": 3, "success": 2, "partial": 1, "failed": 0, "success_rate": 0.6666, "target": 0.99,
        "met": False,
    }  # fmt: skip
    assert home.get("/ingestion/success-rate", market="us_equities").json()["runs"] == 0


def test_a_service_without_a_token_lets_anybody_ask(tmp_path: Path) -> None:
    free = new_home(tmp_path, admin_token="")
    assert free.ask("POST", "/ingestion/backfill").status_code == 202
    free.platform.ledger.close()


def test_a_backfill_is_of_utc(home: Home) -> None:
    asked = {"window_start": "2025-11-01T02:00:00+02:00", "window_end": "2025-11-10T00:00:00Z"}
    post(home, asked)
    (row,) = requests.queued(home.platform.ledger)
    assert row.backfill_window_start == datetime(2025, 11, 1, tzinfo=UTC)
