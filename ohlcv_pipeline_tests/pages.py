"""The pages of the documentation and the blocks in them, for the tests that hold them against the code."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer

from ohlcv_pipeline.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
VARIABLE = re.compile(r"^#?(OHLCV_\w+)=(.*)$", re.MULTILINE)
COMMANDS = typer.main.get_command(app)


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
