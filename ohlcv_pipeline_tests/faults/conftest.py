"""A lake of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline_tests.bars.vendor import new_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = new_store(tmp_path)
    yield opened
    opened.catalog.close()
