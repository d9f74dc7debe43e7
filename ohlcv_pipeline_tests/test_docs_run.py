"""What the documentation shows is run: code, SQL, exports, recipes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from ohlcv_pipeline import markets
from ohlcv_pipeline.cli import run
from ohlcv_pipeline.definitions import build_definitions
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.settings import Settings, settings
from ohlcv_pipeline.vendors.base import Answer
from ohlcv_pipeline_tests.exchange import running_exchange
from ohlcv_pipeline_tests.pages import (
    DOCS,
    ROOT,
    blocks,
)
from ohlcv_pipeline_tests.postgres import PostgresMissing, running_postgres


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the lake that the pages speak of: June 2025, days of all of it and minutes of one."""
    folder = tmp_path_factory.mktemp("docs")
    with running_exchange() as exchange, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("OHLCV_", "DAGSTER_"))]:
            patch.delenv(name)
        patch.chdir(folder)
        patch.setenv("OHLCV_SANDBOX_URL", exchange.url)
        # Set by the command line; named here so that it is unset at the end.
        patch.setenv("DAGSTER_HOME", str(folder / "var/sandbox/dagster"))
        settings.cache_clear()
        only = ("backfill", "--symbols", "BTC", "--start")
        assert run([*only, "2025-06-01", "--end", "2025-07-01", "--interval", "day"]) == 0
        assert run([*only, "2025-06-02", "--end", "2025-06-03", "--interval", "minute"]) == 0
        yield folder
    settings.cache_clear()


def load_instead_of_install(sql: str) -> str:
    """Return SQL that takes the extensions from the installed packages; a test downloads nothing."""
    for install, name in (("ducklake", "ducklake"), ("sqlite", "sqlite_scanner")):
        path = files(f"duckdb_extension_{name}") / f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"
        sql = sql.replace(f"INSTALL {install};", f"LOAD '{path}';")
    return sql


@pytest.mark.parametrize("page", ["README.md", "docs/how-to/read-bars.md", "docs/explanation/checksum.md"])
def test_pages_about_reading_run(installation: Path, page: str) -> None:
    space: dict[str, Any] = {}
    with contextlib.redirect_stdout(None):
        for block in blocks(ROOT / page, "python"):
            exec(block.text, space)
    if page == "docs/explanation/checksum.md":
        assert len(space["found"]) == 64
    else:
        assert len(space["bars"]) == len(space["frame"]) == space["table"].num_rows == 24
    with duckdb.connect() as connection:
        for block in blocks(ROOT / page, "sql"):
            sql = load_instead_of_install(block.text)
            assert "INSTALL" not in sql
            connection.execute(sql)


def test_exports_of_the_page_run(installation: Path) -> None:
    lines = [line for block in blocks(DOCS / "how-to/read-bars.md", "bash") for line in block.text.splitlines()]
    assert len(lines) == 3
    for line in lines[:2]:
        assert run(shlex.split(line)[1:]) == 0
    assert (installation / "btc.csv").read_text().count("\n") == 25
    assert (installation / "btc.parquet").stat().st_size > 1_000


def test_recipe_add_a_symbol(installation: Path) -> None:
    (
        add,
        *_,
    ) = (line for block in blocks(DOCS / "how-to/add-a-symbol.md", "bash") for line in block.text.splitlines())
    assert run(shlex.split(add)[1:]) == 0
    for line in ("symbols disable SHIB --market crypto", "symbols enable SHIB --market crypto"):
        assert f"ohlcv {line}" in (DOCS / "how-to/add-a-symbol.md").read_text()
        assert run(line.split()) == 0


def test_recipe_add_a_market(monkeypatch: pytest.MonkeyPatch) -> None:
    (declaration,) = blocks(DOCS / "how-to/add-a-market.md", "python")
    space: dict[str, Any] = {}
    exec(declaration.text, space)
    of = space["uk_equities"]
    assert {i.quote for i in of.instruments} == {of.quote}
    monkeypatch.setitem(markets.MARKETS, of.name, of)  # type: ignore[arg-type]
    (line,) = (block.text.strip() for block in blocks(DOCS / "how-to/add-a-market.md", "ini"))
    definitions = build_definitions(Settings(_env_file=None, markets=line.partition("=")[2]))
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {"lake/scrub", *(f"{m}/ohlcv_{i}" for m in ("crypto", of.name) for i in Interval)}
    names = {schedule.name for schedule in definitions.schedules or ()}
    assert {f"{of.name}_minute_refresh", f"{of.name}_day_refresh"} <= names


def test_recipe_add_a_vendor() -> None:
    module, registry = blocks(DOCS / "how-to/add-a-vendor.md", "python")
    space: dict[str, Any] = {}
    exec(module.text, space)
    example = space["Example"]()
    minute = markets.MINUTE_US
    now = 1_000_000 * minute
    start, end = example.serves(Interval.MINUTE, now - 1_200 * minute, now, now)
    fetches = example.plan("BTC", "BTC-USD", Interval.MINUTE, start, end)
    assert [(f.end_us - f.start_us) // minute for f in fetches] == [500, 500, 200]
    request = fetches[0].requests[0]
    body = json.dumps([[start // 1_000_000, "1", "2", "0.5", "1.5", "10"]]).encode()
    answer = Answer(request, "https://example.org/bars", 200, {}, body, markets.from_us(now))
    bars, rejects, drift = space["decode"](answer)
    assert (len(bars), rejects, drift) == (1, (), ())
    names = re.findall(r"(\w+)\(\)", registry.text)
    source = (ROOT / "ohlcv_pipeline/vendors/registry.py").read_text()
    assert ", ".join(f"{name}()" for name in names[:-1]) in source


def test_postgres_instance_adds_storage_and_nothing_else() -> None:
    embedded = yaml.safe_load((ROOT / "dagster.yaml").read_text())
    on_postgres = yaml.safe_load((ROOT / "deploy/postgres/dagster.yaml").read_text())
    storage = on_postgres.pop("storage")["postgres"]["postgres_db"]
    assert on_postgres == embedded
    assert storage.pop("scheme") == "postgresql+psycopg2"
    page = (DOCS / "how-to/postgres.md").read_text()
    for given in storage.values():
        assert f"{given['env']}=" in page


def test_postgres_instance_opens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster import DagsterInstance
    from sqlalchemy import make_url

    from ohlcv_pipeline import event_log

    (tmp_path / "dagster.yaml").write_text((ROOT / "deploy/postgres/dagster.yaml").read_text())
    try:
        with running_postgres() as server:
            url = make_url(server)
            given = {"HOST": url.host, "PORT": url.port, "USER": url.username, "PASSWORD": "any", "DB": url.database}
            for name, value in given.items():
                monkeypatch.setenv(f"DAGSTER_PG_{name}", str(value))
            with DagsterInstance.from_config(str(tmp_path)) as instance:
                assert instance.get_runs_count() == 0
                assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
                assert event_log.database(instance, "any") is None
                with event_log.kept_open(instance, "any"):
                    assert not list(tmp_path.rglob("*.db"))
    except PostgresMissing as missing:
        pytest.skip(str(missing))
