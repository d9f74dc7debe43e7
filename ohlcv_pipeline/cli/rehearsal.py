"""The rehearsal behind `ohlcv checks --ci`: a sandbox, a temporary home, a small backfill through Dagster, its checks.

Everything is gone afterwards.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ohlcv_pipeline.cli import console, instance, processes
from ohlcv_pipeline.cli.checks import TableChecks
from ohlcv_pipeline.cli.sandbox import post_faults
from ohlcv_pipeline.markets import Interval, Market, market
from ohlcv_pipeline.settings import MAIL_PORT_OFFSET, Settings, VendorSettings

if TYPE_CHECKING:
    from ohlcv_pipeline.platform import Platform

SYMBOLS = 3
NEWEST = {Interval.MINUTE: 4, Interval.DAY: 3}
"""How many partitions are fetched: the running one and those before it."""
_ATTEMPTS = 2
"""A fault that was asked for is not waited out: the second attempt is the last."""
_SANDBOX_SECONDS = 20.0


def rehearse(
    markets: Sequence[str], chosen: Sequence[tuple[Market, Interval]], faults: Sequence[str]
) -> list[TableChecks]:
    """Fetch a little of each table from a sandbox with these faults, and return what its checks say."""
    with tempfile.TemporaryDirectory(prefix="ohlcv-checks-") as folder:
        root = Path(folder)
        with _sandbox(root) as url:
            if faults:
                post_faults(url, list(faults))
            settings = _settings(root, url, markets)
            from ohlcv_pipeline.platform import Platform

            home = Platform(settings)
            try:
                for of in {of.name: of for of, _ in chosen}.values():
                    _keep_first(home, of)
                return _run(home, chosen)
            finally:
                home.store.catalog.close()
                home.ledger.close()


@contextmanager
def _sandbox(root: Path) -> Iterator[str]:
    url = f"http://127.0.0.1:{processes.free_port(MAIL_PORT_OFFSET)}"
    service = processes.Service("sandbox", root / "run", "ohlcv_pipeline.sandbox")
    service.start(processes.sandbox_command(url))
    try:
        processes.wait_until(lambda: processes.sandbox_answers(url), service, _SANDBOX_SECONDS, url)
        yield url
    finally:
        service.stop()


def _settings(root: Path, url: str, markets: Sequence[str]) -> Settings:
    """Return settings that owe nothing to the environment: it may point at a live lake, or at live vendors."""
    for name in [name for name in os.environ if name.startswith("OHLCV_")]:
        del os.environ[name]
    os.environ["DAGSTER_HOME"] = str(root / "dagster")
    return Settings(
        _env_file=None,
        home=root,
        profile="sandbox",
        sandbox_url=url,
        markets=tuple(markets),
        schedules=False,
        vendors={
            name: VendorSettings(base_url=f"{url}/{name}", requests_per_second=None, weight_per_minute=None,
                                 attempts=_ATTEMPTS)
            for each in markets
            for name in market(each).vendors
        },
    )  # fmt: skip


def _keep_first(home: Platform, of: Market) -> None:
    """Leave the market's first symbols enabled, so that the checks speak of what is fetched."""
    from ohlcv_pipeline.ledger import symbols

    kept = {instrument.symbol for instrument in of.instruments[:SYMBOLS]}
    for instrument in symbols.enabled(home.ledger, of):
        if instrument.symbol not in kept:
            symbols.disable(home.ledger, of, instrument.symbol, datetime.now(UTC))


def _run(home: Platform, chosen: Sequence[tuple[Market, Interval]]) -> list[TableChecks]:
    instance.prepare_dagster_home(home.settings)
    instance.quiet()
    from dagster import DagsterInstance

    from ohlcv_pipeline.definitions import build_definitions

    definitions = build_definitions(home.settings)
    found = []
    with DagsterInstance.get() as dagster:
        for of, interval in chosen:
            table = f"{of.name}/ohlcv_{interval}"
            console.note(f"Fetching and checking {table} …")
            now = datetime.now(UTC)
            keys = of.partition_keys(interval, *of.target_window(interval, now))[-NEWEST[interval] :]
            outcome = instance.execute(definitions, dagster, of.name, str(interval), keys, [], False)
            found.append(TableChecks(table, outcome.checks, None if outcome.success else outcome.error))
    return found
