from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

from ohlcv_pipeline.frames import BAR_SCHEMA
from ohlcv_pipeline.markets import MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.coinbase import Coinbase, parse
from ohlcv_pipeline.vendors.errors import Code, Remedy
from ohlcv_pipeline_tests.vendors.wire import Reply, fetch, recorded, tabled

DAY = to_us(datetime(2025, 11, 20, tzinfo=UTC))
NOW = DAY + 90 * MINUTE_US + 30_000_000
BODY = b"[[1763596860,91850.25,91899,91899,91851.5,1e-8],[1763596800,91870,91902.5,91875.1,91899,12.3456789]]"


def test_a_recorded_candle_is_read_with_low_before_high() -> None:
    bars, rejects = tabled(parse(recorded("coinbase_kraken/coinbase_exchange_candles_ccxt.json")))
    assert not rejects
    assert bars.to_pylist() == [
        {
            "bucket_start": datetime(2024, 3, 13, 11, tzinfo=UTC),
            "open": 73243.33,
            "high": 73402.47,
            "low": 73241.5,
            "close": 73370.65,
            "volume": 1.56794406,
            "trade_count": None,
            "vwap": None,
        }
    ]


def test_a_page_is_columns_of_the_bar_schema_newest_first() -> None:
    bars, _ = tabled(parse(BODY))
    assert bars.schema == BAR_SCHEMA
    assert bars["bucket_start"].to_pylist() == [
        datetime(2025, 11, 20, 0, 1, tzinfo=UTC),
        datetime(2025, 11, 20, tzinfo=UTC),
    ]
    assert bars["open"].to_pylist() == [91899.0, 91875.1]
    assert bars["volume"].to_pylist() == [1e-8, 12.3456789]


def test_a_day_of_minutes_is_five_pages_whose_end_names_the_last_wanted_bucket() -> None:
    fetches = Coinbase().plan("BTC", "BTC-USD", Interval.MINUTE, DAY, DAY + 1440 * MINUTE_US)
    assert len(fetches) == 5
    first = fetches[0].requests[0]
    assert first.path == "/products/BTC-USD/candles"
    assert first.params == {"granularity": 60, "start": 1763596800, "end": 1763596800 + 299 * 60}
    assert fetches[-1].requests[0].params["end"] == 1763596800 + 1439 * 60
    assert fetches[-1].end_us == DAY + 1440 * MINUTE_US


def test_part_c_26_27_pages_follow_from_the_window_and_never_from_an_answer() -> None:
    fetches = Coinbase().plan("BTC", "BTC-USD", Interval.MINUTE, DAY + 1, DAY + 1000 * MINUTE_US - 1)
    edges = [(fetch.start_us, fetch.end_us) for fetch in fetches]
    assert edges[0][0] == DAY + MINUTE_US
    assert edges[-1][1] == DAY + 1000 * MINUTE_US
    assert all(before[1] == after[0] for before, after in pairwise(edges))
    assert all(0 < end - start <= 300 * MINUTE_US for start, end in edges)


def test_days_are_asked_with_their_granularity() -> None:
    (only,) = Coinbase().plan("BTC", "BTC-USD", Interval.DAY, DAY, DAY + 86_400_000_000)
    assert only.requests[0].params == {"granularity": 86400, "start": 1763596800, "end": 1763596800}


def test_any_window_of_the_past_is_served_up_to_the_last_closed_bucket() -> None:
    assert Coinbase().serves(Interval.MINUTE, 0, NOW + 5, NOW) == (0, DAY + 90 * MINUTE_US)
    assert Coinbase().serves(Interval.MINUTE, 0, DAY, NOW) == (0, DAY)
    assert Coinbase().serves(Interval.MINUTE, NOW, NOW + MINUTE_US, NOW) is None
    assert Coinbase().serves(Interval.DAY, DAY, NOW, NOW) is None


PLAN = ("BTC", "BTC-USD", Interval.MINUTE, DAY, DAY + 2 * MINUTE_US)


def test_a_fetch_delivers_the_page_with_its_raw_answer() -> None:
    heard = fetch("coinbase", PLAN, [Reply(body=BODY)])
    assert len(heard.value.bars) == 2
    assert [answer.body for answer in heard.value.answers] == [BODY]
    assert heard.line.vendor.asked == ["/products/BTC-USD/candles?granularity=60&start=1763596800&end=1763596860"]


def test_part_c_40_absent_minutes_are_left_absent() -> None:
    body = b"[[1763596920,1,1,1,1,1],[1763596800,1,1,1,1,1]]"
    assert len(fetch("coinbase", PLAN, [Reply(body=body)]).value.bars) == 2
    assert Coinbase().omits_empty_buckets


def test_part_c_3_an_empty_page_is_no_error() -> None:
    page = fetch("coinbase", PLAN, [Reply(body=b"[]")]).value
    assert (len(page.bars), page.rejects) == (0, ())


def test_an_unknown_product_is_a_bad_symbol_at_once() -> None:
    heard = fetch("coinbase", PLAN, [Reply(404, b'{"message":"NotFound"}')])
    assert (heard.failure.code, heard.failure.remedy) == (Code.BAD_SYMBOL, Remedy.GIVE_UP)
    assert heard.waits == []


def test_part_c_17_an_error_document_with_200_is_not_zero_rows() -> None:
    heard = fetch("coinbase", PLAN, [Reply(body=b'{"message":"granularity too small"}')])
    assert heard.failure.code is Code.MALFORMED_RESPONSE
    assert "granularity too small" not in str(heard.failure)


def test_part_c_21_a_truncated_page_is_fetched_again() -> None:
    heard = fetch("coinbase", PLAN, [Reply(body=BODY[:50]), Reply(body=BODY)])
    assert len(heard.value.bars) == 2
    assert heard.waits == [2]
