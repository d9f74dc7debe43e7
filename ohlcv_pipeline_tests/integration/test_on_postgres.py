"""The same ingestion with the lake's catalog and the ledger on a Postgres server, which several machines can share."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from uuid import uuid4

import psycopg2
import pytest

from ohlcv_pipeline.bars.repair import Repair
from ohlcv_pipeline.bars.upkeep import repair_all
from ohlcv_pipeline.bars.verify import Verification, verify, verify_files
from ohlcv_pipeline.lake.catalog import transaction
from ohlcv_pipeline.lake.files import data_files, newest_snapshot
from ohlcv_pipeline.lake.store import open_store
from ohlcv_pipeline.ledger.outcomes import recent
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline_tests.bars.vendor import change
from ohlcv_pipeline_tests.exchange import Exchange
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import NOW, Installation
from ohlcv_pipeline_tests.postgres import PostgresMissing, running_postgres

pytestmark = pytest.mark.slow

DAYS = ["2026-06-08", "2026-06-09", "2026-06-10"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    try:
        with running_postgres() as url:
            yield url
    except PostgresMissing as missing:
        pytest.skip(str(missing))


@pytest.fixture
def on_postgres(server: str, install: Install) -> Iterator[Installation]:
    name = f"market_{uuid4().hex}"
    connection = psycopg2.connect(server)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {name}")
    parts = connection.get_dsn_parameters()
    catalog = f"postgres:dbname={name} host={parts['host']} port={parts['port']} user={parts['user']}"
    try:
        made = install(lake_catalog=catalog, ledger_url=server.rpartition("/")[0] + f"/{name}")
        made.enable_only("BTC", "ETH", "AAVE")
        yield made
        made.platform.store.catalog.close()
    finally:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.close()


def test_a_range_run_fills_the_lake_and_its_checks_are_green(on_postgres: Installation, exchange: Exchange) -> None:
    run = on_postgres.materialise(DAYS[0], DAYS[-1])
    assert run.success
    assert run.materialised == DAYS
    assert len(run.green) == 5
    verified = verify(on_postgres.platform.store.reader, on_postgres.market, Interval.MINUTE)
    assert verified.passed
    assert verified.cells == 9
    assert not list(on_postgres.settings.root.rglob("*.sqlite"))
    asked = recent(on_postgres.platform.ledger, "coinbase", NOW.replace(year=2020)).counts
    assert asked == {"ok": len(exchange.requests("coinbase"))}
    exchange.reset_requests()
    assert on_postgres.materialise(DAYS[0], DAYS[1]).success
    assert exchange.requests() == []
    assert on_postgres.job("verify_lake").success


def test_maintenance_leaves_every_bar(on_postgres: Installation) -> None:
    for symbol in ("BTC", "ETH"):
        on_postgres.materialise(DAYS[0], symbols=[symbol])
    bars = "SELECT * FROM lake.crypto.ohlcv_minute ORDER BY symbol, bucket_start"
    before = on_postgres.query(bars)
    assert on_postgres.job("lake_maintenance").success
    assert on_postgres.query(bars) == before
    assert on_postgres.job("verify_lake").success


def test_repair_heals_damaged_bytes_and_altered_bars_without_a_request(
    on_postgres: Installation, exchange: Exchange
) -> None:
    assert on_postgres.materialise(DAYS[0], DAYS[1]).success
    bars = "SELECT * FROM lake.crypto.ohlcv_minute ORDER BY ALL"
    sound, manifest, reader = on_postgres.query(bars), on_postgres.manifest(), on_postgres.platform.store.reader
    exchange.reset_requests()

    def heal() -> Repair:
        found, done, left = repair_all(on_postgres.platform, lambda: verify_all(on_postgres), NOW, apply=True)
        assert not found.passed
        assert left.passed
        assert {cell["how"] for cell in done.healed} == {"raw answers"}
        assert on_postgres.query(bars) == sound
        assert on_postgres.manifest() == manifest
        return done

    path = Path(reader.files("crypto", Interval.MINUTE)[0].path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x01
    path.write_bytes(content)
    assert heal().replaced == [str(path)]
    change(on_postgres.platform.store, "UPDATE lake.crypto.ohlcv_minute SET close = close * 1.01 WHERE symbol = 'BTC'")
    assert {cell["symbol"] for cell in heal().healed} >= {"BTC"}
    assert exchange.requests() == []
    assert on_postgres.query("SELECT count(*) AS n FROM lake.bar_revisions") == [{"n": 0}]


def verify_all(of: Installation) -> Verification:
    total = verify_files(of.platform.store.reader)
    total.add(verify(of.platform.store.reader, of.market, Interval.MINUTE))
    return total


def test_a_transaction_reads_the_catalog_at_one_instant(on_postgres: Installation) -> None:
    on_postgres.materialise(DAYS[0], symbols=["BTC"])
    connection = on_postgres.platform.store.catalog.cursor()
    with transaction(connection):
        before = newest_snapshot(connection), data_files(connection)
        on_postgres.materialise(DAYS[0], symbols=["ETH"])
        assert on_postgres.job("lake_maintenance").success
        assert (newest_snapshot(connection), data_files(connection)) == before
    assert newest_snapshot(connection) > before[0]
    assert data_files(connection) != before[1]
    connection.close()


def test_writers_take_turns(on_postgres: Installation) -> None:
    stores = [
        open_store(on_postgres.settings.lake_catalog, on_postgres.settings.data_path, on_postgres.settings.raw_path)
        for _ in range(2)
    ]
    order: list[str] = []

    def second() -> None:
        with stores[1].writer.turn():
            order.append("second")

    waiting = "SELECT count(*) AS n FROM postgres_query('__ducklake_metadata_lake', $$"
    waiting += "SELECT * FROM pg_locks WHERE locktype = 'advisory' AND NOT granted$$)"
    with stores[0].writer.turn():
        thread = Thread(target=second)
        thread.start()
        while on_postgres.query(waiting) != [{"n": 1}]:
            assert thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    for store in stores:
        store.catalog.close()


PUBLISH = """
import asyncio, sys
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from ohlcv_pipeline.bars.ingest import ingest
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.lake.writer import Writer
from ohlcv_pipeline.markets import Interval, market
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings

home, url, catalog, ledger, run_id, *days = sys.argv[1:]
platform = Platform(Settings(_env_file=None, home=Path(home), sandbox_url=url, lake_catalog=catalog, ledger_url=ledger))
# Without their queue, as if one could not rely on it.
Writer.turn = lambda self: nullcontext()
crypto = market("crypto")
order = Order(crypto, Interval.MINUTE, [crypto.instrument("BTC"), crypto.instrument("ETH")], days, run_id)

async def run():
    async with platform.sources(crypto) as sources:
        now = datetime(2026, 6, 10, 12, tzinfo=UTC)
        return await ingest(order, platform.store, sources, lambda: now, 3_000)

outcome = asyncio.run(run())
assert not outcome.failed, outcome.failed
print(outcome.rows)
"""


def test_two_processes_that_publish_the_same_days_leave_each_bar_once(on_postgres: Installation) -> None:
    s = on_postgres.settings
    # Both find an empty lake and meet at every commit.
    assert on_postgres.platform.store.reader.manifest("crypto", Interval.MINUTE).num_rows == 0
    writers = [
        subprocess.Popen(
            [
                sys.executable, "-c", PUBLISH, str(s.home), s.sandbox_url, s.lake_catalog, s.ledger_url,
                f"00000000-0000-0000-0000-00000000000{number}", *days,
            ],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number, days in enumerate((DAYS, DAYS[::-1]))
    ]  # fmt: skip
    ended = [writer.communicate(timeout=120) for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], ended
    expected = 2 * (1440 + 1440 + 718)
    assert sum(int(out.split()[-1]) for out, _ in ended) == expected
    (counted,) = on_postgres.query(
        "SELECT count(*) AS bars, count(DISTINCT (symbol, bucket_start)) AS buckets FROM lake.crypto.ohlcv_minute"
    )
    assert counted == {"bars": expected, "buckets": expected}
    manifest = on_postgres.manifest()
    assert len(manifest) == 6
    assert {cell["revision"] for cell in manifest.values()} == {1}
    assert on_postgres.query("SELECT count(*) AS n FROM lake.bar_revisions") == [{"n": 0}]
    verified = verify(on_postgres.platform.store.reader, on_postgres.market, Interval.MINUTE)
    assert verified.passed
    assert Path(s.data_path).is_dir()
