"""The checksum report as the command line shows it, and what is known about each gap.

The numbers are `bars.report`'s. In the sandbox profile a gap is held against the outages the sandbox declares.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import httpx

from ohlcv_pipeline.bars.gaps import LONGEST_NO_TRADES_RUN, Gap
from ohlcv_pipeline.bars.report import Entry, report
from ohlcv_pipeline.cli import console
from ohlcv_pipeline.cli.options import Selected
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.markets import Interval, Market, from_us, to_us
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline.wording import many

SHOWN_CHECKSUM = 12
_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True)
class Outage:
    """A standstill that the sandbox declares: first and last missing minute in µs."""

    vendor: str
    first_us: int
    last_us: int

    @property
    def missing(self) -> int:
        """How many minutes it lasts."""
        return (self.last_us - self.first_us) // Interval.MINUTE.step_us + 1


def declared_outages(settings: Settings, market: Market, start_us: int, end_us: int) -> list[Outage]:
    """Return the outages of a market's vendors that the sandbox declares; none outside of its profile, or unheard."""
    if settings.profile != "sandbox":
        return []
    found = []
    for vendor in market.vendors:
        query = {"vendor": vendor, "start": from_us(start_us).isoformat(), "end": from_us(end_us).isoformat()}
        try:
            answer = httpx.get(
                f"{settings.sandbox_url}/admin/outages", params=query, timeout=_PATIENCE_SECONDS, trust_env=False
            )
            answer.raise_for_status()
            ranges = answer.json()["outages"]
        except (httpx.HTTPError, ValueError, KeyError):
            # Best effort: without the sandbox's word a gap is shown as any other.
            return []
        found += [
            Outage(vendor, to_us(datetime.fromisoformat(r["start"])), to_us(datetime.fromisoformat(r["end"])))
            for r in ranges
        ]
    return found


def outage_behind(gap: Gap, outages: Sequence[Outage], start_us: int, end_us: int) -> Outage | None:
    """Return the declared outage, cut to the window, that a gap is; silent minutes may lie beside it."""
    for outage in outages:
        first, last = max(outage.first_us, start_us), min(outage.last_us, end_us - 1)
        inside = first <= last and gap.first_us <= first and last <= gap.last_us
        if inside and gap.missing - outage.missing <= LONGEST_NO_TRADES_RUN:
            return outage
    return None


@dataclass(frozen=True)
class TableReport:
    """The entries of one table and the outages declared in its window."""

    selected: Selected
    entries: Sequence[Entry]
    outages: Sequence[Outage]

    def known(self, gap: Gap) -> Outage | None:
        """Return the declared outage behind a gap."""
        return outage_behind(gap, self.outages, self.selected.start_us, self.selected.end_us)

    def as_json(self) -> list[dict[str, Any]]:
        """Return the entries with `declared_outage` beside each gap."""
        documents = []
        for entry in self.entries:
            document = entry.as_json()
            document["gaps"] = [
                {**shown, "declared_outage": self.known(gap) is not None}
                for shown, gap in zip(document["gaps"], entry.gaps, strict=True)
            ]
            documents.append(document)
        return documents


def report_table(reader: Reader, settings: Settings, selected: Selected, now: datetime) -> TableReport:
    """Measure one table from the lake."""
    start, end = selected.start_us, selected.end_us
    entries = report(reader, selected.market, selected.interval, selected.instruments, start, end, now)
    minutes = selected.interval is Interval.MINUTE and any(entry.gaps for entry in entries)
    outages = declared_outages(settings, selected.market, start, end) if minutes else []
    return TableReport(selected, entries, outages)


@dataclass
class Missing:
    """The missing bars of a report: in declared outages, beside them, and elsewhere."""

    declared: int = 0
    beside: int = 0
    elsewhere: int = 0
    gaps: int = 0

    @property
    def total(self) -> int:
        """All of them."""
        return self.declared + self.beside + self.elsewhere


def missing_in(reports: Sequence[TableReport]) -> Missing:
    """Count the missing bars of some tables by what is known about them."""
    found = Missing()
    for each in reports:
        for gap in (gap for entry in each.entries for gap in entry.gaps):
            outage = each.known(gap)
            inside = 0 if outage is None else min(gap.missing, outage.missing)
            found.gaps += 1
            found.declared += inside
            if outage is None:
                found.elsewhere += gap.missing
            else:
                found.beside += gap.missing - inside
    return found


def verdict_on(reports: Sequence[TableReport]) -> str:
    """Say in one sentence how much of what is expected is there, and what is missing."""
    entries = [entry for each in reports for entry in each.entries]
    expected = sum(entry.expected_rows - entry.no_trades_rows for entry in entries)
    stored = sum(entry.actual_rows for entry in entries)
    tail = sum(entry.pending_tail_rows for entry in entries)
    lost = missing_in(reports)
    if not expected:
        return "No bar is expected in this window."
    late = f" {many(tail, 'minute')} of the last quarter of an hour may still come." if tail else ""
    if not lost.total:
        return f"100 % of the {expected - tail:,} expected bars are stored.{late}"
    if lost.declared and not lost.elsewhere:
        beside = f" and {many(lost.beside, 'minute')} beside it" if lost.beside else ""
        return (
            f"100 % of the {expected - tail:,} expected bars but for the sandbox's declared outage"
            f" ({lost.declared:,} bars{beside}).{late}"
        )
    share = int(10_000 * stored / expected) / 100
    declared = f", {lost.declared:,} of them the sandbox's declared outage" if lost.declared else ""
    return (
        f"{share:.2f} % of the {expected:,} expected bars are stored; {lost.total:,} are missing in"
        f" {many(lost.gaps, 'gap')}{declared}. `ohlcv gaps` lists them.{late}"
    )


def print_reports(reports: Sequence[TableReport], seconds: Mapping[str, float]) -> None:
    """Print one table of all entries, then what is missing in a sentence."""
    columns = [
        "symbol", "interval", "rows", "expected", "coverage %", "gaps", "no-trade",
        "duplicates", "quarantined", "vendor", "checksum", "seconds",
    ]  # fmt: skip
    rows = []
    for each in reports:
        asset = f"{each.selected.market.name}/ohlcv_{each.selected.interval}"
        for entry in each.entries:
            declared = sum(each.known(gap) is not None for gap in entry.gaps)
            gaps = str(len(entry.gaps))
            if declared:
                gaps += " (declared outage)" if declared == len(entry.gaps) else f" ({declared} declared)"
            rows.append(
                (
                    entry.symbol if len(reports) < 3 else f"{entry.market} {entry.symbol}",
                    entry.interval,
                    f"{entry.actual_rows:,}",
                    f"{entry.expected_rows:,}",
                    None if entry.coverage_pct is None else f"{entry.coverage_pct:.2f}",
                    gaps,
                    f"{entry.no_trades_rows:,}",
                    f"{entry.duplicate_rows:,}",
                    f"{entry.quarantined_rows:,}",
                    entry.vendor,
                    entry.checksum_sha256[:SHOWN_CHECKSUM],
                    f"{seconds[asset]:.1f}" if asset in seconds else None,
                )
            )
    numbers = {*columns} - {"symbol", "interval", "gaps", "vendor", "checksum"}
    console.table("Checksum report", columns, rows, numbers)
    console.out.print(verdict_on(reports), markup=False)
