"""The documentation, held against the code: what can be run is run, the rest is parsed, links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pytest
import typer
import yaml

from ohlcv_pipeline import markets
from ohlcv_pipeline.bars.planning import Cause
from ohlcv_pipeline.bars.schema import Reason
from ohlcv_pipeline.cli import run
from ohlcv_pipeline.cli.app import app
from ohlcv_pipeline.definitions import build_definitions
from ohlcv_pipeline.lake.tables import _SHARED, BAR_REVISIONS, STORED_BARS, sql_types
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.sandbox.faults import DEFECTS, KINDS
from ohlcv_pipeline.settings import LIVE_URLS, Settings, VendorSettings, settings
from ohlcv_pipeline.vendors.base import Answer
from ohlcv_pipeline.vendors.errors import Code
from ohlcv_pipeline_tests.exchange import running_exchange
from ohlcv_pipeline_tests.postgres import PostgresMissing, running_postgres

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
VARIABLE = re.compile(r"^#?(OHLCV_\w+)=(.*)$", re.MULTILINE)
COMMANDS = typer.main.get_command(app)
IN_ONE_PROCESS = pytest.mark.xdist_group("docs")


@dataclass(frozen=True)
class Block:
    """One fenced block of a page; `language` is empty where none is named."""

    page: str
    language: str
    text: str


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return a page's blocks in these languages, in order."""
    found = [Block(str(page.relative_to(ROOT)), *match) for match in BLOCK.findall(page.read_text())]
    return [block for block in found if block.language in languages]


def all_blocks(*languages: str) -> list[Any]:
    """Return every block in these languages as parameters with a readable id."""
    return [
        pytest.param(block, id=f"{block.page}:{i}")
        for page in PAGES
        for i, block in enumerate(blocks(page, *languages))
    ]


def ids(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_resolve(page: Path) -> None:
    prose = BLOCK.sub("", page.read_text())
    for target in LINK.findall(prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        assert path.exists(), f"{target} leads nowhere"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}, target


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, open_pages = set(), [PAGES[0]]
    while open_pages:
        page = open_pages.pop()
        seen.add(page)
        for target in LINK.findall(page.read_text()):
            path = (page.parent / target.partition("#")[0]).resolve()
            if path.suffix == ".md" and path.exists() and path not in seen:
                open_pages.append(path)
    assert set(PAGES) <= seen


@pytest.mark.parametrize("page", PAGES[2:], ids=ids)
def test_a_page_opens_with_one_sentence(page: Path) -> None:
    heading, blank, first, *_ = page.read_text().split("\n")
    assert heading.startswith("# ")
    assert blank == ""
    assert re.match(r"[A-Z].*\b(page|tutorial)\b|Each page", first), first


def test_images_are_used_and_small() -> None:
    text = "".join(page.read_text() for page in PAGES)
    for image in (DOCS / "images").iterdir():
        assert f"images/{image.name}" in text
        assert image.stat().st_size < 300_000
        assert image.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("block", all_blocks("python"))
def test_python_parses(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", all_blocks("json"))
def test_json_parses(block: Block) -> None:
    json.loads(block.text)


@pytest.mark.parametrize("block", all_blocks("ini"))
def test_settings_in_the_docs_exist(block: Block) -> None:
    for line in block.text.splitlines():
        name = line.partition("=")[0]
        field, *vendor = name.removeprefix("OHLCV_").lower().split("__")
        assert field in Settings.model_fields, name
        if vendor:
            assert vendor[1] in VendorSettings.model_fields, name


def command_lines() -> list[Any]:
    """Return every `ohlcv …` of the shell blocks and of the listed examples."""
    lines = [line for page in PAGES for block in blocks(page, "bash") for line in block.text.splitlines()]
    examples = re.findall(r"^- `((?:[A-Z_]+=\S+ )?ohlcv [^`]*)`", (DOCS / "reference/cli.md").read_text(), re.MULTILINE)
    found = [line for line in (*lines, *examples) if re.match(r"([A-Z_]+=\S+ )?ohlcv ", line)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("line", command_lines())
def test_commands_are_understood(line: str) -> None:
    words = shlex.split(re.split(r" [|>] ", line)[0])
    arguments = words[words.index("ohlcv") + 1 :]
    command, name = COMMANDS, "ohlcv"
    while arguments and arguments[0] in getattr(command, "commands", {}):
        name, *arguments = arguments
        command = command.commands[name]
    # Parses the options, and runs nothing.
    command.make_context(name, arguments)


@pytest.mark.parametrize("block", all_blocks("bash"))
def test_make_targets_exist(block: Block) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in block.text.splitlines():
        if line.startswith("make "):
            assert set(line.split()[1:]) <= targets, line


def options() -> Iterator[tuple[str, str, str]]:
    """Yield each command, one of its options, and that option's help."""

    def walk(command: Any, name: str) -> Iterator[tuple[str, str, str]]:
        for parameter in command.params:
            if parameter.param_type_name == "option" and parameter.name != "version":
                for option in (*parameter.opts, *parameter.secondary_opts):
                    yield name, option, parameter.help
        for sub, inner in getattr(command, "commands", {}).items():
            yield f"{name} {sub}", "", ""
            yield from walk(inner, f"{name} {sub}")

    return walk(COMMANDS, "ohlcv")


def test_cli_page_names_every_command_and_option() -> None:
    parts = re.split(r"^#{2,3} ", (DOCS / "reference/cli.md").read_text(), flags=re.MULTILINE)[1:]
    sections = {re.sub(r" [A-Z]+$", "", part.split("\n")[0]): part for part in parts}
    for command, option, meaning in options():
        assert command in sections, command
        if option:
            rows = [row for row in sections[command].split("\n") if row.startswith("|") and f"`{option}" in row]
            assert any(meaning in row for row in rows), f"{command} {option}: {meaning}"
    shown = {name for name, _, _ in options()}
    assert {name for name in sections if name.startswith("ohlcv ")} == shown - {"ohlcv"}


def variables() -> set[str]:
    return {f"OHLCV_{name.upper()}" for name in Settings.model_fields if name != "vendors"}


def test_env_example_names_every_setting_and_nothing_else() -> None:
    given = dict(VARIABLE.findall((ROOT / ".env.example").read_text()))
    plain = {name for name in given if "__" not in name}
    assert plain == variables()
    of_vendors = [name.removeprefix("OHLCV_VENDORS__").split("__") for name in given if "__" in name]
    assert {vendor.lower() for vendor, _ in of_vendors} <= set(LIVE_URLS)
    assert {field.lower() for _, field in of_vendors} == set(VendorSettings.model_fields)


def test_env_example_is_valid_when_uncommented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OHLCV_")]:
        monkeypatch.delenv(name)
    text = VARIABLE.sub(r"\1=\2", (ROOT / ".env.example").read_text())
    target = tmp_path / ".env"
    target.write_text(text)
    chosen, default = Settings(_env_file=target), Settings(_env_file=None)
    examples = {"lake_catalog", "lake_data", "ledger_url", "vendors"}
    assert chosen.model_dump(exclude=examples) == default.model_dump(exclude=examples)


def test_settings_page_has_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OHLCV_")]:
        monkeypatch.delenv(name)
    text = (DOCS / "reference/settings.md").read_text()
    rows = dict(re.findall(r"^\| `(OHLCV_\w+)` \| (?:`([^`]*)`|[^|]*) \|", text, re.MULTILINE))
    of_vendors = {name.split("__")[2].lower(): value for name, value in rows.items() if "__" in name}
    assert {name for name in rows if "__" not in name} == variables()
    assert set(of_vendors) == set(VendorSettings.model_fields)
    given = {name.removeprefix("OHLCV_").lower(): value for name, value in rows.items() if "__" not in name}
    defaults = Settings(_env_file=None, **{name: value for name, value in given.items() if value})
    assert defaults.model_dump() == Settings.model_construct().model_dump()
    assert VendorSettings(**{n: v for n, v in of_vendors.items() if v}) == VendorSettings()
    for name, url in LIVE_URLS.items():
        assert f"| `{name}` | `{url}` |" in text


def test_lake_page_has_every_table_and_column() -> None:
    parts = re.split(r"^## ", (DOCS / "reference/lake.md").read_text(), flags=re.MULTILINE)
    rows = {
        part.split("\n")[0]: dict(re.findall(r"^\| `(\w+)` \| ([A-Z]+(?:\[\])?) \|", part, re.MULTILINE))
        for part in parts
    }
    tables = {f"`lake.{name}`": sql_types(schema) for name, schema in _SHARED.items()}
    tables["`lake.<market>.ohlcv_minute`, `lake.<market>.ohlcv_day`"] = sql_types(STORED_BARS)
    inherited = [name for name in sql_types(STORED_BARS) if name != "symbol"]
    tables["`lake.bar_revisions`"] = {n: t for n, t in sql_types(BAR_REVISIONS).items() if n not in inherited}
    tables["`lake.lake_version`"] = {"version": "INTEGER"}
    for name, columns in tables.items():
        assert rows[name] == {n: t.replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ") for n, t in columns.items()}
    assert {name for name in rows if name.startswith("`lake.")} == set(tables)


def test_lake_page_explains_every_code() -> None:
    text = (DOCS / "reference/lake.md").read_text()
    for code in (*Cause, *Reason, *Code):
        assert re.search(rf"^\| `{code}` \| \w", text, re.MULTILINE), code


def test_sandbox_page_explains_every_fault() -> None:
    text = (DOCS / "reference/sandbox.md").read_text()
    for name, kind in KINDS.items():
        row = re.search(rf"^\| `{name}` \|.*$", text, re.MULTILINE)
        assert row is not None, name
        for parameter in {*kind.parameters, *kind.needs}:
            assert f"`{parameter}`" in row[0], f"{name}: {parameter}"
    for defect in DEFECTS:
        assert f"`{defect}`" in text


def test_vendor_pages_name_every_vendor_and_market() -> None:
    text = (DOCS / "reference/vendors.md").read_text()
    for name in LIVE_URLS:
        assert f"\n## {name}\n" in text
    for market in markets.MARKETS.values():
        for place, vendor in zip(("first", "second"), market.vendors, strict=True):
            assert f"| `{vendor}` | `{market.name}`, {place} |" in text


def test_checksum_page_gives_the_vectors() -> None:
    page = DOCS / "explanation/checksum.md"
    space: dict[str, Any] = {}
    exec(blocks(page, "python")[0].text, space)
    checksum = space["checksum"]
    (vectors,) = (block.text for block in blocks(page, "text"))
    lines = re.findall(r"^BTC minute (\S+) (.+)$", vectors, re.MULTILINE)
    starts = [markets.to_us(markets.datetime.fromisoformat(at)) for at, _ in lines]
    values = [[float(number) for number in numbers.split()] for _, numbers in lines]
    hashes = dict(re.findall(r"^(.+?) +([0-9a-f]{64})$", vectors, re.MULTILINE))
    assert checksum("BTC", "minute", starts[:1], values[0]) == hashes["bar 1"]
    assert checksum("BTC", "minute", starts[1:], values[1]) == hashes["bar 2"]
    assert checksum("BTC", "minute", starts, values) == hashes["both"]
    assert checksum("BTC", "minute", [], []) == hashes["no bar"]
    joined = "\n".join(sorted([hashes["both"], hashes["no bar"]])).encode()
    assert space["hashlib"].sha256(joined).hexdigest() == hashes["run over {both, no bar}"]
    assert checksum("BTC", "minute", starts[:1], [-0.0] * 5) == checksum("BTC", "minute", starts[:1], [0.0] * 5)


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


@IN_ONE_PROCESS
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


@IN_ONE_PROCESS
def test_exports_of_the_page_run(installation: Path) -> None:
    lines = [line for block in blocks(DOCS / "how-to/read-bars.md", "bash") for line in block.text.splitlines()]
    assert len(lines) == 3
    for line in lines[:2]:
        assert run(shlex.split(line)[1:]) == 0
    assert (installation / "btc.csv").read_text().count("\n") == 25
    assert (installation / "btc.parquet").stat().st_size > 1_000


@IN_ONE_PROCESS
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
    of = space["crypto_eur"]
    assert {i.quote for i in of.instruments} == {of.quote}
    monkeypatch.setitem(markets.MARKETS, of.name, of)  # type: ignore[arg-type]
    (line,) = (block.text.strip() for block in blocks(DOCS / "how-to/add-a-market.md", "ini"))
    definitions = build_definitions(Settings(_env_file=None, markets=line.partition("=")[2]))
    keys = {key.to_user_string() for key in definitions.resolve_asset_graph().get_all_asset_keys()}
    assert keys == {f"{m}/ohlcv_{i}" for m in ("crypto", "crypto_eur") for i in Interval}
    names = {schedule.name for schedule in definitions.schedules or ()}
    assert {"crypto_eur_minute_refresh", "crypto_eur_day_refresh"} <= names


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
    bars, rejects = space["decode"](answer)
    assert (bars.num_rows, rejects) == (1, ())
    names = re.findall(r"(\w+)\(\)", registry.text)
    source = (ROOT / "ohlcv_pipeline/vendors/registry.py").read_text()
    assert f"_ALL: tuple[Adapter, ...] = ({', '.join(f'{name}()' for name in names[:-1])})" in source


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
    except PostgresMissing as missing:
        pytest.skip(str(missing))
