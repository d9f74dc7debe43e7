"""What Alpaca's answers are read as, and what about them is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.frames import BAR_SCHEMA
from ohlcv_pipeline.markets import MINUTE_US, Interval
from ohlcv_pipeline.vendors.alpaca import parse
from ohlcv_pipeline.vendors.errors import Code, VendorError
from ohlcv_pipeline.vendors.rows import NOTHING, Parsed
from ohlcv_pipeline_tests.vendors.alpaca_answers import FIRST, OPEN, bar, body, deliver
from ohlcv_pipeline_tests.vendors.wire import Reply, utc


def read(text: bytes, interval: Interval = Interval.MINUTE) -> Parsed:
    """Return what an answer says of the one symbol it was asked for."""
    parsed = parse(text, interval).symbols["BRK.B"]
    assert parsed is not None
    return parsed


def test_part_c_56_prices_in_another_currency_are_refused_and_dollars_taken() -> None:
    assert len(read(body(bar(), currency="USD")).bars) == 1
    for currency in ("JPY", None, 3):
        with pytest.raises(VendorError, match="another currency"):
            parse(body(bar(), currency=currency), Interval.MINUTE)


def test_part_c_47_a_day_is_midnight_in_new_york_on_both_sides_of_a_clock_change() -> None:
    rows = [
        bar(t=t)
        for t in ("2025-03-07T05:00:00Z", "2025-03-10T04:00:00Z", "2025-10-31T04:00:00Z", "2025-11-03T05:00:00Z")
    ]
    parsed = read(body(*rows), Interval.DAY)
    assert parsed.bars.table()["bucket_start"].to_pylist() == [
        utc(2025, 3, 7), utc(2025, 3, 10), utc(2025, 10, 31), utc(2025, 11, 3)
    ]  # fmt: skip


@given(st.dates(date(2016, 1, 1), date(2036, 12, 31)))
def test_part_c_48_every_date_comes_back_as_itself(day: date) -> None:
    stamp = datetime(day.year, day.month, day.day, tzinfo=ZoneInfo("America/New_York")).astimezone(UTC)
    parsed = read(body(bar(t=f"{stamp:%Y-%m-%dT%H:%M:%SZ}")), Interval.DAY)
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(day.year, day.month, day.day)]


def test_a_day_that_is_no_midnight_in_new_york_falls_off_the_grid() -> None:
    parsed = read(body(bar(t="2025-11-03T04:00:00Z")), Interval.DAY)
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(2025, 11, 2, 23)]


def test_part_c_3_no_bars_are_an_empty_answer() -> None:
    assert parse(body(), Interval.MINUTE).symbols == {}
    assert parse(b'{"bars":null,"next_page_token":null}', Interval.MINUTE).symbols == {}
    heard = deliver(Reply(body=body()))
    assert len(heard.value.bars) == 0
    assert heard.value.bars.table().schema == BAR_SCHEMA


@pytest.mark.parametrize("bars", [b"null", b"{}", b'{"BRK.B":[]}'])
def test_part_c_2_an_answer_that_leaves_the_bars_out_is_empty_and_not_asked_for_again(bars: bytes) -> None:
    heard = deliver(Reply(body=b'{"bars":%b,"next_page_token":null}' % bars))
    assert len(heard.value.bars) == 0
    assert (heard.line.codes, heard.waits) == (["ok"], [])


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
    parsed = read(body(bar(), bar(1, **row), bar(2)))
    (reject,) = parsed.rejects
    assert (reject.bucket_start, reject.reason) == (OPEN + MINUTE_US, reason)
    assert orjson.loads(reject.raw) == bar(1, **row)
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(2025, 11, 20, 14, 30), utc(2025, 11, 20, 14, 32)]


def test_part_c_11_nan_and_infinity_are_refused_by_themselves() -> None:
    text = body(bar(), bar(1, o="@"), bar(2, h="@@")).replace(b'"@@"', b"Infinity").replace(b'"@"', b"NaN")
    parsed = read(text)
    assert [reject.reason for reject in parsed.rejects] == ["not_finite", "not_finite"]
    assert len(parsed.bars) == 1


def test_a_bar_without_a_vwap_is_whole() -> None:
    parsed = read(body(bar(), bar(1, vw=None), bar(2, v=0, n=0)))
    assert parsed.bars.table()["vwap"].to_pylist() == [500.6, None, None]


def test_a_field_that_only_one_row_lacks_refuses_that_row() -> None:
    short = bar(1)
    del short["c"]
    parsed = read(body(bar(), short))
    assert [reject.reason for reject in parsed.rejects] == ["null_value"]


@pytest.mark.parametrize("field", ["t", "o", "h", "l", "c", "v", "n", "vw"])
def test_a_field_that_is_gone_is_named(field: str) -> None:
    rows = [{name: value for name, value in bar(i).items() if name != field} for i in range(3)]
    with pytest.raises(VendorError, match=f"expected field '{field}'.* found it missing") as caught:
        parse(body(*rows), Interval.MINUTE)
    assert caught.value.code is Code.MALFORMED_RESPONSE


@pytest.mark.parametrize(
    ("field", "value", "found"),
    [
        ("o", "500.5", "text"),
        ("v", {"all": 1}, "object"),
        ("n", [3], "array"),
        ("c", True, "true or false"),
    ],
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
    parsed = read(body(bar(t="2025-11-20T14:30:00.000000000Z"), bar(t="2025-11-20T09:31:00-05:00")))
    assert parsed.bars.table()["bucket_start"].to_pylist() == [utc(2025, 11, 20, 14, 30), utc(2025, 11, 20, 14, 31)]


def test_part_c_5_and_6_order_and_duplicates_are_left_as_they_came() -> None:
    parsed = read(body(bar(2), bar(0), bar(0, c=500.3)))
    assert parsed.bars.table()["close"].to_pylist() == [500.75, 500.75, 500.3]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0.01, 1e6)), max_size=20))
def test_what_is_written_is_read(rows: list[tuple[int, float]]) -> None:
    parsed = parse(body(*(bar(i, c=close) for i, close in rows)), Interval.MINUTE).symbols.get("BRK.B") or NOTHING
    got = parsed.bars.table()
    assert got["bucket_start"].to_pylist() == [FIRST + timedelta(minutes=i) for i, _ in rows]
    assert got["close"].to_pylist() == [close for _, close in rows]
