"""The raw store: the vendors' answers, byte for byte, named by the SHA-256 of the body.

Answers that were published together share one pack, a Parquet file of bodies (zstd) with what was asked and when. A
pack is durable before the transaction that names its objects begins; which pack holds an object is in `raw_objects`.
Each answer also says for which publication it was fetched, so that the publication can be repeated from packs alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ohlcv_pipeline.frames import TIMESTAMP
from ohlcv_pipeline.lake.catalog import DAMAGE, LakeError
from ohlcv_pipeline.lake.durable import place

_ROW_GROUP = 64
PARTIAL_AGE = timedelta(days=1)
"""A pack still unfinished after this long belongs to a process that was killed."""

_ASKED = pa.struct(
    [
        pa.field("market", pa.string()),
        pa.field("interval", pa.string()),
        pa.field("symbol", pa.string()),
        pa.field("vendor_symbol", pa.string()),
        pa.field("start_us", pa.int64()),
        pa.field("end_us", pa.int64()),
        pa.field("page", pa.int32()),
        pa.field("place", pa.int32()),
        pa.field("run_id", pa.string()),
        pa.field("force", pa.bool_()),
        pa.field("published_at", TIMESTAMP),
    ]
)
_SCHEMA = pa.schema(
    [
        pa.field("id", pa.string()),
        pa.field("vendor", pa.string()),
        pa.field("url", pa.string()),
        pa.field("status", pa.int32()),
        pa.field("headers", pa.map_(pa.string(), pa.string())),
        pa.field("fetched_at", TIMESTAMP),
        pa.field("note", pa.string()),
        pa.field("body", pa.binary()),
        pa.field("asked", _ASKED),
    ]
)


@dataclass(frozen=True)
class Asked:
    """For what an answer was fetched: a window [start, end) of one symbol, for one publication of one run.

    `page` counts the fetches of the symbol in that publication, in the order in which the later one counts; `place`
    the answers of one fetch. `published_at` is the instant that the publication took for now, UTC.
    """

    market: str
    interval: str
    symbol: str
    vendor_symbol: str
    start_us: int
    end_us: int
    page: int
    place: int
    run_id: str
    force: bool
    published_at: datetime


@dataclass(frozen=True)
class RawObject:
    """One answer as it is kept. `url` and `headers` hold no secret; `note` says why a bad answer was kept.

    `asked` is None for an answer from which nothing was published, and in packs of the first release.
    """

    id: str
    vendor: str
    url: str
    status: int
    headers: Sequence[tuple[str, str]]
    fetched_at: datetime
    body: bytes
    note: str | None = None
    asked: Asked | None = None


@dataclass(frozen=True)
class RawStore:
    """A folder of packs: `<vendor>/<UTC date>/<first 16 of the pack's own hash>.parquet`."""

    path: Path

    def write(self, objects: Iterable[RawObject]) -> dict[str, str]:
        """Keep the objects and return their pack's relative path by id. Durable when it returns.

        Objects of several vendors go into one pack each. Writing the same objects again writes nothing.
        """
        packs: dict[str, str] = {}
        by_vendor: dict[str, dict[tuple[str, Asked | None], RawObject]] = {}
        for item in objects:
            by_vendor.setdefault(item.vendor, {}).setdefault((item.id, item.asked), item)
        for vendor, unique in by_vendor.items():
            name = self._write_pack(vendor, list(unique.values()))
            packs.update((item.id, name) for item in unique.values())
        return packs

    def _write_pack(self, vendor: str, objects: list[RawObject]) -> str:
        identity = hashlib.sha256("".join(sorted(_identity(o) for o in objects)).encode()).hexdigest()[:16]
        day = min(o.fetched_at for o in objects).date().isoformat()
        name = f"{vendor}/{day}/{identity}.parquet"
        target = self.path / name
        if target.exists():
            return name
        table = pa.Table.from_pydict(
            {
                "id": [o.id for o in objects],
                "vendor": [o.vendor for o in objects],
                "url": [o.url for o in objects],
                "status": [o.status for o in objects],
                "headers": [list(o.headers) for o in objects],
                "fetched_at": [o.fetched_at for o in objects],
                "note": [o.note for o in objects],
                "body": [o.body for o in objects],
                "asked": [None if o.asked is None else vars(o.asked) for o in objects],
            },
            schema=_SCHEMA,
        )

        def write(partial: Path) -> None:
            # Arrow opens the file itself: writing to one of Python's would hold up every other thread at each piece.
            # Dictionaries would hash every body to find none equal.
            pq.write_table(
                table,
                partial,
                compression="zstd",
                compression_level=1,
                row_group_size=_ROW_GROUP,
                use_dictionary=False,
            )

        place(target, write)
        return name

    def read(self, pack: str, object_id: str) -> RawObject:
        """Return one object, its body checked against its name.

        Raises LakeError when the pack is gone or the body no longer hashes to its id.
        """
        for item in self.read_pack(pack, [object_id]):
            return item
        raise LakeError(f"raw object {object_id[:12]} is not in pack {pack}")

    def read_pack(self, pack: str, ids: Sequence[str] | None = None) -> list[RawObject]:
        """Return the objects of a pack, all or those named, each checked against its id."""
        return self._read(pack, None if ids is None else pc.field("id").isin(list(ids)))

    def read_asked(
        self, pack: str, market: str, interval: str, symbols: Sequence[str], start_us: int, end_us: int
    ) -> list[RawObject]:
        """Return a pack's objects that were fetched for a window of some symbols, each checked against its id."""
        of = pc.field("asked", "market"), pc.field("asked", "interval"), pc.field("asked", "symbol")
        window = (pc.field("asked", "start_us") < end_us) & (pc.field("asked", "end_us") > start_us)
        return self._read(pack, (of[0] == market) & (of[1] == interval) & of[2].isin(list(symbols)) & window)

    def _read(self, pack: str, wanted: pc.Expression | None) -> list[RawObject]:
        try:
            rows = _rows(self.path / pack, _SCHEMA.names, wanted)
            objects = [_object(row) for row in rows]
            damaged = [item.id for item in objects if hashlib.sha256(item.body).hexdigest() != item.id]
        except DAMAGE as error:
            raise LakeError(f"raw pack {pack} cannot be read: {error}") from error
        if damaged:
            raise LakeError(f"raw object {str(damaged[0])[:12]} in pack {pack} is damaged: its body has another hash")
        return objects

    def packs(self) -> Iterator[str]:
        """Yield the names of all packs, by vendor and day."""
        for path in sorted(self.path.glob("*/*/*.parquet")):
            yield path.relative_to(self.path).as_posix()

    def asked(self, pack: str) -> list[Asked]:
        """Return for what the objects of a pack were fetched, without reading their bodies. Raises LakeError."""
        try:
            rows = _rows(self.path / pack, ["asked"], None)
            return [Asked(**row["asked"]) for row in rows if row["asked"] is not None]
        except DAMAGE as error:
            raise LakeError(f"raw pack {pack} cannot be read: {error}") from error

    def prune(self, before: datetime, keep: set[str]) -> list[str]:
        """Delete packs of days before an instant, but for those in `keep`; return the names deleted."""
        deleted = []
        for name in list(self.packs()):
            if name.split("/")[1] < before.date().isoformat() and name not in keep:
                (self.path / name).unlink()
                deleted.append(name)
        return deleted

    def sweep(self, now: datetime) -> int:
        """Delete unfinished packs that are older than a day; return how many."""
        left = [
            path for path in self.path.glob("*/*/*.partial") if path.stat().st_mtime < (now - PARTIAL_AGE).timestamp()
        ]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)


def _rows(path: Path, names: Sequence[str], wanted: pc.Expression | None) -> list[dict[str, Any]]:
    """Return rows of a pack; a column that a pack of the first release lacks is null."""
    scanner = ds.dataset(path, schema=_SCHEMA, format="parquet").scanner(
        columns=list(names), filter=wanted, use_threads=False
    )
    return list(scanner.to_table().to_pylist())


def _object(row: dict[str, Any]) -> RawObject:
    asked = None if row["asked"] is None else Asked(**row["asked"])
    return RawObject(**{**row, "headers": row["headers"] or [], "asked": asked})


def _identity(item: RawObject) -> str:
    return item.id if item.asked is None else f"{item.id} {item.asked}"
