"""As of: what the lake held at an instant, after any sequence of publications and after every snapshot has expired."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ohlcv_pipeline.bars.access import Lake
from ohlcv_pipeline.bars.checksum import partition_checksum, run_checksum
from ohlcv_pipeline.bars.revisions import Replaced
from ohlcv_pipeline.bars.rollup import roll_up
from ohlcv_pipeline.bars.verify import actual_checksums
from ohlcv_pipeline.frames import bars_from_columns, micros
from ohlcv_pipeline.lake.history import History
from ohlcv_pipeline.lake.maintenance import maintain
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import BAR_REVISIONS, MANIFEST, STORED_BARS
from ohlcv_pipeline.lake.writer import Changes, Scope, Stored
from ohlcv_pipeline.markets import DAY_US, from_us, to_us
from ohlcv_pipeline_tests.bars.vendor import (
    CRYPTO,
    MINUTE,
    change,
    count,
    manifest_row,
    new_store,
    offer,
    publish_one,
    series,
    snapshots,
    step,
    us,
    utc,
)
from ohlcv_pipeline_tests.lake.first_release import FIRST_RELEASE

DAY = "2025-11-20"
ALL = step(DAY, 30)
NOW = utc("2025-11-21 00:10")
OTHER = "5d0e4a3b-0b1d-4a72-9c53-7d0e6a1f0b8e"


def held(store: Store, day: str = DAY) -> pa.Table:
    start = us(day)
    return store.reader.bars("crypto", MINUTE, "BTC", start, start + DAY_US)


def as_of(store: Store, at_us: int, day: str = DAY) -> pa.Table:
    start = us(day)
    return History(store.reader).bars("crypto", MINUTE, "BTC", start, start + DAY_US, at_us)


def newest_publication(store: Store) -> int:
    sql = "SELECT epoch_us(published_at) AS at FROM lake.heads WHERE market = 'crypto' AND interval = 'minute'"
    at = store.reader.query(sql).to_pylist()[0]["at"]
    return -1 if at is None else int(at)


def changed(day: str, places: list[int], extra: float) -> pa.Table:
    """Return bars of the first minutes of a day, at some places, with more volume than the series has."""
    buckets = step(day, 30)[sorted(places)]
    values = series("BTC", MINUTE, buckets)
    values[4] += extra
    return bars_from_columns(buckets, values)


def put(
    store: Store, now: datetime, places: list[int], extra: float, vendor: str = "coinbase", force: bool = False,
    day: str = DAY,
) -> None:  # fmt: skip
    bars = changed(day, places, extra)
    offered = offer(micros(bars["bucket_start"]), now, bars=bars, vendor=vendor)
    publish_one(store, offered, now, [day], force=force, run_id=OTHER)


def expire_everything(store: Store, now: datetime) -> None:
    hashes = lambda: run_checksum(actual_checksums(store.reader, CRYPTO, MINUTE))  # noqa: E731
    maintain(store, hashes, now, timedelta(0), timedelta(days=30))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = new_store(tmp_path_factory.mktemp("history"))
    yield opened
    opened.catalog.close()


PUBLICATIONS = st.lists(
    st.tuples(
        st.sets(st.integers(0, 29), min_size=1, max_size=30),
        st.sampled_from([0.0, 0.5, 1.5]),
        st.sampled_from(["coinbase", "kraken"]),
        st.booleans(),
        st.sampled_from([-7_200, -1, 0, 0, 1, 3_600]),
    ),
    min_size=1,
    max_size=6,
)
DAYS = itertools.count()


@given(PUBLICATIONS)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_instant_between_publications_gives_the_copy_made_then(shared: Store, publications: list[tuple]) -> None:  # type: ignore[type-arg]
    """The clock of the publications goes on, stands still or goes back; the law holds all the same."""
    day = f"{utc('2024-02-01') + timedelta(days=next(DAYS)):%Y-%m-%d}"
    copies = [(newest_publication(shared), held(shared, day))]
    now = utc("2025-11-21")
    for places, extra, vendor, force, seconds in publications:
        now += timedelta(seconds=seconds)
        put(shared, now, list(places), extra, vendor, force, day)
        at = newest_publication(shared)
        if at == copies[-1][0]:
            assert held(shared, day).equals(copies[-1][1])
        else:
            assert at > copies[-1][0]
            copies.append((at, held(shared, day)))
    for (at, copy), (following, _) in itertools.pairwise([*copies, (to_us(utc("2100-01-01")), None)]):
        assert as_of(shared, at, day).equals(copy)
        assert as_of(shared, following - 1, day).equals(copy)


def test_expiring_every_snapshot_loses_no_answer(store: Store) -> None:
    copies = []
    for hours, extra in enumerate((0.0, 1.0, 0.0, 2.0)):
        now = NOW + timedelta(hours=hours)
        put(store, now, list(range(5 * hours, 30)), extra)
        copies.append((to_us(now), held(store)))
    before = snapshots(store)
    expire_everything(store, NOW + timedelta(days=400))
    left = store.reader.query("SELECT count(*) AS n FROM __ducklake_metadata_lake.ducklake_snapshot")
    assert left["n"].to_pylist()[0] < before
    assert [as_of(store, at).equals(copy) for at, copy in copies] == [True] * 4
    assert as_of(store, to_us(NOW) - 1).num_rows == 0
    assert as_of(store, to_us(NOW + timedelta(days=500))).equals(held(store))


def test_a_withdrawn_bar_is_there_until_it_was_withdrawn(store: Store) -> None:
    put(store, NOW, list(range(30)), 0.0)
    whole, later = held(store), NOW + timedelta(days=1)

    def withdraw(stored: Stored) -> Changes:
        bars = stored.bars.slice(7, 2)
        gone = {name: bars[name].to_pylist() for name in STORED_BARS.names if name != "published_at"}
        gone |= {"market": ["crypto"] * 2, "interval": ["minute"] * 2, "revision": [1, 1], "cause": ["discarded"] * 2}
        gone |= {"valid_from": bars["published_at"].to_pylist(), "superseded_at": [stored.next_at] * 2}
        stays = pa.concat_tables([stored.bars.slice(0, 7), stored.bars.slice(9)])
        account = manifest_row(store, DAY) | {"revision": 2, "checksum": partition_checksum("BTC", MINUTE, stays)}
        return Changes(
            superseded=pa.Table.from_pydict(gone | {"superseded_by_run": [OTHER] * 2}, BAR_REVISIONS),
            manifest=pa.Table.from_pylist([account | {"rows": 28, "complete": False}], MANIFEST),
        )

    scope = Scope("crypto", MINUTE, ["BTC"], [DAY], us(DAY), us("2025-11-21"))
    store.writer.publish(scope, withdraw, [], later)
    assert held(store).num_rows == 28
    assert as_of(store, to_us(later)).equals(held(store))
    assert as_of(store, to_us(later) - 1).equals(whole)
    (first, _) = History(store.reader).revisions("crypto", MINUTE, ["BTC"], us(DAY), us("2025-11-21"))
    assert (first["cause"], first["new_close"], first["new_vendor"]) == ("discarded", None, None)
    put(store, later + timedelta(days=1), [7, 8], 3.0)
    assert as_of(store, to_us(later) + 1).num_rows == 28
    assert held(store).num_rows == 30


@pytest.mark.parametrize(
    ("first", "second", "cause"),
    [
        (("coinbase", False), ("coinbase", False), "late_correction"),
        (("kraken", False), ("coinbase", False), "better_vendor"),
        (("coinbase", False), ("kraken", True), "forced"),
        (("coinbase", False), ("coinbase", True), "late_correction"),
    ],
)
def test_a_revision_says_why_with_both_values(
    store: Store, first: tuple[str, bool], second: tuple[str, bool], cause: str
) -> None:
    put(store, NOW, list(range(30)), 0.0, *first)
    later = NOW + timedelta(days=3)
    put(store, later, [4], 2.5, *second)
    (found,) = History(store.reader).revisions("crypto", MINUTE, ["BTC", "ETH"], us(DAY), us("2025-11-21"))
    volume = float(series("BTC", MINUTE, ALL[4:5])[4, 0])
    assert (found["old_volume"], found["new_volume"]) == (volume, volume + 2.5)
    assert (found["old_vendor"], found["new_vendor"], found["cause"]) == (first[0], second[0], cause)
    assert (found["first_seen"], found["superseded_at"]) == (NOW, later)
    assert (found["revision"], found["superseded_by_run"]) == (1, OTHER)


def test_each_revision_names_the_values_that_followed_it(store: Store) -> None:
    for hours in range(4):
        put(store, NOW + timedelta(hours=hours), [4], float(hours))
    history = History(store.reader)
    found = history.revisions("crypto", MINUTE, ["BTC"], us(DAY), us("2025-11-21"))
    assert [row["revision"] for row in found] == [1, 2, 3]
    assert [row["new_volume"] - row["old_volume"] for row in found] == pytest.approx([1.0] * 3)
    since = to_us(NOW + timedelta(hours=3))
    assert history.revisions("crypto", MINUTE, ["BTC"], us(DAY), us("2025-11-21"), since) == found[2:]
    assert history.revisions("crypto", MINUTE, ["BTC"], us("2025-11-21"), us("2025-11-22")) == []


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE lake.crypto.ohlcv_minute SET close = close * 1.0001 WHERE epoch_us(bucket_start) % 300000000 = 0",
        "DELETE FROM lake.crypto.ohlcv_minute WHERE epoch_us(bucket_start) % 300000000 = 0",
        "INSERT INTO lake.crypto.ohlcv_minute SELECT * FROM lake.crypto.ohlcv_minute ORDER BY bucket_start LIMIT 3",
    ],
    ids=["changed values", "lost bars", "doubled bars"],
)
def test_a_repair_restores_the_past_too(store: Store, damage: str) -> None:
    put(store, NOW, list(range(30)), 0.0)
    whole = held(store)
    change(store, damage)
    put(store, NOW + timedelta(days=2), list(range(30)), 0.0)
    assert held(store).equals(whole)
    assert as_of(store, to_us(NOW)).equals(whole)
    kept = store.reader.query("SELECT DISTINCT cause FROM lake.bar_revisions")["cause"].to_pylist()
    assert kept == ([] if "DELETE" in damage else [Replaced.REPAIR])


def test_roll_ups_follow_the_instant(store: Store) -> None:
    put(store, NOW, list(range(30)), 0.0)
    early = held(store)
    put(store, NOW + timedelta(hours=1), [3], 9.0)
    put(store, NOW + timedelta(hours=2), [29], 1.0)
    lake = Lake(store.reader, [CRYPTO])
    window = (from_us(int(ALL[0])), from_us(int(ALL[0]) + DAY_US))
    then = lake.bars("BTC", "5m", *window, as_of=NOW).arrow()
    assert then.select(["open", "close", "volume"]).equals(roll_up(early, "5m").select(["open", "close", "volume"]))
    now = lake.bars("BTC", "5m", *window, as_of=NOW + timedelta(days=9))
    assert now.equals(lake.bars("BTC", "5m", *window))
    assert now["volume"].iloc[0] == pytest.approx(then["volume"].to_pylist()[0] + 9.0)


def test_a_roll_up_whose_last_minute_was_not_held_yet_is_left_out(store: Store) -> None:
    put(store, NOW, [0, 1, 2, 3, 4, 5, 6], 0.0)
    put(store, NOW + timedelta(hours=1), list(range(30)), 0.0)
    lake = Lake(store.reader, [CRYPTO])
    window = (from_us(int(ALL[0])), from_us(int(ALL[0]) + DAY_US))
    assert [len(lake.bars("BTC", "5m", *window, as_of=at)) for at in (NOW, NOW + timedelta(hours=1))] == [1, 6]


def test_an_instant_without_a_zone_is_refused(store: Store) -> None:
    put(store, NOW, [0], 0.0)
    with pytest.raises(ValueError, match="no time zone"):
        Lake(store.reader, [CRYPTO]).bars("BTC", "1m", DAY, "2025-11-21", as_of=datetime(2025, 11, 21))


def test_a_lake_of_the_first_version_answers_by_when_its_bars_were_fetched(store: Store, tmp_path: Path) -> None:
    fetched = utc("2025-11-21 00:05")
    put(store, fetched, list(range(30)), 0.0)
    whole = held(store)
    change(store, *FIRST_RELEASE)
    store.catalog.close()
    migrated = new_store(tmp_path)
    assert migrated.reader.columns("crypto", MINUTE)["published_at"] == "TIMESTAMP WITH TIME ZONE"
    assert count(migrated, "lake_version") == 2
    assert held(migrated).equals(whole)
    put(migrated, NOW, [4], 2.5)
    assert as_of(migrated, to_us(fetched) - 1).num_rows == 0
    assert as_of(migrated, to_us(fetched)).equals(whole)
    assert as_of(migrated, to_us(NOW) - 1).equals(whole)
    assert as_of(migrated, to_us(NOW)).equals(held(migrated))
    expire_everything(migrated, NOW + timedelta(days=400))
    assert as_of(migrated, to_us(NOW) - 1).equals(whole)
    migrated.catalog.close()


def test_of_overlapping_versions_of_the_first_release_the_one_that_went_first_was_held(
    store: Store, tmp_path: Path
) -> None:
    """Its bars count from the answer on, which came before the publication that took their predecessors out."""
    put(store, utc("2025-11-21 06:00"), [0, 1], 0.0)
    change(
        store,
        *FIRST_RELEASE,
        "INSERT INTO lake.bar_revisions SELECT 'crypto', 'minute', b.* REPLACE (1 AS volume,"
        " TIMESTAMPTZ '2025-11-21 00:00:00+00' AS fetched_at), 1, TIMESTAMPTZ '2025-11-21 00:00:00+00',"
        " TIMESTAMPTZ '2025-11-21 06:05:00+00', 'r2' FROM lake.crypto.ohlcv_minute b",
    )
    store.catalog.close()
    migrated = new_store(tmp_path)
    volumes = [as_of(migrated, us(at))["volume"].to_pylist() for at in ("2025-11-21 06:02", "2025-11-21 06:05")]
    assert volumes == [[1.0, 1.0], held(migrated)["volume"].to_pylist()]
    (first, _) = History(migrated.reader).revisions("crypto", MINUTE, ["BTC"], us(DAY), us("2025-11-21"))
    assert (first["old_volume"], first["new_volume"], first["cause"]) == (1.0, volumes[1][0], None)
    migrated.catalog.close()


def test_the_instant_of_a_publication_costs_a_file_next_to_nothing(store: Store) -> None:
    import pyarrow.parquet as pq

    whole = step(DAY, 1440)
    publish_one(store, offer(whole, NOW), NOW, [DAY])
    (file,) = store.reader.files("crypto", MINUTE)
    group = pq.ParquetFile(file.path).metadata.row_group(0)
    sizes = {group.column(i).path_in_schema: group.column(i).total_compressed_size for i in range(group.num_columns)}
    assert sizes["published_at"] < 200 < sizes["close"]
