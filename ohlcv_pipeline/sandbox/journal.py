"""Which requests came in: counts per vendor and status, and the newest ten thousand.

In memory only; a test or the demo reads it through `/admin/requests`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

from ohlcv_pipeline.sandbox.messages import iso

KEPT = 10_000
DROPPED = 0
"""The status under which a connection closed without an answer is counted."""


class Journal:
    """The record of requests to the imitated vendors; requests to `/admin` are not in it."""

    def __init__(self) -> None:
        self._counts: dict[str, Counter[int]] = {}
        self._newest: deque[tuple[float, str, str, int]] = deque(maxlen=KEPT)

    def note(self, now: float, vendor: str, path: str, status: int) -> None:
        """Record one request."""
        self._counts.setdefault(vendor, Counter())[status] += 1
        self._newest.append((now, vendor, path, status))

    def reset(self) -> None:
        """Forget everything."""
        self._counts.clear()
        self._newest.clear()

    def as_json(self, vendor: str | None) -> Mapping[str, object]:
        """Return `counts` ({vendor: {status: n}}) and `requests`, oldest first, of one vendor or of all."""
        return {
            "counts": {
                name: {str(status): n for status, n in sorted(counts.items())}
                for name, counts in self._counts.items()
                if vendor in (None, name)
            },
            "requests": [
                {"time": iso(now), "vendor": name, "path": path, "status": status}
                for now, name, path, status in self._newest
                if vendor in (None, name)
            ],
        }
