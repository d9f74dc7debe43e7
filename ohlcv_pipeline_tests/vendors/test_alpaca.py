from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.frames import BAR_SCHEMA
from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.alpaca import MOST_PAGES, Alpaca, parse
from ohlcv_pipeline.vendors.base import Page
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline_tests.vendors.wire import NOW, Heard, Reply, fetch

KEYS = {"key_id": "PKTEST", "key": "hush-hush"}
OPEN = to_us(datetime(2025, 11, 20, 14, 30, tzinfo=UTC))
PLAN = ("BRK.B", "BRK.B", Interval.MINUTE, OPEN, OPEN + 60 * MINUTE_US)
DAYS = ("AAPL", "AAPL", Interval.DAY, to_us(datetime(2025, 3, 7, tzinfo=UTC)), to_us(datetime(2025, 3, 12, tzinfo=UTC)))
NGINX = b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body><center>nginx</center></body>\r\n</html>"


def bar(minute: int = 0, **other: Any) -> dict[str, Any]:
    at = datetime(2025, 11, 20, 14, 30, tzinfo=UTC) + timedelta(minutes=minute)
    row = {
        "t": f"{at:%Y-%m-%dT%H:%M:%SZ}",
        "o": 500.5,
        "h": 501,
        "l": 500.25,
        "c": 500.75,
        "v": 1200,
        "n": 34,
        "vw": 500.6,
    }
    return {**row, **other}


def body(*rows: Any, token: str | None = None, symbol: str = "BRK.B", **other: Any) -> bytes:
    return orjson.dumps({"bars": {symbol: list(rows)} if rows else {}, "next_page_token": token, **other})


def deliver(*replies: Reply, plan: tuple[Any, ...] = PLAN, **settings: Any) -> Heard:
    return fetch("alpaca", plan, replies, **{**KEYS, **settings})


def asked(heard: Heard) -> list[dict[str, str]]:
    return [{k: v[0] for k, v in parse_qs(urlsplit(target).query).items()} for target in heard.line.vendor.asked]


def values(page: Any) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in page.bars.table().to_pylist()]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)  # type: ignore[arg-type]


def test_part_c_56_prices_in_another_currency_are_refused_and_dollars_taken() -> None:
    assert len(parse(body(bar(), currency="USD"), Interval.MINUTE).symbols["BRK.B"].bars) == 1  # type: ignore[union-attr]
    for currency in ("JPY", None, 3):
        with pytest.raises(VendorError, match="another currency"):
            parse(body(bar(), currency=currency), Interval.MINUTE)


def test_part_c_47_a_day_is_midnight_in_new_york_on_both_sides_of_a_clock_change() -> None:
    rows = [
        bar(t=t)
        for t in ("2025-03-07T05:00:00Z", "2025-03-10T04:00:00Z", "2025-10-31T04:00:00Z", "2025-11-03T05:00:00Z")
    ]
    parsed = parse(body(*rows), Interval.DAY).symbols["BRK.B"]
    assert parsed is not None
    assert parsed.bars.table()["bucket_start"].to_pylist() == [
        utc(2025, 3, 7), utc(2025, 3, 10), utc(2025, 10, 31), utc(2025, 11, 3)
    ]  # fmt: skip


@given(st.dates(date(2016, 1, 1), date(2036, 12, 31)))
def test_part_c_48_every_date_comes_back_as_itself(day: date) -> None:
    stamp = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)
    parsed = parse(body(bar(t=f"{stamp:%Y-%m-%dT%H:%M:%SZ}")), Interval.DAY).symbols["BRK.B"]
    assert parsed is not None
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(day.year, day.month, day.day)]


def test_a_day_that_is_no_midnight_in_new_york_falls_off_the_grid() -> None:
    parsed = parse(body(bar(t="2025-11-03T04:00:00Z")), Interval.DAY).symbols["BRK.B"]
    assert parsed is not None
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(2025, 11, 2, 23)]


def test_part_c_3_no_bars_are_an_empty_answer() -> None:
    assert parse(body(), Interval.MINUTE).symbols == {}
    assert parse(b'{"bars":null,"next_page_token":null}', Interval.MINUTE).symbols == {}
    heard = deliver(Reply(body=body()))
    assert len(heard.value.bars) == 0
    assert heard.value.bars.table().schema == BAR_SCHEMA


def test_part_c_4_a_symbol_with_null_is_not_known() -> None:
    text = b'{"bars":{"BRK.B":null},"next_page_token":null}'
    assert parse(text, Interval.MINUTE).symbols == {"BRK.B": None}
    heard = deliver(Reply(body=text))
    assert (heard.failure.code, len(heard.line.vendor.asked)) == (Code.BAD_SYMBOL, 1)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"o": None}, "null_value"),
        ({"v": None}, "null_value"),
        ({"c": "N/A"}, "null_value"),
        ({"h": "high"}, "bad_number"),
        ({"l": [1]}, "bad_number"),
        ({"n": 1.5}, "bad_number"),
        ({"n": True}, "bad_number"),
    ],
)
def test_part_c_1_and_10_a_row_without_a_number_is_refused_by_itself(row: dict[str, Any], reason: str) -> None:
    parsed = parse(body(bar(), bar(1, **row), bar(2)), Interval.MINUTE).symbols["BRK.B"]
    assert parsed is not None
    (reject,) = parsed.rejects
    assert (reject.bucket_start, reject.reason) == (OPEN + MINUTE_US, reason)
    assert orjson.loads(reject.raw) == bar(1, **row)
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(2025, 11, 20, 14, 30), utc(2025, 11, 20, 14, 32)]


def test_part_c_11_nan_and_infinity_are_refused_by_themselves() -> None:
    text = body(bar(), bar(1, o="@"), bar(2, h="@@")).replace(b'"@@"', b"Infinity").replace(b'"@"', b"NaN")
    parsed = parse(text, Interval.MINUTE).symbols["BRK.B"]
    assert parsed is not None
    assert [reject.reason for reject in parsed.rejects] == ["not_finite", "not_finite"]
    assert len(parsed.bars) == 1


def test_a_bar_without_a_vwap_is_whole() -> None:
    parsed = parse(body(bar(), bar(1, vw=None), bar(2, v=0, n=0)), Interval.MINUTE).symbols["BRK.B"]
    assert parsed is not None
    assert parsed.bars.table()["vwap"].to_pylist() == [500.6, None, None]


def test_a_field_that_only_one_row_lacks_refuses_that_row() -> None:
    short = bar(1)
    del short["c"]
    parsed = parse(body(bar(), short), Interval.MINUTE).symbols["BRK.B"]
    assert parsed is not None
    assert [reject.reason for reject in parsed.rejects] == ["null_value"]


@pytest.mark.parametrize("field", ["t", "o", "h", "l", "c", "v", "n", "vw"])
def test_a_field_that_is_gone_is_named(field: str) -> None:
    rows = [{name: value for name, value in bar(i).items() if name != field} for i in range(3)]
    with pytest.raises(VendorError, match=f"expected field '{field}'.* found it missing") as caught:
        parse(body(*rows), Interval.MINUTE)
    assert caught.value.code is Code.MALFORMED_RESPONSE


@pytest.mark.parametrize(
    ("field", "value", "found"), [("o", "500.5", "text"), ("v", {"all": 1}, "object"), ("n", [3], "array")]
)
def test_a_field_of_another_type_is_named(field: str, value: Any, found: str) -> None:
    with pytest.raises(VendorError, match=f"expected a number in field '{field}'.* found {found}"):
        parse(body(bar(0, **{field: value}), bar(1, **{field: value})), Interval.MINUTE)


def test_a_new_field_is_reported_and_changes_nothing() -> None:
    heard = deliver(Reply(body=body(bar(0, x=7), bar(1), venue={"a": 1})))
    assert heard.value.drift == (
        "alpaca answer: new field 'venue' (object)",
        "alpaca bars: new field 'x' (number)",
    )
    assert len(heard.value.bars) == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"[]", "found array"),
        (b'{"next_page_token":null}', "'bars', found it missing"),
        (b'{"bars":[],"next_page_token":null}', "'bars', found array"),
        (b'{"bars":{"BRK.B":7},"next_page_token":null}', "found number"),
        (b'{"bars":{"BRK.B":[7]},"next_page_token":null}', "found number"),
        (b'{"bars":{},"next_page_token":7}', "'next_page_token', found number"),
        (b'{"bars":{"BRK.B":[{"t":"2025', "end or break off early"),
    ],
)
def test_a_document_of_another_shape_is_malformed(text: bytes, told: str) -> None:
    with pytest.raises(VendorError, match=told) as caught:
        parse(text, Interval.MINUTE)
    assert caught.value.code is Code.MALFORMED_RESPONSE


@pytest.mark.parametrize(
    "t", ["2025-11-20T14:30:00", "2025-11-20", "14:30", "", None, 1763649000, "1816-01-01T05:00:00Z"]
)
@pytest.mark.parametrize("interval", list(Interval))
def test_part_c_14_a_time_without_a_zone_or_of_another_shape_is_malformed(t: Any, interval: Interval) -> None:
    with pytest.raises(VendorError, match="field 't': expected an instant") as caught:
        parse(body(bar(), bar(1, t=t)), interval)
    assert caught.value.code is Code.MALFORMED_RESPONSE


def test_times_with_nanoseconds_and_other_zones_are_read() -> None:
    parsed = parse(body(bar(t="2025-11-20T14:30:00.000000000Z"), bar(t="2025-11-20T09:31:00-05:00")), Interval.MINUTE)
    bars = parsed.symbols["BRK.B"]
    assert bars is not None
    assert bars.bars.table()["bucket_start"].to_pylist() == [utc(2025, 11, 20, 14, 30), utc(2025, 11, 20, 14, 31)]


def test_part_c_5_and_6_order_and_duplicates_are_left_as_they_came() -> None:
    parsed = parse(body(bar(2), bar(0), bar(0, c=500.3)), Interval.MINUTE).symbols["BRK.B"]
    assert parsed is not None
    assert parsed.bars.table()["close"].to_pylist() == [500.75, 500.75, 500.3]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0.01, 1e6)), max_size=20))
def test_what_is_written_is_read(rows: list[tuple[int, float]]) -> None:
    parsed = parse(body(*(bar(i, c=close) for i, close in rows)), Interval.MINUTE).symbols.get("BRK.B")
    got = [] if parsed is None else parsed.bars.table().select(["bucket_start", "close"]).to_pylist()
    assert [tuple(row.values()) for row in got] == [
        (utc(2025, 11, 20, 14, 30) + timedelta(minutes=i), close) for i, close in rows
    ]


def test_a_request_asks_for_raw_bars_of_its_feed_with_both_ends_inclusive() -> None:
    heard = deliver(Reply(body=body(bar())))
    assert heard.line.vendor.asked[0].startswith("/v2/stocks/bars?")
    assert asked(heard) == [
        {
            "symbols": "BRK.B",
            "timeframe": "1Min",
            "start": "2025-11-20T14:30:00Z",
            "end": "2025-11-20T15:29:00Z",
            "adjustment": "raw",
            "feed": "sip",
            "limit": "10000",
            "sort": "asc",
        }
    ]
    assert asked(deliver(Reply(body=body(bar())), feed="iex"))[0]["feed"] == "iex"


def test_days_are_asked_for_by_their_midnights_in_new_york() -> None:
    heard = deliver(Reply(body=body(bar(t="2025-03-10T04:00:00Z"), symbol="AAPL")), plan=DAYS)
    (params,) = asked(heard)
    assert (params["start"], params["end"]) == ("2025-03-07T05:00:00Z", "2025-03-11T04:00:00Z")
    assert (params["timeframe"], params["adjustment"]) == ("1Day", "raw")


def test_both_keys_are_sent_as_headers() -> None:
    head = deliver(Reply(body=body(bar()))).line.vendor.heads[0].lower()
    assert "apca-api-key-id: pktest\r\n" in head
    assert "apca-api-secret-key: hush-hush\r\n" in head


def test_ninety_days_of_minutes_are_seven_requests_that_fit_into_one_answer_each() -> None:
    start = to_us(utc(2025, 8, 1))
    fetches = Alpaca().plan("SPY", "SPY", Interval.MINUTE, start, start + 90 * DAY_US)
    assert len(fetches) == 7
    assert fetches[0].start_us == start
    assert [f.end_us for f in fetches[:-1]] == [f.start_us for f in fetches[1:]]
    assert fetches[-1].end_us == start + 90 * DAY_US
    assert {request.weight for f in fetches for request in f.requests} == {6}


def test_part_c_28_a_symbol_over_several_pages_is_one_page_with_seams() -> None:
    pages = [
        Reply(body=body(bar(0), bar(1), token="a")),
        Reply(body=body(token="b")),
        Reply(body=body(bar(3), bar(4), token="c")),
        Reply(body=body(bar(9))),
    ]
    heard = deliver(*pages)
    page: Page = heard.value
    assert [params.get("page_token") for params in asked(heard)] == [None, "a", "b", "c"]
    assert [(row[0] - utc(2025, 11, 20, 14, 30)) // timedelta(minutes=1) for row in values(page)] == [0, 1, 3, 4, 9]
    assert [answer.body for answer in page.answers] == [reply.body for reply in pages]
    # The hole between two answers was proven by neither.
    assert [len(part) for part in page.answered] == [2, 2, 1]


def test_part_c_27_a_short_page_and_an_empty_one_with_a_token_end_nothing() -> None:
    heard = deliver(Reply(body=body(token="a")), Reply(body=body(bar(0), token="b")), Reply(body=body()))
    assert len(heard.value.bars) == 1
    assert len(heard.line.vendor.asked) == 3


@pytest.mark.parametrize("tokens", [["a", "a"], ["a", "b", "a"]])
def test_part_c_26_a_token_that_comes_again_is_an_error_and_not_asked_again(tokens: list[str]) -> None:
    heard = deliver(*(Reply(body=body(bar(i), token=token)) for i, token in enumerate(tokens)))
    assert (heard.failure.code, heard.failure.remedy) == (Code.MALFORMED_RESPONSE, Remedy.GIVE_UP)
    assert len(heard.line.vendor.asked) == len(tokens)
    assert heard.failure.answers[-1].body == body(bar(len(tokens) - 1), token=tokens[-1])


def test_part_c_26_pages_that_do_not_move_on_are_an_error() -> None:
    heard = deliver(Reply(body=body(bar(5), token="a")), Reply(body=body(bar(4), bar(5), token="b")))
    assert "found older ones" in str(heard.failure)
    assert len(heard.line.vendor.asked) == 2


def test_part_c_26_new_tokens_without_end_are_an_error() -> None:
    heard = deliver(*(Reply(body=body(token=str(i))) for i in range(MOST_PAGES + 5)))
    assert f"found page {MOST_PAGES} and a token" in str(heard.failure)
    assert len(heard.line.vendor.asked) == MOST_PAGES


def test_a_page_that_says_nothing_about_the_next_is_malformed() -> None:
    heard = deliver(Reply(body=b'{"bars":{}}'), Reply(body=body(bar())))
    assert heard.line.codes == ["malformed_response", "ok"]


def test_part_c_53_an_answer_about_another_symbol_is_refused() -> None:
    heard = deliver(Reply(body=body(bar(), symbol="BRK.A")))
    assert heard.failure.code is Code.MALFORMED_RESPONSE
    assert "expected bars of BRK.B" in str(heard.failure)
    both = orjson.dumps({"bars": {"BRK.B": [bar()], "AAPL": [bar()]}, "next_page_token": None})
    assert deliver(Reply(body=both)).failure.code is Code.MALFORMED_RESPONSE


def test_part_c_23_a_429_waits_until_the_reset_header() -> None:
    headers = {"X-RateLimit-Limit": "200", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(NOW) + 17)}
    heard = deliver(Reply(429, b'{"message":"too many requests."}', headers), Reply(body=body(bar())))
    assert heard.waits == [17]
    assert heard.line.codes == ["rate_limited", "ok"]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (403, NGINX),
        (401, b'{"message":"unauthorized."}'),
        (403, b'{"message":"forbidden."}'),
        (403, b'{"message":"subscription does not permit querying recent SIP data"}'),
        (422, b'{"message":"subscription does not permit querying recent SIP data"}'),
    ],
)
def test_part_c_19_a_refused_key_or_feed_is_no_block_and_not_tried_again(status: int, text: bytes) -> None:
    heard = deliver(Reply(status, text))
    assert (heard.failure.code, heard.failure.remedy) == (Code.AUTH_FAILED, Remedy.GIVE_UP)
    assert len(heard.line.vendor.asked) == 1
    assert heard.line.transport.breaker.closed
    assert "hush" not in str(heard.failure)
    assert "subscription" not in str(heard.failure)


def test_part_c_15_other_html_is_a_block() -> None:
    for status, text in ((200, NGINX), (403, b"<html><title>Attention Required! | Cloudflare</title></html>")):
        assert deliver(Reply(status, text)).failure.code is Code.VENDOR_BLOCKED


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (400, b'{"message":"invalid symbol: BRK_B"}', Code.BAD_SYMBOL),
        (422, b'{"code":42210000,"message":"invalid symbol: BRK_B"}', Code.BAD_SYMBOL),
        (400, b'{"code":40010001,"message":"unexpected query parameter(s): feeds"}', Code.BAD_REQUEST),
        (404, b'{"message":"endpoint not found."}', Code.BAD_REQUEST),
    ],
)
def test_a_refused_request_is_permanent(status: int, text: bytes, code: Code) -> None:
    heard = deliver(Reply(status, text))
    assert (heard.failure.code, len(heard.line.vendor.asked)) == (code, 1)


@pytest.mark.parametrize("status", [500, 504])
def test_an_outage_is_tried_again(status: int) -> None:
    assert deliver(Reply(status, b'{"message":"internal server error"}'), Reply(body=body(bar()))).waits == [2]


def test_part_c_21_a_page_that_breaks_off_is_asked_for_again_with_its_token() -> None:
    whole = body(bar(1))
    heard = deliver(Reply(body=body(bar(0), token="a")), Reply(body=whole[:40]), Reply(body=whole))
    assert heard.line.codes == ["ok", "malformed_response", "ok"]
    assert [params.get("page_token") for params in asked(heard)] == [None, "a", "a"]
    assert len(heard.value.bars) == 2


def test_minutes_of_the_consolidated_feed_are_served_up_to_16_minutes_ago() -> None:
    now = OPEN + 60 * MINUTE_US + 30_000_000
    assert Alpaca().serves(Interval.MINUTE, OPEN, now, now) == (OPEN, OPEN + 44 * MINUTE_US)
    assert Alpaca("iex").serves(Interval.MINUTE, OPEN, now, now) == (OPEN, OPEN + 60 * MINUTE_US)
    assert Alpaca().serves(Interval.MINUTE, OPEN + 50 * MINUTE_US, now, now) is None


@pytest.mark.parametrize(
    ("now", "last"),
    [
        (utc(2025, 11, 26, 21, 15), utc(2025, 11, 25)),
        (utc(2025, 11, 26, 21, 16), utc(2025, 11, 26)),
        (utc(2025, 11, 28, 18, 15), utc(2025, 11, 26)),  # Thanksgiving before, a half day now
        (utc(2025, 11, 28, 18, 16), utc(2025, 11, 28)),
        (utc(2025, 7, 1, 20, 16), utc(2025, 7, 1)),
    ],
)
def test_part_c_45_a_day_is_served_once_its_session_has_closed(now: datetime, last: datetime) -> None:
    start = to_us(utc(2025, 6, 2))
    assert Alpaca().serves(Interval.DAY, start, to_us(now) + DAY_US, to_us(now)) == (start, to_us(last) + DAY_US)
    assert Alpaca().serves(Interval.DAY, to_us(last) + DAY_US, to_us(now) + DAY_US, to_us(now)) is None


def test_what_the_vendor_promises_is_declared() -> None:
    assert Alpaca.omits_empty_buckets
    assert Alpaca.raw_prices
