from __future__ import annotations

import hashlib
import io
import zipfile
from datetime import UTC, date, datetime, timedelta

import pytest

from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.markets import DAY_US, Interval, to_us
from ohlcv_pipeline.vendors.binance_archive import BinanceArchive, File, files, month_bounds, parse, parse_checksum
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline.vendors.registry import ADAPTERS, adapter
from ohlcv_pipeline_tests.vendors.wire import Clock, Reply, fetch, recorded, tabled

HEADER = (
    b"open_time,open,high,low,close,volume,close_time,quote_volume,count,"
    b"taker_buy_volume,taker_buy_quote_volume,ignore\n"
)
ROW = b"%d,93576.00000000,93610.93000000,93537.50000000,93610.93000000,8.21827000,0,768978.75522470,2631,3.9,3.6,0\n"
FIRST = 1735689600000000


def us(year: int, month: int, day: int, hour: int = 0) -> int:
    return to_us(datetime(year, month, day, hour, tzinfo=UTC))


def day_file(year: int, month: int, day: int) -> File:
    return File("daily", us(year, month, day), us(year, month, day) + DAY_US)


def month_file(year: int, month: int) -> File:
    return File("monthly", *month_bounds(us(year, month, 1)))


def zipped(text: bytes, names: tuple[str, ...] = ("x.csv",)) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            archive.writestr(name, text)
    return buffer.getvalue()


DAY_PLAN = ("BTC", "BTCUSDT", Interval.MINUTE, FIRST, FIRST + DAY_US)
NAME = "BTCUSDT-1m-2025-01-01.zip"
GOOD = zipped(ROW % FIRST + ROW % (FIRST + 60_000_000))


def checksum(body: bytes, name: str = NAME) -> Reply:
    return Reply(body=f"{hashlib.sha256(body).hexdigest()}  {name}\n".encode())


class TestTheCsv:
    def test_recorded_milliseconds_of_2024_12(self) -> None:
        bars, rejects = tabled(parse(recorded("binance/rows/BTCUSDT-1d-2024-12.first_last.csv"), month_file(2024, 12)))
        assert not rejects
        assert bars["bucket_start"].to_pylist() == [
            datetime(2024, 12, 1, tzinfo=UTC),
            datetime(2024, 12, 31, tzinfo=UTC),
        ]
        assert bars.to_pylist()[0] == {
            "bucket_start": datetime(2024, 12, 1, tzinfo=UTC),
            "open": 96407.99,
            "high": 97836.0,
            "low": 95693.88,
            "close": 97185.18,
            "volume": 16938.60452,
            "trade_count": 3342200,
            "vwap": 1641327626.60622060 / 16938.60452,
        }

    def test_part_c_12_recorded_microseconds_of_2025_01(self) -> None:
        bars, _ = tabled(parse(recorded("binance/rows/BTCUSDT-1d-2025-01.first_last.csv"), month_file(2025, 1)))
        assert bars["bucket_start"].to_pylist() == [
            datetime(2025, 1, 1, tzinfo=UTC),
            datetime(2025, 1, 31, tzinfo=UTC),
        ]
        minutes, _ = tabled(parse(recorded("binance/rows/BTCUSDT-1m-2025-01.first.csv"), day_file(2025, 1, 1)))
        assert minutes["open"].to_pylist() == [93576.0]

    def test_part_c_39_recorded_silent_minutes_are_bars_and_the_twelfth_field_is_ignored(self) -> None:
        bars, rejects = tabled(parse(recorded("binance/rows/BTCUSDT-1m-2017-08.last5.csv"), month_file(2017, 8)))
        assert not rejects
        assert bars["volume"].to_pylist() == [0.118442, 0.0, 0.0, 0.904681, 0.0]
        assert bars["vwap"].to_pylist() == [556.558958 / 0.118442, None, None, 4274.51370009 / 0.904681, None]
        assert bars["trade_count"].to_pylist() == [6, 0, 0, 4, 0]

    @pytest.mark.parametrize("prefix", [b"", HEADER, b"\xef\xbb\xbf", b"\xef\xbb\xbf" + HEADER])
    def test_part_c_44_a_header_row_may_be_there_or_not(self, prefix: bytes) -> None:
        bars, rejects = tabled(parse(prefix + ROW % FIRST, day_file(2025, 1, 1)))
        assert (bars.num_rows, rejects) == (1, ())

    def test_part_c_57_crlf_and_a_missing_last_newline_do_no_harm(self) -> None:
        text = (HEADER + ROW % FIRST + ROW % (FIRST + 60_000_000)).replace(b"\n", b"\r\n")
        assert len(parse(text.rstrip(), day_file(2025, 1, 1))[0]) == 2

    @pytest.mark.parametrize("text", [b"", HEADER, HEADER.strip()])
    def test_part_c_3_a_file_without_rows_is_empty(self, text: bytes) -> None:
        assert len(parse(text, day_file(2025, 1, 1))[0]) == 0

    @pytest.mark.parametrize(
        ("cell", "reason"),
        [
            (b"", "null_value"),
            (b"N/A", "null_value"),
            (b"NaN", "not_finite"),
            (b"inf", "not_finite"),
            (b"x", "bad_number"),
        ],
    )
    def test_part_c_10_11_a_cell_that_is_no_number_rejects_its_row_with_its_text(
        self, cell: bytes, reason: str
    ) -> None:
        bad = (ROW % (FIRST + 60_000_000)).replace(b"93610.93000000", cell, 1)
        bars, rejects = tabled(parse(HEADER + ROW % FIRST + bad, day_file(2025, 1, 1)))
        assert bars.num_rows == 1
        assert [(r.bucket_start, r.reason, r.raw) for r in rejects] == [
            (FIRST + 60_000_000, reason, bad.decode().strip())
        ]

    @pytest.mark.parametrize("stamp", [FIRST + DAY_US, FIRST - 60_000_000, FIRST // 10, FIRST // 1_000_000 + 86_400])
    def test_part_c_12_a_row_outside_the_days_of_the_file_is_a_unit_error(self, stamp: int) -> None:
        with pytest.raises(VendorError, match="expected rows of 2025-01-01 on, found one of") as caught:
            parse(ROW % FIRST + ROW % stamp, day_file(2025, 1, 1))
        assert caught.value.code is Code.MALFORMED_RESPONSE

    def test_part_c_42_a_non_grid_opening_time_is_left_for_bars_to_judge(self) -> None:
        bars, _ = tabled(parse(ROW % 1518168494789, month_file(2018, 2)))
        assert micros(bars["bucket_start"]).tolist() == [1518168494789000]

    @pytest.mark.parametrize("text", [b"1735689600000,1,2,3\n", ROW % FIRST + b"1,2\n"])
    def test_part_c_14_another_number_of_fields_is_malformed(self, text: bytes) -> None:
        with pytest.raises(VendorError, match="expected 12 fields"):
            parse(text, day_file(2025, 1, 1))


class TestTheChecksum:
    def test_a_recorded_line_is_read(self) -> None:
        body = recorded("binance/rows/BTCUSDT-1m-2017-08.zip.CHECKSUM")
        digest = "4f96569190147d64b7ce55f6760dc3e7962aeb3e209c969b200200e3d7045e70"
        assert parse_checksum(body, "BTCUSDT-1m-2017-08.zip", "x") == digest

    @pytest.mark.parametrize("body", [b"", b"abc  x.zip", b"0" * 64 + b"  other.zip", b"{}"])
    def test_part_c_53_another_line_or_another_files_line_is_malformed(self, body: bytes) -> None:
        with pytest.raises(VendorError, match="expected the SHA-256"):
            parse_checksum(body, "x.zip", "x")


class TestThePlan:
    def test_a_whole_month_is_one_file_and_the_other_days_are_daily(self) -> None:
        spans = [(f.span, f.start_us, f.end_us) for f in files(Interval.MINUTE, us(2025, 1, 30), us(2025, 3, 3))]
        assert spans == [
            ("daily", us(2025, 1, 30), us(2025, 1, 31)),
            ("daily", us(2025, 1, 31), us(2025, 2, 1)),
            ("monthly", us(2025, 2, 1), us(2025, 3, 1)),
            ("daily", us(2025, 3, 1), us(2025, 3, 2)),
            ("daily", us(2025, 3, 2), us(2025, 3, 3)),
        ]

    def test_a_fetch_is_a_checksum_and_a_zip_of_weight_one(self) -> None:
        daily, *_ = BinanceArchive().plan("BTC", "BTCUSDT", Interval.MINUTE, us(2025, 1, 30), us(2025, 2, 1))
        path = "/data/spot/daily/klines/BTCUSDT/1m/BTCUSDT-1m-2025-01-30.zip"
        assert [(r.path, r.weight) for r in daily.requests] == [(f"{path}.CHECKSUM", 1), (path, 1)]

    def test_days_come_in_monthly_files_only(self) -> None:
        fetches = BinanceArchive().plan("BTC", "BTCUSDT", Interval.DAY, us(2024, 11, 15), us(2025, 2, 20))
        assert [f.requests[1].path for f in fetches] == [
            "/data/spot/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2024-12.zip",
            "/data/spot/monthly/klines/BTCUSDT/1d/BTCUSDT-1d-2025-01.zip",
        ]

    def test_yesterday_is_served_from_three_o_clock_and_today_never(self) -> None:
        serves = BinanceArchive().serves
        start = us(2025, 11, 10)
        assert serves(Interval.MINUTE, start, us(2025, 11, 22), us(2025, 11, 21, 2)) == (start, us(2025, 11, 20))
        assert serves(Interval.MINUTE, start, us(2025, 11, 22), us(2025, 11, 21, 3)) == (start, us(2025, 11, 21))
        assert serves(Interval.MINUTE, us(2025, 11, 21), us(2025, 11, 22), us(2025, 11, 21, 23)) is None

    def test_only_whole_days_are_served(self) -> None:
        window = us(2025, 11, 1, 5), us(2025, 11, 3, 5)
        assert BinanceArchive().serves(Interval.MINUTE, *window, us(2025, 11, 21)) == (us(2025, 11, 2), us(2025, 11, 3))
        assert BinanceArchive().serves(Interval.MINUTE, us(2025, 11, 1, 5), us(2025, 11, 2), us(2025, 11, 21)) is None

    def test_days_are_served_by_whole_published_months(self) -> None:
        serves = BinanceArchive().serves
        window = us(2025, 8, 2), us(2025, 12, 3)
        assert serves(Interval.DAY, *window, us(2025, 12, 3)) == (us(2025, 9, 1), us(2025, 12, 1))
        assert serves(Interval.DAY, *window, us(2025, 12, 1, 12)) == (us(2025, 9, 1), us(2025, 11, 1))
        assert serves(Interval.DAY, us(2025, 11, 2), us(2025, 12, 3), us(2025, 12, 3)) is None

    def test_a_month_that_is_not_published_yet_is_planned_as_daily_files(self) -> None:
        served = BinanceArchive().serves(Interval.MINUTE, us(2025, 9, 1), us(2025, 11, 2), us(2025, 11, 2, 4))
        assert served == (us(2025, 9, 1), us(2025, 10, 31))
        spans = [file.span for file in files(Interval.MINUTE, *served)]
        assert spans == ["monthly"] + ["daily"] * 30

    def test_no_planned_file_can_be_missing_on_any_day_of_a_year(self) -> None:
        archive, start = BinanceArchive(), us(2025, 1, 1)
        for offset in range(366):
            for hour in (0, 2, 3, 12):
                today = date(2026, 1, 1) + timedelta(days=offset)
                now = us(today.year, today.month, today.day, hour)
                for interval in Interval:
                    served = archive.serves(interval, start, now, now)
                    assert served is not None
                    for file in files(interval, *served):
                        first = datetime.fromtimestamp(file.end_us / 1e6, UTC)
                        monday = file.end_us + (7 - first.weekday()) % 7 * DAY_US
                        published = file.end_us + 3 * 3_600_000_000 if file.span == "daily" else monday
                        assert published <= now


class TestAFetch:
    def test_delivers_the_page_with_both_answers(self) -> None:
        heard = fetch("binance_archive", DAY_PLAN, [checksum(GOOD), Reply(body=GOOD)])
        assert len(heard.value.bars) == 2
        assert [answer.body for answer in heard.value.answers] == [checksum(GOOD).body, GOOD]
        assert len(heard.line.vendor.asked) == 2

    def test_part_c_43_a_replaced_file_is_fetched_again_with_its_checksum(self) -> None:
        heard = fetch(
            "binance_archive", DAY_PLAN, [checksum(b"old"), Reply(body=GOOD), checksum(GOOD), Reply(body=GOOD)]
        )
        assert len(heard.value.bars) == 2
        assert len(heard.line.vendor.asked) == 4

    def test_part_c_43_a_digest_that_never_matches_is_malformed_and_both_answers_are_kept(self) -> None:
        replies = {True: checksum(b"old"), False: Reply(body=GOOD)}
        heard = fetch("binance_archive", DAY_PLAN, lambda target: replies[target.endswith("CHECKSUM")])
        assert heard.failure.code is Code.MALFORMED_RESPONSE
        assert [answer.body for answer in heard.failure.answers] == [checksum(b"old").body, GOOD]
        assert len(heard.line.vendor.asked) == 8

    @pytest.mark.parametrize("body", [GOOD[:-30], b"PK\x03\x04 nothing", zipped(b"x", ("a.csv", "b.csv"))])
    def test_part_c_43_a_corrupt_zip_with_a_matching_digest_is_malformed(self, body: bytes) -> None:
        heard = fetch("binance_archive", DAY_PLAN, [checksum(body), Reply(body=body)])
        assert (heard.failure.code, heard.failure.remedy) == (Code.MALFORMED_RESPONSE, Remedy.GIVE_UP)
        assert len(heard.failure.answers) == 2

    def test_a_file_of_the_last_35_days_that_is_missing_is_not_yet_there(self) -> None:
        clock = Clock(now=FIRST / 1e6 + 86_400 * 35)
        heard = fetch("binance_archive", DAY_PLAN, [Reply(404, b"<?xml?><Error/>")], clock=clock)
        assert (heard.failure.code, heard.failure.remedy) == (Code.NOT_YET, Remedy.GIVE_UP)
        assert heard.waits == []

    def test_an_older_file_that_is_missing_is_an_empty_page(self) -> None:
        heard = fetch("binance_archive", DAY_PLAN, [Reply(404, b"<?xml?><Error/>")])
        assert (len(heard.value.bars), heard.value.rejects) == (0, ())
        assert heard.value.answers[0].status == 404

    def test_part_c_15_html_instead_of_a_zip_is_a_block(self) -> None:
        heard = fetch("binance_archive", DAY_PLAN, [checksum(GOOD), Reply(body=b"<html>")])
        assert heard.failure.code is Code.VENDOR_BLOCKED


def test_the_registry_knows_every_vendor_of_every_market_by_its_own_name() -> None:
    from ohlcv_pipeline.markets import MARKETS

    assert {vendor for market in MARKETS.values() for vendor in market.vendors} <= set(ADAPTERS)
    assert all(adapter(name).name == name for name in ADAPTERS)
    with pytest.raises(ValueError, match="'nasdaq' is not one of coinbase"):
        adapter("nasdaq")
