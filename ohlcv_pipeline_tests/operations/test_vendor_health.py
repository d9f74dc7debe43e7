"""The rule of a vendor's status, row by row, and what holds for any evidence."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ohlcv_pipeline.markets import MINUTE_US, calendar
from ohlcv_pipeline.operations.vendor_health import Evidence, Status, failed_in_a_row, is_late, judge
from ohlcv_pipeline.vendors.errors import Code
from ohlcv_pipeline_tests.bars.vendor import us

CODES = ["ok", *Code]


def counts(ok: int = 0, **others: int) -> dict[str, int]:
    return {"ok": ok, **others}


@pytest.mark.parametrize(
    ("evidence", "status"),
    [
        ({}, "up"),
        ({"codes": counts(1_000), "probe": "ok"}, "up"),
        ({"codes": counts(5, not_yet=5, bad_symbol=5)}, "up"),
        ({"failed_probes": 3}, "down"),
        ({"failed_probes": 2, "probe": "vendor_unavailable"}, "degraded"),
        ({"codes": counts(1, vendor_unavailable=9)}, "down"),
        ({"codes": counts(2, vendor_unavailable=17)}, "degraded"),
        ({"codes": counts(0, vendor_unavailable=4)}, "up"),
        ({"codes": counts(0, vendor_unavailable=5)}, "down"),
        ({"codes": counts(0, rate_limited=50)}, "rate_limited"),
        ({"codes": counts(4, rate_limited=1)}, "rate_limited"),
        ({"codes": counts(3, rate_limited=1)}, "up"),
        ({"codes": counts(5, rate_limited=1)}, "degraded"),
        ({"blocked": True}, "rate_limited"),
        ({"blocked": True, "failed_probes": 3}, "down"),
        ({"blocked": True, "failed_probes": 1, "late": True}, "rate_limited"),
        ({"probe": "auth_failed"}, "degraded"),
        ({"probe": "rate_limited"}, "degraded"),
        ({"probe": "not_yet"}, "up"),
        ({"codes": counts(9, malformed_response=1)}, "degraded"),
        ({"codes": counts(10, malformed_response=1)}, "up"),
        ({"codes": counts(3, malformed_response=1)}, "up"),
        ({"p95_seconds": 5.0}, "up"),
        ({"p95_seconds": 5.001}, "degraded"),
        ({"codes": counts(100), "probe": "ok", "late": True}, "degraded"),
    ],
)
def test_the_first_rule_that_fits_decides(evidence: dict[str, Any], status: str) -> None:
    assert judge(Evidence(**{"codes": {}, **evidence})).status == status


EVIDENCE = st.builds(
    Evidence,
    codes=st.dictionaries(st.sampled_from(CODES), st.integers(0, 40)),
    p95_seconds=st.none() | st.floats(0, 20),
    blocked=st.booleans(),
    probe=st.none() | st.sampled_from(CODES),
    failed_probes=st.integers(0, 5),
    late=st.booleans(),
)
ORDER = [Status.DOWN, Status.RATE_LIMITED, Status.DEGRADED, Status.UP]


@given(EVIDENCE, st.integers(0, 400))
def test_429_never_makes_a_vendor_down(evidence: Evidence, limited: int) -> None:
    calm = Evidence(**{**vars(evidence), "failed_probes": min(evidence.failed_probes, 2)})
    reached = {code: n for code, n in calm.codes.items() if code != Code.VENDOR_UNAVAILABLE}
    found = judge(Evidence(**{**vars(calm), "codes": {**reached, "rate_limited": limited}}))
    assert found.status is not Status.DOWN


@given(EVIDENCE)
def test_good_news_never_makes_a_vendor_worse(evidence: Evidence) -> None:
    better = Evidence(evidence.codes, None, False, "ok", 0, False)
    assert ORDER.index(judge(better).status) >= ORDER.index(judge(evidence).status)
    more = {**evidence.codes, "ok": evidence.codes.get("ok", 0) + 10_000}
    assert judge(Evidence(more, None, False, "ok", 0, False)).status is Status.UP


@given(st.lists(st.none() | st.sampled_from(CODES), max_size=30))
def test_only_unreached_probes_in_a_row_count(probes: list[str | None]) -> None:
    failed = 0
    for probe in probes:
        failed = failed_in_a_row(failed, probe)
    sent = [probe for probe in probes if probe is not None]
    tail = 0
    while tail < len(sent) and sent[-1 - tail] == Code.VENDOR_UNAVAILABLE:
        tail += 1
    assert failed == tail


@pytest.mark.parametrize(
    ("name", "newest_close", "ready", "now", "late"),
    [
        ("24/7", "2025-11-21 11:45", "2025-11-21 12:00", "2025-11-21 12:00", False),
        ("24/7", "2025-11-21 11:44", "2025-11-21 12:00", "2025-11-21 12:00", True),
        # A feed that is 15 minutes behind by contract has nothing newer to give.
        ("XNYS", "2025-11-21 15:30", "2025-11-21 15:45", "2025-11-21 16:00", False),
        ("XNYS", "2025-11-21 15:29", "2025-11-21 15:45", "2025-11-21 16:00", True),
        # Friday's last bar on Monday, 14 minutes after the opening, and two minutes later.
        ("XNYS", "2025-11-21 21:00", "2025-11-24 14:44", "2025-11-24 14:44", False),
        ("XNYS", "2025-11-21 21:00", "2025-11-24 14:46", "2025-11-24 14:46", True),
        # Nothing is late while the market is closed, whatever is missing.
        ("XNYS", "2025-11-21 15:00", "2025-11-21 21:30", "2025-11-21 21:30", False),
        ("XNYS", "2025-11-21 15:00", "2025-11-22 12:00", "2025-11-22 12:00", False),
    ],
)
def test_lateness_is_of_the_market_and_of_what_a_vendor_can_have(
    name: str, newest_close: str, ready: str, now: str, late: bool
) -> None:
    assert is_late(calendar(name), us(newest_close), us(ready), us(now)) is late


@given(st.integers(0, 10_000))
def test_a_vendor_that_gave_all_it_can_have_is_not_late(minutes: int) -> None:
    now = us("2025-11-17 00:00") + minutes * MINUTE_US
    assert not is_late(calendar("XNYS"), now, now, now)
