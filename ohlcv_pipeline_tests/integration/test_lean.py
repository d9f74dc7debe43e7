"""Recorded bars of New York and of Coinbase through the whole pipeline, by the vendor `files`.

What they hold was counted from the recordings by hand. The minutes of BTC and ETH of 2017-09-03 and 04 are
complete; the holes of Coinbase are in its first days, and minutes are taken out here to see that holes of them show.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from ohlcv_pipeline import markets
from ohlcv_pipeline.bars.inspection import CHECKS
from ohlcv_pipeline.bars.report import Entry, report
from ohlcv_pipeline.bars.rollup import roll_up
from ohlcv_pipeline.bars.verify import verify
from ohlcv_pipeline.frames import VALUE_COLUMNS, floats, micros
from ohlcv_pipeline.markets import DAY_US, Instrument, Interval, Market, to_us
from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline_tests.integration.conftest import Install
from ohlcv_pipeline_tests.integration.installation import Installation, stop_time
from ohlcv_pipeline_tests.integration.lean import CRYPTO, EQUITY, write
from ohlcv_pipeline_tests.vendors.wire import recorded

AT_ONCE = {Interval.MINUTE: timedelta(minutes=1), Interval.DAY: timedelta(minutes=1)}


def declared(name: str, calendar: str, *symbols: str) -> Market:
    return Market(
        name=name,
        title="Recorded",
        calendar_name=calendar,
        quote="USD",
        vendors=("files",),
        instruments=tuple(Instrument(symbol, symbol, symbol, "USD", {"files": symbol}) for symbol in symbols),
        publish_delay=AT_ONCE,
        history_start={Interval.MINUTE: date(2013, 1, 1), Interval.DAY: date(1998, 1, 1)},
    )


SHARES = declared("recorded_shares", "XNYS", "SPY", "AAPL", "GOOG")
COINS = declared("recorded_coins", "24/7", "BTC", "ETH")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "files"


@pytest.fixture
def shares(install: Install, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return of(SHARES, install, folder, monkeypatch)


@pytest.fixture
def coins(install: Install, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return of(COINS, install, folder, monkeypatch)


def of(market: Market, install: Install, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    monkeypatch.setitem(markets.MARKETS, market.name, market)  # type: ignore[arg-type]
    return install(markets=(market.name,), vendors={"files": VendorSettings(folder=str(folder))})


def us(text: str) -> int:
    return to_us(datetime.fromisoformat(text).replace(tzinfo=UTC))


def minutes_of(kind: str, symbol: str, day: str) -> bytes:
    return recorded(f"lean/{kind}/{symbol}/{day}_trade.zip")


def entries(made: Installation, interval: Interval, start: str, end: str, now: str) -> dict[str, Entry]:
    instruments = made.platform.instruments(made.market)
    found = report(
        made.platform.store.reader, made.market, interval, instruments, us(start), us(end),
        datetime.fromisoformat(now).replace(tzinfo=UTC),
    )  # fmt: skip
    return {entry.symbol: entry for entry in found}


def bars(made: Installation, symbol: str, interval: Interval, start: str, end: str) -> pa.Table:
    return made.platform.store.reader.bars(made.market.name, interval, symbol, us(start), us(end))


def values(table: pa.Table) -> list[list[float]]:
    return [floats(table[name]).tolist() for name in VALUE_COLUMNS]


def at(monkeypatch: pytest.MonkeyPatch, now: str) -> str:
    stop_time(monkeypatch, datetime.fromisoformat(now).replace(tzinfo=UTC))
    return now


@pytest.mark.parametrize("year", [2011, pytest.param(1998, marks=pytest.mark.slow)])
def test_days_of_spy_and_aapl_are_those_of_the_calendar(
    shares: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    spy, aapl = (EQUITY.days(recorded(f"lean/equity_usa_daily/{name}.zip")) for name in ("spy", "aapl"))
    write(folder / "day" / "SPY.csv", spy)
    write(folder / "day" / "AAPL.parquet", aapl)
    shares.enable_only("SPY", "AAPL")
    now = at(monkeypatch, "2021-04-01T00:00")

    run = shares.materialise(f"{year}-01", "2021-03", table="recorded_shares/ohlcv_day")
    assert run.success, run
    assert run.green == set(CHECKS)
    months = 12 * (2021 - year) + 3
    assert len(run.materialised) == months

    spy, aapl = ([row for row in rows if us(row[0]) >= us(f"{year}-01-01")] for rows in (spy, aapl))
    sessions = len(spy)
    assert sessions == {1998: 5849, 2011: 2578}[year]
    found = entries(shares, Interval.DAY, f"{year}-01-01", "2021-04-01", now)
    assert {
        symbol: (each.expected_rows, each.actual_rows, each.coverage_pct, list(each.gaps))
        for symbol, each in found.items()
    } == {"SPY": (sessions, sessions, 100.0, []), "AAPL": (sessions, sessions, 100.0, [])}
    for symbol, rows in (("SPY", spy), ("AAPL", aapl)):
        stored = bars(shares, symbol, Interval.DAY, f"{year}-01-01", "2021-04-01")
        assert micros(stored["bucket_start"]).tolist() == [us(row[0]) for row in rows]
        assert values(stored) == [list(column) for column in list(zip(*rows, strict=True))[1:]]
    # No session on the days after 11 September 2001 nor on those of a hurricane in 2012, a half day on 2013-11-29.
    labels = {str(date(1970, 1, 1) + timedelta(days=int(us_) // DAY_US)) for us_ in micros(stored["bucket_start"])}
    assert not labels & {"2001-09-11", "2001-09-12", "2001-09-13", "2001-09-14"}
    assert not labels & {"2012-10-29", "2012-10-30"}
    assert {"2012-10-26", "2012-10-31", "2013-11-29"} <= labels
    assert year > 2001 or {"2001-09-10", "2001-09-17"} <= labels

    verified = verify(shares.platform.store.reader, shares.market, Interval.DAY)
    assert (verified.passed, verified.cells, verified.rows) == (True, 2 * months, 2 * sessions)


def test_the_half_day_of_goog_has_its_210_minutes_and_its_auction_is_counted_outside(
    shares: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = EQUITY.minutes(minutes_of("equity_usa_minute", "goog", "20151224"), "20151224")
    assert len(rows) == 227
    # The closing auction prints at 13:00 in New York, one minute behind the last of the session.
    assert ("2015-12-24T18:00:00+00:00", 748.4, 748.4, 748.4, 748.4, 1512.0) in rows
    write(folder / "minute" / "GOOG" / "2015-12-24.parquet", rows)
    shares.enable_only("GOOG")
    now = at(monkeypatch, "2015-12-25T02:00")

    run = shares.materialise("2015-12-24", table="recorded_shares/ohlcv_minute")
    assert run.success, run
    assert run.green == set(CHECKS)
    # Two rows before the open, fifteen from the close on.
    assert run.metadata("2015-12-24")["dropped"] == {"out_of_session": 17}
    entry = entries(shares, Interval.MINUTE, "2015-12-24", "2015-12-25", now)["GOOG"]
    assert (entry.expected_rows, entry.actual_rows, list(entry.gaps)) == (210, 210, [])
    stored = bars(shares, "GOOG", Interval.MINUTE, "2015-12-24", "2015-12-25")
    ends = [stored["bucket_start"][i].as_py() for i in (0, -1)]
    assert ends == [datetime(2015, 12, 24, 14, 30, tzinfo=UTC), datetime(2015, 12, 24, 17, 59, tzinfo=UTC)]
    assert stored["close"][-1].as_py() == 748.4
    assert floats(stored["volume"]).sum() == 515_572.0


def test_minutes_of_spy_roll_up_to_its_days(
    shares: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "day" / "SPY.csv", EQUITY.days(recorded("lean/equity_usa_daily/spy.zip")))
    for day in ("20131007", "20131008"):
        name = f"{date.fromisoformat(day)}.csv"
        write(folder / "minute" / "SPY" / name, EQUITY.minutes(minutes_of("equity_usa_minute", "spy", day), day))
    shares.enable_only("SPY")
    now = at(monkeypatch, "2013-10-09T01:00")

    run = shares.materialise("2013-10-07", "2013-10-08", table="recorded_shares/ohlcv_minute")
    assert run.success, run
    assert run.green == set(CHECKS)
    assert run.metadata("2013-10-08")["dropped"] == {"out_of_session": 876}
    assert shares.materialise("2013-10", table="recorded_shares/ohlcv_day").success
    assert entries(shares, Interval.MINUTE, "2013-10-07", "2013-10-09", now)["SPY"].actual_rows == 780

    rolled = roll_up(bars(shares, "SPY", Interval.MINUTE, "2013-10-07", "2013-10-09"), "1d")
    days = bars(shares, "SPY", Interval.DAY, "2013-10-07", "2013-10-09")
    assert micros(rolled["bucket_start"]).tolist() == micros(days["bucket_start"]).tolist()
    for name in ("open", "high", "close", "volume"):
        assert floats(rolled[name]).tolist() == floats(days[name]).tolist(), name
    # One print of 165.36 within a minute is not in the day file, whose low is a cent higher.
    assert floats(rolled["low"]).tolist() == [167.25, 165.36]
    assert floats(days["low"]).tolist() == [167.25, 165.37]
    assert verify(shares.platform.store.reader, shares.market, Interval.MINUTE).passed


TAKEN_OUT = {
    "BTC": [("2017-09-03T00:00", 1), ("2017-09-03T05:17", 31), ("2017-09-03T23:50", 20), ("2017-09-04T23:30", 3)],
    "ETH": [("2017-09-04T12:00", 60)],
}


@pytest.mark.parametrize("taken_out", [{"BTC": [], "ETH": []}, TAKEN_OUT], ids=["as recorded", "with holes"])
def test_minutes_of_coinbase_show_exactly_their_gaps(
    coins: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch, taken_out: Mapping[str, list[tuple[str, int]]]
) -> None:
    holes = {
        symbol: [(us(first), us(first) + (n - 1) * 60_000_000, n) for first, n in runs]
        for symbol, runs in taken_out.items()
    }
    for symbol, pair in (("BTC", "btcusd"), ("ETH", "ethusd")):
        rows = [
            row
            for day in ("20170903", "20170904")
            for row in CRYPTO.minutes(minutes_of("crypto_coinbase_minute", pair, day), day)
        ]
        assert len(rows) == 2_880
        kept = [
            row
            for row in rows
            if not any(first <= to_us(datetime.fromisoformat(row[0])) <= last for first, last, _ in holes[symbol])
        ]
        write(folder / "minute" / f"{symbol}.csv", kept)
    now = at(monkeypatch, "2017-09-05T00:05")

    run = coins.materialise("2017-09-03", "2017-09-04", table="recorded_coins/ohlcv_minute")
    assert run.success, run
    assert run.green == set(CHECKS) - ({"gaps"} if holes["BTC"] else set())
    for symbol, entry in entries(coins, Interval.MINUTE, "2017-09-03", "2017-09-05", now).items():
        assert [(gap.first_us, gap.last_us, gap.missing) for gap in entry.gaps] == holes[symbol]
        # A file proves no minute to be without trades.
        assert (entry.expected_rows, entry.no_trades_rows) == (2_880, 0)
        assert entry.actual_rows == 2_880 - sum(n for *_, n in holes[symbol])


def test_days_of_bitcoin_show_the_34_that_coinbase_began_without_and_minutes_roll_up(
    coins: Installation, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder / "day" / "BTC.csv", CRYPTO.days(recorded("lean/crypto_coinbase_daily/btcusd_trade.zip")))
    for day in ("20170903", "20170904"):
        rows = CRYPTO.minutes(minutes_of("crypto_coinbase_minute", "btcusd", day), day)
        write(folder / "minute" / "BTC" / f"{date.fromisoformat(day)}.csv", rows)
    coins.enable_only("BTC")
    now = at(monkeypatch, "2018-08-14T00:05")

    run = coins.materialise("2014-12", "2018-08", table="recorded_coins/ohlcv_day")
    assert run.success, run
    assert run.green == set(CHECKS) - {"gaps"}
    entry = entries(coins, Interval.DAY, "2014-12-01", "2018-08-14", now)["BTC"]
    assert (entry.expected_rows, entry.actual_rows, entry.missing_rows) == (1_352, 1_318, 34)
    named = [(gap.first_us, gap.last_us, gap.missing) for gap in entry.gaps]
    assert named == [
        (us(first), us(last), n)
        for first, last, n in (
            ("2014-12-05", "2014-12-05", 1), ("2014-12-07", "2014-12-07", 1), ("2014-12-09", "2014-12-09", 1),
            ("2014-12-11", "2014-12-11", 1), ("2014-12-13", "2014-12-17", 5), ("2014-12-19", "2015-01-07", 20),
            ("2015-01-09", "2015-01-12", 4), ("2015-01-18", "2015-01-18", 1),
        )
    ]  # fmt: skip

    # Coinbase's day of six cents is what it told: kept, and flagged for a person.
    crash = bars(coins, "BTC", Interval.DAY, "2017-04-15", "2017-04-16")
    assert values(crash) == [[1173.13], [1190.99], [0.06], [1178.85], [3877.79720638]]
    flagged = coins.query("SELECT bucket_start, reason, published FROM lake.quarantine WHERE reason = 'price_spike'")
    assert {"bucket_start": datetime(2017, 4, 15, tzinfo=UTC), "reason": "price_spike", "published": True} in flagged

    assert coins.materialise("2017-09-03", "2017-09-04", table="recorded_coins/ohlcv_minute").success
    rolled = values(roll_up(bars(coins, "BTC", Interval.MINUTE, "2017-09-03", "2017-09-05"), "1d"))
    days = values(bars(coins, "BTC", Interval.DAY, "2017-09-03", "2017-09-05"))
    assert rolled[:4] == days[:4]
    np.testing.assert_allclose(rolled[4], days[4], rtol=1e-9)


def test_a_body_of_leans_shape_is_read_by_hand() -> None:
    def zipped(text: str) -> bytes:
        with zipfile.ZipFile(sink := io.BytesIO(), "w") as archive:
            archive.writestr("bars.csv", text)
        return sink.getvalue()

    # 09:30 in New York, by winter and by summer time.
    body = zipped("34200000,1674300,1674400,1674200,1674350,100")
    assert EQUITY.minutes(body, "20131008") == [("2013-10-08T13:30:00+00:00", 167.43, 167.44, 167.42, 167.435, 100.0)]
    assert EQUITY.minutes(body, "20131104")[0][0] == "2013-11-04T14:30:00+00:00"
    assert CRYPTO.minutes(zipped("60000,1.5,2,1,1.75,0.25\n"), "20170903") == [
        ("2017-09-03T00:01:00+00:00", 1.5, 2.0, 1.0, 1.75, 0.25)
    ]
    assert EQUITY.days(zipped("19980102 00:00,136300,162500,135000,162500,6315000\n")) == [
        ("1998-01-02", 13.63, 16.25, 13.5, 16.25, 6_315_000.0)
    ]
