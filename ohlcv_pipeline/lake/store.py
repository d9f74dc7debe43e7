"""One lake, opened: its reader and its writer over the same catalog and raw store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ohlcv_pipeline.lake import tables
from ohlcv_pipeline.lake.catalog import Catalog
from ohlcv_pipeline.lake.raw import RawStore
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.writer import Writer


@dataclass(frozen=True)
class Store:
    """The ways into one lake."""

    catalog: Catalog
    raw: RawStore

    @cached_property
    def reader(self) -> Reader:
        """Reads, safe beside any writer."""
        return Reader(self.catalog)

    @cached_property
    def writer(self) -> Writer:
        """Publishes."""
        return Writer(self.catalog, self.raw)


def open_store(catalog: str, data: str, raw: Path) -> Store:
    """Return a lake for reading; nothing is created. See `Catalog` for the spelling of the first two."""
    return Store(Catalog(catalog, data), RawStore(raw))


def prepare_store(catalog: str, data: str, raw: Path, markets: Sequence[str]) -> Store:
    """Return a lake for writing: created or migrated as needed, with tables for each market."""
    store = open_store(catalog, data, raw)
    tables.ensure(store.catalog, tuple(markets))
    return store
