"""The mailbox of the demo: a test alert goes through outbox and SMTP to the sandbox, and is read on the page."""

from __future__ import annotations

from pathlib import Path

from ohlcv_pipeline.operations.evaluation import deliver_due
from ohlcv_pipeline_tests.exchange import running_exchange
from ohlcv_pipeline_tests.service.conftest import NOW, TOKEN, new_home


def test_a_test_alert_can_be_read_in_the_mailbox(tmp_path: Path) -> None:
    with running_exchange() as exchange:
        mailbox = {"smtp_host": "127.0.0.1", "smtp_port": exchange.mail_port, "smtp_security": "none"}
        home = new_home(tmp_path, sandbox_url=exchange.url, alert_mail_to="desk@example.org", **mailbox)
        assert "No mail has come yet" in home.get("/demo/mail").text
        assert home.ask("POST", "/alerts/test", headers={"X-Admin-Token": TOKEN}).status_code == 204
        assert deliver_due(home.platform.ledger, home.platform.settings, NOW).sent == 1
        page = home.get("/demo/mail").text
    assert "[OHLCV] TEST SAMPLE minute data is 61 min behind" in page
    assert "desk@example.org" in page
    assert "The sandbox does not answer" in home.get("/demo/mail").text


def test_there_is_no_mailbox_in_production(tmp_path: Path) -> None:
    home = new_home(tmp_path, profile="live", markets="crypto")
    assert home.get("/demo/mail").status_code == 404
