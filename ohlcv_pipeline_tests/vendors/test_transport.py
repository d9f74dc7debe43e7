from __future__ import annotations

import asyncio
import gzip
import logging
from datetime import UTC, datetime
from email.utils import format_datetime

import orjson
import pytest

from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline.vendors.base import Answer, Request
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, malformed
from ohlcv_pipeline.vendors.transport import HttpTransport, UnlimitedBudget, redact
from ohlcv_pipeline_tests.vendors.wire import NOW, Clock, Reply, ask, line

OK = Reply(body=b"[1]")
HTML = b"<!DOCTYPE html><html><body>Just a moment...</body></html>"
X = Request("coinbase", "/x")


def read_json(answer: Answer) -> object:
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError as error:
        raise malformed("expected JSON") from error


class TestAnAnswer:
    def test_comes_back_decoded_with_its_bytes_and_useful_headers(self) -> None:
        heard = ask(Reply(body=b"[1, 2]", headers={"ETag": "e", "Set-Cookie": "s"}), decode=read_json)
        assert heard.value == [1, 2]
        assert heard.answer is not None
        assert heard.answer.body == b"[1, 2]"
        assert heard.answer.headers == {"content-length": "6", "etag": "e"}
        assert heard.answer.received_at == datetime.fromtimestamp(NOW, UTC)

    def test_is_recorded_once_per_attempt(self) -> None:
        heard = ask(Reply(503), OK)
        first, second = heard.line.outcomes
        assert (first.vendor, first.status, first.code, first.attempt) == ("coinbase", 503, "vendor_unavailable", 1)
        assert (second.status, second.code, second.attempt, second.bytes) == (200, "ok", 2, 3)
        assert first.requested_at == datetime.fromtimestamp(NOW, UTC)
        assert second.seconds > 0

    def test_is_asked_for_with_a_user_agent_over_one_kept_connection(self) -> None:
        async def twice() -> tuple[str, int]:
            async with line([OK]) as wire:
                await wire.transport.get(X, read_json)
                await wire.transport.get(X, read_json)
                assert wire.transport._client is not None
                pool = wire.transport._client._transport._pool  # type: ignore[attr-defined]
                return wire.vendor.heads[0], len(pool.connections)

        head, connections = asyncio.run(twice())
        assert "User-Agent: ohlcv-pipeline/0.1.0" in head
        assert connections == 1


class TestRetries:
    def test_wait_exactly_2_4_8_16_seconds_under_a_jitter_of_one(self) -> None:
        heard = ask(Reply(503))
        assert heard.waits == [2, 4, 8, 16]
        assert len(heard.line.vendor.asked) == 5
        assert heard.failure.code is Code.VENDOR_UNAVAILABLE

    def test_draw_their_waits_below_the_ceilings(self) -> None:
        assert ask(Reply(503), jitter=0.25).waits == [0.5, 1, 2, 4]

    @pytest.mark.parametrize("status", [500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526])
    def test_follow_every_passing_server_error_even_as_html(self, status: int) -> None:
        heard = ask(Reply(status, HTML), OK)
        assert heard.value == b"[1]"
        assert heard.waits == [2]

    @pytest.mark.parametrize("status", [400, 404, 405, 422])
    def test_do_not_follow_what_will_fail_the_same_way(self, status: int) -> None:
        heard = ask(Reply(status, b'{"message":"no"}'))
        assert (heard.failure.code, heard.failure.remedy) == (Code.BAD_REQUEST, Remedy.GIVE_UP)
        assert heard.waits == []
        assert heard.failure.answers[0].body == b'{"message":"no"}'

    @pytest.mark.parametrize("status", [401, 403])
    def test_do_not_follow_a_refused_key(self, status: int) -> None:
        heard = ask(Reply(status, b'{"message":"forbidden"}'))
        assert (heard.failure.code, heard.waits) == (Code.AUTH_FAILED, [])

    def test_follow_a_dropped_connection(self) -> None:
        heard = ask(Reply(drop=True), OK)
        assert heard.value == b"[1]"
        assert heard.line.codes == ["vendor_unavailable", "ok"]
        assert heard.line.outcomes[0].status is None

    def test_follow_a_connection_that_nobody_accepts(self) -> None:
        clock = Clock()
        settings = VendorSettings(base_url="http://127.0.0.1:9", requests_per_second=None, weight_per_minute=None)

        async def call() -> None:
            budget = UnlimitedBudget()
            async with HttpTransport("kraken", settings, budget, print, clock, clock.sleep, lambda: 1.0) as transport:
                await transport.get(X, read_json)

        with pytest.raises(VendorError) as caught:
            asyncio.run(call())
        assert caught.value.code is Code.VENDOR_UNAVAILABLE
        assert clock.waits == [2, 4, 8, 16]

    def test_end_one_call_at_its_deadline_while_the_body_drips(self) -> None:
        heard = ask(Reply(body=b"[1,2,3,4,5,6,7]", pause=0.4), OK, deadline_seconds=1.0)
        assert heard.value == b"[1]"
        assert heard.line.codes == ["vendor_unavailable", "ok"]
        assert heard.line.outcomes[0].seconds > 0.9

    def test_let_the_decoder_name_a_refusal_and_ignore_what_it_returns(self) -> None:
        def decode(answer: Answer) -> str:
            if answer.status == 404:
                raise VendorError(Code.BAD_SYMBOL, Remedy.GIVE_UP, "no such symbol")
            return "read"

        assert ask(Reply(404), decode=decode).failure.code is Code.BAD_SYMBOL
        assert ask(Reply(400), decode=decode).failure.code is Code.BAD_REQUEST

    def test_take_a_503_at_its_retry_after(self) -> None:
        assert ask(Reply(503, headers={"Retry-After": "7"}), OK).waits == [7]


class TestCorruption:
    def test_part_c_20_an_empty_body_with_200_or_403_is_asked_for_again(self) -> None:
        for status in (200, 403):
            heard = ask(Reply(status, b""), OK)
            assert heard.line.codes == ["malformed_response", "ok"]

    def test_part_c_20_an_empty_429_is_still_a_429(self) -> None:
        assert ask(Reply(429, b""), OK).line.codes == ["rate_limited", "ok"]

    def test_part_c_21_truncated_json_is_asked_for_again_at_most_three_times(self) -> None:
        heard = ask(Reply(body=b"[[1,2"), decode=read_json)
        assert heard.failure.code is Code.MALFORMED_RESPONSE
        assert heard.waits == [2, 4, 8]
        assert heard.failure.answers[0].body == b"[[1,2"

    def test_part_c_21_a_body_shorter_than_its_content_length_is_asked_for_again(self) -> None:
        heard = ask(Reply(body=b"[1", length=500), OK)
        assert heard.value == b"[1]"
        assert heard.line.codes == ["malformed_response", "ok"]

    def test_part_c_22_bad_gzip_is_asked_for_again_as_identity(self) -> None:
        heard = ask(Reply(body=b"[1]", headers={"Content-Encoding": "gzip"}), OK)
        assert heard.value == b"[1]"
        assert "Accept-Encoding: gzip" in heard.line.vendor.heads[0]
        assert "Accept-Encoding: identity" in heard.line.vendor.heads[1]

    @pytest.mark.parametrize("headers", [{"Content-Encoding": "gzip"}, {"Content-Encoding": "x-gzip"}, {}])
    def test_part_c_22_gzip_is_read_under_any_name(self, headers: dict[str, str]) -> None:
        assert ask(Reply(body=gzip.compress(b"[1]"), headers=headers)).value == b"[1]"

    def test_part_c_22_ignored_gzip_is_read_as_it_is(self) -> None:
        assert ask(OK).value == b"[1]"

    def test_part_c_22_broken_gzip_without_a_header_is_malformed(self) -> None:
        heard = ask(Reply(body=gzip.compress(b"[1]" * 99)[:-12]), OK)
        assert heard.line.codes == ["malformed_response", "ok"]


class TestBlocks:
    def test_part_c_15_html_with_200_is_a_block_never_zero_rows(self) -> None:
        heard = ask(Reply(200, HTML), decode=read_json)
        assert (heard.failure.code, heard.failure.remedy) == (Code.VENDOR_BLOCKED, Remedy.STOP_VENDOR)
        assert heard.waits == []

    @pytest.mark.parametrize(("status", "body"), [(403, HTML), (451, b'{"code":0}'), (307, b""), (302, HTML)])
    def test_part_c_19_a_wall_stops_the_vendor_for_ten_minutes(self, status: int, body: bytes) -> None:
        async def walled() -> tuple[VendorError, VendorError, int, object]:
            async with line([Reply(status, body, {"Location": "https://consent"}), OK]) as wire:
                with pytest.raises(VendorError) as first:
                    await wire.transport.get(X, read_json)
                wire.clock.now += 599
                with pytest.raises(VendorError) as second:
                    await wire.transport.get(X, read_json)
                asked = len(wire.vendor.asked)
                wire.clock.now += 1
                value, _ = await wire.transport.get(X, read_json)
                return first.value, second.value, asked, value

        first, second, asked, value = asyncio.run(walled())
        assert first.code is second.code is Code.VENDOR_BLOCKED
        assert second.remedy is Remedy.STOP_VENDOR
        assert (asked, value) == (1, [1])

    def test_part_c_19_html_with_502_is_an_outage_and_its_body_is_kept(self) -> None:
        heard = ask(Reply(502, HTML))
        assert heard.failure.code is Code.VENDOR_UNAVAILABLE
        assert heard.failure.answers[0].body == HTML


class TestWaits:
    @pytest.mark.parametrize(
        ("told", "wait"),
        [("7", 7), ("0.493", 1), ("2.5", 2.5), ("-3", 1), ("0", 1), ("99999999999", 900), ("1e400", 900)],
    )
    def test_part_c_24_retry_after_is_clamped(self, told: str, wait: float) -> None:
        assert ask(Reply(429, headers={"Retry-After": told}), OK).waits == [wait]

    @pytest.mark.parametrize(("ahead", "wait"), [(20, 20), (-50, 1), (86_400, 900)])
    def test_part_c_24_retry_after_may_be_an_http_date(self, ahead: int, wait: float) -> None:
        date = format_datetime(datetime.fromtimestamp(NOW + ahead, UTC), usegmt=True)
        assert ask(Reply(429, headers={"Retry-After": date}), OK).waits == [wait]

    @pytest.mark.parametrize("told", [None, "soon", "nan"])
    def test_part_c_23_a_429_without_a_time_waits_for_the_next_whole_minute(self, told: str | None) -> None:
        headers = {} if told is None else {"Retry-After": told}
        assert ask(Reply(429, headers=headers), OK).waits == [30]

    @pytest.mark.parametrize(
        "headers",
        [
            {"X-RateLimit-Reset": str(int(NOW) + 12)},
            {"X-Ratelimit-Reset": str(int(NOW) + 12)},
            {"x-uw-req-per-minute-reset": "12"},
        ],
    )
    def test_part_c_23_the_vendors_reset_header_is_heard(self, headers: dict[str, str]) -> None:
        assert ask(Reply(429, headers=headers), OK).waits == [12]

    def test_a_429_on_every_attempt_ends_as_rate_limited(self) -> None:
        heard = ask(Reply(429, headers={"Retry-After": "3"}))
        assert heard.failure.code is Code.RATE_LIMITED
        assert len(heard.line.vendor.asked) == 5
        assert heard.waits == [3, 3, 3, 3]

    def test_a_429_drains_the_shared_budget(self) -> None:
        budget = UnlimitedBudget()
        ask(Reply(429, headers={"Retry-After": "9"}), OK, budget=budget)
        assert budget.blocked_until("coinbase", NOW) == NOW + 9

    def test_part_c_25_a_418_stops_the_vendor_for_retry_after(self) -> None:
        async def banned() -> tuple[VendorError, VendorError, int]:
            budget = UnlimitedBudget()
            async with line([Reply(418, headers={"Retry-After": "7200"})], budget=budget) as wire:
                with pytest.raises(VendorError) as first:
                    await wire.transport.get(X, read_json)
                with pytest.raises(VendorError) as second:
                    await wire.transport.get(X, read_json)
                assert budget.blocked_until("coinbase", NOW) == NOW + 7200
                return first.value, second.value, len(wire.vendor.asked)

        first, second, asked = asyncio.run(banned())
        assert (first.code, first.remedy, first.wait_seconds) == (Code.RATE_LIMITED, Remedy.STOP_VENDOR, 7200)
        assert (second.code, second.remedy, second.wait_seconds) == (Code.RATE_LIMITED, Remedy.STOP_VENDOR, 7200)
        assert asked == 1

    @pytest.mark.parametrize("status", [418, 429, 403])
    def test_part_c_25_a_ban_text_names_the_end(self, status: int) -> None:
        text = f'{{"code":-1003,"msg":"Way too many requests; IP banned until {int((NOW + 300) * 1000)}."}}'
        heard = ask(Reply(status, text.encode()))
        assert heard.failure.remedy is Remedy.STOP_VENDOR
        assert heard.failure.wait_seconds == pytest.approx(300)
        assert heard.waits == []

    def test_part_c_25_a_short_ban_is_waited_for(self) -> None:
        heard = ask(Reply(418, headers={"Retry-After": "45"}), OK)
        assert (heard.value, heard.waits) == (b"[1]", [45])

    @pytest.mark.parametrize(
        ("text", "wait"),
        [
            (b"You have run over your hourly request allocation limit", 3570),
            (b"Exceeded the daily hits limit", 43_170),
            (b"Monthly quota exceeded", 9 * 86_400 + 43_170),
        ],
    )
    def test_part_c_16_a_quota_text_with_200_stops_the_vendor_until_the_quota_ends(
        self, text: bytes, wait: float
    ) -> None:
        heard = ask(Reply(200, text), decode=read_json)
        assert (heard.failure.code, heard.failure.remedy) == (Code.RATE_LIMITED, Remedy.STOP_VENDOR)
        assert heard.failure.wait_seconds == wait


class TestAddresses:
    def test_part_c_61_float_parameters_never_reach_the_wire(self) -> None:
        request = Request("coinbase", "/x", {"from": 1572651390.0})  # type: ignore[dict-item]
        with pytest.raises(TypeError, match="from must be text or int"):
            ask(OK, request=request)
        heard = ask(OK, request=Request("coinbase", "/x", {"from": 1572651390, "pair": "A/B"}))
        assert heard.line.vendor.asked == ["/x?from=1572651390&pair=A%2FB"]

    def test_part_c_62_no_secret_in_answer_exception_or_log(self, caplog: pytest.LogCaptureFixture) -> None:
        request = Request("coinbase", "/x", {"apiKey": "s3cret", "token": "s3cret", "symbol": "BTC"})
        with caplog.at_level(logging.DEBUG):
            heard = ask(OK, request=request)
            failed = ask(Reply(400), request=request)
            dropped = ask(Reply(drop=True), request=request)
        assert heard.answer is not None
        assert heard.answer.url.endswith("/x?apiKey=***&token=***&symbol=BTC")
        assert "s3cret" in heard.line.vendor.asked[0]
        assert "***" in str(failed.error)
        assert "HTTP Request" in caplog.text
        assert "s3cret" not in caplog.text + str(failed.error) + str(dropped.error)

    def test_part_c_62_redact_knows_the_usual_names_and_logins(self) -> None:
        url = "https://u:p@h/x?symbol=BTC&apikey=1&api_key=2&KEY=3&monkey=4#f"
        assert redact(url) == "https://***@h/x?symbol=BTC&apikey=***&api_key=***&KEY=***&monkey=4#f"
        assert redact("https://h/x?crumb=1", ("crumb",)) == "https://h/x?crumb=***"

    def test_a_vendor_without_an_address_is_refused_by_name(self) -> None:
        with pytest.raises(ValueError, match="OHLCV_VENDORS__KRAKEN__BASE_URL"):
            HttpTransport("kraken", VendorSettings(), UnlimitedBudget(), print)
