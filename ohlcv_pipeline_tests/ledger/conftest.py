"""Every test that asks for one of the ledger fixtures runs on SQLite and on Postgres."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psycopg2
import pytest

from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.ledger.models import Base
from ohlcv_pipeline_tests.postgres import PostgresMissing, running_postgres

ENGINES = ["sqlite", "postgres"]


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    try:
        with running_postgres() as url:
            yield url
    except PostgresMissing as missing:
        pytest.skip(str(missing))


@contextmanager
def database(server_url: str) -> Iterator[str]:
    name = f"ledger_{uuid4().hex}"
    connection = psycopg2.connect(server_url)
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute(f"CREATE DATABASE {name}")
    try:
        yield server_url.rpartition("/")[0] + f"/{name}"
    finally:
        cursor.execute(f"DROP DATABASE {name} WITH (FORCE)")
        connection.close()


@pytest.fixture
def postgres_database(postgres_url: str) -> Iterator[str]:
    with database(postgres_url) as url:
        yield url


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'var' / 'ledger.sqlite'}"


@pytest.fixture(params=ENGINES)
def ledger_url(request: pytest.FixtureRequest) -> str:
    """A database of the test's own, still without a schema."""
    fixture = "sqlite_url" if request.param == "sqlite" else "postgres_database"
    return str(request.getfixturevalue(fixture))


@pytest.fixture
def new_ledger(ledger_url: str) -> Iterator[Ledger]:
    """A ledger of the test's own, whose schema it may change."""
    opened = open_ledger(ledger_url)
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def sqlite_ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    opened = open_ledger(f"sqlite:///{tmp_path_factory.mktemp('ledger') / 'ledger.sqlite'}")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def postgres_ledger(postgres_url: str) -> Iterator[Ledger]:
    with database(postgres_url) as url:
        opened = open_ledger(url)
        yield opened
        opened.close()


@pytest.fixture(params=ENGINES)
def ledger(request: pytest.FixtureRequest) -> Iterator[Ledger]:
    """A ledger with empty tables."""
    shared: Ledger = request.getfixturevalue(f"{request.param}_ledger")
    yield shared
    with shared.write() as session:
        for table in reversed(Base.metadata.sorted_tables):
            session.execute(table.delete())
