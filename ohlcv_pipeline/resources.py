"""What Dagster hands to assets, checks and jobs: the installation, and a DuckDB connection to its lake.

Opened on first use, never while definitions load.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import duckdb
from dagster_duckdb import DuckDBResource

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
