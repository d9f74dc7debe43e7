"""How Alpaca is asked: by which requests, page after page, and what follows from each kind of refusal."""

from __future__ import annotations

from datetime import datetime

import orjson
import pytest

from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.alpaca import MOST_PAGES, Alpaca
from ohlcv_pipeline.vendors.base import Page
from ohlcv_pipeline.vendors.errors import Code, Remedy
from ohlcv_pipeline_tests.vendors.alpaca_answers import OPEN, bar, body, deliver
from ohlcv_pipeline_tests.vendors.wire import NOW, Reply, utc

DAYS = ("AAPL", "AAPL", Interval.DAY, to_us(utc(2025, 3, 7)), to_us(utc(2025, 3, 12)))
NGINX = b"<html>\r\n<head><title>403 Forbidden</title></head>\r\n<body><center>nginx</center></body>\r\n</html>"


def test_a_request_asks_for_raw_bars_of_its_feed_with_both_ends_inclusive() -> None:
    heard = deliver(Reply(body=body(bar())))
    assert heard.asked == [
        (
            "/v2/stocks/bars",
            {
                "symbols": "BRK.B",
                "timeframe": "1Min",
                "start": "2025-11-20T14:30:00Z",
                "end": "2025-11-20T15:29:00Z",
                "adjustment": "raw",
                "feed": "sip",
                "limit": "10000",
                "sort": "asc",
            },
        )
    ]
    ((_, params),) = deliver(Reply(body=body(bar())), feed="iex").asked
    assert params["feed"] == "iex"


def test_days_are_asked_for_by_their_midnights_in_new_york() -> None:
    heard = deliver(Reply(body=body(bar(t="2025-03-10T04:00:00Z"), symbol="AAPL")), plan=DAYS)
    ((_, params),) = heard.asked
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
    assert [params.get("page_token") for _, params in heard.asked] == [None, "a", "b", "c"]
    assert ((page.bars.bucket_start - OPEN) // MINUTE_US).tolist() == [0, 1, 3, 4, 9]
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
    assert [params.get("page_token") for _, params in heard.asked] == [None, "a", "a"]
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
