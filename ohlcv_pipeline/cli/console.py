"""Where output goes: results to stdout, progress and notes to stderr, and how the few shapes of both look."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

_PIPE_WIDTH = 180
"""Columns of a table that nobody looks at in a terminal; rich would cut it at 80."""

out = Console(highlight=False, width=None if sys.stdout.isatty() else _PIPE_WIDTH)
err = Console(highlight=False, stderr=True, width=None if sys.stderr.isatty() else _PIPE_WIDTH)


def note(text: str) -> None:
    """Tell the person something beside the result."""
    err.print(text, markup=False)


def write_json(document: object) -> None:
    """Write one JSON document to stdout."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_UTC_Z | orjson.OPT_APPEND_NEWLINE
    sys.stdout.write(orjson.dumps(document, option=options, default=str).decode())
    sys.stdout.flush()


def write_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows to stdout as CSV with a header; None becomes an empty field."""
    writer = csv.DictWriter(sys.stdout, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    sys.stdout.flush()


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> None:
    """Print a table to stdout; the columns named in `right` are numbers."""
    numbers = set(right)
    shown = Table(title=title or None, title_justify="left", title_style="bold")
    for name in columns:
        shown.add_column(name, justify="right" if name in numbers else "left")
    for row in rows:
        shown.add_row(*("–" if cell is None else cell if isinstance(cell, str) else f"{cell}" for cell in row))
    out.print(shown)


def progress() -> Progress:
    """Return a progress display on stderr with time left."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=err,
    )


def duration(seconds: float) -> str:
    """Return a duration as a person says it: 0.4 s, 12 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{timedelta(hours=hours).days} d {hours % 24} h" if hours >= 24 else f"{hours} h {minutes} min"


def instant(when: datetime) -> str:
    """Return an aware instant as ISO text in UTC, without a fraction of zero."""
    return when.astimezone(UTC).isoformat().replace("+00:00", "Z")
