from __future__ import annotations

import numpy as np
import pytest

from ohlcv_pipeline.frames import micros as bar_micros
from ohlcv_pipeline.vendors import coinbase, kraken
from ohlcv_pipeline.vendors.base import Reject
from ohlcv_pipeline.vendors.errors import Code, VendorError
from ohlcv_pipeline.vendors.rows import micros
from ohlcv_pipeline_tests.vendors.wire import tabled

T = 1_732_060_800
T_US = T * 1_000_000
GOOD = f"[{T + 60},1,4,2,3,5]"


def page(*rows: str) -> bytes:
    return f"[{','.join(rows)}]".encode()


class TestStamps:
    def test_part_c_12_each_stamp_is_read_by_its_own_magnitude(self) -> None:
        stamps = np.array([T, T * 1e3, T * 1e6, T * 1e9])
        assert micros(stamps).tolist() == [T_US] * 4

    def test_part_c_12_seconds_keep_their_fraction_and_1970_is_1970(self) -> None:
        assert micros(np.array([T + 0.5, 0, -60])).tolist() == [T_US + 500_000, 0, -60_000_000]

    def test_part_c_12_the_last_millisecond_and_the_first_microsecond_of_binance_meet(self) -> None:
        assert np.diff(micros(np.array([1735689540000.0, 1735689600000000.0]))).tolist() == [60_000_000]


class TestCells:
    @pytest.mark.parametrize(
        ("cell", "reason"),
        [
            ("null", "null_value"),
            ('""', "null_value"),
            ('"-"', "null_value"),
            ('"N/A"', "null_value"),
            ('"None"', "null_value"),
            ("NaN", "not_finite"),
            ("Infinity", "not_finite"),
            ("-Infinity", "not_finite"),
            ('"NaN"', "not_finite"),
            ("1e400", "not_finite"),
            ('"12,5"', "bad_number"),
            ('"0x10"', "bad_number"),
            ('"1_000"', "bad_number"),
            ("[1]", "bad_number"),
            ("{}", "bad_number"),
            ("true", "bad_number"),
            ("false", "bad_number"),
        ],
    )
    @pytest.mark.parametrize("field", [1, 2, 3, 4, 5])
    def test_part_c_10_11_a_cell_that_is_no_number_rejects_its_row_only(
        self, field: int, cell: str, reason: str
    ) -> None:
        cells = [str(T), "1", "4", "2", "3", "5"]
        cells[field] = cell
        bad = f"[{','.join(cells)}]"
        for rows in ((bad, GOOD), (GOOD, bad)):
            bars, rejects = tabled(coinbase.parse(page(*rows)))
            assert bar_micros(bars["bucket_start"]).tolist() == [T_US + 60_000_000]
            assert [(reject.bucket_start, reject.reason) for reject in rejects] == [(T_US, reason)]

    def test_part_c_11_a_reject_carries_its_row_as_text(self) -> None:
        parsed = coinbase.parse(page(f"[{T},1,NaN,2,3,5]"))
        assert parsed.rejects == (Reject(T_US, "not_finite", f"[{T},1,NaN,2,3,5]"),)

    def test_part_c_9_text_numbers_become_the_nearest_float(self) -> None:
        bars, rejects = tabled(coinbase.parse(page(f'[{T},"0.1","3.60E-05","+2","1.35647456e+08",".5"]')))
        assert not rejects
        assert bars.select(["low", "high", "open", "close", "volume"]).to_pylist() == [
            {"low": 0.1, "high": 3.6e-05, "open": 2.0, "close": 135647456.0, "volume": 0.5}
        ]

    def test_part_c_9_text_and_numbers_may_be_mixed_in_a_column(self) -> None:
        bars, rejects = tabled(coinbase.parse(page(f'[{T},1,4,"2",3,5]', f"[{T},1,4,2.5,3,5]", f'[{T},"1",4,2,3,"5"]')))
        assert not rejects
        assert bars["open"].to_pylist() == [2.0, 2.5, 2.0]

    def test_part_c_13_integral_volumes_stay_exact(self) -> None:
        bars, _ = tabled(coinbase.parse(page(f"[{T},1,4,2,3,{2**53}]")))
        assert bars["volume"].to_pylist() == [float(2**53)]


class TestShape:
    @pytest.mark.parametrize(
        ("body", "names"),
        [
            (b'{"message":"x"}', "found object"),
            (b"[1,2]", "found number"),
            (b'["123456"]', "found text"),
            (
                page(f"[{T},1,4,2,3]"),
                r"expected 6 fields \[time, low, high, open, close, volume\], found 5 \(1 missing\)",
            ),
            (page(f"[{T},1,4,2,3,5,6]", GOOD), r"found 7 \(1 new\)"),
            (page("[null,1,4,2,3,5]"), "expected a numeric time"),
            (page("[true,1,4,2,3,5]", GOOD), "expected a numeric time"),
            (page('["2025-01-01",1,4,2,3,5]', GOOD), "expected a numeric time"),
            (b"[[1,2", "expected JSON"),
            (b"", "expected JSON"),
            (b"plain text", "expected JSON"),
        ],
    )
    def test_part_c_14_an_unknown_shape_is_malformed_and_says_what_was_found(self, body: bytes, names: str) -> None:
        with pytest.raises(VendorError, match=names) as caught:
            coinbase.parse(body)
        assert caught.value.code is Code.MALFORMED_RESPONSE

    @pytest.mark.parametrize(("cell", "found"), [("{}", "object"), ("[1]", "array"), ("true", "true or false")])
    def test_a_field_that_is_no_number_in_any_row_is_named(self, cell: str, found: str) -> None:
        with pytest.raises(VendorError, match=f"expected numbers in field 'high' of .*, found {found}"):
            coinbase.parse(page(f"[{T},1,{cell},2,3,5]", f"[{T + 60},1,{cell},2,3,5]"))
        bars, rejects = tabled(coinbase.parse(page(f"[{T},1,{cell},2,3,5]", GOOD)))
        assert (len(bars), [reject.reason for reject in rejects]) == (1, ["bad_number"])

    @pytest.mark.parametrize("body", [b"[]", b" [ ] ", b"\xef\xbb\xbf[]"])
    def test_part_c_3_an_empty_array_is_an_empty_page(self, body: bytes) -> None:
        bars, rejects = tabled(coinbase.parse(body))
        assert (bars.num_rows, rejects) == (0, ())

    def test_part_c_5_7_the_order_the_duplicates_and_the_running_bar_are_left_as_they_came(self) -> None:
        bars, _ = tabled(coinbase.parse(page(f"[{T + 60},1,4,2,3,5]", f"[{T},1,4,2,3,5]", f"[{T},1,4,2,3,6]")))
        assert bar_micros(bars["bucket_start"]).tolist() == [T_US + 60_000_000, T_US, T_US]

    def test_part_c_34_prices_that_contradict_each_other_are_not_judged_here(self) -> None:
        bars, rejects = tabled(coinbase.parse(page(f"[{T},9,1,-2,3,-5]")))
        assert (bars.num_rows, rejects) == (1, ())

    def test_a_null_vwap_does_not_cost_the_bar_but_a_broken_one_does(self) -> None:
        body = b'{"error":[],"result":{"XXBTZUSD":[[%d,"1","1","1","1",%s,"2",3]],"last":0}}'
        bars, rejects = tabled(kraken.parse(body % (T, b"null"), "XBTUSD"))
        assert (bars["vwap"].to_pylist(), rejects) == ([None], ())
        bars, rejects = tabled(kraken.parse(body % (T, b'"x"'), "XBTUSD"))
        assert (bars.num_rows, rejects[0].reason) == (0, "bad_number")

    @pytest.mark.parametrize("count", [b"1.5", b"null", b'"x"', b"true"])
    def test_a_count_that_is_no_whole_number_rejects_the_row(self, count: bytes) -> None:
        body = b'{"error":[],"result":{"XXBTZUSD":[[%d,"1","1","1","1","1","2",%s]],"last":0}}' % (T, count)
        bars, rejects = tabled(kraken.parse(body, "XBTUSD"))
        assert (bars.num_rows, len(rejects)) == (0, 1)
