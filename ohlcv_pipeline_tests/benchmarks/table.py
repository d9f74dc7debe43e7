"""The table of results: a figure, what it must be, what it aims at, and its ratio to a raw baseline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One measured number. `higher` tells that more is better."""

    what: str
    value: float
    unit: str
    must: float
    aim: float
    baseline: float | None = None
    note: str = ""
    higher: bool = False

    @property
    def met(self) -> bool:
        """Whether the number is as good as it must be."""
        return self.value >= self.must if self.higher else self.value <= self.must

    @property
    def aimed(self) -> bool:
        """Whether it is as good as it aims to be."""
        return self.value >= self.aim if self.higher else self.value <= self.aim


def number(value: float | None) -> str:
    """Return a figure with as many digits as inform."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"


def render(rows: Sequence[Row]) -> None:
    """Print the rows as a table."""
    table = Table(title="ohlcv_pipeline benchmarks", title_justify="left")
    for name in ("what", "measured", "must", "aim", "baseline", "ratio", ""):
        table.add_column(name, justify="left" if name in ("what", "") else "right", no_wrap=name != "what")
    for row in rows:
        verdict = "aim met" if row.aimed else "must met" if row.met else "MISSED"
        ratio = None if not row.baseline else row.value / row.baseline
        bound = "≥" if row.higher else "≤"
        table.add_row(
            f"{row.what}\n[dim]{row.note}[/dim]",
            f"{number(row.value)} {row.unit}",
            f"{bound} {number(row.must)}",
            number(row.aim),
            number(row.baseline),
            "–" if ratio is None else f"{ratio:.2f}",
            verdict,
        )
    Console(width=150).print(table)
