"""What Dagster hands to assets, checks and jobs: the installation, and a DuckDB connection to its lake.

Opened on first use, never while definitions load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource

from ohlcv_pipeline import event_log
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.progress import OnProgress, Progress
from ohlcv_pipeline.settings import Settings, settings

_PLATFORMS: dict[str, Platform] = {}


def _platform(of: Settings) -> Platform:
    """Return the one installation of this process with these settings."""
    return _PLATFORMS.setdefault(of.model_dump_json(), Platform(of))


@dataclass(frozen=True)
class PlatformResource:
    """The installation's lake, ledger and vendors; `on_progress` hears of every answered request of a run."""

    settings: Settings
    on_progress: OnProgress | None = None

    @property
    def platform(self) -> Platform:
        """The installation, one object a process."""
        return _platform(self.settings)

    def report(self, asset: str, progress: Progress) -> None:
        """Tell whoever listens how far a run is."""
        if self.on_progress is not None:
            self.on_progress(asset, progress)


def platform_resource(chosen: Settings, on_progress: OnProgress | None = None) -> dg.ResourceDefinition:
    """Return the resource `platform`: a PlatformResource, and while a run has it, an event log that stays open."""

    @dg.resource(description="The installation: its lake, its ledger and its vendors.")
    def platform(context: dg.InitResourceContext) -> Iterator[PlatformResource]:
        with ExitStack() as held:
            if context.instance is not None and context.run is not None:
                held.enter_context(event_log.kept_open(context.instance, context.run.run_id))
            yield PlatformResource(chosen, on_progress)

    return platform


class LakeDuckDB(DuckDBResource):
    """A DuckDB connection with the lake attached as `lake`, for assets of your own that read bars with SQL.

    `with duckdb.get_connection() as connection: connection.execute("SELECT … FROM lake.crypto.ohlcv_day")`
    """

    database: str = ":memory:"

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Yield a connection of its own; it is closed at the end."""
        connection = _platform(settings()).reading.catalog.cursor()
        try:
            yield connection
        finally:
            connection.close()
