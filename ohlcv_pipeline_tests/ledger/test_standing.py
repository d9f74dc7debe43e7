"""What the summary reads of the ledger, on both engines; and the mark that says when to read it again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from ohlcv_pipeline.ledger import symbols
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import Incident, IngestionRun, Message, Monitor, RemediationEntry, VendorStatus
from ohlcv_pipeline.ledger.standing import Alert, Standing, Waiting, markets_of, standing
from ohlcv_pipeline.markets import MARKETS

NOW = datetime(2025, 11, 21, 12, tzinfo=UTC)
CRYPTO, TETHER = MARKETS["crypto"], MARKETS["crypto_usdt"]
BTC = ("crypto", "BTC", "minute")


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def read(ledger: Ledger) -> Standing:
    starts = {("crypto", "minute"): ago(days=90), ("crypto", "day"): ago(days=1096)}
    return standing(ledger, starts, "freshness")


def store(ledger: Ledger, *rows: Any) -> None:
    with ledger.write() as session:
        for row in rows:
            session.add(row)
            session.flush()


def run(status: str, ended_at: datetime | None, **changes: Any) -> IngestionRun:
    values = {
        "market": "crypto", "asset_symbol": "BTC", "interval": "minute", "phase": "done", "checksum_sha256": "0" * 64,
        "checksum_version": 1, "started_at": ago(hours=9), "trigger": "manual",
        "backfill_window_start": ago(hours=9), "backfill_window_end": NOW, "parent_id": UUID(int=1),
    }  # fmt: skip
    return IngestionRun(**{**values, "status": status, "ended_at": ended_at, **changes})


def incident(number: int, **changes: Any) -> Incident:
    values = {
        "market": "crypto", "symbol": "BTC", "interval": "minute", "kind": "freshness", "subject": str(number),
        "state": "cleared", "first_breach_at": ago(hours=number),
    }  # fmt: skip
    return Incident(**{**values, **changes})


def test_an_empty_ledger_stands_still(ledger: Ledger) -> None:
    found = read(ledger)
    assert found == Standing([], {}, {}, {}, {}, None, Waiting(0, None, False, False))


def test_enabled_instruments_come_with_their_markets(ledger: Ledger) -> None:
    symbols.seed(ledger, [CRYPTO, TETHER], NOW)
    symbols.disable(ledger, CRYPTO, "XRP", NOW)
    found = read(ledger).enabled
    assert [market for market, _ in found] == ["crypto"] * 9
    assert [instrument for _, instrument in found] == symbols.enabled(ledger, CRYPTO)
    assert markets_of(ledger, "BTC") == {"crypto", "crypto_usdt"}
    assert markets_of(ledger, "XRP") == {"crypto", "crypto_usdt"}


def test_the_last_success_is_that_of_the_series_itself(ledger: Ledger) -> None:
    symbols.seed(ledger, [CRYPTO], NOW)
    store(
        ledger,
        run("success", ago(minutes=1), id=UUID(int=1), parent_id=None, asset_symbol="*"),
        run("success", ago(hours=3)),
        run("success", ago(hours=2)),
        run("partial", ago(hours=1)),
        run("running", None),
        run("success", ago(hours=4), interval="day"),
        run("failed", ago(hours=1), asset_symbol="ETH"),
    )
    assert read(ledger).last_success == {BTC: ago(hours=2), ("crypto", "BTC", "day"): ago(hours=4)}


def test_gaps_count_while_they_touch_the_window_and_are_open(ledger: Ledger) -> None:
    def entry(issue_type: str, end: datetime, **changes: Any) -> RemediationEntry:
        values = {"market": "crypto", "asset_symbol": "BTC", "interval": "minute", "detected_at": NOW}
        return RemediationEntry(
            **{**values, "issue_type": issue_type, "range_start": ago(days=99), "range_end": end, **changes}
        )

    store(
        ledger,
        entry("gap", ago(days=90)),
        entry("gap", ago(days=1)),
        entry("gap", ago(days=91)),
        entry("gap", NOW, resolved=True),
        entry("duplicate", NOW),
        entry("gap", ago(days=91), interval="day"),
    )
    assert read(ledger).open_gaps == {BTC: 2, ("crypto", "BTC", "day"): 1}


def test_the_newest_incident_and_the_newest_alert_are_told(ledger: Ledger) -> None:
    store(
        ledger,
        incident(9, notified_at=ago(hours=8), alert_lag_minutes=61.0),
        incident(5, notified_at=ago(hours=4), alert_lag_minutes=64.0),
        incident(2, state="clearing"),
        incident(1, state="pending"),
        incident(3, symbol="ETH", kind="vendor_down", state="open"),
    )
    assert read(ledger).alerts == {BTC: Alert("clearing", ago(hours=4), 64.0)}


def test_the_outbox_the_vendors_and_the_monitor(ledger: Ledger) -> None:
    def message(number: int, status: str, **changes: Any) -> Message:
        return Message(
            channel="email", kind="incident", incident_ids=[], message_id=str(number), payload={}, status=status,
            created_at=ago(hours=number), next_attempt_at=NOW, **changes,
        )  # fmt: skip

    store(
        ledger,
        message(5, "sent"),
        message(4, "given_up", acknowledged_at=NOW),
        message(3, "pending"),
        message(2, "pending", attempts=1),
        Monitor(name="freshness", sequence=7, evaluated_at=ago(minutes=3)),
        Monitor(name="watchdog", sequence=7, evaluated_at=NOW),
        VendorStatus(vendor="kraken", status="down", since=NOW, checked_at=ago(minutes=1)),
    )
    found = read(ledger)
    assert found.waiting == Waiting(2, ago(hours=3), failed=True, given_up=False)
    assert found.vendors == {"kraken": ("down", ago(minutes=1))}
    assert found.evaluated_at == ago(minutes=3)
    store(ledger, message(1, "given_up"))
    assert read(ledger).waiting.given_up


def test_the_mark_differs_after_a_commit_and_only_then(ledger: Ledger) -> None:
    before = ledger.mark()
    read(ledger)
    assert ledger.mark() == before
    store(ledger, incident(1))
    assert ledger.mark() != before
