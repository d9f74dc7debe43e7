"""What is made once and put back for each test, instead of being made for each."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ohlcv_pipeline.lake.store import Store, prepare_store
from ohlcv_pipeline_tests.bars.vendor import CRYPTO, new_store


@dataclass(frozen=True)
class Kept:
    """A folder, and a copy of what it held once it was filled. It stays in its place: a lake knows whole paths."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / "folder"

    def put_back(self) -> bool:
        """Make the folder what it was when it was kept, and return True; empty it if nothing was kept yet."""
        shutil.rmtree(self.folder, ignore_errors=True)
        kept = self._copy.exists()
        if kept:
            shutil.copytree(self._copy, self.folder)
        return kept

    def keep(self) -> None:
        """Copy the folder, of which nothing may be open."""
        shutil.copytree(self.folder, self._copy)

    @property
    def _copy(self) -> Path:
        return self.root / "copy"

    @contextmanager
    def store(self, fill: Callable[[Store], object]) -> Iterator[Store]:
        """Open the lake that `fill` has made, the first time by letting it."""
        there = self.put_back()
        opened = fresh_store(self.folder)
        try:
            if not there:
                fill(opened)
                opened.catalog.close()
                self.keep()
            yield opened
        finally:
            opened.catalog.close()


@cache
def _empty_lake(markets: tuple[str, ...]) -> tempfile.TemporaryDirectory[str]:
    """Make an empty lake, once a process."""
    folder = tempfile.TemporaryDirectory(prefix="lake-")
    made = prepare_store(f"sqlite:{folder.name}/catalog.sqlite", f"{folder.name}/data", Path(folder.name), markets)
    made.catalog.close()
    return folder


def fresh_store(home: Path) -> Store:
    """Open the lake below a folder; where there is none, one is copied, which takes half the time of making it."""
    put_empty_lake(home / "lake", (CRYPTO.name,))
    return new_store(home)


def put_empty_lake(lake: Path, markets: tuple[str, ...]) -> None:
    """Copy an empty lake into a folder without one."""
    if (lake / "catalog.sqlite").exists():
        return
    shutil.copytree(_empty_lake(markets).name, lake, dirs_exist_ok=True)
    with closing(sqlite3.connect(lake / "catalog.sqlite")) as catalog, catalog:
        # The only place where a lake names its folder.
        catalog.execute("UPDATE ducklake_metadata SET value = ? WHERE key = 'data_path'", [f"{lake / 'data'}/"])
