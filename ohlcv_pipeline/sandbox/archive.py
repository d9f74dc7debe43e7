"""data.binance.vision: zipped CSV of whole days and months, and their CHECKSUM files.

No header line; stamps in ms before 2025-01-01 and in µs from then on. A day's file appears at 03:00 UTC
of the next day, a month's on the 2nd of the next month. After https://github.com/binance/binance-public-data.
"""

from __future__ import annotations

import calendar
import hashlib
import io
import re
import zipfile
from collections import OrderedDict
from datetime import date, timedelta

from ohlcv_pipeline.sandbox import digits
from ohlcv_pipeline.sandbox.binance import lines
from ohlcv_pipeline.sandbox.clock import http_date
from ohlcv_pipeline.sandbox.listing import VENUES, spellings
from ohlcv_pipeline.sandbox.messages import DAY, MINUTE, Ask, Reply, Request
from ohlcv_pipeline.sandbox.series import Series

NAME = "binance_archive"
MICROSECONDS_FROM = calendar.timegm((2025, 1, 1, 0, 0, 0))
PUBLISHED_AFTER = 3 * 3600
CACHED_BYTES = 96_000_000

SYMBOLS = spellings(NAME)
_STEPS = {"1m": MINUTE, "1d": DAY}
_PATH = re.compile(
    r"/data/spot/(?P<span>daily|monthly)/klines/(?P<symbol>[A-Z0-9]+)/(?P<interval>1m|1d)/"
    r"(?P<name>(?P=symbol)-(?P=interval)-(?P<year>\d{4})-(?P<month>\d\d)(?:-(?P<day>\d\d))?\.zip)"
    r"(?P<checksum>\.CHECKSUM)?"
)

NOT_FOUND = Reply(
    404,
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>NoSuchKey</Code>'
    b"<Message>The specified key does not exist.</Message></Error>",
    b"application/xml",
)


def parse(request: Request, now: float) -> Ask:
    """Return which file is asked for; 404 for one that does not exist, or not yet."""
    found = _PATH.fullmatch(request.path)
    if found is None or found["symbol"] not in SYMBOLS or (found["span"] == "daily") != bool(found["day"]):
        return Ask(NAME, refusal=NOT_FOUND)
    try:
        first = date(int(found["year"]), int(found["month"]), int(found["day"] or 1))
    except ValueError:
        return Ask(NAME, refusal=NOT_FOUND)
    after = first + timedelta(days=1) if found["day"] else (first + timedelta(days=32)).replace(day=1)
    start, end = calendar.timegm(first.timetuple()), calendar.timegm(after.timetuple())
    appears = _published(end, monthly=not found["day"])
    etag = request.headers.get(b"if-none-match", b"").decode("latin-1").strip()
    form = " ".join(filter(None, [found["name"], "sum" if found["checksum"] else "zip", etag]))
    refusal = NOT_FOUND if appears > now else None
    return Ask(NAME, (SYMBOLS[found["symbol"]],), _STEPS[found["interval"]], start, end, form=form, refusal=refusal)


def _published(end: int, *, monthly: bool) -> int:
    return end + PUBLISHED_AFTER + (DAY if monthly else 0)


def name_of(ask: Ask) -> str:
    """Return the name of the zip that a request is about."""
    return ask.form.split(" ", 1)[0]


def is_checksum(ask: Ask) -> bool:
    """Whether a request is for the CHECKSUM file."""
    return ask.form.split(" ")[1] == "sum"


def form_of_zip(ask: Ask) -> str:
    """Return the `form` of the same request for the zip itself."""
    return f"{name_of(ask)} zip"


class Archive:
    """The files, made on demand. `changed` is when history was last rewritten, in unix seconds."""

    def __init__(self) -> None:
        self.changed = 0.0
        self._files: OrderedDict[str, bytes] = OrderedDict()
        self._held = 0

    def forget(self, changed: float) -> None:
        """Make every file anew: a correction or a split has come (at `changed`) or gone (0)."""
        self._files.clear()
        self._held, self.changed = 0, changed

    def answer(self, ask: Ask, series: Series, now: float) -> Reply:
        """Return the zip or its CHECKSUM line, `<sha256>  <file name>`; 304 for a matching If-None-Match."""
        name, kind, *etags = ask.form.split(" ", 2)
        packed = self.file(name, ask, series, now)
        if not packed:
            return NOT_FOUND
        body, content_type = packed, b"application/zip"
        if kind == "sum":
            body, content_type = checksum(packed, name), b"binary/octet-stream"
        etag = '"' + hashlib.md5(body, usedforsecurity=False).hexdigest() + '"'
        modified = max(_published(ask.end, monthly=ask.end - ask.start > DAY), self.changed)
        headers = ((b"etag", etag.encode()), (b"last-modified", http_date(modified)))
        if etag in etags:
            return Reply(304, b"", content_type, headers)
        return Reply(200, body, content_type, headers)

    def file(self, name: str, ask: Ask, series: Series, now: float) -> bytes:
        """Return the bytes of a zip file; empty when the series has no bar in its range."""
        if name in self._files:
            self._files.move_to_end(name)
            return self._files[name]
        packed = _pack(name, ask, series, now)
        self._files[name] = packed
        self._held += len(packed)
        while self._held > CACHED_BYTES:
            self._held -= len(self._files.popitem(last=False)[1])
        return packed


def checksum(packed: bytes, name: str) -> bytes:
    """Return the line of a CHECKSUM file."""
    return f"{hashlib.sha256(packed).hexdigest()}  {name}\n".encode()


def _pack(name: str, ask: Ask, series: Series, now: float) -> bytes:
    bars = series.bars(VENUES[NAME], ask.symbol, ask.step, ask.start, ask.end, now)
    if not len(bars.time):
        return b""
    unit = 1_000_000 if ask.start >= MICROSECONDS_FROM else 1_000
    parts = [part for column in lines(bars, ask.step, unit) for part in (column, b",")]
    return zip_csv(name, digits.text(*parts, b"0\n"))


def zip_csv(name: str, content: bytes) -> bytes:
    """Return a zip of one CSV, the same bytes for the same content."""
    # A fixed date: zip members carry a time, and the CHECKSUM of an unchanged day must not change.
    member = zipfile.ZipInfo(name.removesuffix(".zip") + ".csv", date_time=(2020, 1, 1, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as packed:
        packed.writestr(member, content, compresslevel=1)
    return target.getvalue()


def unzip_csv(packed: bytes) -> bytes:
    """Return the content of the only member."""
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:
        return archive.read(archive.namelist()[0])
