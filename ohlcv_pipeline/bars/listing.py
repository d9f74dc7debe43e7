"""When a symbol was listed, as far as its vendors show it: the series begins after partitions answered empty.

Pure. Without it a young symbol would be reported as one long gap for ever.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any


def listings(
    rows: Iterable[Mapping[str, Any]], window: Collection[str], unlisted: Collection[str]
) -> dict[str, datetime]:
    """Return the first stored bucket of each symbol whose series begins inside the target window.

    At least one whole partition before it must have been asked for and answered without a bar; the silence
    of a few minutes is no listing.

    Args:
        rows: manifest rows of one table.
        window: the partitions of the target window. All of them up to the first bar must have been asked for.
        unlisted: the symbols of which no listing is known.
    """
    cells = {(row["symbol"], row["partition"]): row for row in rows}
    found: dict[str, datetime] = {}
    for symbol in unlisted:
        silent = 0
        for key in sorted(window):
            row = cells.get((symbol, key))
            if row is None:
                break
            if row["rows"]:
                if silent:
                    found[symbol] = row["first_bucket"]
                break
            silent += row["expected_rows"] > 0
    return found
