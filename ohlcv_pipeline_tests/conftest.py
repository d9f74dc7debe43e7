"""What holds for all tests: a property is not wrong because the machine was busy, and no instance outlives its test."""

from __future__ import annotations

import sys

import pytest
from hypothesis import settings

from ohlcv_pipeline_tests.kept import Kept

settings.register_profile("unhurried", deadline=None)
settings.load_profile("unhurried")


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Kept:
    """A folder that the tests of a file fill once."""
    return Kept(tmp_path_factory.mktemp("kept"))


@pytest.fixture(autouse=True)
def no_closed_instance_is_remembered() -> None:
    """Dagster resolves definitions through the instance opened last; closed in another order, that one is gone."""
    base = sys.modules.get("dagster._core.storage.defs_state.base")
    if base is not None:
        base._current_storage.set(None)
