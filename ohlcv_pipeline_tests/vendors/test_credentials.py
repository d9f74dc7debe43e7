from __future__ import annotations

import asyncio
import logging
import traceback
from pathlib import Path
from typing import Any

import orjson
import pytest

from ohlcv_pipeline.markets import MINUTE_US, Interval
from ohlcv_pipeline.settings import KEY_VARIABLES, Settings, VendorSettings
from ohlcv_pipeline.vendors import credentials
from ohlcv_pipeline.vendors.alpaca import Alpaca
from ohlcv_pipeline.vendors.base import Request
from ohlcv_pipeline.vendors.errors import Code, Remedy
from ohlcv_pipeline.vendors.registry import adapter
from ohlcv_pipeline_tests.vendors.wire import Reply, fetch, line

KEY = "s3cr3t-0123456789"
GIVEN = {"key_id": "an-id-0123456789", "key": KEY}
KEYED = sorted(KEY_VARIABLES)
PLAN = ("AAPL", "AAPL", Interval.MINUTE, 0, MINUTE_US)
EMPTY = {"alpaca": b'{"bars":{},"next_page_token":null}', "tiingo": b"[]", "finnhub": b'{"s":"no_data"}'}


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (name for of in KEY_VARIABLES.values() for name in of.values()):
        monkeypatch.delenv(variable, raising=False)


def live(**given: Any) -> Settings:
    return Settings(_env_file=None, profile="live", **given)  # type: ignore[call-arg]


def test_a_key_is_read_from_the_vendors_own_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "TIINGO_API_KEY", "FINNHUB_API_KEY"):
        monkeypatch.setenv(variable, f"from {variable}")
    chosen = live()
    assert chosen.vendor("alpaca").key_id.get_secret_value() == "from APCA_API_KEY_ID"
    assert chosen.vendor("alpaca").key.get_secret_value() == "from APCA_API_SECRET_KEY"
    assert chosen.vendor("tiingo").key.get_secret_value() == "from TIINGO_API_KEY"
    assert chosen.vendor("finnhub").key.get_secret_value() == "from FINNHUB_API_KEY"
    assert chosen.vendor("coinbase").key.get_secret_value() == ""


def test_a_key_of_the_platforms_own_variable_goes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TIINGO_API_KEY", "theirs")
    monkeypatch.setenv("OHLCV_VENDORS__TIINGO__KEY", "ours")
    assert live().vendor("tiingo").key.get_secret_value() == "ours"
    file = tmp_path / ".env"
    file.write_text("APCA_API_KEY_ID=of the file\n")
    settings = Settings(_env_file=file, profile="live")  # type: ignore[call-arg]
    assert settings.vendor("alpaca").key_id.get_secret_value() == "of the file"


def test_the_sandbox_needs_no_key_and_is_not_sent_a_real_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIINGO_API_KEY", KEY)
    chosen = Settings(_env_file=None)  # type: ignore[call-arg]
    for vendor in KEYED:
        assert credentials.unusable(vendor, chosen.vendor(vendor)) is None
        assert set(credentials.headers(vendor, chosen.vendor(vendor)).values()) <= {"sandbox", "Token sandbox"}


@pytest.mark.parametrize("vendor", KEYED)
def test_a_missing_key_is_named_and_nothing_is_sent(vendor: str) -> None:
    heard = fetch(vendor, PLAN, [Reply(body=EMPTY[vendor])])
    assert (heard.failure.code, heard.failure.remedy) == (Code.AUTH_FAILED, Remedy.GIVE_UP)
    variable = next(iter(KEY_VARIABLES[vendor].values()))
    assert str(heard.failure) == f"{vendor}: {variable} is not set; the vendor is not asked without its key"
    assert (heard.line.vendor.asked, heard.line.outcomes) == ([], [])


def test_one_of_two_keys_is_not_enough() -> None:
    assert "APCA_API_SECRET_KEY is not set" in str(fetch("alpaca", PLAN, [Reply()], key_id="x").failure)
    assert "APCA_API_KEY_ID is not set" in str(fetch("alpaca", PLAN, [Reply()], key="x").failure)


@pytest.mark.parametrize("key", ["a\nb: c", "clé", "two words", "a\x00b"])
def test_a_key_that_is_no_header_is_refused_without_being_shown(key: str) -> None:
    failure = fetch("tiingo", PLAN, [Reply()], key=key).failure
    assert "TIINGO_API_KEY holds characters that no key has" in str(failure)
    assert key not in "".join(traceback.format_exception(failure))


def test_white_space_around_a_key_is_cut() -> None:
    heard = fetch("tiingo", PLAN, [Reply(body=b"[]")], key=f" {KEY}\n")
    assert f"authorization: Token {KEY}\r\n".lower() in heard.line.vendor.heads[0].lower()


FAILURES = [
    Reply(200, b"not JSON"),
    Reply(401, b"{}"),
    Reply(403, b"<html><head><title>403 Forbidden</title></head></html>"),
    Reply(404, b'{"detail":"Not found."}'),
    Reply(429, b"You have run over your 500 symbol look up for this month"),
    Reply(503, b""),
    Reply(302, b"", {"Location": "http://127.0.0.1:9/elsewhere"}),
    Reply(drop=True),
    Reply(200, b"[", length=500),
    Reply(200, b"[]", pause=5.0),
]


@pytest.mark.parametrize("vendor", KEYED)
def test_part_c_62_a_key_is_in_no_url_log_error_or_answer(vendor: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    settings = VendorSettings(**GIVEN)  # type: ignore[arg-type]
    sent = credentials.headers(vendor, settings)
    assert any(KEY in value for value in sent.values())
    told: list[str] = [repr(settings), settings.model_dump_json(), repr(live(vendors={vendor: settings}))]
    for reply in (Reply(body=EMPTY[vendor]), *FAILURES):
        patience = {"deadline_seconds": 0.3} if reply.pause else {}
        heard = fetch(vendor, PLAN, [reply], attempts=2, **GIVEN, **patience)
        heads = heard.line.vendor.heads
        assert heads
        assert all(f"{name}: {value}\r\n".lower() in head.lower() for head in heads for name, value in sent.items())
        assert not any(KEY in head.splitlines()[0] for head in heads)
        told += [repr(heard.line.outcomes), repr(heard.line.transport)]
        answers = heard.failure.answers if heard.error else heard.value.answers
        told += [repr(answer) for answer in answers]
        if heard.error:
            told += [str(heard.error), repr(heard.error), *traceback.format_exception(heard.error)]
    told += [record.getMessage() for record in caplog.records]
    assert caplog.records
    assert not any(secret in text for text in told for secret in GIVEN.values())


def test_a_vendor_without_a_key_is_sent_none() -> None:
    async def ask() -> list[str]:
        async with line([Reply()], name="coinbase", **GIVEN) as wire:
            await wire.transport.get(Request("coinbase", "/x"), lambda answer: answer.body)
            return wire.vendor.heads

    assert KEY not in asyncio.run(ask())[0]


def test_the_feed_is_a_setting() -> None:
    assert adapter("alpaca") == Alpaca("sip")
    assert adapter("alpaca", VendorSettings(feed="iex")) == Alpaca("iex")
    assert adapter("kraken", VendorSettings(feed="iex")) is adapter("kraken")
    with pytest.raises(ValueError, match="feed"):
        VendorSettings(feed="otc")  # type: ignore[arg-type]


def test_every_key_has_a_header_and_a_variable() -> None:
    assert {vendor: set(of) for vendor, of in credentials.HEADERS.items()} == {
        v: set(of) for v, of in KEY_VARIABLES.items()
    }
    assert orjson.loads(live(TIINGO_API_KEY=KEY).model_dump_json())["tiingo_api_key"] == "**********"
