"""The remediation log as the service tells it."""

from __future__ import annotations

import csv
import io
from datetime import timedelta
from typing import Any

import pytest

from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline.ledger.remediation import NOTES, NewEntry
from ohlcv_pipeline_tests.service.conftest import NOW, Home

KEYS = [
    "id", "market", "asset_symbol", "interval", "issue_type", "range_start", "range_end", "detected_at", "resolved",
    "resolved_at", "resolution", "run_id", "notes",
]  # fmt: skip


def entry(n: int = 0, **changes: object) -> NewEntry:
    first = NOW - timedelta(hours=30 - n)
    fields: dict[str, object] = {
        "market": "crypto", "symbol": "LINK", "interval": "minute", "issue_type": "gap", "range_start": first,
        "range_end": first + timedelta(minutes=3), "note": "detected", "detected_at": NOW - timedelta(hours=n // 2),
    }  # fmt: skip
    return NewEntry(**(fields | changes))  # type: ignore[arg-type]


def store(home: Home, *entries: NewEntry) -> None:
    log.log(home.platform.ledger, entries, NOW)


def items(home: Home, **query: Any) -> list[dict[str, Any]]:
    answer = home.get("/status/remediation", **query)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["items"])


def test_an_entry_has_these_keys_and_its_note_is_of_the_list(home: Home) -> None:
    store(home, entry(), entry(1, resolution="no_trades", note="silent", run_id="b2c3"))
    old, new = sorted(items(home), key=lambda each: each["resolved"])
    assert list(old) == KEYS
    assert {old["notes"], new["notes"]} <= set(NOTES.values())
    assert (old["resolved"], old["resolved_at"], old["resolution"], old["run_id"]) == (False, None, None, None)
    assert (new["resolved"], new["resolved_at"], new["resolution"]) == (True, "2025-11-21T12:00:00Z", "no_trades")
    assert (new["range_start"], new["range_end"]) == ("2025-11-20T07:00:00Z", "2025-11-20T07:03:00Z")


def test_the_log_comes_newest_first_and_page_by_page(home: Home) -> None:
    store(home, *(entry(n) for n in range(7)))
    seen: list[dict[str, Any]] = []
    cursor: dict[str, str] = {}
    while True:
        body = home.get("/status/remediation", limit=3, asset="link", **cursor).json()
        seen += body["items"]
        if body["next_cursor"] is None:
            break
        cursor = {"cursor": body["next_cursor"]}
    assert len({each["id"] for each in seen}) == len(seen) == 7
    keys = [(each["detected_at"], each["id"]) for each in seen]
    assert keys == sorted(keys, reverse=True)
    assert home.get("/status/remediation", **cursor).status_code == 400


def test_the_log_is_filtered(home: Home) -> None:
    store(
        home,
        entry(0),
        entry(1, symbol="BTC", issue_type="duplicate", resolution="deduplicated", note="repeated"),
        entry(2, market="us_equities", symbol="AAPL", interval="day"),
    )

    def symbols(**query: Any) -> set[str]:
        return {each["asset_symbol"] for each in items(home, **query)}

    assert symbols(asset="btc") == {"BTC"}
    assert symbols(market="us_equities") == {"AAPL"}
    assert symbols(interval="1d") == {"AAPL"}
    assert symbols(issue_type="duplicate") == {"BTC"}
    assert symbols(resolved="false") == {"LINK", "AAPL"}
    assert symbols(resolved="true", asset="LINK") == set()


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"asset": ""}, 400), ({"asset": "NOPE"}, 404), ({"issue_type": "hole"}, 400), ({"limit": "1001"}, 400),
        ({"resolved": "maybe"}, 400), ({"format": "xml"}, 400), ({"market": "moon"}, 404), ({"cursor": "x"}, 400),
    ],
)  # fmt: skip
def test_what_cannot_be_asked_is_refused(home: Home, query: dict[str, str], status: int) -> None:
    assert home.get("/status/remediation", **query).status_code == status


def test_csv_holds_the_whole_list_and_no_formula(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ohlcv_pipeline.service.routes.remediation.BLOCK", 2)
    store(home, *(entry(n, run_id="=1+1") for n in range(5)), entry(9, symbol="BTC"))
    answer = home.get("/status/remediation", format="csv", asset="LINK", limit=1)
    assert answer.headers["content-disposition"] == 'attachment; filename="remediation.csv"'
    head, *rows = csv.reader(io.StringIO(answer.text))
    assert head == KEYS
    assert len(rows) == 5
    assert {row[KEYS.index("run_id")] for row in rows} == {"'=1+1"}
    assert rows[0][KEYS.index("range_start")].endswith("Z")
    assert {row[KEYS.index("resolution")] for row in rows} == {""}
