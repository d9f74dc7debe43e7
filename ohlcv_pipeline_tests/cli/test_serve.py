"""`ohlcv serve` as its users have it: a process that answers, keeps up with the lake, and stops when told."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from ohlcv_pipeline.lake.store import prepare_store
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.bars.vendor import Vendor, fill, utc
from ohlcv_pipeline_tests.cli.conftest import Cli


@contextmanager
def serving(cli: Cli) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "ohlcv_pipeline.cli", "serve", "--port", "0"],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = process.stdout.readline().split()[-1].rstrip("/")
        with httpx.Client(base_url=url, timeout=30, trust_env=False) as client:
            yield process, client
    finally:
        process.kill()
        process.communicate()


def test_the_service_follows_the_lake_and_stops_when_told(tmp_path: Path) -> None:
    chosen = Settings(home=tmp_path, _env_file=None)
    store = prepare_store(chosen.catalog_path, chosen.data_path, chosen.raw_path, chosen.markets)
    with serving(Cli(tmp_path, "http://127.0.0.1:9")) as (process, client):
        assert client.get("/status/summary?asset=BTC&interval=day").json()["assets"][0]["last_checksum"] is None
        fill(store, ["2025-11"], [Vendor()], utc("2025-12-02"), interval=Interval.DAY)
        deadline = time.monotonic() + 60
        while client.get("/status/summary?asset=BTC&interval=day").json()["assets"][0]["last_checksum"] is None:
            assert time.monotonic() < deadline, "the summary did not follow the lake"
            time.sleep(0.05)
        query = {"asset": "BTC", "interval": "day", "start": "2025-11-01T00:00:00Z", "end": "2025-12-01T00:00:00Z"}
        with client.stream("GET", "/lineage", params={**query, "format": "ndjson"}) as answer:
            assert sum(1 for _ in answer.iter_lines()) == 30
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=60)
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in log
    assert "GET /status/summary 200" in log


def test_production_is_not_served_without_a_token(cli: Cli) -> None:
    ended = cli.using(OHLCV_PROFILE="live")("serve", "--port", "0")
    assert ended.code == 64
    assert "OHLCV_ADMIN_TOKEN" in ended.err


def test_an_address_that_is_taken_is_told_in_one_sentence(cli: Cli) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ended = cli("serve", "--port", str(taken.getsockname()[1]))
    assert ended.code == 1
    assert "choose one with --port" in ended.err
