"""The whole way of an alert: a vendor that is cut off, a run, a sensor, a mail server; and failures inside Dagster."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.run_request import InstigatorType
from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteInstigatorOrigin, RemoteRepositoryOrigin
from dagster._core.scheduler.instigation import (
    InstigatorState,
    InstigatorStatus,
    SensorInstigatorData,
    TickData,
    TickStatus,
)
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_shared.error import SerializableErrorInfo

from ohlcv_pipeline.ledger import incidents, monitors
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.operations import failures
from ohlcv_pipeline.operations.evaluation import FRESHNESS
from ohlcv_pipeline.operations.incidents import Kind, Topic
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.integration.conftest import Install, install_kept
from ohlcv_pipeline_tests.integration.installation import NOW, Installation, stop_time
from ohlcv_pipeline_tests.kept import Kept

MINUTE = timedelta(minutes=1)
TODAY, MONTH = "2026-06-10", "2026-06"
MAIL: dict[str, Any] = {
    "markets": ("crypto",),
    "smtp_host": "127.0.0.1",
    "smtp_security": "none",
    "alert_mail_to": "oncall@example.org",
}


@dataclass
class Office:
    """An installation that is watched: its sensors tick when told, at the instant it is told."""

    made: Installation
    patch: pytest.MonkeyPatch
    cursors: dict[str, str | None] = field(default_factory=dict)

    def at(self, minutes: float) -> datetime:
        now = NOW + minutes * MINUTE
        stop_time(self.patch, now)
        self.made.exchange.clock(now)
        return now

    def tick(self, *names: str) -> list[str]:
        """Let sensors look, and return what they say."""
        repository = self.made.definitions.get_repository_def()
        said = []
        for name in names:
            with dg.build_sensor_context(
                instance=self.made.instance, cursor=self.cursors.get(name), repository_def=repository,
                resources={"platform": self.made.definitions.resources["platform"]},  # type: ignore[index]
                sensor_name=name,
            ) as context:  # fmt: skip
                found = repository.get_sensor_def(name).evaluate_tick(context)
            self.cursors[name] = found.cursor
            said.append(found.skip_message or "")
        return said

    def evaluate(self) -> None:
        self.tick("freshness_monitor")

    def fetch(self) -> bool:
        return self.made.materialise(TODAY, retry=False).success

    @property
    def mails(self) -> list[dict[str, Any]]:
        return self.made.exchange.mails()

    @property
    def subjects(self) -> list[str]:
        return [mail["subject"] for mail in self.mails]

    def states(self) -> dict[str, str]:
        return {
            f"{row.kind} {row.subject or row.symbol}": row.state
            for row in incidents.page(self.made.platform.ledger, "all")
        }


@pytest.fixture
def post(exchange: Exchange) -> Iterator[int]:
    """The port of a mail server, which is empty and takes mail again afterwards."""
    yield exchange.mail_port
    exchange.refuse_mail(False)
    exchange.forget_mails()


@pytest.fixture
def office(install: Install, post: int, monkeypatch: pytest.MonkeyPatch) -> Office:
    """Crypto with one symbol, of which nothing is stored, and a mail server."""
    made = Office(install(smtp_port=post, **MAIL), monkeypatch)
    made.made.enable_only("BTC")
    return made


@pytest.fixture
def filled(install: Install, post: int, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> Office:
    """The same, and all of it stored at noon."""

    def fill(made: Installation) -> None:
        made.enable_only("BTC")
        assert Office(made, monkeypatch).fetch()
        assert made.materialise(MONTH, table="crypto/ohlcv_day").success

    found = Office(install_kept(kept, install, fill, smtp_port=post, **MAIL), monkeypatch)
    found.evaluate()
    return found


def cut_off(exchange: Exchange) -> None:
    for vendor in ("coinbase", "kraken"):
        exchange.fault(kind="outage", vendor=vendor)


def test_a_vendor_that_is_cut_off_makes_one_mail_after_the_threshold_and_none_when_it_is_back(filled: Office) -> None:
    cut_off(filled.made.exchange)
    for minutes in range(10, 51, 10):
        filled.at(minutes)
        if minutes in (10, 50):
            assert not filled.fetch()
        filled.tick("run_monitor", "freshness_monitor", "check_monitor", "outbox_sender")
    assert filled.subjects == []
    for minutes in (60, 70, 80, 90):
        filled.at(minutes)
        filled.tick("freshness_monitor", "run_monitor", "outbox_sender")
    assert filled.subjects == ["[OHLCV] BTC minute data is 62 min behind"]
    assert "last_bucket: 2026-06-10T11:57:00Z" in filled.mails[0]["text"]
    filled.made.exchange.clear()
    filled.at(95)
    assert filled.fetch()
    for minutes in (95, 105, 115):
        filled.at(minutes)
        filled.tick("freshness_monitor", "run_monitor", "check_monitor", "outbox_sender")
    assert filled.states() == {"freshness BTC": "cleared"}
    assert len(filled.mails) == 1


def test_a_vendor_that_is_known_to_be_down_is_told_as_the_cause(filled: Office) -> None:
    cut_off(filled.made.exchange)
    for minutes in range(10, 91, 10):
        filled.at(minutes)
        filled.tick("vendor_health", "freshness_monitor")
    assert filled.subjects == ["[OHLCV] every vendor of crypto is down"]


def test_a_mail_server_that_is_down_delays_and_loses_nothing(filled: Office) -> None:
    filled.made.exchange.refuse_mail(True)
    for minutes in (70, 72, 75, 80, 85, 100):
        filled.at(minutes)
        filled.tick("freshness_monitor", "outbox_sender")
    assert filled.mails == []
    filled.made.exchange.refuse_mail(False)
    for minutes in (110, 120, 130):
        filled.at(minutes)
        filled.tick("outbox_sender")
    assert len(filled.mails) == 1


def test_freshness_is_evaluated_after_every_publication_and_else_every_ten_minutes(filled: Office) -> None:
    ledger = filled.made.platform.ledger
    for minutes, evaluated in ((1, False), (9, False), (10, True), (11, False)):
        now = filled.at(minutes)
        filled.evaluate()
        assert (monitors.last_evaluation(ledger, FRESHNESS) == now) is evaluated
    now = filled.at(15)
    assert filled.fetch()
    filled.evaluate()
    assert monitors.last_evaluation(ledger, FRESHNESS) == now


def test_a_series_is_told_when_it_becomes_late_and_not_only_at_the_next_evaluation(filled: Office) -> None:
    # The newest bar closed at 11:58.
    for minutes in (50, 57, 58):
        filled.at(minutes)
        filled.evaluate()
    assert filled.subjects == []
    filled.at(58.1)
    filled.evaluate()
    assert filled.subjects == ["[OHLCV] BTC minute data is 60 min behind"]


def test_without_a_lake_there_is_nothing_to_evaluate_yet(office: Office) -> None:
    assert office.tick("freshness_monitor") == ["there is no lake yet; the first run makes one"]


def test_a_run_that_breaks_is_told_and_the_next_success_ends_it(filled: Office) -> None:
    filled.tick("run_monitor")
    real = filled.patch
    with real.context() as broken:
        broken.setattr("ohlcv_pipeline.bars.upkeep.maintain", None)
        filled.at(1)
        assert not filled.made.job("lake_maintenance").success
    for minutes in (2, 3):
        filled.at(minutes)
        filled.tick("run_monitor", "outbox_sender")
    assert filled.subjects == ["[OHLCV] a run of lake_maintenance has failed"]
    assert filled.made.job("lake_maintenance").success
    filled.at(5)
    filled.tick("run_monitor", "outbox_sender")
    assert filled.states() == {"run_failed lake_maintenance": "cleared"}
    assert len(filled.mails) == 1


def test_damage_is_told_by_the_check_that_sees_it_until_that_partition_is_whole(filled: Office) -> None:
    made = filled.made
    filled.tick("check_monitor")
    assert filled.subjects == []
    connection = made.platform.store.catalog.cursor()
    connection.execute("UPDATE lake.crypto.ohlcv_day SET close = close + 1 WHERE symbol = 'BTC'")
    connection.close()
    made.materialise(MONTH, table="crypto/ohlcv_day")
    filled.at(1)
    filled.tick("check_monitor", "outbox_sender")
    assert filled.subjects == ["[OHLCV] crypto day data does not match its checksum"]
    assert f"partitions: {MONTH}" in filled.mails[0]["text"]
    assert filled.made.materialise(MONTH, table="crypto/ohlcv_day", force=True).success
    filled.at(2)
    filled.tick("check_monitor", "outbox_sender")
    assert set(filled.states().values()) == {"cleared"}
    assert len(filled.mails) == 1


def test_a_sensor_fails_when_three_ticks_in_a_row_have(office: Office) -> None:
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(executable_path="python", module_name="m"))
    origin = RemoteInstigatorOrigin(RemoteRepositoryOrigin(location, "r"), "sensor_of_mine")
    instance = office.made.instance
    instance.add_instigator_state(
        InstigatorState(origin, InstigatorType.SENSOR, InstigatorStatus.RUNNING, SensorInstigatorData())
    )
    seen = []
    for minutes, status in enumerate(
        [TickStatus.FAILURE, TickStatus.FAILURE, TickStatus.FAILURE, TickStatus.STARTED, TickStatus.SUCCESS]
    ):
        tick = TickData(
            origin.get_id(), "sensor_of_mine", InstigatorType.SENSOR, status, (NOW + minutes * MINUTE).timestamp(),
            selector_id=origin.get_selector().get_id(),
            run_ids=[],
            error=SerializableErrorInfo("it broke", [], None) if status is TickStatus.FAILURE else None,
        )  # fmt: skip
        instance.create_tick(tick)
        (sighting,) = failures.ticks(instance)
        assert sighting.topic == Topic(Kind.SENSOR_FAILED, subject="sensor sensor_of_mine")
        seen.append(sighting.breached)
    assert seen == [False, False, True, True, False]


def test_the_interval_of_the_table_is_in_the_incident(filled: Office) -> None:
    filled.at(24 * 60 + 90)
    filled.evaluate()
    kinds = {(row.symbol, row.interval) for row in incidents.page(filled.made.platform.ledger, "open")}
    assert kinds == {("BTC", str(Interval.MINUTE)), ("BTC", str(Interval.DAY))}
