"""The sandbox's own clock: the wall clock, the wall clock shifted, or an instant that stands still.

Which bars are closed, which files are published and the `Date` header follow it. Limits do not: they
count real seconds (see `limits`).
"""

from __future__ import annotations

import time
from email.utils import formatdate


class Clock:
    """Tells the sandbox's time in unix seconds."""

    def __init__(self, now: float | None = None) -> None:
        self._frozen = now
        self._shift = 0.0
        self._second = -1
        self._date = b""

    def now(self) -> float:
        """Return unix seconds."""
        return time.time() + self._shift if self._frozen is None else self._frozen

    def set(self, now: float | None) -> None:
        """Freeze the clock at an instant; None returns to the wall clock."""
        self._frozen, self._shift = now, 0.0

    def advance(self, seconds: float) -> None:
        """Move a frozen clock, or shift a running one against the wall clock."""
        if self._frozen is None:
            self._shift += seconds
        else:
            self._frozen += seconds

    @property
    def frozen(self) -> bool:
        """Whether time stands still between two calls of `set` or `advance`."""
        return self._frozen is not None

    def date(self) -> bytes:
        """Return the value of the `Date` header (RFC 9110)."""
        second = int(self.now())
        if second != self._second:
            self._second, self._date = second, http_date(second)
        return self._date


def http_date(seconds: float) -> bytes:
    """Return unix seconds as an HTTP date, e.g. `Fri, 20 Nov 2026 12:00:00 GMT`."""
    return formatdate(seconds, usegmt=True).encode()
