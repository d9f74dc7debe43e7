"""One session that cannot be had, in a backfill of many, with Dagster's own daemon."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from ohlcv_pipeline.bars.inspection import BY_PARTITION
from ohlcv_pipeline.markets import Interval, market, to_us
from ohlcv_pipeline_tests.integration.services import Services, partition_counts, running_services

pytestmark = pytest.mark.slow

WINTER = to_us(datetime(2026, 1, 2, tzinfo=UTC)), to_us(datetime(2026, 6, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    with running_services(tmp_path_factory.mktemp("services")) as found:
        yield found


@pytest.mark.parametrize("sessions", [9, pytest.param(90, marks=pytest.mark.long)])
def test_one_poisoned_session_fails_alone_and_is_repaired_alone(services: Services, sessions: int) -> None:
    table, symbols = "us_equities/ohlcv_minute", 10
    keys = market("us_equities").partition_keys(Interval.MINUTE, *WINTER)[:sessions]
    poisoned = keys[sessions // 2]
    for vendor in ("alpaca", "tiingo"):
        services.exchange.fault(
            kind="bad_gzip",
            vendor=vendor,
            symbol="NVDA",
            start=f"{poisoned}T00:00:00Z",
            end=f"{poisoned}T23:59:00Z",
        )
    try:
        ended = services.backfill(table, keys, retry=False)
    finally:
        services.exchange.clear()
    assert partition_counts(ended) == {"Materialized": sessions - 1, "Failed": 1, "Targeted": sessions}
    green: dict[str, list[tuple[str, str]]] = {name: [] for name in BY_PARTITION}
    assert services.red_partitions(table) == {**green, "gaps": [(poisoned, poisoned)]}
    services.exchange.reset_requests()
    again = services.reexecute(ended["id"])
    assert partition_counts(again) == {"Materialized": 1, "Failed": 0, "Targeted": 1}
    asked = [request["path"] for request in services.exchange.requests()]
    assert asked
    assert all("symbols=NVDA&" in path or "/iex/NVDA/" in path for path in asked)
    assert services.red_partitions(table) == green
    manifest = services.platform.store.reader.manifest("us_equities", Interval.MINUTE, None, keys).to_pylist()
    assert len(manifest) == sessions * symbols
    assert all(cell["complete"] for cell in manifest)
