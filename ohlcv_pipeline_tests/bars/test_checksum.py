"""Checksum v1: the published vectors, and what may and may not change a hash."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ohlcv_pipeline.bars.checksum import RECORD_BYTES, checksum, pack, partition_checksum, records, run_checksum
from ohlcv_pipeline.frames import EMPTY_BARS, bars_from_columns
from ohlcv_pipeline_tests.bars.vendor import CRYPTO, DAY, MINUTE, Floats, bars_of, step, us

TWO = bars_from_columns(
    step("2025-11-20 14:30", 2),
    np.array([[91875.1, 91902.5, 91870, 91899, 12.3456789], [91899, 91899, 91850.25, 91851.5, 0.00000001]]).T,
)
BOTH = "f427c01141c12d0720dfbcd731a37a58c73cfbb319bd49362ea7ac773c831f71"
NO_BAR = "3184d804c2732035d9d421f2de1954ea30a0a3f0d1be3c94877cb6af127fc71e"

FIXTURE = {
    "BTC": (
        "2b69cc0963236361a64585d80cea7cce10c4fbeae4a16403ab4c9045dbc0bf0e",
        "19a3859cd4b9912da57c54606a19cfb6c96068bacd2bf49123a3309b133e6c68",
    ),
    "ETH": (
        "39f3a23f33fbdfde97d4b81bbb936cc49dfc1627a1b7c5d20cf384636dfcbfa1",
        "23ea5cf21c5cad1468a61502505ae3f0665be13dd4d9d6f41ac210b7e8f91f45",
    ),
    "SOL": (
        "938b3bc76c0271ce81c6a5f60d48bb6a612d2dedd829491ccf1ad28575a3d6d5",
        "15b843722ee0137582b289766ba6255113ad8b63411f60802aaebe44df4a373f",
    ),
    "USDC": (
        "822864b91b7b2c133ebf1035e42a9579919c512353dbb649d9a9b8cc3de08970",
        "faeeaa513dc53368df7712a6db19ffc89f6ebca2c6b538e9ffed5faf767a19cb",
    ),
    "USDT": (
        "7803f94b8905e31fe5682c71500e46fbe8f80c2d4fe6e69b89e137942ef6fbb9",
        "6667b2493af5528bcb467c5a812fceb8e6e4ef7649e2aed85523cebd8d11309d",
    ),
    "AAVE": (
        "fa77cb2aac36742fee27b3970d4b17b2b97e7a88416c7e0f8e92f3908f532a73",
        "1d1f44db2bd4588660ed3aca88467c2d68e905235c0279c5349edb35906dda2d",
    ),
    "LINK": (
        "7bc7180a316725f0558e750e7d79077700b9a300da253d629221eda7b884b113",
        "a83aebff442f2a3eeff8b5b1725ebc1dd1cbc50fbc4674824dfd21a13fc12ae7",
    ),
    "DOGE": (
        "1945173a639060a272d2e3e102825d3968e43b544ba2d3d1360da850caf45f84",
        "dd29e658a1a06911692c160cc24f22b18ddd3b2d678296d354c1ac52c39fb77c",
    ),
    "BNB": (
        "15961055cb3e009a2fbd00f7e4c514cbceb1e23b1247d0cb0261de4e318ea80f",
        "c71318d30097289ec569d0ec759a8e1bfd49506ee4a4a309d6cbcf18a9e7391f",
    ),
    "XRP": (
        "d5b4da7371d2eb93c7e1f0515a180ae08dc31f239c917f06d04c0d9bf14edabe",
        "ec1c861d83360feecab5cb696919374ba8250db88c599c5f909eb7944a663053",
    ),
}
RUN_OF_TEN = (
    "b0fa1c039e79854d06b8b786d3e39f15d6ad02ac1745b093461c359ecd61f97a",
    "15b92fd60cd9eaad28cc460c1bc3a231266802bb8ddbeb09a0626cb021c36c2d",
)

NUMBERS = st.floats(0, 1e12, allow_subnormal=False)


@st.composite
def some_bars(draw: st.DrawFn) -> pa.Table:
    offsets = draw(st.lists(st.integers(0, 100_000), min_size=1, max_size=40, unique=True))
    values = draw(hnp.arrays(np.float64, (5, len(offsets)), elements=NUMBERS))
    return bars_from_columns(us("2025-01-01") + np.sort(np.array(offsets)) * MINUTE.step_us, values)


def fixture_hashes(symbol: str) -> tuple[str, str]:
    """Build the two partitions of the reference fixture from its description, and hash them."""
    i, k = [each.symbol for each in CRYPTO.instruments].index(symbol), np.arange(2)
    open_ = 50.0 + 3 * i + k
    day = np.vstack([open_, open_ + 2.25, open_ - 1.5, open_ + 0.5, 900 + 20 * i + 5 * k])
    tenths = 750 + 20 * i + k
    minute = np.vstack([tenths / 10, (tenths + 6) / 10, (tenths - 4) / 10, (tenths + 2) / 10, 300 + 10 * i + k / 2])
    return (
        partition_checksum(symbol, DAY, bars_from_columns(step("2025-03-09", 2, DAY), day)),
        partition_checksum(symbol, MINUTE, bars_from_columns(step("2025-03-09 07:00", 2), minute)),
    )


def test_the_published_vectors() -> None:
    assert partition_checksum("BTC", MINUTE, TWO[:1]) == (
        "10a45aab04a7d3bf2b0f42ef313ce0e2adcbe9e0508bdeb8a9886c5feddbb987"
    )
    assert partition_checksum("BTC", MINUTE, TWO[1:]) == (
        "b84d0b91f120238188766bf37c18ce323a8b3afda134812af3f549ba09960676"
    )
    assert partition_checksum("BTC", MINUTE, TWO) == BOTH
    assert partition_checksum("BTC", MINUTE, EMPTY_BARS) == NO_BAR


def test_a_run_hashes_its_sorted_partition_checksums() -> None:
    expected = "b9bec8db727708a82b9508b2f7eabdb15924e27bc33b5c1d2df033eba4ad69d7"
    assert run_checksum([BOTH, NO_BAR]) == run_checksum([NO_BAR, BOTH]) == expected
    assert run_checksum([]) == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert run_checksum([BOTH]) != BOTH


@pytest.mark.parametrize("symbol", FIXTURE)
def test_the_reference_fixture(symbol: str) -> None:
    assert fixture_hashes(symbol) == FIXTURE[symbol]


def test_the_reference_fixture_as_a_run_of_ten() -> None:
    hashes = [fixture_hashes(symbol) for symbol in FIXTURE]
    assert (run_checksum(day for day, _ in hashes), run_checksum(minute for _, minute in hashes)) == RUN_OF_TEN


def test_a_record_is_48_bytes_little_endian() -> None:
    raw = records(TWO).tobytes()
    assert len(raw) == 2 * RECORD_BYTES
    assert int.from_bytes(raw[:8], "little") == us("2025-11-20 14:30")
    assert np.frombuffer(raw[8:48], "<f8").tolist() == [91875.1, 91902.5, 91870, 91899, 12.3456789]


def test_minus_zero_is_zero() -> None:
    buckets, values = step("2025-11-20", 1), np.array([[1.0, 1.0, 1.0, 1.0, 0.0]]).T
    negative = np.where(values == 0, -0.0, values)
    assert np.signbit(negative[4, 0])
    zero, minus = (partition_checksum("BTC", MINUTE, bars_from_columns(buckets, v)) for v in (values, negative))
    assert zero == minus


@pytest.mark.parametrize(("symbol", "interval"), [("ETH", MINUTE), ("BTC", DAY), ("BTC2", MINUTE)])
def test_the_same_bars_of_another_series_have_another_hash(symbol: str, interval: object) -> None:
    assert partition_checksum(symbol, interval, TWO) != BOTH


@given(some_bars(), st.data())
def test_the_chunks_of_a_column_do_not_matter(bars: pa.Table, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, bars.num_rows), max_size=4)))
    edges = [0, *cuts, bars.num_rows]
    chunked = pa.concat_tables([bars.slice(a, b - a) for a, b in itertools.pairwise(edges)])
    assert chunked["open"].num_chunks == len(edges) - 1
    assert partition_checksum("BTC", MINUTE, chunked) == partition_checksum("BTC", MINUTE, bars)


@given(some_bars(), st.randoms())
def test_bars_in_any_order_have_one_hash_once_sorted(bars: pa.Table, random: object) -> None:
    positions = list(range(bars.num_rows))
    random.shuffle(positions)  # type: ignore[attr-defined]
    shuffled = bars.take(positions).sort_by("bucket_start")
    assert partition_checksum("BTC", MINUTE, shuffled) == partition_checksum("BTC", MINUTE, bars)


@given(some_bars(), st.data())
def test_a_single_bit_of_any_value_changes_the_hash(bars: pa.Table, data: st.DataObject) -> None:
    rows: Floats = records(bars)
    before = checksum("BTC", MINUTE, rows)
    row = data.draw(st.integers(0, len(rows) - 1))
    column = data.draw(st.integers(0, 5))
    bits = rows.view("<u8")
    bits[row, column] ^= np.uint64(1 << data.draw(st.integers(0, 63)))
    again = pack(rows.view("<i8")[:, 0].copy(), [rows[:, i].copy() for i in range(1, 6)])
    turned_to_minus_zero = column > 0 and bits[row, column] == np.uint64(1 << 63)
    assert (checksum("BTC", MINUTE, again) == before) == turned_to_minus_zero


@given(some_bars(), st.data())
def test_a_bar_more_or_less_changes_the_hash(bars: pa.Table, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, bars.num_rows - 1))
    rest = bars.filter(pa.array(np.arange(bars.num_rows) != lost))
    assert partition_checksum("BTC", MINUTE, rest) != partition_checksum("BTC", MINUTE, bars)


def test_records_that_are_no_contiguous_block_hash_the_same() -> None:
    rows = records(bars_of("BTC", MINUTE, step("2025-11-20", 10)))
    apart = np.asfortranarray(rows)
    assert not apart.flags.c_contiguous
    assert checksum("BTC", MINUTE, apart) == checksum("BTC", MINUTE, rows)
