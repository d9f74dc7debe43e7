from __future__ import annotations

import asyncio
import io
import os
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ohlcv_pipeline.frames import micros
from ohlcv_pipeline.markets import Interval, to_us
from ohlcv_pipeline.settings import Settings, VendorSettings
from ohlcv_pipeline.vendors.base import Fetch, Page
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline.vendors.files import Files, parse, period
from ohlcv_pipeline.vendors.folder import FolderTransport
from ohlcv_pipeline.vendors.registry import transport
from ohlcv_pipeline.vendors.transport import Outcome, UnlimitedBudget
from ohlcv_pipeline_tests.vendors.wire import tabled

HEADER = "time,open,high,low,close,volume\n"
OPEN = datetime(2013, 10, 7, 13, 30, tzinfo=UTC)
OPEN_US = to_us(OPEN)
ROW = "2013-10-07T13:30:00Z,167.43,167.5,167.25,167.4,1000\n"


def starts(body: str | bytes, interval: Interval = Interval.MINUTE) -> list[int]:
    bars, rejects, _ = parse(body.encode() if isinstance(body, str) else body, interval)
    assert not rejects
    found: list[int] = bars.bucket_start.tolist()
    return found


def refusal(body: str | bytes, interval: Interval = Interval.MINUTE) -> str:
    with pytest.raises(VendorError) as caught:
        parse(body.encode() if isinstance(body, str) else body, interval, "minute/SPY.csv")
    assert (caught.value.code, caught.value.remedy) == (Code.MALFORMED_RESPONSE, Remedy.GIVE_UP)
    assert str(caught.value).startswith("minute/SPY.csv: ")
    return str(caught.value)


def parquet(**columns: pa.Array) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


VALUES = {"open": [1.5], "high": [4.0], "low": [1.0], "close": [2.0], "volume": [7.0]}


def rows_of(times: pa.Array, **more: pa.Array) -> bytes:
    return parquet(time=times, **{name: pa.array(cells) for name, cells in VALUES.items()}, **more)


class TestColumns:
    def test_a_row_becomes_a_bar(self) -> None:
        bars, rejects = tabled(parse(f"{HEADER}{ROW}".encode(), Interval.MINUTE))
        assert not rejects
        assert bars.to_pylist() == [
            {
                "bucket_start": OPEN, "open": 167.43, "high": 167.5, "low": 167.25, "close": 167.4, "volume": 1000.0,
                "trade_count": None, "vwap": None,
            }
        ]  # fmt: skip

    def test_part_c_57_another_order_a_bom_crlf_capitals_and_quoted_commas_change_nothing(self) -> None:
        body = (
            '\ufeff"Name, of it",Close,VOLUME,low,"high",Open,Time\r\n'
            '"SPDR, ""S&P"" 500",167.4,1000,167.25,"167.5",167.43,2013-10-07T13:30:00Z\r\n'
        ).encode()
        plain, odd = (tabled(parse(each, Interval.MINUTE))[0] for each in (f"{HEADER}{ROW}".encode(), body))
        assert odd.equals(plain)

    def test_count_and_vwap_are_read_where_they_are(self) -> None:
        body = "vwap,trades,time,open,high,low,close,volume\n1.75,12,2013-10-07T13:30:00Z,1,4,1,2,5\n"
        bars, _ = tabled(parse(body.encode(), Interval.MINUTE))
        assert bars.select(["trade_count", "vwap"]).to_pylist() == [{"trade_count": 12, "vwap": 1.75}]

    def test_what_the_export_writes_can_be_read(self) -> None:
        body = "bucket_start,open,high,low,close,volume,trade_count,vwap\n2013-10-07T13:30:00Z,1,4,1,2,5,,\n"
        bars, rejects = tabled(parse(body.encode(), Interval.MINUTE))
        assert not rejects
        assert bars.select(["trade_count", "vwap"]).to_pylist() == [{"trade_count": None, "vwap": None}]

    def test_a_missing_column_is_named(self) -> None:
        assert "'volume', found time, open, high, low, close" in refusal("time,open,high,low,close\n")

    def test_two_columns_for_one_thing_are_refused(self) -> None:
        assert "'bucket_start' and 'time'" in refusal(f"bucket_start,{HEADER}")

    @pytest.mark.parametrize(
        "body", [b"", b"\xef\xbb\xbf", b"\n", b"PAR1 but no more", b"\x00\x01\x02", b"x" * 200_000]
    )
    def test_what_is_no_table_is_refused(self, body: bytes) -> None:
        refusal(body)

    def test_a_header_alone_holds_no_bars(self) -> None:
        assert starts(HEADER) == []

    def test_rows_of_another_length_refuse_the_file(self) -> None:
        assert "rows of 6 columns" in refusal(f"{HEADER}{ROW}2013-10-07T13:31:00Z,1,2\n")

    @pytest.mark.parametrize(
        ("cell", "reason"), [("", "null_value"), ("nan", "not_finite"), ("1_0", "bad_number"), ('"1,5"', "bad_number")]
    )
    def test_a_cell_that_is_no_number_refuses_its_row_only(self, cell: str, reason: str) -> None:
        body = f"{HEADER}{ROW}2013-10-07T13:31:00Z,{cell},4,1,2,5\n2013-10-07T13:32:00Z,1,4,1,2,5\n"
        bars, rejects, _ = parse(body.encode(), Interval.MINUTE)
        assert bars.bucket_start.tolist() == [OPEN_US, OPEN_US + 120_000_000]
        assert [(each.bucket_start, each.reason) for each in rejects] == [(OPEN_US + 60_000_000, reason)]
        assert '"time":"2013-10-07T13:31:00Z"' in rejects[0].raw


class TestTimes:
    @pytest.mark.parametrize(
        "time",
        [
            "2013-10-07T13:30:00Z", "2013-10-07 13:30:00+00:00", "2013-10-07T09:30:00-04:00",
            "2013-10-07T13:30:00.000000000Z", "1381152600", "1381152600.0", "1381152600000", "1381152600000000",
            "1381152600000000000",
        ],
    )  # fmt: skip
    def test_an_instant_is_read_in_every_form(self, time: str) -> None:
        assert starts(f"{HEADER}{time},1,4,1,2,5\n") == [OPEN_US]
        # One row of another form sends every row the slow way.
        both = f"{HEADER}{time},1,4,1,2,5\n2013-10-07T15:31+02,1,4,1,2,5\n"
        if not time.endswith("000000000Z"):
            assert starts(both) == [OPEN_US, OPEN_US + 60_000_000]

    def test_a_file_without_zones_is_refused(self) -> None:
        assert "naive_time" in refusal(f"{HEADER}2013-10-07 09:30:00,1,4,1,2,5\n2013-10-07 09:31:00,1,4,1,2,5\n")
        assert "naive_time" in refusal(rows_of(pa.array([OPEN.replace(tzinfo=None)])))
        assert "naive_time" in refusal(f"{HEADER}2013-10-07,1,4,1,2,5\n")

    def test_single_times_without_a_zone_refuse_their_rows(self) -> None:
        body = f"{HEADER}2013-11-03 01:30:00,1,4,1,2,5\n{ROW}"
        bars, rejects, _ = parse(body.encode(), Interval.MINUTE)
        assert bars.bucket_start.tolist() == [OPEN_US]
        assert [(each.bucket_start, each.reason) for each in rejects] == [(None, "naive_time")]
        assert "2013-11-03 01:30:00" in rejects[0].raw

    @pytest.mark.parametrize("time", ["20131007", "yesterday", "", "07/10/2013", "-5", "nan", "1e300"])
    def test_a_time_that_is_none_refuses_the_file(self, time: str) -> None:
        refusal(f"{HEADER}{ROW}{time},1,4,1,2,5\n")
        refusal(f"{HEADER}{time},1,4,1,2,5\n")

    def test_a_day_may_be_a_date(self) -> None:
        midnight = to_us(datetime(2013, 10, 7, tzinfo=UTC))
        for time in ("2013-10-07", "2013-10-07T00:00:00Z", "1381104000"):
            assert starts(f"{HEADER}{time},1,4,1,2,5\n", Interval.DAY) == [midnight]
        mixed = f"{HEADER}2013-10-07,1,4,1,2,5\n2013-10-08T00:00:00Z,1,4,1,2,5\n"
        assert starts(mixed, Interval.DAY) == [midnight, midnight + 86_400_000_000]
        assert starts(rows_of(pa.array([date(2013, 10, 7)])), Interval.DAY) == [midnight]
        assert "naive_time" in refusal(f"{HEADER}2013-10-07 00:00:00,1,4,1,2,5\n", Interval.DAY)

    @pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
    def test_parquet_has_instants_or_numbers(self, unit: str) -> None:
        assert starts(rows_of(pa.array([OPEN], pa.timestamp(unit, "America/New_York")))) == [OPEN_US]
        scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
        assert starts(rows_of(pa.array([1_381_152_600 * scale]))) == [OPEN_US]
        for text in (pa.string(), pa.large_string()):
            assert starts(rows_of(pa.array(["2013-10-07T13:30:00Z"], text))) == [OPEN_US]

    def test_parquet_of_other_types_is_refused(self) -> None:
        assert "found bool" in refusal(rows_of(pa.array([True])))
        assert "found date32" in refusal(rows_of(pa.array([date(2013, 10, 7)])))
        assert "none in 1" in refusal(rows_of(pa.array([None], pa.timestamp("us", "UTC"))))
        wrong = {name: pa.array(cells) for name, cells in VALUES.items()} | {"low": pa.array([True])}
        assert "'low', found bool" in refusal(parquet(time=pa.array([1_381_152_600]), **wrong))


@pytest.mark.parametrize(
    ("name", "span"),
    [
        ("2013", ((2013, 1, 1), (2014, 1, 1))),
        ("2012", ((2012, 1, 1), (2013, 1, 1))),
        ("2013-02", ((2013, 2, 1), (2013, 3, 1))),
        ("2013-12", ((2013, 12, 1), (2014, 1, 1))),
        ("2013-12-31", ((2013, 12, 31), (2014, 1, 1))),
        ("2013-13", None), ("2013-02-30", None), ("2013-00", None), ("9999", None), ("notes", None), ("20131007", None),
    ],
)  # fmt: skip
def test_a_file_is_named_by_a_year_a_month_or_a_day(
    name: str, span: tuple[tuple[int, int, int], tuple[int, int, int]] | None
) -> None:
    wanted = None if span is None else tuple(to_us(datetime(*day, tzinfo=UTC)) for day in span)
    assert period(name) == wanted


class Disk:
    """A folder of files, and a transport into it with everything it recorded."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.outcomes: list[Outcome] = []
        given = {"folder": str(folder), **settings}
        self.way = FolderTransport("files", VendorSettings(**given), self.outcomes.append, clock=lambda: 1.5e9)  # type: ignore[arg-type]

    def put(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def plan(
        self, day: int = 7, days: int = 1, spelling: str = "SPY", interval: Interval = Interval.MINUTE
    ) -> list[Fetch]:
        start = to_us(datetime(2013, 10, day, tzinfo=UTC))
        return Files(str(self.folder)).plan("SPY", spelling, interval, start, start + days * 86_400_000_000)

    def fetch(self, fetch: Fetch) -> Page:
        return asyncio.run(Files(str(self.folder)).fetch(fetch, self.way))

    def fails(self, fetch: Fetch) -> VendorError:
        with pytest.raises(VendorError) as caught:
            self.fetch(fetch)
        return caught.value


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    return Disk(tmp_path)


def paths(fetches: list[Fetch]) -> list[str]:
    return [request.path for fetch in fetches for request in fetch.requests]


class TestPlan:
    def test_one_file_holds_a_symbol_whole(self, disk: Disk) -> None:
        disk.put("minute/SPY.csv", HEADER)
        assert paths(disk.plan(days=900)) == ["/minute/SPY.csv"]

    def test_of_files_by_period_those_that_may_hold_the_window_are_read_the_longest_first(self, disk: Disk) -> None:
        for name in (
            "2013.parquet",
            "2013-10.csv",
            "2013-10-06.csv",
            "2013-10-07.csv",
            "2012.csv",
            "notes.csv",
            "2013.txt",
        ):
            disk.put(f"minute/SPY/{name}", HEADER)
        disk.put("minute/SPY.csv", HEADER)
        planned = disk.plan()
        assert paths(planned) == [
            "/minute/SPY.csv", "/minute/SPY/2013.parquet", "/minute/SPY/2013-10.csv", "/minute/SPY/2013-10-07.csv",
        ]  # fmt: skip
        assert {(fetch.start_us, fetch.end_us) for fetch in planned} == {
            (OPEN_US - 48_600_000_000, OPEN_US + 37_800_000_000)
        }

    def test_a_window_of_no_file_plans_nothing(self, disk: Disk) -> None:
        disk.put("minute/SPY/2013-10-06.csv", HEADER)
        assert disk.plan() == []

    def test_intervals_and_spellings_lie_apart(self, disk: Disk) -> None:
        disk.put("minute/SPY.csv", HEADER)
        disk.put("day/BRK.B.csv", HEADER)
        assert paths(disk.plan(spelling="BRK.B", interval=Interval.DAY)) == ["/day/BRK.B.csv"]

    def test_minutes_are_served_to_now_and_days_that_have_begun(self) -> None:
        day = 86_400_000_000
        assert Files().serves(Interval.MINUTE, 0, day, day // 2 + 1) == (0, day // 2)
        assert Files().serves(Interval.DAY, 0, 2 * day, day + 5) == (0, day + 5)
        assert Files().serves(Interval.DAY, day, 2 * day, day) is None


class TestReading:
    def test_a_page_is_the_file_and_its_rows_of_the_days_asked_for(self, disk: Disk) -> None:
        other = ROW.replace("-07T", "-08T")
        path = disk.put("minute/SPY.csv", HEADER + ROW + other + "2013-10-08T14:00:00Z,,4,1,2,5\n")
        os.utime(path, (1_400_000_000, 1_400_000_000))
        page = disk.fetch(disk.plan()[0])
        assert page.bars.bucket_start.tolist() == [OPEN_US]
        assert page.rejects == ()
        (answer,) = page.answers
        assert answer.body == path.read_bytes()
        assert (answer.url, answer.status) == ("minute/SPY.csv", 200)
        assert answer.headers["last-modified"] == "Tue, 13 May 2014 16:53:20 GMT"
        assert str(disk.folder) not in answer.url
        assert [(each.vendor, each.status, each.code, each.bytes) for each in disk.outcomes] == [
            ("files", 200, "ok", len(answer.body))
        ]

    def test_an_unchanged_file_is_read_once_and_a_changed_one_again(self, disk: Disk) -> None:
        path = disk.put("minute/SPY.csv", HEADER + ROW + ROW.replace("-07T", "-08T"))
        first, second = disk.fetch(disk.plan(7)[0]), disk.fetch(disk.plan(8)[0])
        assert first.answers[0] is second.answers[0]
        assert micros(second.bars.table()["bucket_start"]).tolist() == [OPEN_US + 86_400_000_000]
        assert len(disk.outcomes) == 1
        path.write_text(HEADER + ROW)
        assert len(disk.fetch(disk.plan(8)[0]).bars) == 0
        path.unlink()
        assert disk.fails(disk.plan(8)[0]).code is Code.BAD_SYMBOL
        assert [each.code for each in disk.outcomes] == ["ok", "ok", "bad_symbol"]

    def test_a_symbol_without_a_file_is_named(self, disk: Disk) -> None:
        error = disk.fails(disk.plan()[0])
        assert (error.code, error.remedy) == (Code.BAD_SYMBOL, Remedy.GIVE_UP)
        assert "minute/SPY.csv" in str(error)

    def test_a_folder_that_is_gone_is_not_taken_for_missing_symbols(self, tmp_path: Path) -> None:
        error = Disk(tmp_path / "unmounted").fails(Disk(tmp_path / "unmounted").plan()[0])
        assert (error.code, error.remedy) == (Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF)
        assert "OHLCV_VENDORS__FILES__FOLDER" in str(error)
        assert "the folder is not there" in str(error)

    def test_without_a_folder_the_vendor_is_not_asked(self) -> None:
        way = transport("files", Settings(_env_file=None).vendor("files"), UnlimitedBudget(), lambda outcome: None)  # type: ignore[call-arg]
        (fetch,) = Files().plan("SPY", "SPY", Interval.MINUTE, 0, 60_000_000)
        with pytest.raises(VendorError, match="OHLCV_VENDORS__FILES__FOLDER is not set") as caught:
            asyncio.run(Files().fetch(fetch, way))
        assert caught.value.remedy is Remedy.GIVE_UP

    def test_no_spelling_leads_out_of_the_folder(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path / "bars")
        disk.put("minute/x.csv", HEADER)
        (tmp_path / "SPY.csv").write_text(HEADER)
        for fetch in disk.plan(spelling="../../SPY"):
            assert disk.fails(fetch).code is Code.BAD_SYMBOL

    def test_a_file_that_does_not_come_within_the_deadline_is_given_up(self, tmp_path: Path) -> None:
        disk = Disk(tmp_path, deadline_seconds=1e-9)
        disk.put("minute/SPY.csv", HEADER)
        error = disk.fails(disk.plan()[0])
        assert (error.code, error.remedy) == (Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF)
        assert "no whole file within" in str(error)
        assert [(each.status, each.code) for each in disk.outcomes] == [(None, Code.VENDOR_UNAVAILABLE)]

    def test_what_is_no_file_is_not_opened(self, disk: Disk) -> None:
        (disk.folder / "minute").mkdir()
        os.mkfifo(disk.folder / "minute" / "SPY.csv")
        assert "it is no file" in str(disk.fails(disk.plan()[0]))

    def test_a_file_that_cannot_be_read_carries_its_bytes_as_evidence(self, disk: Disk) -> None:
        disk.put("minute/SPY.csv", "nonsense")
        error = disk.fails(disk.plan()[0])
        assert [answer.body for answer in error.answers] == [b"nonsense"]
        assert disk.outcomes[0].code is Code.MALFORMED_RESPONSE


def test_it_has_no_limits_and_a_folder_in_either_profile() -> None:
    for profile in ("sandbox", "live"):
        chosen = Settings(_env_file=None, profile=profile, vendors={"files": {"folder": "/srv/bars"}}).vendor("files")  # type: ignore[call-arg, arg-type]
        assert (chosen.folder, chosen.base_url) == ("/srv/bars", "")
        assert (chosen.requests_per_second, chosen.weight_per_minute) == (None, None)
