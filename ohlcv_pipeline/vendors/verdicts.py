"""What an HTTP answer means before anybody reads its body as bars: status, headers, first bytes.

Error documents in a vendor's own JSON are read by its adapter, what follows from a verdict is done by `transport`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from ohlcv_pipeline.vendors.base import Answer
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed

WAIT_BOUNDS = (1.0, 900.0)
"""Seconds: what Retry-After and the reset headers are clamped to."""

BLOCKED_SECONDS = 600.0
BAN_SECONDS = 120.0
"""The shortest ban Binance gives, for a 418 that names no end."""

LONGEST_BAN_SECONDS = 3 * 86_400.0
RETRIED = frozenset({408, 500, 502, 503, 504, *range(520, 527)})
RESET_HEADERS = ("x-ratelimit-reset", "x-uw-req-per-minute-reset")
BAN_TEXT = re.compile(rb"banned until (\d{13})\b")
QUOTA_TEXT = re.compile(rb"limit|quota|exceeded|too many|premium", re.IGNORECASE)
SPENT_QUOTA = re.compile(rb"you have run over your", re.IGNORECASE)
"""How Tiingo says that an hour's, a day's or a month's allowance is used up, as a sentence or within JSON."""

REFUSE_KEYS_WITH_HTML = frozenset({"alpaca"})
"""Vendors whose gateway answers a missing or wrong key with its own page (alpacahq/alpaca-trade-api-go#276)."""

KEY_PAGE = b"<title>403 Forbidden"
SNIFFED = 2048


def verdict(answer: Answer, now: float) -> VendorError | None:
    """Return why an answer cannot be used, None when its body is the adapter's to read. `now`: unix seconds.

    200 is not trusted: HTML is a block, text about a quota is a rate limit, nothing at all is corruption.
    """
    status, body, asked = answer.status, answer.body, f"{answer.url} answered {answer.status}"
    start = body[:64].lstrip(b"\xef\xbb\xbf \t\r\n")
    html = start.startswith(b"<")
    banned = BAN_TEXT.search(body[:SNIFFED]) if status >= 400 else None
    if status == 418 or banned:
        return VendorError(Code.RATE_LIMITED, Remedy.STOP_VENDOR, f"{asked}: banned", _ban(answer, banned, now))
    if status == 429 and is_quota(body):
        return VendorError(Code.RATE_LIMITED, Remedy.STOP_VENDOR, f"{asked}: quota used up", quota_wait(body, now))
    if status == 429:
        return VendorError(Code.RATE_LIMITED, Remedy.WAIT, asked, told_wait(answer.headers, now))
    if status in (401, 403) and html and answer.request.vendor in REFUSE_KEYS_WITH_HTML and KEY_PAGE in body[:SNIFFED]:
        return _refused(asked)
    if 300 <= status < 400 or status == 451 or (html and status in (200, 403)):
        kind = "HTML" if html else "no market data"
        return VendorError(Code.VENDOR_BLOCKED, Remedy.STOP_VENDOR, f"{asked} with {kind}", BLOCKED_SECONDS)
    if status == 200:
        if not start:
            return malformed(f"{asked} with an empty body")
        if is_quota_text(start, body):
            return VendorError(
                Code.RATE_LIMITED, Remedy.STOP_VENDOR, f"{asked} with a quota text", quota_wait(body, now)
            )
        return None
    if status == 403 and not start:
        return malformed(f"{asked} with an empty body")
    if status in (401, 403):
        return _refused(asked)
    if status in RETRIED:
        return VendorError(Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, asked, told_wait(answer.headers, now))
    code = Code.VENDOR_UNAVAILABLE if status >= 500 else Code.BAD_REQUEST
    return VendorError(code, Remedy.GIVE_UP, asked)


def _refused(asked: str) -> VendorError:
    return VendorError(Code.AUTH_FAILED, Remedy.GIVE_UP, f"{asked}: check the key and what it is entitled to")


def _ban(answer: Answer, banned: re.Match[bytes] | None, now: float) -> float:
    if banned:
        wait = int(banned[1]) / 1000 - now
    else:
        told = _retry_after(answer.headers.get("retry-after"), now)
        wait = BAN_SECONDS if told is None else told
    return min(max(wait, WAIT_BOUNDS[0]), LONGEST_BAN_SECONDS)


def told_wait(headers: Mapping[str, str], now: float) -> float | None:
    """Return the seconds that Retry-After or a reset header asks for, clamped to 1 s … 15 min, else None.

    Retry-After (RFC 9110 §10.2.3) may be whole, a fraction, an HTTP date, negative or absurd. Reset headers of
    Alpaca and Finnhub are unix seconds, a small number is taken as seconds from now.
    """
    wait = _retry_after(headers.get("retry-after"), now)
    for name in RESET_HEADERS:
        if wait is None and (number := _number(headers.get(name))) is not None:
            wait = number - now if number > 1e9 else number
    return None if wait is None else min(max(wait, WAIT_BOUNDS[0]), WAIT_BOUNDS[1])


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _retry_after(text: str | None, now: float) -> float | None:
    if text is None:
        return None
    if (number := _number(text)) is not None:
        return number
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now


def next_minute(now: float) -> float:
    """Return the seconds until the next whole minute, at least one."""
    return max(60 - now % 60, WAIT_BOUNDS[0])


def is_quota_text(start: bytes, body: bytes) -> bool:
    """Whether a body is a sentence about a limit instead of JSON, a file or a checksum."""
    plain = start[:1].isalpha() and not start.startswith(b"PK") and len(body) < SNIFFED
    return plain and (QUOTA_TEXT.search(body) is not None or is_quota(body))


def is_quota(body: bytes) -> bool:
    """Whether a body, a sentence or JSON, says that an allowance is used up that comes back with the clock."""
    return SPENT_QUOTA.search(body[:SNIFFED]) is not None


def quota_wait(body: bytes, now: float) -> float:
    """Return the seconds until the window that the text names ends: month, day, else hour (UTC)."""
    at = datetime.fromtimestamp(now, UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    text = body.lower()
    if b"month" in text:
        end = (midnight.replace(day=1) + timedelta(days=32)).replace(day=1)
    elif b"day" in text or b"daily" in text:
        end = midnight + timedelta(days=1)
    else:
        end = at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
    return (end - at).total_seconds()
