"""The raw store: the vendors' answers, byte for byte, named by the SHA-256 of the body.

Answers that were published together share one pack, a Parquet file of bodies (zstd) with what was asked and when. A
pack is durable before the transaction that names its objects begins; which pack holds an object is in `raw_objects`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ohlcv_pipeline.frames import TIMESTAMP
from ohlcv_pipeline.lake.catalog import DAMAGE, LakeError

_ROW_GROUP = 64
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
    ]
)


@dataclass(frozen=True)
class RawObject:
    """One answer as it is kept. `url` and `headers` hold no secret; `note` says why a bad answer was kept."""

    id: str
    vendor: str
    url: str
    status: int
    headers: Sequence[tuple[str, str]]
    fetched_at: datetime
    body: bytes
    note: str | None = None


@dataclass(frozen=True)
class RawStore:
    """A folder of packs: `<vendor>/<UTC date>/<first 16 of the pack's own hash>.parquet`."""

    path: Path

    def write(self, objects: Iterable[RawObject]) -> dict[str, str]:
        """Keep the objects and return their pack's relative path by id. Durable when it returns.

        Objects of several vendors go into one pack each. Writing the same objects again writes nothing.
        """
        packs: dict[str, str] = {}
        by_vendor: dict[str, dict[str, RawObject]] = {}
        for item in objects:
            by_vendor.setdefault(item.vendor, {}).setdefault(item.id, item)
        for vendor, unique in by_vendor.items():
            name = self._write_pack(vendor, list(unique.values()))
            packs.update(dict.fromkeys(unique, name))
        return packs

    def _write_pack(self, vendor: str, objects: list[RawObject]) -> str:
        identity = hashlib.sha256("".join(sorted(o.id for o in objects)).encode()).hexdigest()[:16]
        day = min(o.fetched_at for o in objects).date().isoformat()
        name = f"{vendor}/{day}/{identity}.parquet"
        target = self.path / name
        if target.exists():
            return name
        target.parent.mkdir(parents=True, exist_ok=True)
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
            },
            schema=_SCHEMA,
        )
        partial = target.with_suffix(f".{os.getpid()}.partial")
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
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(target)
        directory = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
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
        path = self.path / pack
        try:
            wanted = None if ids is None else pc.field("id").isin(list(ids))
            rows = pq.read_table(path, filters=wanted).select(_SCHEMA.names).to_pylist()
            objects = [RawObject(**{**row, "headers": row["headers"] or []}) for row in rows]
            damaged = [item.id for item in objects if hashlib.sha256(item.body).hexdigest() != item.id]
        except DAMAGE as error:
            raise LakeError(f"raw pack {pack} cannot be read: {error}") from error
        if damaged:
            raise LakeError(f"raw object {str(damaged[0])[:12]} in pack {pack} is damaged: its body has another hash")
        return objects

    def prune(self, before: datetime, keep: set[str]) -> list[str]:
        """Delete packs of days before an instant, but for those in `keep`; return the names deleted."""
        deleted = []
        for path in sorted(self.path.glob("*/*/*.parquet")):
            name = path.relative_to(self.path).as_posix()
            if path.parent.name < before.date().isoformat() and name not in keep:
                path.unlink()
                deleted.append(name)
        return deleted
