"""Gaps that heal by themselves: Dagster's own daemon evaluates the sensors, launches the runs and executes them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

import httpx
import pytest

from ohlcv_pipeline.bars.recording import REQUEST_TAG
from ohlcv_pipeline.ledger import remediation as log
from ohlcv_pipeline.ledger import runs, symbols
from ohlcv_pipeline.ledger.models import RemediationEntry
from ohlcv_pipeline.markets import market
from ohlcv_pipeline.service.app import create_app
from ohlcv_pipeline_tests.integration.services import Services, running_services

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

T = TypeVar("T")
PATIENCE = 180.0
ONE_TRY = {
    "OHLCV_VENDORS__COINBASE__ATTEMPTS": "1",
    "OHLCV_VENDORS__KRAKEN__ATTEMPTS": "1",
    "OHLCV_REMEDIATION_ATTEMPTS": "1",
    "OHLCV_REMEDIATION_WAIT_SECONDS": "1",
}


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    """Dagster with the sensors that heal, and two symbols."""
    with running_services(tmp_path_factory.mktemp("healing"), **ONE_TRY) as found:
        crypto, ledger = market("crypto"), found.platform.ledger
        for instrument in symbols.enabled(ledger, crypto):
            if instrument.symbol not in ("BTC", "ETH"):
                symbols.disable(ledger, crypto, instrument.symbol, datetime.now(UTC))
        for name in ("launch_requests", "remediation"):
            found.start_sensor(name)
        yield found


@pytest.fixture(scope="module")
def posted(services: Services) -> dict[str, Any]:
    """A backfill of days that somebody asks the service for."""
    body = {"interval": "day", "window_start": "2026-05-01T00:00:00Z", "window_end": "2026-07-01T00:00:00Z"}
    return ask(services, "POST", "/ingestion/backfill", json={**body, "symbols": ["BTC"]})


@pytest.fixture(scope="module")
def wounded(services: Services, posted: dict[str, Any]) -> Iterator[datetime]:
    """An instant of which the vendor delivered no minute; of BTC it does so afterwards, of ETH it does not.

    It is of yesterday's morning: bars before it are stored, and it is too old for the second vendor, which has the
    newest twelve hours only.
    """
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    yesterday = today - timedelta(days=1)
    silent = {"start": yesterday + timedelta(hours=6), "end": yesterday + timedelta(hours=8)}
    for symbol in ("BTC", "ETH"):
        services.exchange.fault(kind="outage", vendor="coinbase", symbol=symbol, **silent)
    days = [yesterday.date().isoformat(), today.date().isoformat()]
    services.launch("crypto_minute_refresh", days, {"retry": False})
    services.exchange.clear()
    services.exchange.fault(kind="outage", vendor="coinbase", symbol="ETH", **silent)
    yield yesterday + timedelta(hours=7)
    services.exchange.clear()


def ask(services: Services, method: str, path: str, **options: Any) -> dict[str, Any]:
    """Ask the service of the installation."""

    async def answer() -> dict[str, Any]:
        transport = httpx.ASGITransport(create_app(services.platform))
        async with httpx.AsyncClient(transport=transport, base_url="http://status.test") as client:
            found: dict[str, Any] = (await client.request(method, path, **options)).json()
            return found

    return asyncio.run(answer())


def until(look: Callable[[], T], done: Callable[[T], bool]) -> T:
    """Look until it is done, as a person who reloads a page."""
    deadline = time.monotonic() + PATIENCE
    while not done(seen := look()):
        assert time.monotonic() < deadline, seen
        time.sleep(0.5)
    return seen


def gap(services: Services, symbol: str, at: datetime) -> RemediationEntry | None:
    found = log.page(services.platform.ledger, symbol=symbol, interval="minute", issue_type="gap")
    return next((each for each in found if each.range_start <= at <= each.range_end), None)


def steps(services: Services, entry: RemediationEntry) -> list[str]:
    return [each.step for each in log.steps(services.platform.ledger, entry.id)]


def test_a_gap_is_filled_verified_and_resolved_by_a_run_of_the_daemon(services: Services, wounded: datetime) -> None:
    entry = until(lambda: gap(services, "BTC", wounded), lambda each: each is not None and each.resolved)
    assert entry is not None
    assert (entry.resolution, entry.attempts) == ("filled", 1)
    assert steps(services, entry) == ["detected", "launched", "resolved"]
    run = runs.run(services.platform.ledger, UUID(entry.run_id))
    assert run is not None
    assert (run.trigger, run.symbols) == ("scheduled", ["BTC", "ETH"])
    told = services.graphql(
        "query($r: ID!) { found: runOrError(runId: $r) { ... on Run { jobName tags { key value } } } }",
        r=run.dagster_run_id,
    )["found"]
    assert told["jobName"] == "crypto_minute_refresh"
    assert {"key": REQUEST_TAG, "value": str(run.id)} in told["tags"]


def test_what_stays_away_is_escalated_when_its_attempts_are_spent(services: Services, wounded: datetime) -> None:
    entry = until(
        lambda: gap(services, "ETH", wounded), lambda each: each is not None and each.escalated_at is not None
    )
    assert entry is not None
    assert (entry.attempts, entry.resolved) == (1, False)
    assert steps(services, entry) == ["detected", "launched", "escalated"]


def test_a_backfill_that_is_posted_becomes_a_run_in_dagster(services: Services, posted: dict[str, Any]) -> None:
    assert posted["phase"] == "queued"
    path = f"/ingestion/runs/{posted['id']}"
    shown = until(lambda: ask(services, "GET", path), lambda run: run["ended_at"] is not None)
    assert (shown["status"], shown["row_count"], shown["report"][0]["expected_rows"]) == ("success", 61, 61)
    query = "query($f: RunsFilter) { runsOrError(filter: $f) { ... on Runs { results { status jobName } } } }"
    tag = {"key": REQUEST_TAG, "value": posted["id"]}
    found = services.graphql(query, f={"tags": [tag]})["runsOrError"]["results"]
    assert [each["jobName"] for each in found] == ["crypto_day_refresh"]
