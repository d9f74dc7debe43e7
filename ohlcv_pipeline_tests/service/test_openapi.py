"""The OpenAPI document, held against the service by made-up requests: no defect, no answer it does not describe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.specs.openapi.checks import positive_data_acceptance

from ohlcv_pipeline_tests.bars.vendor import Vendor, fill
from ohlcv_pipeline_tests.service.conftest import NOW, TOKEN, Home, new_home

EXAMPLES = 15


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    home = new_home(tmp_path_factory.mktemp("described"))
    fill(home.platform.store, ["2025-11-21"], [Vendor()], NOW)
    home.refresh()
    yield home
    home.close()


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode))
def test_every_answer_is_described(filled: Home, mode: schemathesis.GenerationMode) -> None:
    described = schemathesis.openapi.from_asgi("/openapi.json", filled.app)
    operations = [found.ok() for found in described.get_all_operations()]
    assert {"/status/summary", "/lineage", "/alerts/test"} <= {operation.path for operation in operations}
    for operation in operations:
        # Of an operation that takes any text there is no request that it must refuse.
        with suppress(Unsatisfiable):
            hold(operation, mode)


def hold(operation: schemathesis.APIOperation, mode: schemathesis.GenerationMode) -> None:
    """Hold the answers to made-up requests against what is said of an operation."""

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        phases=[Phase.generate],
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    def answered(case: schemathesis.Case) -> None:
        # That an end comes after its start, or a cursor from a page, no schema says.
        case.call_and_validate(headers={"X-Admin-Token": TOKEN}, excluded_checks=[positive_data_acceptance])

    answered()
