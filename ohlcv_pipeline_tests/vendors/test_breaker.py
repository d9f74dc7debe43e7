from __future__ import annotations

import pytest

from ohlcv_pipeline.vendors.breaker import Breaker
from ohlcv_pipeline.vendors.errors import Code, VendorError


def test_an_answer_from_before_a_block_does_not_lift_it() -> None:
    breaker = Breaker("coinbase")
    breaker.trip(600.0, Code.VENDOR_BLOCKED)
    breaker.succeeded(1.0)
    with pytest.raises(VendorError) as caught:
        breaker.check(2.0)
    assert (caught.value.code, caught.value.wait_seconds) == (Code.VENDOR_BLOCKED, 598.0)


def test_a_later_outage_does_not_shorten_a_block() -> None:
    breaker = Breaker("coinbase", threshold=1)
    breaker.trip(600.0, Code.VENDOR_BLOCKED)
    breaker.failed(10.0)
    with pytest.raises(VendorError) as caught:
        breaker.check(599.0)
    assert caught.value.code is Code.VENDOR_BLOCKED


def test_a_probe_that_never_reports_is_followed_by_another() -> None:
    breaker = Breaker("coinbase", threshold=1, cool_down=60.0)
    breaker.failed(0.0)
    breaker.check(60.0)
    breaker.sent(60.0)
    with pytest.raises(VendorError):
        breaker.check(119.0)
    breaker.check(120.0)


def test_a_probe_that_fails_opens_it_for_another_cool_down() -> None:
    breaker = Breaker("coinbase", threshold=2, cool_down=60.0)
    breaker.failed(0.0)
    assert breaker.closed
    breaker.failed(0.0)
    breaker.sent(60.0)
    breaker.failed(70.0)
    with pytest.raises(VendorError):
        breaker.check(129.0)
    breaker.sent(130.0)
    breaker.succeeded(131.0)
    assert breaker.closed
