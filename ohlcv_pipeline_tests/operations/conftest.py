"""The ledger fixtures, on both engines, and what the tests of alerts share."""

from __future__ import annotations

from ohlcv_pipeline_tests.ledger.conftest import (  # noqa: F401
    ledger,
    postgres_ledger,
    postgres_url,
    sqlite_ledger,
)
