from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import delete

from ohlcv_pipeline.ledger.budget import Bucket, Limits, SharedBudget, State, drained, spend
from ohlcv_pipeline.ledger.database import Ledger
from ohlcv_pipeline.ledger.models import VendorBudget
from ohlcv_pipeline.settings import VendorSettings

NOW = 1_763_726_400.0
NOW_US = int(NOW * 1_000_000)


def settings_of(
    requests_per_second: float | None = 5.0, burst: int = 5, weight_per_minute: int | None = 1200
) -> VendorSettings:
    return VendorSettings(requests_per_second=requests_per_second, burst=burst, weight_per_minute=weight_per_minute)


buckets = st.builds(Bucket, st.floats(1, 200), st.floats(0.01, 500))
limits = st.builds(Limits, st.none() | buckets, st.none() | buckets)
steps_us = st.integers(0, 2_000_000) | st.integers(0, 200_000_000)
instants_us = st.integers(NOW_US, NOW_US + 400_000_000)


def fitting(limit: Limits) -> st.SearchStrategy[int]:
    return st.integers(1, math.floor(limit.weight.capacity) if limit.weight else 500)


def grants(limit: Limits, asked: list[tuple[int, int]], state: State) -> list[tuple[int, int]]:
    """Return the (instant, weight) that were granted of those asked."""
    granted = []
    for now_us, weight in asked:
        state, wait = spend(state, weight, limit, now_us)
        if wait == 0.0:
            granted.append((now_us, weight))
    return granted


def assert_within(limit: Bucket | None, granted: list[tuple[int, int]]) -> None:
    """No window, wherever it begins and ends, holds more than the burst and what its length refills."""
    for i, (begin, _) in enumerate(granted):
        total = 0
        for end, cost in granted[i:]:
            total += cost
            assert limit is None or total <= limit.capacity + limit.per_second * (end - begin) / 1e6 + 1e-6


@given(st.data(), limits, st.lists(steps_us, max_size=40))
def test_no_window_grants_more_than_burst_and_rate(draw: st.DataObject, limit: Limits, steps: list[int]) -> None:
    now_us, asked = NOW_US, []
    for step in steps:
        now_us += step
        asked.append((now_us, draw.draw(fitting(limit))))
    granted = grants(limit, asked, State.full(limit, NOW_US))
    assert_within(limit.weight, granted)
    assert_within(limit.requests, [(instant, 1) for instant, _ in granted])


@given(st.data(), limits, st.lists(st.integers(NOW_US, NOW_US + 3_000_000), max_size=40))
def test_clock_that_goes_back_and_forth_grants_nothing_extra(
    draw: st.DataObject, limit: Limits, instants: list[int]
) -> None:
    asked = [(now_us, draw.draw(fitting(limit))) for now_us in instants]
    granted = grants(limit, asked, State.full(limit, NOW_US))
    # What the latest clock ever allowed is the bound: going back neither refills nor refills twice.
    span = (max(instants, default=NOW_US) - NOW_US) / 1e6
    if limit.weight:
        bound = limit.weight.capacity + limit.weight.per_second * span + 1e-6
        assert sum(weight for _, weight in granted) <= bound
    if limit.requests:
        assert len(granted) <= limit.requests.capacity + limit.requests.per_second * span + 1e-6


def test_clocks_a_second_apart_share_one_second_of_refill() -> None:
    limit = Limits(Bucket(5, 5), None)
    asked = [(NOW_US + second * 1_000_000, 1) for second in [0] * 5 + [1, 0] * 20]
    assert len(grants(limit, asked, State.full(limit, NOW_US))) == 5 + 5


@given(st.data(), limits, st.lists(instants_us, max_size=20), instants_us | st.none())
def test_after_the_wait_the_request_is_granted(
    draw: st.DataObject, limit: Limits, instants: list[int], blocked_us: int | None
) -> None:
    state = State.full(limit, NOW_US)
    for now_us in instants:
        state, _ = spend(state, draw.draw(fitting(limit)), limit, now_us)
    if blocked_us is not None:
        state = drained(state, blocked_us)
    now, weight = draw.draw(instants_us) / 1e6, draw.draw(fitting(limit))
    unchanged, wait = spend(state, weight, limit, math.floor(now * 1e6))
    if wait:
        assert unchanged is state
        # As the transport would: float seconds since the epoch, added up.
        assert spend(state, weight, limit, math.floor((now + wait) * 1e6))[1] == 0.0


@given(st.data(), limits, instants_us)
def test_wait_is_not_much_longer_than_needed(draw: st.DataObject, limit: Limits, now_us: int) -> None:
    state, weight = drained(State.full(limit, NOW_US), now_us), draw.draw(fitting(limit))
    _, wait = spend(state, weight, limit, now_us)
    needs = [0.0]
    if limit.requests:
        needs.append(1 / limit.requests.per_second)
    if limit.weight:
        needs.append(weight / limit.weight.per_second)
    assert max(needs) <= wait + 1e-9
    assert wait <= max(needs) + 4e-6


@given(limits, st.lists(st.integers(NOW_US, NOW_US + 10_000_000), min_size=1))
def test_block_is_never_shortened(limit: Limits, blocks: list[int]) -> None:
    state = State.full(limit, NOW_US)
    for until_us in blocks:
        state = drained(state, until_us)
    assert state.blocked_us == max(blocks)
    _, wait = spend(state, 1, limit, NOW_US)
    assert wait >= (max(blocks) - NOW_US) / 1e6


def test_weight_bucket_holds_a_tenth_and_no_minute_exceeds_the_limit() -> None:
    limit = Limits.of(settings_of(requests_per_second=None))
    assert limit == Limits(None, Bucket(120, 18))
    asked = [(NOW_US + ms * 1000, 2) for ms in range(0, 60_000, 10)]
    assert 1190 < sum(weight for _, weight in grants(limit, asked, State.full(limit, NOW_US))) <= 1200


def test_weight_that_can_never_be_granted_is_refused() -> None:
    limit = Limits.of(settings_of(weight_per_minute=100))
    with pytest.raises(ValueError, match="weight 11 can never be sent: at most 10"):
        spend(State.full(limit, NOW_US), 11, limit, NOW_US)
    with pytest.raises(ValueError, match="at least 1"):
        spend(State.full(limit, NOW_US), 0, limit, NOW_US)
    with pytest.raises(ValueError, match="weight_per_minute must be at least 2"):
        Limits.of(settings_of(weight_per_minute=1))


def test_burst_then_one_request_each_fifth_of_a_second(ledger: Ledger) -> None:
    budget = SharedBudget(ledger, {"kraken": settings_of()})
    assert [budget.take("kraken", 1, NOW) for _ in range(5)] == [0.0] * 5
    wait = budget.take("kraken", 1, NOW)
    assert wait == pytest.approx(0.2, abs=1e-5)
    assert budget.take("kraken", 1, NOW + wait) == 0.0
    assert budget.take("kraken", 1, NOW + wait) == pytest.approx(0.2, abs=1e-5)


def test_scarcer_limit_decides_and_a_denial_costs_nothing(ledger: Ledger) -> None:
    budget = SharedBudget(ledger, {"binance": settings_of(burst=100, weight_per_minute=1200)})
    assert budget.take("binance", 120, NOW) == 0.0
    assert budget.take("binance", 36, NOW) == pytest.approx(2.0, abs=1e-5)
    assert budget.take("binance", 18, NOW) == pytest.approx(1.0, abs=1e-5)
    assert budget.take("binance", 36, NOW + 2.00001) == 0.0


def test_two_budgets_on_one_ledger_share_and_vendors_do_not(ledger: Ledger) -> None:
    both = {"kraken": settings_of(), "coinbase": settings_of()}
    one, other = SharedBudget(ledger, both), SharedBudget(ledger, both)
    for _ in range(5):
        assert one.take("kraken", 1, NOW) == 0.0
    assert other.take("kraken", 1, NOW) > 0.0
    assert other.take("coinbase", 1, NOW) == 0.0


@pytest.mark.parametrize("limited", [True, False])
def test_drained_vendor_is_asked_by_nobody_until_then(ledger: Ledger, limited: bool) -> None:
    vendor = settings_of() if limited else settings_of(requests_per_second=None, weight_per_minute=None)
    budget = SharedBudget(ledger, {"kraken": vendor})
    assert budget.blocked_until("kraken", NOW) == 0.0
    budget.drain("kraken", NOW + 30)
    budget.drain("kraken", NOW + 10)
    assert budget.blocked_until("kraken", NOW) == NOW + 30
    assert budget.take("kraken", 1, NOW) >= 30.0
    assert budget.take("kraken", 1, NOW + 29.9) > 0.0
    assert budget.blocked_until("kraken", NOW + 30) == 0.0
    assert budget.take("kraken", 1, NOW + 30.3) == 0.0
    # No burst after a block: the bucket begins empty.
    assert (budget.take("kraken", 1, NOW + 30.3) > 0.0) is limited


def test_vendor_without_limits_writes_nothing(ledger: Ledger) -> None:
    unlimited = settings_of(requests_per_second=None, weight_per_minute=None)
    budget = SharedBudget(ledger, {"sandbox": unlimited})
    assert {budget.take("sandbox", 10_000, NOW) for _ in range(100)} == {0.0}


def test_vendors_first_requests_at_once_meet_in_one_bucket(ledger: Ledger) -> None:
    budget, start = SharedBudget(ledger, {"kraken": settings_of()}), Barrier(4)

    def ask(_: int) -> float:
        start.wait()
        return budget.take("kraken", 1, NOW)

    for _ in range(10):
        with ledger.write() as session:
            session.execute(delete(VendorBudget))
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(ask, range(4))) == [0.0] * 4
        assert [budget.take("kraken", 1, NOW) > 0.0 for _ in range(2)] == [False, True]


def test_tightened_limit_holds_at_once(ledger: Ledger) -> None:
    assert SharedBudget(ledger, {"kraken": settings_of(burst=100)}).take("kraken", 1, NOW) == 0.0
    tight = SharedBudget(ledger, {"kraken": settings_of(burst=2)})
    assert [tight.take("kraken", 1, NOW) > 0 for _ in range(3)] == [False, False, True]


def test_unknown_vendor_is_named(ledger: Ledger) -> None:
    budget = SharedBudget(ledger, {"kraken": settings_of()})
    for act in (lambda: budget.take("krakn", 1, NOW), lambda: budget.blocked_until("krakn", NOW),
                lambda: budget.drain("krakn", NOW)):  # fmt: skip
        with pytest.raises(LookupError, match="vendor 'krakn' has no limits; there are kraken"):
            act()
