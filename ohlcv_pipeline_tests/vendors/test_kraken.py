from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest

from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline.vendors.kraken import Kraken, parse, spellings
from ohlcv_pipeline_tests.vendors.wire import Reply, fetch, recorded, tabled

NOON = to_us(datetime(2025, 11, 21, 12, tzinfo=UTC))
NOW = NOON + 30_000_000
ROWS = [
    [1763726340, "91875.1", "91902.5", "91870.0", "91899.0", "91880.5", "12.34567890", 126],
    [1763726400, "91899.0", "91899.0", "91899.0", "91899.0", "0.0", "0.00000000", 0],
]
PLAN = ("BTC", "XBTUSD", Interval.MINUTE, NOON - 60 * MINUTE_US, NOON)


def body(key: str = "XXBTZUSD", rows: object = ROWS, error: object = ()) -> bytes:
    return orjson.dumps({"error": list(error), "result": {key: rows, "last": 1763726340}})  # type: ignore[call-overload]


def test_a_recorded_answer_keeps_its_running_bar_and_its_text_numbers() -> None:
    bars, rejects = tabled(parse(recorded("coinbase_kraken/kraken_ohlc_XBTUSDT_60_ccxt.json"), "XBTUSDT"))
    assert not rejects
    assert bars.num_rows == 5
    assert bars.slice(0, 1).to_pylist() == [
        {
            "bucket_start": datetime(2024, 1, 30, 16, tzinfo=UTC),
            "open": 43366.3,
            "high": 43529.2,
            "low": 43234.2,
            "close": 43485.0,
            "volume": 12.51327406,
            "trade_count": 126,
            "vwap": 43435.3,
        }
    ]
    assert bars["bucket_start"].to_pylist()[-1] == datetime(2024, 2, 1, 15, tzinfo=UTC)


def test_a_recorded_answer_for_another_pair_is_refused() -> None:
    with pytest.raises(VendorError, match="another pair"):
        parse(recorded("coinbase_kraken/kraken_ohlc_XBTUSDT_60_ccxt.json"), "ETHUSDT")


def test_part_c_39_a_minute_without_trades_is_a_bar_without_vwap() -> None:
    bars, rejects = tabled(parse(body(), "XBTUSD"))
    assert not rejects
    assert bars["vwap"].to_pylist() == [91880.5, None]
    assert bars["trade_count"].to_pylist() == [126, 0]
    assert bars["volume"].to_pylist() == [12.3456789, 0.0]


@pytest.mark.parametrize(
    ("pair", "key"),
    [
        ("XBTUSD", "XXBTZUSD"),
        ("ETHUSD", "XETHZUSD"),
        ("XRPUSD", "XXRPZUSD"),
        ("XDGUSD", "XDGUSD"),
        ("USDTUSD", "USDTZUSD"),
        ("SOLUSD", "SOLUSD"),
        ("BTC/USDT", "XBTUSDT"),
        ("XBTUSDT", "XBTUSDT"),
    ],
)
def test_part_c_53_the_echoed_key_may_be_a_known_spelling(pair: str, key: str) -> None:
    assert key in spellings(pair)
    assert len(parse(body(key), pair)[0]) == 2


@pytest.mark.parametrize("key", ["XETHZUSD", "XXBTZEUR", "XBTUSDT"])
def test_part_c_53_another_pair_is_malformed(key: str) -> None:
    with pytest.raises(VendorError) as caught:
        parse(body(key), "XBTUSD")
    assert caught.value.code is Code.MALFORMED_RESPONSE


def test_part_c_3_an_empty_list_is_an_empty_page() -> None:
    assert len(parse(body(rows=[]), "XBTUSD")[0]) == 0


@pytest.mark.parametrize(
    ("text", "code", "remedy"),
    [
        ("EQuery:Unknown asset pair", Code.BAD_SYMBOL, Remedy.GIVE_UP),
        ("EGeneral:Too many requests", Code.RATE_LIMITED, Remedy.WAIT),
        ("EAPI:Rate limit exceeded", Code.RATE_LIMITED, Remedy.WAIT),
        ("EGeneral:Temporary lockout", Code.RATE_LIMITED, Remedy.STOP_VENDOR),
        ("EService:Unavailable", Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF),
        ("EService:Busy", Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF),
        ("EGeneral:Invalid arguments", Code.BAD_REQUEST, Remedy.GIVE_UP),
    ],
)
def test_part_c_17_an_error_array_with_200_is_its_class(text: str, code: Code, remedy: Remedy) -> None:
    with pytest.raises(VendorError) as caught:
        parse(orjson.dumps({"error": [text]}), "XBTUSD")
    assert (caught.value.code, caught.value.remedy) == (code, remedy)
    assert text not in str(caught.value)


def test_a_warning_beside_a_result_is_no_error() -> None:
    assert len(parse(body(error=["WGeneral:Deprecated"]), "XBTUSD")[0]) == 2


@pytest.mark.parametrize("text", [b"[]", b'{"result":{}}', b'{"error":[],"result":{"last":1}}', b'{"error":[]}'])
def test_a_document_of_another_shape_is_malformed(text: bytes) -> None:
    with pytest.raises(VendorError) as caught:
        parse(text, "XBTUSD")
    assert caught.value.code is Code.MALFORMED_RESPONSE


def test_only_the_newest_720_closed_buckets_are_served() -> None:
    oldest = NOON - 720 * MINUTE_US
    assert Kraken().serves(Interval.MINUTE, 0, NOON, NOW) == (oldest, NOON)
    assert Kraken().serves(Interval.MINUTE, NOON - MINUTE_US, NOW, NOW) == (NOON - MINUTE_US, NOON)
    assert Kraken().serves(Interval.MINUTE, 0, oldest, NOW) is None
    assert Kraken().serves(Interval.DAY, 0, NOON, NOW) == (
        NOON // DAY_US * DAY_US - 720 * DAY_US,
        NOON // DAY_US * DAY_US,
    )


def test_one_request_delivers_the_whole_window_and_asks_from_one_bucket_before() -> None:
    heard = fetch("kraken", PLAN, [Reply(body=body())])
    assert heard.line.vendor.asked == [f"/0/public/OHLC?pair=XBTUSD&interval=1&since={NOON // 1_000_000 - 3660}"]
    assert len(heard.value.bars) == 2
    assert not Kraken().omits_empty_buckets


def test_too_many_requests_with_200_waits_for_the_next_minute() -> None:
    heard = fetch("kraken", PLAN, [Reply(body=b'{"error":["EGeneral:Too many requests"]}'), Reply(body=body())])
    assert heard.waits == [30]
    assert heard.line.codes == ["rate_limited", "ok"]


def test_busy_is_tried_again_and_an_unknown_pair_is_not() -> None:
    assert fetch("kraken", PLAN, [Reply(body=b'{"error":["EService:Busy"]}'), Reply(body=body())]).waits == [2]
    heard = fetch("kraken", PLAN, [Reply(body=b'{"error":["EQuery:Unknown asset pair"]}')])
    assert (heard.failure.code, heard.waits) == (Code.BAD_SYMBOL, [])


def test_part_c_19_a_cloudflare_page_is_an_outage() -> None:
    heard = fetch("kraken", PLAN, [Reply(520, b"<html>520</html>"), Reply(body=body())])
    assert heard.line.codes == ["vendor_unavailable", "ok"]
