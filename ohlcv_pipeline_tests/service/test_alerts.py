"""Incidents as they are listed, and test alerts."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from uuid import UUID

import pytest
from sqlalchemy import select

from ohlcv_pipeline.ledger.models import Incident, Message
from ohlcv_pipeline_tests.service.conftest import NOW, TOKEN, Home, new_home

OPERATOR = {"X-Admin-Token": TOKEN}


def incident(number: int, **changes: object) -> Incident:
    began = NOW - timedelta(hours=number // 2)
    values = {
        "id": UUID(int=number), "market": "crypto", "symbol": "SOL", "interval": "minute", "kind": "freshness",
        "subject": str(number), "state": "open", "first_breach_at": began, "opened_at": began, "lag_minutes": 74.44,
        "peak_lag_minutes": 80.0, "threshold_minutes": 60.0, "breach_count": 1, "healthy_count": 0, "flap_count": 0,
    }  # fmt: skip
    return Incident(**(values | changes))


def store(home: Home, *rows: Incident) -> None:
    with home.platform.ledger.write() as session:
        session.add_all(rows)


def test_incidents_are_listed_newest_first_and_page_by_page(home: Home) -> None:
    store(home, *(incident(number) for number in range(7)), incident(8, state="pending"))
    found, cursor = [], {}
    while True:
        answer = home.get("/alerts/incidents", limit=3, **cursor)
        found += [UUID(item["id"]).int for item in answer.json()["items"]]
        if answer.json()["next_cursor"] is None:
            break
        cursor = {"cursor": answer.json()["next_cursor"]}
    assert found == [1, 0, 3, 2, 5, 4, 6]


def test_incidents_are_filtered(home: Home) -> None:
    store(
        home,
        incident(1, state="clearing"),
        incident(2, state="cleared", cleared_at=NOW),
        incident(3, market="us_equities", symbol="AAPL"),
    )

    def ids(**query: str) -> list[int]:
        return [UUID(item["id"]).int for item in home.get("/alerts/incidents", **query).json()["items"]]

    assert ids(state="open") == [1, 3]
    assert ids(state="cleared") == [2]
    assert ids(market="us_equities") == [3]
    assert ids(asset="sol", state="all") == [1, 2]
    assert home.get("/alerts/incidents", asset="NOPE").status_code == 404
    assert home.get("/alerts/incidents", state="closed").status_code == 400


def test_an_incident_is_told_in_the_fields_of_the_contract(home: Home) -> None:
    store(home, incident(4, state="cleared", cleared_at=NOW, notified_at=NOW, flap_count=2))
    (item,) = home.get("/alerts/incidents").json()["items"]
    assert item == {
        "id": str(UUID(int=4)),
        "market": "crypto",
        "asset": "SOL",
        "interval": "minute",
        "kind": "freshness",
        "state": "cleared",
        "opened_at": "2025-11-21T10:00:00Z",
        "cleared_at": "2025-11-21T12:00:00Z",
        "lag_minutes": 74.4,
        "peak_lag_minutes": 80.0,
        "threshold_minutes": 60.0,
        "flap_count": 2,
        "notified_at": "2025-11-21T12:00:00Z",
    }


def test_a_test_alert_stores_one_message_for_each_channel_and_no_incident(home: Home) -> None:
    answer = home.ask("POST", "/alerts/test", headers=OPERATOR)
    assert (answer.status_code, answer.content) == (204, b"")
    with home.platform.ledger.read() as session:
        (message,) = session.scalars(select(Message))
        assert not session.scalars(select(Incident)).all()
    assert (message.channel, message.kind) == ("email", "test")
    assert message.payload["subject"] == "[OHLCV] TEST SAMPLE minute data is 61 min behind"
    home.refresh()
    channel = home.get("/status/summary").json()["alert_channel"]
    assert channel == {"status": "ok", "pending": 1, "oldest_pending_minutes": 0.0}


def test_at_most_five_tests_a_minute(home: Home) -> None:
    answers = [home.ask("POST", "/alerts/test", headers=OPERATOR) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [204] * 5 + [429]
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 60


@pytest.mark.parametrize("headers", [{}, {"X-Admin-Token": "wrong"}, {"X-Admin-Token": TOKEN + "x"}])
def test_only_operators_may_send_tests(home: Home, headers: dict[str, str]) -> None:
    answer = home.ask("POST", "/alerts/test", headers=headers)
    assert (answer.status_code, answer.json()["type"]) == (401, "urn:ohlcv-pipeline:problem:unauthorized")


def test_a_page_of_another_host_may_not_send_tests(tmp_path: Path) -> None:
    home = new_home(tmp_path, admin_token="")
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert home.ask("POST", "/alerts/test", headers=headers).status_code == 403
    assert home.ask("POST", "/alerts/test", headers={"Origin": "http://status.test"}).status_code == 204


def test_without_a_channel_a_test_is_a_conflict(tmp_path: Path) -> None:
    home = new_home(tmp_path, profile="live", markets="crypto")
    assert home.ask("POST", "/alerts/test", headers=OPERATOR).status_code == 409
    home.refresh()
    assert home.get("/status/summary").json()["alert_channel"]["status"] == "off"
