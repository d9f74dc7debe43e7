"""What every answer has in common: problems, limits, headers, request ids, and who is let in."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from ohlcv_pipeline.service.app import UnsafeSettingsError
from ohlcv_pipeline.service.guard import POLICY, RateLimit
from ohlcv_pipeline_tests.service.conftest import TOKEN, Home, new_home

OPERATOR = {"X-Admin-Token": TOKEN}


def assert_problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (body["type"], body["status"]) == (f"urn:ohlcv-pipeline:problem:{slug}", status)
    assert body["request_id"] == answer.headers["x-request-id"]
    assert ("errors" in body) == (status == 400)
    return body


@pytest.mark.parametrize("path", ["/status/summary", "/docs", "/openapi.json", "/static/docs.css", "/nowhere"])
def test_every_answer_has_the_same_policy_and_an_id_of_its_own(home: Home, path: str) -> None:
    home.refresh()
    first, second = home.get(path), home.get(path)
    for answer in (first, second):
        assert answer.headers["content-security-policy"] == POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "server" not in answer.headers
    assert re.fullmatch("[0-9a-f]{16}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_pages_need_nothing_that_the_policy_forbids(home: Home) -> None:
    page = home.get("/docs").text
    assert not re.search(r"<script|<style|\sstyle=|\son\w+=|(src|href)=.https?:", page)


def test_problems_of_the_framework_are_worded_here(home: Home) -> None:
    assert_problem(home.get("/nowhere"), 404, "not-found")
    assert_problem(home.get("/status/summary/"), 404, "not-found")
    refused = home.ask("DELETE", "/status/summary")
    assert_problem(refused, 405, "method-not-allowed")
    assert refused.headers["allow"] == "GET"


@pytest.mark.parametrize(
    ("query", "field", "code"),
    [
        ("only_stale=maybe", "only_stale", "bool_parsing"),
        ("colour=red", "colour", "unknown_parameter"),
        ("%3Cscript%3E=1", "(unknown)", "unknown_parameter"),
        ("market=crypto&market=us_equities", "market", "repeated_parameter"),
        ("interval=5m", "interval", "unknown_interval"),
        ("asset=", "asset", "not_a_symbol"),
        ("asset=%0d%0aX: y", "asset", "not_a_symbol"),
        ("asset=%EF%BC%A2TC", "asset", "not_a_symbol"),
        ("market=CRYPTO", "market", "not_a_market"),
    ],
)
def test_a_wrong_parameter_is_named_and_not_repeated(home: Home, query: str, field: str, code: str) -> None:
    answer = home.get(f"/status/summary?{query}")
    body = assert_problem(answer, 400, "bad-request")
    assert body["errors"] == [{"field": field, "code": code}]
    assert "script" not in answer.text
    assert "\\r" not in answer.text


def test_a_body_that_nobody_reads_is_refused(home: Home) -> None:
    answer = home.ask("POST", "/alerts/test", headers=OPERATOR, json={"to": "me"})
    assert assert_problem(answer, 400, "bad-request")["errors"] == [{"field": "body", "code": "unknown"}]


def test_a_large_body_is_refused_with_and_without_its_length(home: Home) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield bytes(1024)

    assert_problem(home.ask("POST", "/alerts/test", headers=OPERATOR, content=bytes(65 * 1024)), 413, "too-large")
    assert_problem(home.ask("POST", "/alerts/test", headers=OPERATOR, content=parts()), 413, "too-large")


def test_a_head_has_the_headers_of_a_get(home: Home) -> None:
    home.refresh()
    head, get = home.ask("HEAD", "/status/summary"), home.get("/status/summary")
    assert head.status_code == 200
    assert head.headers["etag"] == get.headers["etag"]
    assert head.headers["content-length"] == get.headers["content-length"]


def test_too_many_requests_of_one_address_are_refused(tmp_path: Path) -> None:
    home = new_home(tmp_path, read_rate_per_minute=3, write_rate_per_minute=1)
    assert [home.get("/docs").status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = home.get("/docs")
    assert_problem(refused, 429, "rate-limited")
    assert 1 <= int(refused.headers["retry-after"]) <= 60
    assert [home.ask("POST", "/docs").status_code for _ in range(2)] == [405, 429]


def test_a_minute_begins_with_the_first_request() -> None:
    limit = RateLimit(2)
    assert [limit.refusal("a", now) for now in (100.0, 101.0, 110.0, 159.5)] == [None, None, 50, 1]
    assert limit.refusal("b", 110.0) is None
    assert limit.refusal("a", 160.0) is None
    assert [RateLimit(0).refusal("a", 0.0) for _ in range(3)] == [None] * 3


def test_nothing_ready_is_unavailable(home: Home) -> None:
    answer = home.get("/status/summary")
    assert_problem(answer, 503, "unavailable")
    assert int(answer.headers["retry-after"]) > 0


def test_a_summary_that_could_not_be_renewed_expires(home: Home) -> None:
    home.refresh()
    home.clock.turn(minutes=2)
    assert home.get("/status/summary").status_code == 200
    home.clock.turn(seconds=1)
    assert_problem(home.get("/status/summary"), 503, "unavailable")


def test_a_ledger_that_is_away_is_unavailable(home: Home) -> None:
    home.get("/alerts/incidents")
    home.platform.ledger.close()
    Path(home.platform.settings.root / "ledger.sqlite").write_bytes(b"no database at all" * 99)
    assert_problem(home.get("/alerts/incidents"), 503, "unavailable")


def test_a_defect_tells_nothing_but_its_id(home: Home, caplog: pytest.LogCaptureFixture) -> None:
    @home.app.get("/defect")
    def defect() -> None:
        raise RuntimeError("sqlite:////srv/secret")

    with caplog.at_level(logging.INFO, "ohlcv_pipeline"):
        answer = home.get("/defect")
    assert_problem(answer, 500, "internal")
    assert "secret" not in answer.text
    told = [record for record in caplog.records if answer.headers["x-request-id"] in record.getMessage()]
    assert [record.exc_info is not None for record in told] == [True, False]
    assert "/defect 500" in told[1].getMessage()


def test_a_request_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    home = new_home(tmp_path, request_seconds=0.05)

    @home.app.get("/slow")
    async def slow() -> None:
        await asyncio.sleep(30)

    assert_problem(home.get("/slow"), 503, "unavailable")


def test_production_does_not_start_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(UnsafeSettingsError, match="OHLCV_ADMIN_TOKEN"):
        new_home(tmp_path, profile="live", admin_token="")
