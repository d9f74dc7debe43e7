"""The circuit breaker of one vendor in one process: arithmetic on a clock that is passed in.

What counts as a failure is decided by `transport`; limits shared by all processes are its `Budget`.
"""

from __future__ import annotations

from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError


class Breaker:
    """Refuses requests after `threshold` failures in a row, then lets one through per cool-down to look again.

    All instants are unix seconds.
    """

    def __init__(self, vendor: str, threshold: int = 5, cool_down: float = 60.0) -> None:
        self._vendor = vendor
        self._threshold = threshold
        self._cool_down = cool_down
        self._failures = 0
        self._until: float | None = None
        self._probing = False
        self._code = Code.VENDOR_UNAVAILABLE

    @property
    def closed(self) -> bool:
        """Whether requests pass freely."""
        return self._until is None

    def check(self, now: float) -> None:
        """Return if a request may be sent. Raises VendorError (stop vendor) while the breaker is open."""
        if self._until is not None and now < self._until:
            wait = self._until - now
            message = f"{self._vendor}: not asked because of earlier failures, next look in {wait:.0f} s"
            raise VendorError(self._code, Remedy.STOP_VENDOR, message, wait)

    def sent(self, now: float) -> None:
        """Take note of a request going out: after a cool-down it is the probe, and the others are refused.

        They are refused for another cool-down at most, in case the probe is cancelled and never reports.
        """
        if self._until is not None:
            self._until, self._probing = now + self._cool_down, True

    def succeeded(self, now: float) -> None:
        """Close, for the vendor answered; an answer from before it opened does not count."""
        if self._until is None or self._probing or now >= self._until:
            self._failures, self._until, self._probing = 0, None, False
            self._code = Code.VENDOR_UNAVAILABLE

    def failed(self, now: float) -> None:
        """Count one request whose retries are spent."""
        self._failures += 1
        if self._failures >= self._threshold:
            self.trip(now + self._cool_down, Code.VENDOR_UNAVAILABLE)

    def trip(self, until: float, code: Code) -> None:
        """Open at once, at least until the given instant."""
        if self._until is None or until >= self._until:
            self._until, self._code = until, code
        self._probing = False
