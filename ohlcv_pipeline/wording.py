"""How numbers are said in sentences, wherever a person reads them."""

from __future__ import annotations


def many(count: int, one: str, more: str = "") -> str:
    """Return a number with its noun: 1 gap, 2 gaps."""
    return f"{count:,} {one if count == 1 else more or one + 's'}"
