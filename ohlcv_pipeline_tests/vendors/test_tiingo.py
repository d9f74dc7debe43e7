from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.frames import BAR_SCHEMA
from ohlcv_pipeline.markets import DAY_US, MINUTE_US, Interval, to_us
from ohlcv_pipeline.vendors.base import ACTION_SCHEMA
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline.vendors.tiingo import Tiingo, parse_actions, parse_daily, parse_minutes, session_dates
from ohlcv_pipeline_tests.vendors.wire import NOW, Heard, Reply, fetch, recorded, utc, values

KEY = "hush-hush-0123456789"
DAYS = ("BRK.B", "BRK-B", Interval.DAY, to_us(utc(2025, 10, 1)), to_us(utc(2025, 11, 1)))
MINUTES = ("BRK.B", "BRK-B", Interval.MINUTE, to_us(utc(2025, 11, 18, 14, 30)), to_us(utc(2025, 11, 20, 21)))
HOURLY = b'{"detail":"Error: You have run over your hourly request allocation. Please upgrade at https://api.tiingo.com/pricing"}'
MONTHLY = b"You have run over your 500 symbol look up for this month. Please upgrade to a paid plan."


def day(on: str = "2025-10-01T00:00:00.000Z", **other: Any) -> dict[str, Any]:
    row = {"date": on, "close": 500.75, "high": 501, "low": 500.25, "open": 500.5, "volume": 3_000_000}
    adjusted = {f"adj{name.title()}": value for name, value in row.items() if name != "date"}
    return {**row, **adjusted, "divCash": 0.0, "splitFactor": 1.0, **other}


def minute(at: str = "2025-11-18T14:30:00.000Z", **other: Any) -> dict[str, Any]:
    return {"date": at, "open": 500.5, "high": 501, "low": 500.25, "close": 500.75, "volume": 1200.0, **other}


def deliver(*replies: Reply, plan: tuple[Any, ...] = DAYS) -> Heard:
    return fetch("tiingo", plan, replies, key=KEY)


def cassette(name: str, place: int = 0) -> bytes:
    """Return the body of one recorded exchange."""
    taken = yaml.safe_load(recorded(f"tiingo/tests/fixtures/{name}.yaml"))
    body: str = taken["interactions"][place]["response"]["body"]["string"]
    return body.encode()


JANUARY_5 = (utc(2018, 1, 5), 1103.45, 1113.58, 1101.8, 1110.29, 1493389.0, None, None)
WEEK = (utc(2018, 1, 5), 1053.02, 1113.58, 1053.02, 1110.29, 5889084.0, None, None)
APPLE = (utc(2018, 1, 5), 170.16, 175.37, 169.26, 175.0, 99095223.0, None, None)


@pytest.mark.parametrize(
    ("name", "place", "rows", "first"),
    [
        ("ticker_price", 0, 1, (utc(2018, 4, 12), 1031.47, 1044.65, 1026.05, 1037.29, 1644794.0, None, None)),
        (
            "ticker_price_pandas_single",
            0,
            1,
            (utc(2018, 6, 8), 1131.21, 1138.78, 1123.23, 1132.71, 1364226.0, None, None),
        ),
        ("ticker_price_with_date", 0, 2, (utc(2015, 1, 2), 532.6, 535.8, 527.88, 529.55, 1327870.0, None, None)),
        ("ticker_price_with_date_csv", 0, 2, (utc(2015, 1, 2), 532.6, 535.8, 527.88, 529.55, 1327870.0, None, None)),
        (
            "ticker_price_with_multiple_columns",
            0,
            1,
            (utc(2024, 10, 22), 162.98, 165.77, 162.98, 165.14, 16568121.0, None, None),
        ),
        ("ticker_price_pandas_daily_csv", 0, 10, JANUARY_5),
        ("ticker_price_pandas_daily_equivalent_requesting_json_or_csv", 0, 10, JANUARY_5),
        ("ticker_price_pandas_daily_equivalent_requesting_json_or_csv", 1, 10, JANUARY_5),
        ("ticker_price_pandas_daily_metric_name", 0, 10, JANUARY_5),
        ("ticker_price_pandas_daily_metric_name_csv", 0, 10, JANUARY_5),
        ("ticker_price_weekly", 0, 3, WEEK),
        ("ticker_price_pandas_weekly", 0, 3, WEEK),
        ("ticker_price_pandas_weekly_multiple_tickers", 0, 3, WEEK),
        ("ticker_price_pandas_weekly_multiple_tickers", 1, 3, APPLE),
        ("ticker_price_pandas_weekly_multiple_tickers_csv", 0, 3, WEEK),
        ("ticker_price_pandas_weekly_multiple_tickers_csv", 1, 3, APPLE),
    ],
)
def test_a_recorded_daily_answer_is_read_exactly(name: str, place: int, rows: int, first: tuple[Any, ...]) -> None:
    bars, rejects, drift = parse_daily(cassette(name, place))
    table = bars.table()
    assert (rejects, drift) == ((), ())
    assert table.num_rows == rows
    assert table.schema == BAR_SCHEMA
    assert values(table)[0] == first


def test_recorded_json_and_csv_of_one_query_are_the_same_bars() -> None:
    name = "ticker_price_pandas_daily_equivalent_requesting_json_or_csv"
    assert parse_daily(cassette(name, 0)).bars.table() == parse_daily(cassette(name, 1)).bars.table()
    assert parse_actions(cassette(name, 0)).table == parse_actions(cassette(name, 1)).table


def test_recorded_columns_that_lack_the_prices_are_refused_by_name() -> None:
    with pytest.raises(VendorError, match=r"expected field 'open' \(open\) of tiingo daily rows, found it missing"):
        parse_daily(cassette("ticker_price_with_volume_column"))


def test_recorded_minutes_without_the_volume_that_we_name_are_refused_and_with_it_read() -> None:
    text = cassette("intraday_price")
    with pytest.raises(VendorError, match="expected field 'volume'.* found it missing"):
        parse_minutes(text)
    bars, rejects, drift = parse_minutes(orjson.dumps([{**row, "volume": 7} for row in orjson.loads(text)]))
    table = bars.table()
    assert (rejects, drift, table.num_rows) == ((), (), 13)
    assert values(table)[0] == (utc(2018, 1, 2, 14, 30), 1057.47, 1061.91, 1054.17, 1061.91, 7.0, None, None)
    assert table["bucket_start"].to_pylist()[-1] == utc(2018, 1, 2, 20, 30)


@given(
    st.dates(date(1962, 1, 2), date(2040, 12, 31)),
    st.sampled_from(["", "T00:00:00.000Z", "T00:00:00Z", "T00:00:00+00:00"]),
)
def test_part_c_14_and_48_every_shape_of_a_date_is_that_session_date(on: date, shape: str) -> None:
    assert session_dates([f"{on}{shape}"], "x").tolist() == [to_us(utc(on.year, on.month, on.day))]
    assert parse_daily(orjson.dumps([day(f"{on}{shape}")])).bars.table()["bucket_start"].to_pylist() == [
        utc(on.year, on.month, on.day)
    ]


@pytest.mark.parametrize(
    "on",
    [
        "2025-10-01T04:00:00.000Z",
        "2025-10-01T00:00:00-04:00",
        "2025-10-01T00:00:00",
        "01/10/2025",
        "2025-02-30",
        "",
        None,
        20251001,
    ],
)
def test_part_c_14_another_shape_of_a_date_is_malformed(on: Any) -> None:
    with pytest.raises(VendorError, match="field 'date': expected a session date") as caught:
        parse_daily(orjson.dumps([day(), day(on)]))
    assert caught.value.code is Code.MALFORMED_RESPONSE


def test_part_c_47_minutes_keep_their_instant_on_both_sides_of_a_clock_change() -> None:
    rows = [minute("2025-10-31T13:30:00.000Z"), minute("2025-11-03T14:30:00+00:00")]
    assert parse_minutes(orjson.dumps(rows)).bars.table()["bucket_start"].to_pylist() == [
        utc(2025, 10, 31, 13, 30), utc(2025, 11, 3, 14, 30)
    ]  # fmt: skip


def test_a_minute_without_a_zone_is_malformed() -> None:
    with pytest.raises(VendorError, match="expected an instant with its zone"):
        parse_minutes(orjson.dumps([minute("2025-10-31T13:30:00")]))


def test_the_order_of_the_fields_means_nothing() -> None:
    backwards = dict(reversed(day().items()))
    assert parse_daily(orjson.dumps([backwards])).bars.table() == parse_daily(orjson.dumps([day()])).bars.table()


def test_raw_prices_are_read_whatever_the_adjusted_ones_say() -> None:
    halved = day(adjOpen=250.25, adjHigh=250.5, adjLow=250.125, adjClose=250.375, adjVolume=6_000_000)
    assert parse_daily(orjson.dumps([halved])).bars.table() == parse_daily(orjson.dumps([day()])).bars.table()


def test_part_c_1_a_null_refuses_its_row_alone() -> None:
    bars, rejects, _ = parse_daily(orjson.dumps([day(), day("2025-10-02", low=None)]))
    table = bars.table()
    assert table.num_rows == 1
    assert [(r.reason, r.bucket_start) for r in rejects] == [("null_value", to_us(utc(2025, 10, 2)))]


def test_part_c_3_an_empty_array_is_an_empty_answer() -> None:
    heard = deliver(Reply(body=b"[]"))
    assert len(heard.value.bars) == 0
    assert heard.value.bars.table().schema == BAR_SCHEMA


def test_a_new_field_is_reported_and_a_retyped_one_refused() -> None:
    assert deliver(Reply(body=orjson.dumps([day(halted=False)]))).value.drift == (
        "tiingo daily rows: new field 'halted' (true or false)",
    )
    with pytest.raises(VendorError, match="expected a number in field 'close'.* found text"):
        parse_daily(orjson.dumps([day(close="500.75"), day("2025-10-02", close="501")]))


def test_a_table_with_broken_lines_is_malformed() -> None:
    with pytest.raises(VendorError, match="expected a CSV table") as caught:
        parse_daily(b"date,open\n2025-10-01,1,2\n")
    assert caught.value.code is Code.MALFORMED_RESPONSE


def test_part_c_18_json_where_a_table_was_expected_is_told_by_its_first_byte() -> None:
    with pytest.raises(VendorError, match="found object"):
        parse_daily(b'{"detail":"You asked for csv"}')


def test_splits_and_dividends_are_told_with_their_session_date() -> None:
    rows = [
        day("2020-08-07", divCash=0.82),
        day("2020-08-28"),
        day("2020-08-31T00:00:00.000Z", splitFactor=4.0),
        day("2021-08-02T00:00:00+00:00", splitFactor=0.125, divCash=0.01),
    ]
    actions = parse_actions(orjson.dumps(rows)).table
    assert actions.schema == ACTION_SCHEMA
    assert values(actions) == [
        (utc(2020, 8, 7), "dividend", 0.82),
        (utc(2020, 8, 31), "split", 4.0),
        (utc(2021, 8, 2), "split", 0.125),
        (utc(2021, 8, 2), "dividend", 0.01),
    ]


def test_rows_without_actions_are_an_empty_table() -> None:
    assert parse_actions(orjson.dumps([day()])).table == ACTION_SCHEMA.empty_table()
    assert parse_actions(b"[]").table == ACTION_SCHEMA.empty_table()
    assert parse_actions(cassette("ticker_price_with_date")).table == ACTION_SCHEMA.empty_table()


@pytest.mark.parametrize(
    ("other", "found"),
    [({"splitFactor": None}, "null"), ({"splitFactor": "4:1"}, "text"), ({"divCash": True}, "true or false")],
)
def test_an_action_that_cannot_be_read_is_never_passed_over(other: dict[str, Any], found: str) -> None:
    with pytest.raises(VendorError, match=f"expected a number in field '{next(iter(other))}', found {found}"):
        parse_actions(orjson.dumps([day(**other)]))
    with pytest.raises(VendorError, match="expected an array"):
        parse_actions(b'{"detail":"x"}')


def test_days_are_asked_for_by_date_with_both_ends_inclusive_and_raw_columns_only() -> None:
    heard = deliver(Reply(body=orjson.dumps([day()])))
    assert heard.asked == [
        (
            "/tiingo/daily/BRK-B/prices",
            {
                "startDate": "2025-10-01",
                "endDate": "2025-10-31",
                "format": "json",
                "resampleFreq": "daily",
                "columns": "open,high,low,close,volume,divCash,splitFactor",
            },
        )
    ]


def test_minutes_are_asked_for_with_volume_and_without_invented_ones() -> None:
    heard = deliver(Reply(body=orjson.dumps([minute()])), plan=MINUTES)
    assert heard.asked == [
        (
            "/iex/BRK-B/prices",
            {
                "startDate": "2025-11-18",
                "endDate": "2025-11-20",
                "format": "json",
                "resampleFreq": "1min",
                "columns": "open,high,low,close,volume",
                "forceFill": "false",
                "afterHours": "false",
            },
        )
    ]


def test_the_key_is_sent_as_a_header() -> None:
    head = deliver(Reply(body=b"[]")).line.vendor.heads[0]
    assert f"authorization: token {KEY}\r\n" in head.lower()
    assert KEY not in head.splitlines()[0]


def test_minutes_are_planned_week_by_week() -> None:
    start, end = to_us(utc(2025, 11, 5, 14, 30)), to_us(utc(2025, 11, 20, 21))
    fetches = Tiingo().plan("AAPL", "AAPL", Interval.MINUTE, start, end)
    assert [(f.start_us, f.end_us) for f in fetches] == [
        (start, to_us(utc(2025, 11, 10))),
        (to_us(utc(2025, 11, 10)), to_us(utc(2025, 11, 17))),
        (to_us(utc(2025, 11, 17)), end),
    ]
    assert [request.params["endDate"] for f in fetches for request in f.requests] == [
        "2025-11-09",
        "2025-11-16",
        "2025-11-20",
    ]


@given(st.integers(0, 60 * 1440), st.integers(1, 40 * 1440))
def test_weeks_cover_the_window_and_none_holds_more_than_five_sessions(first: int, length: int) -> None:
    start = to_us(utc(2025, 9, 1)) + first * MINUTE_US
    end = start + length * MINUTE_US
    fetches = Tiingo().plan("AAPL", "AAPL", Interval.MINUTE, start, end)
    assert (fetches[0].start_us, fetches[-1].end_us) == (start, end)
    assert all(a.end_us == b.start_us for a, b in zip(fetches, fetches[1:], strict=False))
    for f in fetches:
        days = {(f.start_us + i) // DAY_US for i in range(0, f.end_us - f.start_us, MINUTE_US)}
        assert len([d for d in days if (d + 3) % 7 < 5]) <= 5


@pytest.mark.parametrize(
    ("now", "last"),
    [
        (utc(2025, 11, 20, 22, 29), utc(2025, 11, 19)),
        (utc(2025, 11, 20, 22, 30), utc(2025, 11, 20)),
        (utc(2025, 7, 1, 21, 29), utc(2025, 6, 30)),
        (utc(2025, 7, 1, 21, 30), utc(2025, 7, 1)),
        (utc(2025, 7, 2, 3, 59), utc(2025, 7, 1)),
    ],
)
def test_a_day_is_served_from_half_past_five_in_new_york_on(now: datetime, last: datetime) -> None:
    start = to_us(utc(2025, 1, 2))
    assert Tiingo().serves(Interval.DAY, start, to_us(now) + DAY_US, to_us(now)) == (start, to_us(last) + DAY_US)
    assert Tiingo().serves(Interval.DAY, to_us(last) + DAY_US, to_us(now) + DAY_US, to_us(now)) is None


def test_closed_minutes_are_served() -> None:
    now = to_us(utc(2025, 11, 20, 15)) + 30_000_000
    assert Tiingo().serves(Interval.MINUTE, now - DAY_US, now, now) == (now - DAY_US, to_us(utc(2025, 11, 20, 15)))


@pytest.mark.parametrize("status", [200, 429])
@pytest.mark.parametrize(
    ("text", "until"),
    [
        (HOURLY, utc(2025, 11, 21, 13)),
        (HOURLY.replace(b"hourly", b"daily"), utc(2025, 11, 22)),
        (MONTHLY, utc(2025, 12, 1)),
    ],
)
def test_part_c_16_a_spent_quota_parks_the_vendor_until_its_window_ends(
    status: int, text: bytes, until: datetime
) -> None:
    heard = deliver(Reply(status, text, {"Content-Type": "text/plain"}))
    wait = (until - datetime.fromtimestamp(NOW, UTC)) / timedelta(seconds=1)
    assert (heard.failure.code, heard.failure.remedy) == (Code.RATE_LIMITED, Remedy.STOP_VENDOR)
    assert heard.failure.wait_seconds == wait
    assert heard.waits == []
    assert len(heard.line.vendor.asked) == 1
    assert heard.line.transport._budget.blocked_until("tiingo", NOW) == NOW + wait


def test_part_c_23_a_429_that_says_nothing_waits_for_the_next_minute() -> None:
    assert deliver(Reply(429, b"{}"), Reply(body=b"[]")).waits == [30]


@pytest.mark.parametrize(
    ("status", "text", "code"),
    [
        (404, b'{"detail":"Not found."}', Code.BAD_SYMBOL),
        (404, b"<html>404</html>", Code.BAD_REQUEST),
        (400, b'{"detail":"Error: resampleFreq"}', Code.BAD_REQUEST),
        (401, b'{"detail":"Invalid token."}', Code.AUTH_FAILED),
        (403, b'{"detail":"You do not have permission to access the News API"}', Code.AUTH_FAILED),
        (403, b"<html><title>403 Forbidden</title></html>", Code.VENDOR_BLOCKED),
    ],
)
def test_a_refusal_is_its_class_and_not_tried_again(status: int, text: bytes, code: Code) -> None:
    heard = deliver(Reply(status, text))
    assert (heard.failure.code, len(heard.line.vendor.asked)) == (code, 1)
    assert "permission" not in str(heard.failure)


def test_what_the_vendor_promises_is_declared() -> None:
    assert Tiingo.omits_empty_buckets
    assert Tiingo.raw_prices
