"""A third market, made by following the recipes of the documentation to the letter: London, from a vendor of its own.

The vendor knows London by its own wall clock and owes nothing to the calendar that it is held against.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import dagster as dg
import numpy as np
import pytest

from ohlcv_pipeline import markets
from ohlcv_pipeline.bars.assets import partitions_of
from ohlcv_pipeline.bars.inspection import CHECKS
from ohlcv_pipeline.bars.report import report
from ohlcv_pipeline.bars.schedules import due_partitions
from ohlcv_pipeline.bars.upkeep import UNDAMAGED
from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.markets import Interval, to_us
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline.vendors import registry
from ohlcv_pipeline_tests.bars.vendor import series
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import Installation, stop_time
from ohlcv_pipeline_tests.pages import DOCS, blocks

LONDON = ZoneInfo("Europe/London")
CLOSED = {date(2025, 12, 25), date(2025, 12, 26), date(2026, 1, 1)}
HALF_DAYS = {date(2025, 12, 24), date(2025, 12, 31)}
CHRISTMAS = ["2025-12-22", "2025-12-23", "2025-12-24", "2025-12-29", "2025-12-30", "2025-12-31"]
CLOCKS_FORWARD = ["2026-03-26", "2026-03-27", "2026-03-30", "2026-03-31"]
NOW = datetime(2026, 4, 1, tzinfo=UTC)


def session(day: date) -> tuple[datetime, datetime] | None:
    """Return open and close in London's wall clock, None on a day without a session."""
    if day.weekday() >= 5 or day in CLOSED:
        return None
    close = time(12, 30) if day in HALF_DAYS else time(16, 30)
    return datetime.combine(day, time(8), LONDON), datetime.combine(day, close, LONDON)


def seconds(interval: str, start: int, end: int) -> list[int]:
    """Return the bar times of [start, end): minutes from ten before the open to the closing print, or dates."""
    found = []
    for ordinal in range((start // 86_400) - 1, end // 86_400 + 1):
        day = date(1970, 1, 1) + timedelta(days=ordinal)
        if (held := session(day)) is None:
            continue
        opens, closes = (int(edge.timestamp()) for edge in held)
        found += [ordinal * 86_400] if interval == "day" else list(range(opens - 600, closes + 60, 60))
    return [at for at in found if start <= at < end]


@dataclass
class Example:
    """The vendor of the recipe on loopback; remembers what it was asked."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)

    def rows(self, query: dict[str, str]) -> list[list[Any]]:
        times = seconds(query["interval"], int(query["from"]), int(query["to"]))
        values = series(query["symbol"], Interval(query["interval"]), np.array(times, np.int64) * 1_000_000)
        return [[at, *map(str, row)] for at, row in zip(times, values.T.tolist(), strict=True)]


@pytest.fixture
def vendor() -> Iterator[Example]:
    example = Example()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
            example.asked.append(query)
            body = json.dumps(example.rows(query)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    example.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield example
    server.shutdown()
    server.server_close()


def following(page: str) -> dict[str, Any]:
    """Run a recipe's first block of Python and return what it defines."""
    space: dict[str, Any] = {"__name__": page}
    exec(blocks(DOCS / "how-to" / page, "python")[0].text, space)
    return space


@pytest.fixture
def london(install: Install, vendor: Example, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A market and a vendor added as the recipes say, and an installation that has them switched on."""
    declared = following("add-a-market.md")["uk_equities"]
    monkeypatch.setitem(registry.ADAPTERS, "example", following("add-a-vendor.md")["Example"]())  # type: ignore[arg-type]
    monkeypatch.setitem(markets.MARKETS, declared.name, declared)  # type: ignore[arg-type]
    made = install(markets=(declared.name,), vendors={"example": VendorSettings(base_url=vendor.url, attempts=1)})
    stop_time(monkeypatch, NOW)
    return made


def test_its_definitions_are_those_of_any_market(london: Installation) -> None:
    dg.Definitions.validate_loadable(london.definitions)
    graph = london.definitions.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "uk_equities/ohlcv_minute",
        "uk_equities/ohlcv_day",
        "lake/scrub",
    }
    # From one vendor alone, there is nobody to compare with.
    assert {key.name for key in graph.asset_check_keys} == {*CHECKS, "rollup", UNDAMAGED}


def test_its_partitions_are_the_sessions_of_london(london: Installation) -> None:
    with dg.partition_loading_context(effective_dt=datetime(2026, 3, 31, 12, tzinfo=UTC)):
        found = list(partitions_of(london.market, Interval.MINUTE).get_partition_keys())
    assert [key for key in found if "2025-12-20" <= key <= "2026-01-01"] == CHRISTMAS
    assert [key for key in found if key >= "2026-03-26"] == CLOCKS_FORWARD


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-03-27T07:55", []),
        ("2026-03-27T08:00", ["2026-03-26", "2026-03-27"]),
        ("2026-03-30T07:00", ["2026-03-27", "2026-03-30"]),
        ("2026-03-30T16:30", ["2026-03-30"]),
        ("2026-03-30T16:35", []),
        ("2025-12-24T13:30", ["2025-12-24"]),
        ("2025-12-24T13:35", []),
    ],
)
def test_its_minutes_are_refreshed_while_london_is_open(london: Installation, now: str, due: list[str]) -> None:
    assert due_partitions(london.market, Interval.MINUTE, datetime.fromisoformat(now).replace(tzinfo=UTC)) == due


def test_its_bars_are_all_there_and_every_check_is_green(london: Installation, vendor: Example) -> None:
    table = "uk_equities/ohlcv_minute"
    for sessions in (CLOCKS_FORWARD, CHRISTMAS):
        run = london.materialise(sessions[0], sessions[-1], table=table)
        assert run.success, run
        assert run.materialised == sessions
        assert run.green == set(CHECKS)
    minutes = {key: cell for (symbol, key), cell in london.manifest().items() if symbol == "VOD"}
    assert all(cell["complete"] for cell in london.manifest().values())
    assert {key: cell["rows"] for key, cell in minutes.items()} == {
        key: 270 if key in ("2025-12-24", "2025-12-31") else 510 for key in CHRISTMAS + CLOCKS_FORWARD
    }
    assert minutes["2026-03-27"]["first_bucket"] == datetime(2026, 3, 27, 8, tzinfo=UTC)
    assert minutes["2026-03-30"]["first_bucket"] == datetime(2026, 3, 30, 7, tzinfo=UTC)
    assert minutes["2025-12-24"]["last_bucket"] == datetime(2025, 12, 24, 12, 29, tzinfo=UTC)
    # Ten minutes before each open and the closing print between two sessions of one answer.
    assert run.metadata("2025-12-31")["dropped"]["out_of_session"] > 0
    assert {query["symbol"] for query in vendor.asked} == {"VOD.L", "TSCO.L"}


def test_a_month_of_days_is_all_there(london: Installation) -> None:
    run = london.materialise("2025-12", "2026-03", table="uk_equities/ohlcv_day")
    assert run.success, run
    assert run.green == set(CHECKS)
    start, end = (to_us(datetime(*month, 1, tzinfo=UTC)) for month in ((2025, 12), (2026, 4)))
    entries = report(
        london.platform.store.reader, london.market, Interval.DAY, london.platform.instruments(london.market),
        start, end, NOW,
    )  # fmt: skip
    assert {(entry.symbol, entry.coverage_pct, tuple(entry.gaps)) for entry in entries} == {
        ("VOD", 100.0, ()), ("TSCO", 100.0, ()),
    }  # fmt: skip
    stored = london.platform.store.reader.bars("uk_equities", Interval.DAY, "VOD", start, end)
    days = [date(1970, 1, 1) + timedelta(days=int(at) // 86_400_000_000) for at in micros(stored["bucket_start"])]
    assert [str(day) for day in days if date(2025, 12, 20) <= day <= date(2026, 1, 1)] == CHRISTMAS


def test_a_session_that_has_not_opened_fails_alone_and_nobody_is_asked_for_it(
    london: Installation, vendor: Example, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_time(monkeypatch, datetime(2026, 1, 1, 10, tzinfo=UTC))
    run = london.materialise("2025-12-31", "2026-01-02", table="uk_equities/ohlcv_minute")
    assert not run.success
    assert "2026-01-02 opens at 2026-01-02 08:00 UTC" in run.failure.description
    assert run.happened(dg.DagsterEventType.STEP_UP_FOR_RETRY) == 0
    assert run.materialised == ["2025-12-31"]
    assert {partition for _, partition in london.manifest()} == {"2025-12-31"}
    assert vendor.asked
    assert london.planned_checks("uk_equities/ohlcv_minute") == []
