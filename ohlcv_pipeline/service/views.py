"""What the status page shows of the summary: filters, order, words. Pure.

Rows are those of `GET /status/summary`, in their JSON form. What a row means is decided in `operations`; what is read
from lake and ledger beside it, in `coverage`, `panels` and `series`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import numpy as np
from markupsafe import Markup

from ohlcv_pipeline.markets import from_us

Row = Mapping[str, Any]

STATUS = {"stale": "Stale", "gap_detected": "Gaps", "healthy": "Healthy"}
"""In order of urgency, which is also the order of sorting."""

VENDOR = {
    "down": "Unavailable / Rate-limited",
    "rate_limited": "Unavailable / Rate-limited",
    "degraded": "Degraded",
    "up": "Available",
}
ALERT = {"open": "Open", "cleared": "Cleared"}
CHANNEL = {
    "ok": "Messages are delivered",
    "retrying": "A message failed and is sent again",
    "failing": "A message has waited longer than 15 minutes, or was given up",
    "off": "No channel is configured",
}


def _rank(words: Mapping[str, str], value: str | None) -> int | None:
    return None if value is None else list(words).index(value)


@dataclass(frozen=True)
class Column:
    """One column of the table: its key in the URL, its title, and by what it is sorted (None sorts last)."""

    key: str
    title: str
    value: Callable[[Row], Any]
    numeric: bool = False


def _field(name: str) -> Callable[[Row], Any]:
    return lambda row: row[name]


COLUMNS = (
    Column("asset", "Symbol", _field("asset")),
    Column("market", "Market", _field("market")),
    Column("interval", "Interval", _field("interval")),
    Column("status", "Status", lambda row: _rank(STATUS, row["status"])),
    Column("coverage", "Coverage", _field("coverage_pct")),
    Column("newest", "Newest bar", _field("latest_timestamp")),
    Column("lag", "Lag", _field("freshness_minutes"), numeric=True),
    Column("gaps", "Gaps", _field("open_gaps"), numeric=True),
    Column("vendor", "Vendor", lambda row: _rank(VENDOR, row["vendor_status"])),
    Column("alert", "Alert", lambda row: _rank(ALERT, row["alert_status"])),
    Column("success", "Last success", _field("last_success_at")),
    Column("checksum", "Run report", _field("last_checksum")),
)
_BY_KEY = {column.key: column for column in COLUMNS}


@dataclass(frozen=True)
class Filters:
    """Which rows are shown and in which order, as the URL says. A value that makes no sense counts as not given."""

    problems: bool = False
    gaps: bool = False
    market: str = ""
    interval: str = ""
    asset: str = ""
    sort: str = ""
    """A column's key, with a minus for the greatest first; empty for the order of the summary."""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> Filters:
        """Return the filters of a URL's query."""
        interval = {"1m": "minute", "1d": "day"}.get(query.get("interval", ""), query.get("interval", ""))
        sort = query.get("sort", "")
        return cls(
            problems=query.get("problems", "").lower() in ("1", "true"),
            gaps=query.get("gaps", "").lower() in ("1", "true"),
            market=query.get("market", "").strip(),
            interval=interval if interval in ("minute", "day") else "",
            asset=query.get("asset", "").strip().upper()[:16],
            sort=sort if sort.removeprefix("-") in _BY_KEY else "",
        )

    @property
    def query(self) -> dict[str, str]:
        """The filters as a URL's query, without those that are off."""
        given = {
            "problems": "1" if self.problems else "",
            "gaps": "1" if self.gaps else "",
            "market": self.market,
            "interval": self.interval,
            "asset": self.asset,
            "sort": self.sort,
        }
        return {name: value for name, value in given.items() if value}

    def link(self, path: str, **changes: str) -> str:
        """Return a path with the filters as its query, some of them changed."""
        query = {name: value for name, value in {**self.query, **changes}.items() if value}
        return f"{path}?{urlencode(query)}" if query else path

    def shows(self, row: Row) -> bool:
        """Whether a row passes."""
        return (
            (not self.problems or row["status"] != "healthy" or row["is_stale"])
            and (not self.gaps or row["open_gaps"] > 0)
            and (not self.market or row["market"] == self.market)
            and (not self.interval or row["interval"] == self.interval)
            and self.asset in row["asset"]
        )

    def selects(self, row: Row) -> bool:
        """Whether the URL names this very row, as the link in an alert does."""
        return (row["market"], row["asset"], row["interval"]) == (self.market, self.asset, self.interval)

    def order(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows in the order asked for; equal ones stay as they were, empty values come last."""
        if not self.sort:
            return list(rows)
        value, descending = _BY_KEY[self.sort.removeprefix("-")].value, self.sort.startswith("-")
        known = sorted((row for row in rows if value(row) is not None), key=value, reverse=descending)
        return known + [row for row in rows if value(row) is None]

    def direction(self, key: str) -> str:
        """Return `ascending` or `descending` for the column that is sorted by, else `none`."""
        if self.sort.removeprefix("-") != key:
            return "none"
        return "descending" if self.sort.startswith("-") else "ascending"

    def next_sort(self, key: str) -> str:
        """Return what a click on a column's title sorts by: upwards, then downwards, then not at all."""
        return {"none": key, "ascending": f"-{key}", "descending": ""}[self.direction(key)]


@dataclass(frozen=True)
class Headline:
    """The state of everything in one sentence, with counts of rows; `tone` is ok, warn or bad."""

    tone: str
    sentence: str
    total: int
    stale: int
    gaps: int
    healthy: int


def headline(rows: Sequence[Row]) -> Headline:
    """Say how the series do."""
    total = len(rows)
    stale = sum(row["is_stale"] for row in rows)
    gaps = sum(row["open_gaps"] > 0 for row in rows)
    healthy = sum(row["status"] == "healthy" and not row["is_stale"] for row in rows)
    holes = f"{gaps} {'has' if gaps == 1 else 'have'} gaps"
    if not rows:
        tone, sentence = "warn", "No series is enabled"
    elif stale:
        tone = "bad"
        sentence = f"{stale} of {total} series {'is' if stale == 1 else 'are'} stale" + (f", {holes}" if gaps else "")
    elif healthy < total:
        tone, sentence = (
            "warn",
            f"{total - healthy} of {total} series {'needs' if total - healthy == 1 else 'need'} bars",
        )
    else:
        tone, sentence = "ok", f"All {total} series are healthy"
    return Headline(tone, sentence, total, stale, gaps, healthy)


@dataclass(frozen=True)
class View:
    """The table as a request asked for it."""

    summary: Mapping[str, Any]
    filters: Filters
    rows: Sequence[Row] = field(init=False)
    headline: Headline = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", self.filters.order(self.summary["assets"]))
        object.__setattr__(self, "headline", headline(self.summary["assets"]))

    @property
    def shown(self) -> list[Row]:
        """The rows that pass the filters, in order."""
        return [row for row in self.rows if self.filters.shows(row)]

    @property
    def markets(self) -> list[str]:
        """The markets there are."""
        return sorted({row["market"] for row in self.rows})


def span(minutes: float | None) -> str:
    """Return a duration in words, rounded down: `74 min`, `3 h 5 min`, `2 d 3 h`; a dash for none."""
    if minutes is None:
        return "–"
    whole = math.floor(minutes)
    if whole < 120:
        return f"{whole} min"
    hours, rest = divmod(whole, 60)
    if hours < 48:
        return f"{hours} h {rest} min"
    return f"{hours // 24} d {hours % 24} h"


def when(instant: str | None) -> str:
    """Return an instant of the API, which is UTC, to the minute: `2025-11-21 10:57`; a dash for none."""
    return "–" if instant is None else instant[:16].replace("T", " ")


def percent(value: float | None) -> str:
    """Return a percentage with two decimals; a dash for none."""
    return "–" if value is None else f"{value:.2f} %"


def grade(coverage: float | None) -> str:
    """Return how a bar of coverage is coloured: full from 99.5 %, part from 95 %, low below."""
    if coverage is None or coverage < 95:
        return "low"
    return "full" if coverage >= 99.5 else "part"


def words(code: str) -> str:
    """Return a code as words: `rate_limited` as `rate limited`."""
    return code.replace("_", " ")


def price(value: float) -> str:
    """Return a price or a volume with at most eight significant digits and no exponent."""
    text = np.format_float_positional(value, 8, fractional=False, trim="-")
    whole, _, rest = text.partition(".")
    return f"{int(whole):,}" + (f".{rest}" if rest else "")


def coded(text: str) -> Markup:
    """Return a sentence with what stands between backticks as code, and all of it escaped."""
    parts = text.split("`")
    return Markup().join(Markup("<code>{}</code>").format(part) if i % 2 else part for i, part in enumerate(parts))


def iso(instant: datetime | str) -> str:
    """Return an instant as the API writes it."""
    return instant if isinstance(instant, str) else instant.strftime("%Y-%m-%dT%H:%M:%SZ")


def known(value: object) -> object:
    """Return what a cell is sorted by, as a script would write it: an empty text for none, 0 for 0.0."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return "" if value is None else value


FILTERS: Mapping[str, Callable[..., object]] = {
    "span": span,
    "when": when,
    "percent": percent,
    "grade": grade,
    "words": words,
    "coded": coded,
    "price": price,
    "iso": iso,
    "known": known,
    "from_us": from_us,
}
"""What templates may apply to a value."""
