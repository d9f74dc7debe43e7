"""How long work tells how far it is: one value, handed to whoever listens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is: requests answered of those planned, and rows published so far."""

    requests: int
    planned: int
    rows: int


OnProgress = Callable[[str, Progress], None]
"""Hears of the asset (its key as text) and how far its run is."""
