"""What the service does beside answering: with Dagster's daemon down it notices, and sends the mail itself."""

from __future__ import annotations

import asyncio
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from ohlcv_pipeline.ledger import monitors
from ohlcv_pipeline.operations.evaluation import FRESHNESS, STOPPED_AFTER
from ohlcv_pipeline.service import app
from ohlcv_pipeline_tests.faults.alerting import running_sink
from ohlcv_pipeline_tests.service.conftest import NOW, new_home

LONGEST_SECONDS = 60.0


def test_the_service_tells_that_nobody_evaluates_any_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(app, "OUTBOX_SECONDS", 0.01)
    with running_sink() as (sink, mail_port):
        home = new_home(
            tmp_path, smtp_host="127.0.0.1", smtp_port=mail_port, smtp_security="none",
            alert_mail_to="oncall@example.org", metrics_port=0,
        )  # fmt: skip
        monitors.arm(home.platform.ledger, FRESHNESS, NOW)

        async def serve_until_told() -> None:
            async with home.app.router.lifespan_context(home.app):
                home.clock.turn(minutes=STOPPED_AFTER / timedelta(minutes=1), seconds=1)
                async with asyncio.timeout(LONGEST_SECONDS):
                    while not sink.mails:
                        await asyncio.sleep(0.01)

        with closing(home):
            asyncio.run(serve_until_told())
    assert [mail["subject"] for mail in sink.mails] == ["[OHLCV] freshness has not been evaluated for 20 min"]
