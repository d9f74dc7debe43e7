from __future__ import annotations

from typing import NamedTuple

import pytest

from ohlcv_pipeline.frames import BAR_SCHEMA
from ohlcv_pipeline.markets import Interval
from ohlcv_pipeline.vendors.alpaca import parse
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline_tests.vendors.wire import FIXTURES, recorded, utc, values


class Said(NamedTuple):
    """What an answer says: how many bars of each symbol, one of them (symbol, place, row), the token of the next."""

    interval: Interval
    bars: dict[str, int]
    one: tuple[str, int, tuple[object, ...]] | None = None
    token: str | None = None


RECORDED = {
    "rest_go/TestGetBars_1": Said(
        Interval.MINUTE,
        {"AMZN": 5},
        ("AMZN", 0, (utc(2021, 10, 15, 16), 3378.14, 3380.815, 3376.3001, 3379.72, 211689.0, 5435, 3379.041755)),
    ),
    "rest_go/TestGetBars_Adjustment_1": Said(
        Interval.DAY,
        {"GE": 2},
        ("GE", 1, (utc(2024, 4, 2), 138.96, 142.9, 132.49, 134.94, 20490401.0, 209105, 137.45)),
        "R0V8RHwxNzEyMTE2ODAwMDAwMDAwMDAw",
    ),
    "rest_go/TestGetBars_Asof_1": Said(
        Interval.DAY,
        {"META": 2},
        ("META", 0, (utc(2022, 6, 8), 194.67, 202.03, 194.41, 196.64, 22211813.0, 246906, 198.364578)),
        "TUVUQXxEfDIwMjItMDYtMDlUMDQ6MDA6MDAuMDAwMDAwMDAwWg==",
    ),
    "rest_go/TestGetBars_Asof_2": Said(
        Interval.DAY,
        {"META": 2},
        ("META", 1, (utc(2022, 6, 13), 170.59, 172.575, 164.03, 164.26, 31514255.0, 436284, 167.257431)),
        "TUVUQXxEfDIwMjItMDYtMTNUMDQ6MDA6MDAuMDAwMDAwMDAwWg==",
    ),
    "rest_go/TestGetCryptoBars_1": Said(
        Interval.MINUTE,
        {"BCH/USD": 11},
        ("BCH/USD", 10, (utc(2021, 11, 11, 11, 21), 679.48, 679.81, 679.39, 679.71, 3.53102371, 19, 679.6679296305)),
    ),
    "rest_go/TestGetCryptoMultiBars_1": Said(
        Interval.MINUTE,
        {"BCH/USD": 3, "BTC/USD": 3, "ETH/USD": 3, "LTC/USD": 3},
        ("LTC/USD", 2, (utc(2021, 11, 20, 20), 225.805, 226.975, 225.135, 225.865, 1792.0, 149, 225.944729)),
    ),
    "rest_go/TestGetMultiBars_1": Said(
        Interval.DAY,
        {"AAPL": 3, "NIO": 3},
        ("NIO", 2, (utc(2021, 10, 15), 37.0, 38.29, 36.935, 37.71, 48138793.0, 257074, 37.647123)),
    ),
    "rest_py/historical_stock_data__test_get_bars_1": Said(
        Interval.DAY,
        {"AAPL": 2},
        ("AAPL", 0, (utc(2022, 2, 1), 174.0, 174.84, 172.31, 174.61, 85998033.0, 732412, 173.703516)),
        "QUFQTHxEfDIwMjItMDItMDJUMDU6MDA6MDAuMDAwMDAwMDAwWg==",
    ),
    "rest_py/historical_stock_data__test_get_bars_desc_1": Said(
        Interval.DAY,
        {"TSLA": 3},
        ("TSLA", 0, (utc(2023, 9, 27), 244.262, 245.33, 234.58, 240.5, 136616287.0, 1393690, 240.479286)),
        "VFNMQXxEfDc1Mjc3NTc2MzYwMDAwMDAwMDA=",
    ),
    "rest_py/historical_stock_data__test_multisymbol_get_bars_1": Said(
        Interval.DAY,
        {"AAPL": 1, "TSLA": 1},
        ("TSLA", 0, (utc(2022, 3, 9), 839.0, 860.56, 832.01, 858.97, 19227323.0, 528531, 850.616587)),
    ),
    "rest_py/historical_option_data__test_get_bars_1": Said(
        Interval.MINUTE,
        {"SPY240426C00555000": 2},
        ("SPY240426C00555000", 0, (utc(2024, 3, 12, 13), 0.24, 0.24, 0.21, 0.21, 21.0, 2, 0.211429)),
        "U1BZMjQwNDI2QzAwNTU1MDAwfE18MTcxMDI1NDM0MDAwMDAwMDAwMA==",
    ),
    "rest_py/historical_option_data__test_multisymbol_get_bars_1": Said(
        Interval.MINUTE,
        {"SPY240426C00550000": 2, "SPY240426C00555000": 1},
        ("SPY240426C00550000", 1, (utc(2024, 3, 12, 14), 0.41, 0.52, 0.41, 0.51, 16.0, 6, 0.496875)),
    ),
    "rest_py/historical_crypto_data__test_get_crypto_bars_1": Said(
        Interval.DAY,
        {"BTC/USD": 1, "ETH/USD": 1},
        ("BTC/USD", 0, (utc(2022, 3, 9), 161.51, 163.41, 159.41, 162.95, 88496480.0, 700291, 161.942117)),
    ),
    "rest_py/historical_crypto_data__test_crypto_latest_bar_1": Said(
        Interval.MINUTE,
        {"BTC/USD": 1},
        ("BTC/USD", 0, (utc(2022, 5, 27, 10, 18), 28999.0, 29003.0, 28999.0, 29003.0, 0.01, 4, 29001.0)),
    ),
    "rest_go/TestLatestBar_1": Said(
        Interval.MINUTE,
        {"AAPL": 1},
        ("AAPL", 0, (utc(2021, 10, 11, 23, 59), 142.59, 142.63, 142.57, 142.59, 2714.0, 22, 142.589071)),
    ),
    "rest_go/TestLatestBar_Feed_1": Said(
        Interval.MINUTE,
        {"AAPL": 1},
        ("AAPL", 0, (utc(2021, 10, 11, 19, 59), 142.9, 142.91, 142.77, 142.8, 13886.0, 108, 142.856726)),
    ),
    "rest_go/TestLatestBar_Feed_2": Said(
        Interval.MINUTE,
        {"AAPL": 1},
        ("AAPL", 0, (utc(2021, 10, 11, 19, 59), 142.8, 142.91, 142.77, 142.8, 13886.0, 108, 142.856726)),
    ),
    "rest_go/TestLatestBars_1": Said(
        Interval.MINUTE,
        {"NIO": 1, "AAPL": 1},
        ("NIO", 0, (utc(2021, 10, 11, 23, 59), 35.57, 35.6, 35.56, 35.6, 1288.0, 9, 35.586483)),
    ),
    "rest_go/TestLatestCryptoBar_1": Said(
        Interval.MINUTE,
        {"BTC/USD": 1},
        (
            "BTC/USD",
            0,
            (utc(2022, 2, 25, 12, 50), 38899.6, 39300.0, 38892.2, 39278.88, 74.02830613, 1086, 39140.0960796263),
        ),
    ),
    "rest_go/TestLatestCryptoBars_1": Said(
        Interval.MINUTE,
        {"SUSHI/USD": 1, "DOGE/USD": 1, "BAT/USD": 1},
        ("DOGE/USD", 0, (utc(2022, 2, 25, 12, 40), 0.124078, 0.124078, 0.124078, 0.124078, 16.0, 1, 0.124078)),
    ),
    "rest_go/TestLatestCryptoPerpBar_1": Said(
        Interval.MINUTE,
        {"BTC-PERP": 1},
        (
            "BTC-PERP",
            0,
            (utc(2024, 12, 19, 9, 52), 101789.1, 101807.9, 101762.8, 101785.3, 25.9751, 314, 101783.9767854599),
        ),
    ),
    "rest_py/historical_stock_data__test_multi_stock_latest_bar_1": Said(
        Interval.MINUTE,
        {"SPY": 1, "TSLA": 1},
        ("TSLA", 0, (utc(2022, 7, 26, 19, 59), 776.605, 776.95, 776.41, 776.63, 5993.0, 124, 776.654473)),
    ),
    "rest_py/historical_stock_data__test_stock_latest_bar_1": Said(
        Interval.MINUTE,
        {"SPY": 1},
        ("SPY", 0, (utc(2022, 7, 26, 20, 50), 392.18, 392.18, 392.18, 392.18, 2100.0, 2, 392.18)),
    ),
    **dict.fromkeys(
        [f"rest_go/TestDefaultDo{case}_1" for case in ("", "_Retry", "_Timeout")],
        Said(
            Interval.MINUTE,
            {"SPY": 1},
            ("SPY", 0, (utc(2021, 11, 20, 0, 59), 469.18, 469.18, 469.11, 469.17, 740.0, 11, 469.1355)),
        ),
    ),
    **dict.fromkeys(
        [
            f"rest_py/historical_{of}_data__test_get_bars_{how}_empty_response_1"
            for of in ("stock", "option")
            for how in ("multi", "single")
        ],
        Said(Interval.DAY, {}),
    ),
    "rest_py/historical_stock_data__test_stock_latest_bar_multi_empty_response_1": Said(Interval.MINUTE, {}),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_answer_is_read_exactly(name: str) -> None:
    said = RECORDED[name]
    answer = parse(recorded(f"alpaca/{name}.json"), said.interval)
    assert {symbol: len(parsed.bars) for symbol, parsed in answer.symbols.items() if parsed} == said.bars
    assert all(
        parsed and parsed.bars.table().schema == BAR_SCHEMA and not parsed.rejects for parsed in answer.symbols.values()
    )
    assert (answer.token, answer.drift) == (said.token, ())
    if said.one is not None:
        symbol, place, row = said.one
        assert values(answer.symbols[symbol].bars.table())[place] == row  # type: ignore[union-attr]


CONVERTED = ["rest_go/TestLatestBar_Currency_1", "rest_go/TestLatestBar_Currency_2"]


def test_no_recorded_answer_with_bars_is_left_out() -> None:
    folder = FIXTURES / "alpaca"
    if not folder.exists():
        pytest.skip(f"there are no recorded answers below {FIXTURES}; set OHLCV_FIXTURES")
    bodies = {str(path.relative_to(folder).with_suffix("")): path.read_bytes() for path in folder.glob("rest_*/*.json")}
    assert {name for name, text in bodies.items() if b'"bars"' in text} == {*RECORDED, *CONVERTED}


@pytest.mark.parametrize("name", CONVERTED)
def test_part_c_56_recorded_prices_in_pesos_or_yen_are_refused(name: str) -> None:
    with pytest.raises(VendorError, match="expected prices in USD") as caught:
        parse(recorded(f"alpaca/{name}.json"), Interval.MINUTE)
    assert (caught.value.code, caught.value.remedy) == (Code.MALFORMED_RESPONSE, Remedy.GIVE_UP)
