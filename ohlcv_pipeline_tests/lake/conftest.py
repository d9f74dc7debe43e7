"""A lake of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.kept import fresh_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = fresh_store(tmp_path)
    yield opened
    opened.catalog.close()
