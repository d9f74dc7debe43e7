"""The raw store keeps answers byte for byte under the hash of their body."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.raw import Asked, RawObject, RawStore
from ohlcv_pipeline_tests.bars.vendor import utc

FETCHED = utc("2025-11-20 14:30")


@pytest.fixture
def raw(tmp_path: Path) -> RawStore:
    return RawStore(tmp_path / "raw")


def answer(body: bytes, vendor: str = "coinbase", fetched_at: datetime = FETCHED, note: str | None = None) -> RawObject:
    headers = [("content-type", "application/json"), ("etag", "x")]
    return RawObject(
        hashlib.sha256(body).hexdigest(), vendor, f"https://{vendor}/candles", 200, headers, fetched_at, body, note
    )


def files(raw: RawStore) -> list[Path]:
    return sorted(path for path in raw.path.rglob("*") if path.is_file())


def test_an_answer_comes_back_as_it_was_kept(raw: RawStore) -> None:
    kept = answer(b'[[1,"caf\xc3\xa9"]]\x00\xff', note="malformed")
    packs = raw.write([kept, answer(b"[]")])
    assert raw.read(packs[kept.id], kept.id) == kept
    assert {item.id for item in raw.read_pack(packs[kept.id])} == set(packs)


def test_equal_bodies_are_kept_once_and_writing_them_again_writes_nothing(raw: RawStore) -> None:
    first = raw.write([answer(b"a"), answer(b"b"), answer(b"a")])
    (pack,) = files(raw)
    written = pack.stat().st_mtime_ns
    assert raw.write([answer(b"b"), answer(b"a")]) == first
    assert [path.stat().st_mtime_ns for path in files(raw)] == [written]
    assert len(raw.read_pack(first[answer(b"a").id])) == 2


def test_each_vendor_has_its_packs_by_day(raw: RawStore) -> None:
    packs = raw.write([answer(b"a"), answer(b"b", "kraken"), answer(b"c", fetched_at=utc("2025-11-21 00:01"))])
    assert packs[answer(b"a").id] == packs[answer(b"c").id]
    assert packs[answer(b"a").id].startswith("coinbase/2025-11-20/")
    assert packs[answer(b"b").id].startswith("kraken/2025-11-20/")


def test_a_pack_appears_whole_or_not_at_all(raw: RawStore) -> None:
    raw.write([answer(b"a")])
    assert [path.suffix for path in files(raw)] == [".parquet"]


def test_a_body_that_no_longer_hashes_to_its_name_is_an_error(raw: RawStore) -> None:
    kept = answer(b"[[1,2,3]]")
    pack = raw.write([kept])[kept.id]
    table = pq.read_table(raw.path / pack)
    table = table.set_column(table.schema.get_field_index("body"), "body", pa.array([b"[[1,2,4]]"], pa.binary()))
    pq.write_table(table, raw.path / pack)
    with pytest.raises(LakeError, match="damaged"):
        raw.read(pack, kept.id)


def test_no_flipped_bit_of_a_pack_gives_another_body(raw: RawStore) -> None:
    objects = [answer(f"[[{k},1.5,2.5]]".encode() * 40) for k in range(5)]
    pack = raw.write(objects)[objects[0].id]
    whole = (raw.path / pack).read_bytes()
    random = np.random.default_rng(7)
    for position in random.choice(len(whole) * 8, 300, replace=False).tolist():
        damaged = bytearray(whole)
        damaged[position // 8] ^= 1 << position % 8
        (raw.path / pack).write_bytes(damaged)
        try:
            bodies = {item.body for item in raw.read_pack(pack)}
        except LakeError:
            continue
        assert bodies <= {item.body for item in objects}, f"bit {position}"


def test_a_lost_pack_and_a_lost_object_are_errors(raw: RawStore) -> None:
    kept = answer(b"a")
    pack = raw.write([kept])[kept.id]
    with pytest.raises(LakeError, match="is not in pack"):
        raw.read(pack, answer(b"b").id)
    (raw.path / pack).unlink()
    with pytest.raises(LakeError, match="cannot be read"):
        raw.read(pack, kept.id)


def test_pruning_keeps_what_is_young_and_what_is_pointed_to(raw: RawStore) -> None:
    old, named, young = (
        answer(body, fetched_at=utc(day))
        for body, day in [(b"old", "2025-10-01"), (b"named", "2025-10-02"), (b"young", "2025-11-20")]
    )
    packs = {item.id: raw.write([item])[item.id] for item in (old, named, young)}
    assert raw.prune(utc("2025-10-21"), keep={packs[named.id]}) == [packs[old.id]]
    assert raw.read(packs[named.id], named.id) == named
    assert raw.read(packs[young.id], young.id) == young
    with pytest.raises(LakeError):
        raw.read(packs[old.id], old.id)


def test_a_body_is_named_by_its_content_whoever_sent_it(raw: RawStore) -> None:
    one, other = answer(b"same"), replace(answer(b"same", "kraken"), url="https://elsewhere")
    assert one.id == other.id
    assert len(set(raw.write([one]).values()) | set(raw.write([other]).values())) == 2


def test_answers_say_for_what_they_were_fetched_and_are_found_by_it(raw: RawStore) -> None:
    asked = Asked("crypto", "minute", "BTC", "BTC-USD", 0, 300, 0, 0, "run", False, FETCHED)
    kept = replace(answer(b"a"), asked=asked)
    other = replace(answer(b"b"), asked=replace(asked, symbol="ETH"))
    (pack,) = set(raw.write([kept, other, answer(b"c")]).values())
    assert raw.asked(pack) == [asked, other.asked]
    assert raw.read_asked(pack, "crypto", "minute", ["BTC"], 299, 400) == [kept]
    assert raw.read_asked(pack, "crypto", "minute", ["BTC"], 300, 400) == []
    assert list(raw.packs()) == [pack]


def test_equal_bodies_fetched_for_two_windows_are_both_kept(raw: RawStore) -> None:
    asked = Asked("crypto", "minute", "BTC", "BTC-USD", 0, 300, 0, 0, "run", False, FETCHED)
    windows = [replace(answer(b"[]"), asked=replace(asked, page=n, start_us=300 * n)) for n in range(2)]
    (pack,) = raw.write(windows).values()
    assert raw.read_pack(pack) == windows


def test_unfinished_packs_are_swept_after_a_day(raw: RawStore) -> None:
    raw.write([answer(b"a")])
    litter = files(raw)[0].with_suffix(".1.partial")
    litter.touch()
    now = datetime.now(UTC)
    assert raw.sweep(now) == 0
    assert raw.sweep(now + timedelta(days=2)) == 1
    assert not litter.exists()
    assert len(files(raw)) == 1
