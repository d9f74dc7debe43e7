from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Event, Thread

import pytest
from sqlalchemy import text

from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.ledger.errors import LedgerOpenError


def scalar(ledger: Ledger, sql: str) -> object:
    with ledger.read() as session:
        return session.scalar(text(sql))


def test_sqlite_is_durable_patient_and_checks_foreign_keys(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    assert scalar(ledger, "PRAGMA journal_mode") == "wal"
    assert scalar(ledger, "PRAGMA synchronous") == 2
    assert scalar(ledger, "PRAGMA foreign_keys") == 1
    assert scalar(ledger, "PRAGMA busy_timeout") == 30_000


def test_write_commits_and_an_exception_rolls_back(ledger: Ledger) -> None:
    insert = text("INSERT INTO vendor_budgets VALUES (:vendor, 0, 0, '2025-01-01 00:00:00.000000', NULL)")

    def fail() -> None:
        with ledger.write() as session:
            session.execute(insert, {"vendor": "dropped"})
            raise KeyError

    with ledger.write() as session:
        session.execute(insert, {"vendor": "kept"})
    with pytest.raises(KeyError):
        fail()
    with ledger.read() as session:
        assert session.scalars(text("SELECT vendor FROM vendor_budgets")).all() == ["kept"]


def test_sqlite_reader_sees_one_state_while_a_writer_is_at_work(sqlite_url: str) -> None:
    ledger = open_ledger(sqlite_url)
    count = text("SELECT count(*) FROM vendor_budgets")
    with ledger.read() as reader:
        assert reader.scalar(count) == 0
        with ledger.write() as writer:
            writer.execute(text("INSERT INTO vendor_budgets VALUES ('a', 0, 0, '2025-01-01', NULL)"))
        assert reader.scalar(count) == 0
    assert scalar(ledger, "SELECT count(*) FROM vendor_budgets") == 1


def test_sqlite_writers_queue_from_their_first_statement(sqlite_url: str) -> None:
    """A deferred transaction would read, then fail with "database is locked" when it came to write."""
    ledger = open_ledger(sqlite_url)
    started, order = Event(), []

    def second() -> None:
        started.set()
        with ledger.write() as session:
            order.append(("second sees", session.scalar(text("SELECT count(*) FROM vendor_budgets"))))

    thread = Thread(target=second)
    with ledger.write() as session:
        session.scalar(text("SELECT 1"))
        thread.start()
        started.wait()
        session.execute(text("INSERT INTO vendor_budgets VALUES ('a', 0, 0, '2025-01-01', NULL)"))
        order.append(("first wrote", 1))
    thread.join()
    assert order == [("first wrote", 1), ("second sees", 1)]


def test_opening_a_current_ledger_leaves_alembic_alone(ledger_url: str) -> None:
    open_ledger(ledger_url).close()
    script = """
import json, sys
from ohlcv_pipeline.ledger.database import open_ledger
open_ledger(sys.argv[1])
print(json.dumps([m for m in ("alembic", "pandas", "dagster") if m in sys.modules]))
"""
    ended = subprocess.run([sys.executable, "-c", script, ledger_url], capture_output=True, check=True)
    assert json.loads(ended.stdout) == []


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("sqlite://", "a SQLite file"),
        ("sqlite:///:memory:", "a SQLite file"),
        ("mysql://u:secret@localhost/x", "sqlite or postgresql"),
        ("nonsense with secret", "no SQLAlchemy URL"),
        ("postgresql://u:secret@127.0.0.1:1/x", "could not be opened"),
        ("sqlite:////proc/secret/ledger.sqlite", "could not be opened"),
    ],
)
def test_unusable_url_is_refused_with_the_reason_and_without_the_password(url: str, says: str) -> None:
    with pytest.raises(LedgerOpenError, match=says) as caught:
        open_ledger(url)
    assert ":secret@" not in str(caught.value)


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"this is no database, but long enough to be taken for one" * 20)
    with pytest.raises(LedgerOpenError, match="not a database"):
        open_ledger(f"sqlite:///{path}")
    assert path.read_bytes().startswith(b"this is no database")
