"""The chain behind a bar, rebuilt from lake and raw store alone, and what is said when a link is gone."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest

from ohlcv_pipeline.bars.checksum import partition_checksum
from ohlcv_pipeline.bars.explain import ask, explain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.vendors.base import BarColumns, Fetch, Page, Request
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    RUN,
    Rows,
    Vendor,
    change,
    fill,
    listed,
    read_rows,
    refuse,
    series,
    step,
    us,
    utc,
)

NOW = utc("2025-11-21 12:00")
LATER = NOW + timedelta(hours=3)
PARTITION = "2025-11-20"
BUCKET = us("2025-11-20 14:31")


def louder(symbol: str, rows: Rows) -> Rows:
    return [[*row[:5], row[5] + 7.0] if row[0] == BUCKET else row for row in rows]


def explained(store: Store, vendor: Vendor, bucket: int = BUCKET, instrument: Any = BTC) -> dict[str, Any]:
    adapters = {vendor.name: vendor}
    return explain(store, CRYPTO, MINUTE, instrument, [instrument, ETH], bucket, LATER, adapters)


def test_the_chain_of_a_bar_ends_at_the_answer_that_holds_it(store: Store) -> None:
    vendor = Vendor()
    fill(store, [PARTITION], [vendor], NOW)
    document = explained(store, vendor)
    values = series("BTC", MINUTE, step("2025-11-20 14:31", 1))[:, 0].tolist()
    assert [document["bar"][name] for name in ("open", "high", "low", "close", "volume")] == values
    assert document["run"] == {"id": RUN, "cause": "fetched"}
    source = document["source"]
    assert (source["parser_version"], source["reread"]) == ("1", "equal")
    pages = [
        (int(url.split("start=")[1].split("&")[0]), int(url.split("end=")[1])) for url in [source["request"]["url"]]
    ]
    assert all(start <= BUCKET < end for start, end in pages)
    assert source["raw"]["id"] in document["manifest"]["raw_ids"]
    bars = store.reader.bars("crypto", MINUTE, "BTC", BUCKET, BUCKET + 1)
    assert document["bar_checksum"] == partition_checksum("BTC", MINUTE, bars)
    assert [row["bucket_start"] for row in document["neighbours"]] == [
        utc(f"2025-11-20 14:{minute}") for minute in (29, 30, 32, 33)
    ]


def test_a_corrected_bar_names_the_answer_of_the_correction_and_what_it_was(store: Store) -> None:
    first = Vendor()
    fill(store, [PARTITION], [first], NOW)
    second = Vendor(edit=louder, received_at=LATER)
    fill(store, [PARTITION], [second], LATER, force=True, run_id="corrected")
    document = explained(store, second)
    (old,) = document["revisions"]
    assert document["bar"]["volume"] == old["volume"] + 7.0
    assert (old["run_id"], old["superseded_by_run"], document["run"]["id"]) == (RUN, "corrected", "corrected")
    assert (document["source"]["reread"], document["source"]["request"]["fetched_at"]) == ("equal", LATER)
    assert explained(store, second, BUCKET + MINUTE.step_us)["source"]["request"]["fetched_at"] != LATER


def test_a_bar_that_its_answer_does_not_say_is_told(store: Store) -> None:
    vendor = Vendor()
    fill(store, [PARTITION], [vendor], NOW)
    change(store, f"UPDATE lake.crypto.ohlcv_minute SET volume = 1e6 WHERE bucket_start = make_timestamptz({BUCKET})")
    assert explained(store, vendor)["source"]["reread"].startswith("the answer says [[")


def test_an_answer_that_is_kept_no_longer_leaves_the_rest_of_the_chain(store: Store) -> None:
    vendor = Vendor()
    fill(store, [PARTITION], [vendor], NOW)
    packs = store.reader.query("SELECT DISTINCT pack FROM lake.raw_objects")["pack"].to_pylist()
    (store.raw.path / packs[0]).unlink()
    assert "cannot be read" in explained(store, vendor)["source"]["reread"]
    store.writer.forget_packs(packs)
    document = explained(store, vendor)
    assert (document["source"]["raw"], document["source"]["reread"]) == (None, "the answer is kept no longer")
    assert document["bar"] is not None
    assert document["manifest"]["raw_ids"]


class Paged(Vendor):
    """A vendor that gives what it is asked for in two answers, the later a second after the other."""

    async def fetch(self, fetch: Fetch, transport: Any) -> Page:
        (request,) = fetch.requests
        start, end = fetch.start_us, fetch.end_us
        middle = (start + end) // 2 // MINUTE.step_us * MINUTE.step_us
        parts, answers = [], []
        for edges in ((start, middle), (middle, end)):
            self.received_at += timedelta(seconds=1)
            asked = Request(self.name, request.path, dict(zip(("start", "end"), edges, strict=True)))
            (bars, _), answer = await transport.get(asked, read_rows)
            parts.append(bars)
            answers.append(answer)
        return Page(fetch, BarColumns.concat(parts), (), tuple(answers), seams=(middle,))


@pytest.mark.parametrize("minute", ["10:31", "14:29"])
def test_of_a_fetch_in_several_answers_the_one_that_holds_the_bar_is_named(store: Store, minute: str) -> None:
    vendor = Paged()
    fill(store, [PARTITION], [vendor], NOW)
    bucket = us(f"{PARTITION} {minute}")
    document = explained(store, vendor, bucket)
    source, url = document["source"], document["source"]["request"]["url"]
    assert source["reread"] == "equal"
    assert int(url.split("start=")[1].split("&")[0]) <= bucket < int(url.split("end=")[1])
    kept = store.raw.read(source["raw"]["pack"], source["raw"]["id"])
    assert (kept.url, kept.fetched_at, len(kept.body)) == tuple(
        source["request"][n] for n in ("url", "fetched_at", "bytes")
    )


class Twice(Vendor):
    """A vendor that is asked for everything twice, a second apart."""

    def plan(self, *asked: Any) -> list[Fetch]:
        return [fetch for _ in range(2) for fetch in super(Twice, self).plan(*asked)]

    async def get(self, request: Request, decode: Any) -> Any:
        self.received_at += timedelta(seconds=1)
        return await super().get(request, decode)


def test_of_several_answers_to_one_request_the_one_that_the_bar_was_read_from_is_named(store: Store) -> None:
    vendor = Twice()
    fill(store, [PARTITION], [vendor], NOW)
    document = explained(store, vendor)
    assert document["source"]["request"]["fetched_at"] == document["bar"]["fetched_at"]
    second = Vendor(edit=louder, received_at=document["bar"]["fetched_at"])
    fill(store, [PARTITION], [second], LATER, force=True, run_id="corrected")
    assert explained(store, second)["source"]["reread"] == "equal"


def test_an_answer_of_the_first_release_is_named_and_not_read_again(store: Store) -> None:
    vendor = Vendor()
    fill(store, [PARTITION], [vendor], NOW)
    for pack in {*store.reader.query("SELECT pack FROM lake.raw_objects")["pack"].to_pylist()}:
        path = store.raw.path / pack
        pq.write_table(pq.read_table(path).drop_columns("asked"), path)
    source = explained(store, vendor)["source"]
    assert source["reread"] == "the kept answer does not say what it was asked for"
    assert store.raw.read(source["raw"]["pack"], source["raw"]["id"]).url == source["request"]["url"]


@pytest.mark.parametrize(
    ("instrument", "bucket", "cause"),
    [
        (listed(BTC, listing_start=utc("2025-11-20 15:00")), BUCKET, "listing"),
        (BTC, us("2025-11-21 15:00"), "not_due"),
        (BTC, us("2055-11-21 15:00"), "not_due"),
        (BTC, BUCKET, "not_fetched"),
    ],
)
def test_a_bucket_without_a_bar_is_explained(store: Store, instrument: Any, bucket: int, cause: str) -> None:
    document = explained(store, Vendor(), bucket, instrument)
    assert (document["bar"], document["absence"]["cause"]) == (None, cause)
    assert document["absence"]["because"]


def asked(bar: dict[str, Any] | None, *vendors: Vendor) -> dict[str, dict[str, Any]]:
    sources = {vendor.name: vendor.source for vendor in vendors}
    found = asyncio.run(ask(sources, CRYPTO, MINUTE, BTC, BUCKET, bar, LATER, patience_seconds=5))
    return {each["vendor"]: each for each in found}


def test_every_vendor_is_asked_and_compared_field_by_field(store: Store) -> None:
    fill(store, [PARTITION], [Vendor()], NOW)
    bar = explained(store, Vendor())["bar"]
    found = asked(bar, Vendor(), Vendor("kraken", edit=louder))
    assert (found["coinbase"]["found"], found["coinbase"]["differs"]) == ("agrees", {})
    assert found["kraken"]["found"] == "differs"
    assert found["kraken"]["differs"] == {"volume": pytest.approx(7.0 / bar["volume"])}


def test_a_vendor_that_cannot_say_anything_is_told_apart(store: Store) -> None:
    def broken(symbol: str, start: int, end: int) -> None:
        raise refuse()

    found = asked(None, Vendor(fail=broken), Vendor("kraken", silent={("BTC", BUCKET)}))
    assert found["coinbase"]["found"] == "did not answer: vendor_unavailable"
    assert found["kraken"]["found"] == "has no bar"
    found = asked(None, Vendor(), Vendor("kraken", newest_rows=10))
    assert (found["coinbase"]["found"], found["kraken"]["found"]) == ("has a bar", "does not serve this bucket")
