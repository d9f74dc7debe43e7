"""Rebuilding a range of a table from the vendors' answers alone: what `ohlcv backfill --replay` does.

Cells that the manifest knows are held against what the answers give, and healed where the stored bars differ. Cells of
which only the answers are left are published again, publication by publication.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from ohlcv_pipeline.bars.checksum import checksum, records
from ohlcv_pipeline.bars.repair import Repair, repair
from ohlcv_pipeline.bars.replay import Part, Replay, rebuilt, republish
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import Instrument, Interval, Market
from ohlcv_pipeline.vendors.base import Adapter

CHUNK_BUCKETS = 300_000
"""About as many buckets are replayed at a time."""


@dataclass
class Rebuilt:
    """What a replay came to, in cells.

    `proven` cells come out of the answers with the checksum of the manifest; `restored` ones were not in the manifest
    and are published again, `rows` bars in all; `unproven` say `why`. `repair` is what was wrong with stored bars.
    """

    proven: int = 0
    rows: int = 0
    restored: list[dict[str, str]] = field(default_factory=list)
    unproven: list[dict[str, str]] = field(default_factory=list)
    repair: Repair = field(default_factory=Repair)

    @property
    def complete(self) -> bool:
        """Whether every cell of the range is as its answers say."""
        return not (self.unproven or self.repair.unhealed)


def rebuild(
    store: Store,
    market: Market,
    interval: Interval,
    instruments: Sequence[Instrument],
    partitions: Sequence[str],
    now: datetime,
    *,
    adapters: Mapping[str, Adapter] | None = None,
    apply: bool = True,
) -> Rebuilt:
    """Make these cells what their raw answers say, and prove it. Sends nothing.

    `apply` False only finds out what would be done. Raises LakeError.
    """
    result = Rebuilt()
    replay = Replay.of(market, interval, store.raw, adapters)
    symbols = {instrument.symbol: instrument for instrument in instruments}
    for keys in _chunks(market, interval, len(symbols), sorted(partitions)):
        _rebuild(store, replay, symbols, keys, result, apply=apply)
    _, result.repair, _ = repair(
        store,
        [(market, interval)],
        lambda: verify(store.reader, market, interval, list(symbols), partitions),
        now,
        adapters=adapters,
        apply=apply,
    )
    if apply and result.rows:
        store.writer.seal(now)
    return result


def _chunks(market: Market, interval: Interval, symbols: int, keys: Sequence[str]) -> Iterator[Sequence[str]]:
    longest = max(
        (len(market.buckets(interval, *market.partition_bounds(interval, key))) for key in keys[:31]), default=1
    )
    size = max(1, CHUNK_BUCKETS // max(1, longest * symbols))
    for first in range(0, len(keys), size):
        yield keys[first : first + size]


def _rebuild(
    store: Store,
    replay: Replay,
    instruments: Mapping[str, Instrument],
    keys: Sequence[str],
    result: Rebuilt,
    *,
    apply: bool,
) -> None:
    market, interval = replay.market, replay.interval
    bounds = {key: market.partition_bounds(interval, key) for key in keys}
    start, end = min(first for first, _ in bounds.values()), max(last for _, last in bounds.values())
    parts, damaged = replay.publications(replay.packs(list(instruments), start, end), list(instruments), start, end)
    of_symbol: dict[str, list[Part]] = {}
    for part in parts:
        of_symbol.setdefault(part.asked.symbol, []).append(part)
    known = set()
    for row in store.reader.manifest(market.name, interval, list(instruments), keys).to_pylist():
        symbol, key = row["symbol"], row["partition"]
        known.add((symbol, key))
        bars = rebuilt(market, of_symbol.get(symbol, ()), row["raw_ids"], *bounds[key])
        if checksum(symbol, interval, records(bars)) == row["checksum"]:
            result.proven += 1
        else:
            why = damaged[0] if damaged else "its raw answers are no longer kept or give another checksum"
            result.unproven.append(_named(replay, symbol, key, why=why))
    lost = {
        symbol: [
            key for key in keys if (symbol, key) not in known and any(part.touches(*bounds[key]) for part in of_one)
        ]
        for symbol, of_one in of_symbol.items()
    }
    if apply:
        result.rows += republish(store, market, interval, instruments, parts, lost)
        there = store.reader.manifest(market.name, interval, list(instruments), keys).select(["symbol", "partition"])
        known = {(row["symbol"], row["partition"]) for row in there.to_pylist()}
        lost = {symbol: [key for key in of_one if (symbol, key) in known] for symbol, of_one in lost.items()}
    result.restored += [_named(replay, symbol, key) for symbol, of_one in lost.items() for key in of_one]


def _named(replay: Replay, symbol: str, key: str, **more: str) -> dict[str, str]:
    return {"market": replay.market.name, "interval": str(replay.interval), "symbol": symbol, "partition": key, **more}
