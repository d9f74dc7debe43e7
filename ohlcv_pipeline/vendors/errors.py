"""What can go wrong with a vendor, and what follows from it: one place decides permanent against transient.

The codes are those of a run's `error_summary`; their sentences are fixed, so that no vendor text leaks out.
"""

from __future__ import annotations

from enum import Enum, StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ohlcv_pipeline.vendors.base import Answer


class Code(StrEnum):
    """Why a vendor did not deliver."""

    RATE_LIMITED = "rate_limited"
    VENDOR_UNAVAILABLE = "vendor_unavailable"
    VENDOR_BLOCKED = "vendor_blocked"
    AUTH_FAILED = "auth_failed"
    BAD_SYMBOL = "bad_symbol"
    BAD_REQUEST = "bad_request"
    MALFORMED_RESPONSE = "malformed_response"
    NOT_YET = "not_yet"


class Remedy(Enum):
    """What the transport does about it."""

    BACK_OFF = "try again after a jittered, growing wait"
    WAIT = "empty the budget, wait as told, then try again"
    STOP_VENDOR = "ask this vendor nothing until the given time"
    GIVE_UP = "the same request will fail the same way"


class VendorError(Exception):
    """A vendor's failure, classified. `wait_seconds` is what the vendor asked for, if it did.

    The message says what was asked and what came back, without secrets and without the vendor's text.
    `answers` holds what came back byte for byte, so that a caller can keep it as evidence; empty if nothing did.
    `attempts` is how often it was asked for; 0 if the vendor was not asked at all.
    """

    def __init__(self, code: Code, remedy: Remedy, message: str, wait_seconds: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.remedy = remedy
        self.wait_seconds = wait_seconds
        self.answers: tuple[Answer, ...] = ()
        self.attempts = 0


def bad_symbol(message: str) -> VendorError:
    """The vendor has no such symbol, which no other try changes; another vendor may have it."""
    return VendorError(Code.BAD_SYMBOL, Remedy.GIVE_UP, message)


def malformed(message: str) -> VendorError:
    """The body is truncated, undecodable or not of the documented shape: worth another try."""
    return VendorError(Code.MALFORMED_RESPONSE, Remedy.BACK_OFF, message)


def unusable(message: str) -> VendorError:
    """The body came whole and is not what it has to be: another try would bring the same."""
    return VendorError(Code.MALFORMED_RESPONSE, Remedy.GIVE_UP, message)
