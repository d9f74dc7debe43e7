"""Many whole numbers to decimal text at once, as a matrix of bytes in which 0 means nothing.

A row of the matrix is a line of the answer. Which columns make a line is the vendor modules' business.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ohlcv_pipeline.frames import Micros

Bytes = npt.NDArray[np.uint8]

_GROUPS = np.frombuffer(b"".join(b"%04d" % i for i in range(10_000)), np.uint32)
"""Four digits as one word: looking up words is several times faster than looking up rows of bytes."""

_TIMES = np.frombuffer(b"".join(b"%02d:%02d:00" % divmod(i, 60) for i in range(1440)), np.uint64)


def fixed(values: Micros, decimals: int = 0) -> Bytes:
    """Return non-negative integers as text, divided by 10**decimals: 1234 with 2 gives `12.34`.

    Shape (n, width); leading zeros are 0 bytes, so that `text` drops them.
    """
    top = int(values.max(initial=0))
    width = max(len(str(top)), decimals + 1)
    groups = -(-width // 4)
    cells = np.empty((len(values), groups), np.uint32)
    rest = values
    for group in range(groups - 1, 0, -1):
        # Not divmod: numpy turns a division by a scalar into a multiplication, a divmod it does not.
        above = rest // 10_000
        cells[:, group] = _GROUPS[rest - above * 10_000]
        rest = above
    cells[:, 0] = _GROUPS[rest]
    digits = cells.view(np.uint8)[:, groups * 4 - width :]
    whole = width - decimals
    limits = 10 ** np.arange(width - 1, width - whole, -1, dtype=np.int64)
    limits = limits[limits > values.min(initial=top)]
    digits[:, : len(limits)] *= values[:, None] >= limits
    if not decimals:
        return digits
    return np.concatenate([digits[:, :whole], constant(b".", len(values)), digits[:, whole:]], axis=1)


def trimmed(text: Bytes, decimals: int) -> Bytes:
    """Drop, in place, the trailing zeros of `fixed(..., decimals)`: `174.50`, `12.00` become `174.5`, `12`."""
    idle = np.ones(len(text), np.bool_)
    for place in range(1, decimals + 1):
        idle &= text[:, -place] == ord("0")
        text[idle, -place] = 0
    text[idle, -decimals - 1] = 0
    return text


def stamps(seconds: Micros) -> Bytes:
    """Return unix seconds of whole minutes as text, UTC: `2026-11-18T14:30:00`; shape (n, 19)."""
    days, which = np.unique(seconds // 86_400, return_inverse=True)
    dates = np.frombuffer(np.datetime_as_string(days.astype("datetime64[D]")).astype("S10").tobytes(), np.uint8)
    times = _TIMES[seconds % 86_400 // 60].view(np.uint8).reshape(-1, 8)
    return np.concatenate([dates.reshape(-1, 10)[which], constant(b"T", len(seconds)), times], axis=1)


def constant(text: bytes, size: int) -> Bytes:
    """Return the same text for every line."""
    return np.broadcast_to(np.frombuffer(text, np.uint8), (size, len(text)))


def text(*parts: Bytes | bytes) -> bytes:
    """Join columns into lines and lines into one text; a column given as bytes repeats in every line."""
    size = next(len(part) for part in parts if not isinstance(part, bytes))
    columns = [constant(part, size) if isinstance(part, bytes) else part for part in parts]
    return np.concatenate(columns, axis=1).tobytes().translate(None, b"\0")
