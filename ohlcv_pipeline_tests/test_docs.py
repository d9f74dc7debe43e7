"""The documentation, held against the code: what can be run is run, the rest is parsed, links lead somewhere."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ohlcv_pipeline import markets
from ohlcv_pipeline.bars.actions import NO_SESSIONS
from ohlcv_pipeline.bars.causes import NO_GAP, Cause, Mark
from ohlcv_pipeline.bars.schema import Reason
from ohlcv_pipeline.bars.summary import EMPTY_ANSWER
from ohlcv_pipeline.lake.tables import _SHARED, BAR_REVISIONS, STORED_BARS, sql_types
from ohlcv_pipeline.sandbox.faults import DEFECTS, KINDS
from ohlcv_pipeline.settings import KEY_VARIABLES, LIVE_URLS, Settings, VendorSettings
from ohlcv_pipeline.vendors.errors import Code
from ohlcv_pipeline.vendors.registry import ADAPTERS
from ohlcv_pipeline_tests.pages import (
    BLOCK,
    COMMANDS,
    DOCS,
    LINK,
    PAGES,
    ROOT,
    VARIABLE,
    Block,
    all_blocks,
    blocks,
    ids,
)


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
        if name in vendor_keys():
            continue
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
    sections = {re.sub(r"( [A-Z_]+)+$", "", part.split("\n")[0]): part for part in parts}
    for command, option, meaning in options():
        assert command in sections, command
        if option:
            rows = [row for row in sections[command].split("\n") if row.startswith("|") and f"`{option}" in row]
            assert any(meaning in row for row in rows), f"{command} {option}: {meaning}"
    shown = {name for name, _, _ in options()}
    assert {name for name in sections if name.startswith("ohlcv ")} == shown - {"ohlcv"}


def variables() -> set[str]:
    keys = {name.lower() for name in vendor_keys()}
    return {f"OHLCV_{name.upper()}" for name in Settings.model_fields if name not in {"vendors", *keys}}


def vendor_keys() -> set[str]:
    return {name for of_vendor in KEY_VARIABLES.values() for name in of_vendor.values()}


def test_env_example_names_every_setting_and_nothing_else() -> None:
    given = dict(VARIABLE.findall((ROOT / ".env.example").read_text()))
    plain = {name for name in given if "__" not in name}
    assert plain == variables()
    of_vendors = [name.removeprefix("OHLCV_VENDORS__").split("__") for name in given if "__" in name]
    assert {vendor.lower() for vendor, _ in of_vendors} <= set(ADAPTERS)
    assert {field.lower() for _, field in of_vendors} == set(VendorSettings.model_fields)
    keys = re.findall(r"^#([A-Z_]+_KEY(?:_ID)?)=$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    assert {name for name in keys if not name.startswith("OHLCV_")} == vendor_keys()


def test_env_example_is_valid_when_uncommented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OHLCV_") or name in vendor_keys()]:
        monkeypatch.delenv(name)
    text = VARIABLE.sub(r"\1=\2", (ROOT / ".env.example").read_text())
    target = tmp_path / ".env"
    target.write_text(text)
    chosen, default = Settings(_env_file=target), Settings(_env_file=None)
    examples = {"lake_catalog", "lake_data", "ledger_url", "vendors"}
    assert chosen.model_dump(exclude=examples) == default.model_dump(exclude=examples)


def test_settings_page_has_every_setting_with_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("OHLCV_") or name in vendor_keys()]:
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
    for name, of_vendor in KEY_VARIABLES.items():
        assert f"| `{name}` | {', '.join(f'`{variable}`' for variable in of_vendor.values())} |" in text


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
    for code in (*Mark, *Reason, *Code, EMPTY_ANSWER, NO_SESSIONS):
        assert re.search(rf"^\| `{code}` \| \w", text, re.MULTILINE), code


def test_completeness_page_explains_every_cause() -> None:
    text = (DOCS / "explanation/completeness.md").read_text()
    for cause in Cause:
        assert re.search(rf"^\| `{cause}` \| \w.* \| {'no' if cause in NO_GAP else 'yes'} \|$", text, re.MULTILINE), (
            cause
        )


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
    for name in ADAPTERS:
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
