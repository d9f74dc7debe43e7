"""Which header carries a vendor's key, and what is said when the key is missing. Keys themselves are settings.

A key goes into a header and nowhere else: not into a URL, a log line, a raw answer or an error.
"""

from __future__ import annotations

from collections.abc import Mapping

from ohlcv_pipeline.settings import KEY_VARIABLES, VendorSettings

HEADERS: Mapping[str, Mapping[str, tuple[str, str]]] = {
    "alpaca": {"key_id": ("APCA-API-KEY-ID", ""), "key": ("APCA-API-SECRET-KEY", "")},
    "tiingo": {"key": ("Authorization", "Token ")},
    "finnhub": {"key": ("X-Finnhub-Token", "")},
}
"""Vendor → the setting that holds a key → the header that carries it, and what stands before it there."""


def unusable(vendor: str, settings: VendorSettings) -> str | None:
    """Return what is wrong with a vendor's keys and which variable to set, None when all can be sent."""
    for field in HEADERS.get(vendor, {}):
        key = _key(settings, field)
        if not key or not key.isascii() or not key.isprintable() or " " in key:
            problem = "is not set" if not key else "holds characters that no key has"
            return f"{vendor}: {KEY_VARIABLES[vendor][field]} {problem}; the vendor is not asked without its key"
    return None


def headers(vendor: str, settings: VendorSettings) -> dict[str, str]:
    """Return the headers that carry a vendor's usable keys; none for a vendor that wants none."""
    return {name: f"{before}{_key(settings, field)}" for field, (name, before) in HEADERS.get(vendor, {}).items()}


def _key(settings: VendorSettings, field: str) -> str:
    key: str = getattr(settings, field).get_secret_value()
    return key.strip()
