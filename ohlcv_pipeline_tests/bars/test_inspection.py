"""The five checks: each turns red on its own mutant of the lake, and only it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from ohlcv_pipeline.bars.checksum import partition_checksum
from ohlcv_pipeline.bars.inspection import BY_PARTITION, CHECKS, inspect, lag_of_each
from ohlcv_pipeline.bars.quality import WORST, Judgement, Measured, Verdict, duplicates_verdict
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.frames import bars_from_columns
from ohlcv_pipeline.lake.catalog import LakeError
from ohlcv_pipeline.lake.reader import Reader
from ohlcv_pipeline.lake.store import Store, open_store
from ohlcv_pipeline.markets import Instrument
from ohlcv_pipeline_tests.bars.vendor import (
    BTC,
    CRYPTO,
    ETH,
    MINUTE,
    Vendor,
    bars_of,
    change,
    fill,
    listed,
    offer,
    publish_one,
    series,
    step,
    us,
    utc,
)
from ohlcv_pipeline_tests.kept import Kept

NOW = utc("2025-11-21 00:30")
KEYS = ["2025-11-19", "2025-11-20"]
TABLE = "lake.crypto.ohlcv_minute"
ONE_BAR = "symbol = 'BTC' AND bucket_start = TIMESTAMPTZ '2025-11-20 10:00:00+00'"
BOTH = (BTC, ETH)


def judgement(
    store: Store,
    now: datetime = NOW,
    instruments: Collection[Instrument] = BOTH,
    checks: Collection[str] = CHECKS,
) -> Judgement:
    return inspect(store.reader, CRYPTO, MINUTE, list(instruments), KEYS, now, 60.0, 95.0, checks)


def verdicts(store: Store, now: datetime = NOW, checks: Collection[str] = CHECKS) -> dict[str, Verdict]:
    return {verdict.check: verdict for verdict in judgement(store, now, checks=checks).table}


def red(store: Store, now: datetime = NOW) -> dict[str, Verdict]:
    """Return the red verdicts on the table, which are those of its newer day: the older one is always sound."""
    found = judgement(store, now)
    assert [verdict.check for verdict in found.table] == list(CHECKS)
    assert {(v.check, v.partition) for v in found.partitions} == {(name, key) for name in BY_PARTITION for key in KEYS}
    of_table = {verdict.check: verdict for verdict in found.table if not verdict.passed}
    of_days = {(verdict.check, verdict.partition) for verdict in found.partitions if not verdict.passed}
    assert of_days == {(name, KEYS[1]) for name in of_table if name in BY_PARTITION}
    return of_table


def seal_manifest(store: Store, bars_sql: str) -> None:
    """Give the mutated cell the checksum of what it holds now, so that only the mutant itself is wrong."""
    change(store, bars_sql)
    stored = store.reader.values("crypto", MINUTE, us("2025-11-20"), us("2025-11-21"), ["BTC"])
    new = partition_checksum("BTC", MINUTE, stored)
    where = "symbol = 'BTC' AND partition = '2025-11-20'"
    change(store, f"UPDATE lake.manifest SET checksum = '{new}', rows = {stored.num_rows} WHERE {where}")


@pytest.fixture
def filled(kept: Kept) -> Iterator[Store]:
    with kept.store(lambda empty: fill(empty, KEYS, [Vendor()], NOW, instruments=BOTH)) as store:
        yield store


def test_a_sound_table_passes_every_check(filled: Store) -> None:
    found = verdicts(filled)
    assert all(verdict.passed for verdict in found.values())
    assert found["checksum"].summary == "4 cells (5,760 bars) hash to their manifest"
    assert found["gaps"].numbers == {"expected": 5760, "missing": 0, "lowest_coverage_pct": 100.0, "offenders": 0}
    assert found["freshness"].numbers["worst_lag_minutes"] == 30.0


@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
def test_a_value_changed_behind_our_back_turns_checksum_red(filled: Store, column: str) -> None:
    low_or_up = "- 1e-9" if column == "low" else "+ 1e-9"
    target = f"greatest({column}, open, close)" if column == "high" else column
    change(filled, f"UPDATE {TABLE} SET {column} = {target} {low_or_up} WHERE {ONE_BAR}")
    found = red(filled)
    assert set(found) == {"checksum"}
    (offender,) = found["checksum"].offenders
    assert (offender["symbol"], offender["partition"]) == ("BTC", "2025-11-20")
    assert offender["manifest"] != offender["actual"]
    assert found["checksum"].severity == "ERROR"


@pytest.mark.parametrize(
    "mutation",
    ["open = -1.0, low = -2.0", "high = low / 2", "close = high * 2", "volume = -1.0", "open = NULL"],
)
def test_a_bar_that_breaks_a_rule_turns_schema_red(filled: Store, mutation: str) -> None:
    seal_manifest(filled, f"UPDATE {TABLE} SET {mutation} WHERE {ONE_BAR}")
    found = red(filled)
    assert set(found) == {"schema"}
    assert 0 < len(found["schema"].offenders) <= WORST


@pytest.mark.parametrize(
    ("mutation", "column"),
    [
        ("ADD COLUMN adjusted DOUBLE", "adjusted"),
        ("RENAME COLUMN vwap TO mean_price", "vwap"),
    ],
)
def test_a_table_with_other_columns_turns_schema_red(filled: Store, mutation: str, column: str) -> None:
    change(filled, f"ALTER TABLE {TABLE} {mutation}")
    found = {verdict.check: verdict for verdict in judgement(filled).table if not verdict.passed}
    assert set(found) == {"schema"}
    # The columns are those of every partition.
    assert sum(not verdict.passed for verdict in judgement(filled).partitions) == 2
    assert column in {offender["column"] for offender in found["schema"].offenders}


def test_a_bucket_stored_twice_turns_duplicates_red(filled: Store) -> None:
    seal_manifest(filled, f"INSERT INTO {TABLE} SELECT * FROM {TABLE} WHERE {ONE_BAR}")
    found = red(filled)
    assert set(found) == {"duplicates"}
    assert found["duplicates"].offenders == [{"symbol": "BTC", "bucket_start": "2025-11-20T10:00:00Z"}]


def test_a_bar_that_is_gone_turns_gaps_red(filled: Store) -> None:
    seal_manifest(filled, f"DELETE FROM {TABLE} WHERE {ONE_BAR}")
    change(filled, "UPDATE lake.manifest SET complete = false WHERE rows < expected_rows")
    found = red(filled)
    assert set(found) == {"gaps"}
    assert (found["gaps"].severity, found["gaps"].numbers["missing"]) == ("WARN", 1)
    assert "1 of 5,760 expected bars are missing in 1 gap; lowest coverage 99.93 %" in found["gaps"].summary
    (offender,) = found["gaps"].offenders
    assert (offender["symbol"], offender["first"], offender["coverage_pct"]) == ("BTC", "2025-11-20T10:00:00Z", 99.93)


def test_a_coverage_below_the_limit_is_an_error(filled: Store) -> None:
    morning = "bucket_start BETWEEN TIMESTAMPTZ '2025-11-20 00:00:00+00' AND TIMESTAMPTZ '2025-11-20 03:59:00+00'"
    seal_manifest(filled, f"DELETE FROM {TABLE} WHERE symbol = 'BTC' AND {morning}")
    change(filled, "UPDATE lake.manifest SET complete = false WHERE partition = '2025-11-20'")
    found = red(filled)["gaps"]
    assert (found.severity, found.numbers["missing"], found.numbers["lowest_coverage_pct"]) == ("ERROR", 240, 83.33)


def test_a_series_that_fell_behind_turns_freshness_red(filled: Store) -> None:
    found = red(filled, utc("2025-11-21 01:00:01"))
    assert set(found) == {"freshness"}
    assert {offender["symbol"] for offender in found["freshness"].offenders} == {"BTC", "ETH"}
    assert red(filled, utc("2025-11-21 01:00:00")) == {}


@pytest.fixture
def torn(store: Store) -> Store:
    """A lake whose newer day is in a file that was cut short."""
    for key in KEYS:
        fill(store, [key], [Vendor()], NOW, instruments=BOTH)
    newest = max(store.reader.files("crypto", MINUTE), key=lambda file: file.first_us or 0)
    with open(newest.path, "r+b") as file:  # noqa: PTH123
        file.truncate(100)
    return store


def test_a_file_that_cannot_be_read_turns_checksum_red(torn: Store) -> None:
    found = red(torn)
    assert set(found) == {"checksum"}
    assert found["checksum"].offenders == [{"symbol": "", "partition": KEYS[1], "manifest": "", "actual": "unreadable"}]
    assert found["checksum"].numbers == {"cells": 4, "rows": 2880, "offenders": 1}


def test_what_is_missing_of_bars_that_cannot_be_read_is_told_by_the_manifest(torn: Store) -> None:
    change(
        torn, "UPDATE lake.manifest SET rows = 1430, complete = false WHERE symbol = 'ETH' AND partition > '2025-11-19'"
    )
    found = red(torn)
    assert set(found) == {"checksum", "gaps"}
    (hole,) = found["gaps"].offenders
    assert (hole["symbol"], hole["missing"], hole["first"]) == ("ETH", 10, "")
    assert set(verdicts(torn, checks=["gaps"])) == {"gaps"}


def test_only_the_checks_that_were_asked_for_answer(filled: Store) -> None:
    for name in CHECKS:
        assert set(verdicts(filled, checks=[name])) == {name}


def test_a_lake_that_is_not_there_is_no_bad_data(filled: Store, tmp_path: object) -> None:
    nowhere = open_store(f"sqlite:{tmp_path}/none.sqlite", f"{tmp_path}/data", filled.raw.path)
    with pytest.raises(LakeError, match="there is no lake"):
        inspect(nowhere.reader, CRYPTO, MINUTE, [BTC], KEYS, NOW, 60.0, 95.0)


def test_a_verdict_names_the_worst_and_counts_them_all() -> None:
    repeated = [{"symbol": "BTC", "bucket_start": str(k)} for k in range(WORST + 5)]
    verdict = duplicates_verdict(Measured(rows=100, repeated=repeated))
    assert (len(verdict.offenders), verdict.numbers["offenders"]) == (WORST, WORST + 5)


def test_the_longest_gap_is_named_first(filled: Store) -> None:
    change(filled, f"DELETE FROM {TABLE} WHERE symbol = 'ETH' AND minute(bucket_start) < 7 AND hour(bucket_start) = 3")
    change(filled, f"DELETE FROM {TABLE} WHERE {ONE_BAR}", "UPDATE lake.manifest SET complete = false")
    assert [offender["missing"] for offender in verdicts(filled)["gaps"].offenders] == [7, 7, 1]


def test_minutes_that_the_vendor_may_still_deliver_are_no_gap(filled: Store) -> None:
    late = "2025-11-20 23:50"
    seal_manifest(filled, f"DELETE FROM {TABLE} WHERE symbol = 'BTC' AND bucket_start >= TIMESTAMPTZ '{late}:00+00'")
    change(filled, "UPDATE lake.manifest SET complete = false WHERE rows < expected_rows")
    assert set(red(filled, utc("2025-11-21 00:05"))) == set()
    assert red(filled, utc("2025-11-21 00:08"))["gaps"].numbers["missing"] == 3


def test_a_cell_without_a_manifest_row_is_missing_whole(filled: Store) -> None:
    found = judgement(filled, instruments=[BTC, listed(CRYPTO.instrument("SOL"))], checks=["gaps"])
    assert [(v.partition, v.severity, v.numbers["missing"]) for v in found.partitions] == [
        (key, "ERROR", 1440) for key in KEYS
    ]
    assert found.table[0].numbers["missing"] == 2880


def test_a_symbol_without_bars_has_no_lag_but_is_behind(filled: Store) -> None:
    lags = lag_of_each(filled.reader, CRYPTO, MINUTE, [BTC, listed(CRYPTO.instrument("SOL"))], NOW, 60.0)
    assert (lags["BTC"].lag_minutes, lags["BTC"].stale) == (30.0, False)
    assert (lags["SOL"].lag_minutes, lags["SOL"].stale) == (None, True)


def test_verify_counts_what_it_hashed(filled: Store) -> None:
    result = verify(filled.reader, CRYPTO, MINUTE)
    assert (result.cells, result.rows, result.passed) == (4, 5760, True)
    assert verify(filled.reader, CRYPTO, MINUTE, ["BTC"], ["2025-11-20"]).cells == 1


def test_verify_names_bars_that_no_manifest_row_accounts_for(filled: Store) -> None:
    moved = "SELECT symbol, bucket_start - INTERVAL 7 DAY, * EXCLUDE (symbol, bucket_start)"
    change(filled, f"INSERT INTO {TABLE} {moved} FROM {TABLE} WHERE {ONE_BAR}")
    result = verify(filled.reader, CRYPTO, MINUTE)
    assert (result.mismatched, result.passed) == ([], False)
    (row,) = result.unaccounted
    assert (row["symbol"], row["rows"], row["manifest"]) == ("BTC", 2881, 2880)


def test_verify_sees_a_bar_moved_to_another_symbol(filled: Store) -> None:
    change(filled, f"UPDATE {TABLE} SET symbol = 'ETH' WHERE {ONE_BAR}")
    assert {row["symbol"] for row in verify(filled.reader, CRYPTO, MINUTE).mismatched} == {"BTC", "ETH"}


def test_verify_goes_through_a_large_table_chunk_by_chunk(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ohlcv_pipeline.bars.verify.CHUNK_ROWS", 1)
    seen: list[tuple[int, int]] = []
    result = verify(filled.reader, CRYPTO, MINUTE, on_chunk=lambda bars, total: seen.append((bars.num_rows, total)))
    assert (result.cells, result.rows, result.passed) == (4, 5760, True)
    assert seen == [(2880, 5760), (2880, 5760)]


class Overtaken(Reader):
    """A reader beside which a day is published again while it reads, with one bar less or one value changed."""

    def values(self, *args: Any) -> pa.Table:
        assert self.meanwhile is not None
        self.meanwhile()
        return super().values(*args)

    meanwhile: Callable[[], None] | None = None


@pytest.mark.parametrize("when", ["corrected", "extended"])
def test_what_is_published_while_verify_reads_is_no_damage(filled: Store, when: str) -> None:
    publish_one(filled, offer(step("2025-11-18", 700), NOW), NOW, ["2025-11-18"])
    buckets = step("2025-11-18", 700 if when == "corrected" else 710)
    bars = bars_of("BTC", MINUTE, buckets)
    changed = bars_of("BTC", MINUTE, buckets[-10:], 1.001)
    bars = pa.concat_tables([bars.slice(0, len(buckets) - 10), changed])
    reader = Overtaken(filled.catalog)
    reader.meanwhile = lambda: publish_one(filled, offer(buckets, NOW, bars=bars), NOW, ["2025-11-18"])  # type: ignore[assignment,return-value]
    result = verify(reader, CRYPTO, MINUTE)
    assert (result.mismatched, result.unaccounted, result.passed) == ([], [], True)
    assert verify(filled.reader, CRYPTO, MINUTE).passed


def test_the_fixture_of_these_tests_is_what_the_vendor_delivers(filled: Store) -> None:
    buckets = step(KEYS[0], 2880)
    assert bars_of("BTC", MINUTE, buckets).equals(bars_from_columns(buckets, series("BTC", MINUTE, buckets)))
    later = NOW + timedelta(minutes=1)
    assert fill(filled, KEYS, [Vendor()], later, instruments=BOTH).rows == 0
