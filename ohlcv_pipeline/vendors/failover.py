"""Asking the vendors of a market in order until nothing is wanted any more, and remembering who served what.

Which buckets are still wanted is decided by the caller after each round; here is only whom to ask for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ohlcv_pipeline.markets import Instrument, Interval
from ohlcv_pipeline.vendors.base import Adapter, Answer, Fetch, Page, Transport
from ohlcv_pipeline.vendors.errors import Code, VendorError

T = TypeVar("T")

LOOKS = 2
"""A vendor is asked again, once, for what it left out: a hole at the edge of an answer proves nothing."""

SIDE_BY_SIDE = 4
"""Fetches of one symbol on their way at once: fewer than the failures in a row that open the breaker, so that a
symbol of which nothing can be had does not shut the others out."""

Window = tuple[int, int]
StillWanted = Callable[[Sequence[Page]], Sequence[Window]]


@dataclass(frozen=True)
class Source:
    """One vendor, ready to be asked."""

    adapter: Adapter
    transport: Transport


@dataclass
class Collected:
    """What the vendors delivered of one symbol, and what went wrong on the way."""

    pages: list[Page] = field(default_factory=list)
    failures: list[tuple[Fetch, VendorError]] = field(default_factory=list)
    rejected: list[Answer] = field(default_factory=list)
    requests: int = 0

    def add(self, other: Collected) -> None:
        """Take over what another look has given."""
        self.pages += other.pages
        self.failures += other.failures
        self.rejected += other.rejected
        self.requests += other.requests


def plan(
    sources: Mapping[str, Source], order: Sequence[str], instrument: Instrument, interval: Interval,
    windows: Sequence[Window], now_us: int,
) -> list[Fetch]:  # fmt: skip
    """Return the fetches of the first round: what a dry run counts.

    Each window goes to the first vendor that lists the symbol and serves its beginning; what that vendor
    cannot serve goes to the next.
    """
    fetches: list[Fetch] = []
    left = list(windows)
    for name in order:
        spelling = instrument.vendor_symbols.get(name)
        if spelling is None or name not in sources:
            continue
        adapter = sources[name].adapter
        unserved: list[Window] = []
        for start, end in left:
            served = adapter.serves(interval, start, end, now_us)
            if served is None:
                unserved.append((start, end))
                continue
            fetches += adapter.plan(instrument.symbol, spelling, interval, *served)
            unserved += [w for w in ((start, served[0]), (served[1], end)) if w[0] < w[1]]
        left = unserved
    return fetches


async def together(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Run coroutines side by side and return their results in order; one that raises ends the others first."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def collect(
    sources: Mapping[str, Source],
    order: Sequence[str],
    instrument: Instrument,
    interval: Interval,
    still_wanted: StillWanted,
    now_us: int,
    on_fetched: Callable[[Page], None] = lambda page: None,
) -> Collected:
    """Fetch what is wanted of one symbol from the vendors in order.

    A vendor that fails, lacks the symbol or cannot reach back that far is followed by the next one.

    Args:
        sources: the vendors by name.
        order: the market's order of preference.
        instrument: the symbol; a vendor without a spelling of it is passed over.
        interval: of the bars.
        still_wanted: given the pages so far, the windows [start, end) that are still wanted.
        now_us: the current instant.
        on_fetched: called after each fetch.
    """
    result = Collected()
    for name in order:
        spelling = instrument.vendor_symbols.get(name)
        if spelling is None or name not in sources:
            continue
        source = sources[name]
        for _ in range(LOOKS):
            windows = still_wanted(result.pages)
            if not windows:
                return result
            fetches = [
                fetch
                for window in windows
                if (served := source.adapter.serves(interval, *window, now_us)) is not None
                for fetch in source.adapter.plan(instrument.symbol, spelling, interval, *served)
            ]
            if not fetches or await _round(source, fetches, result, on_fetched):
                break
    return result


async def _round(
    source: Source, fetches: Sequence[Fetch], result: Collected, on_fetched: Callable[[Page], None]
) -> bool:
    """Send the fetches of one look; return whether one of them failed for good: then no more are begun."""
    left = iter(enumerate(fetches))
    outcomes: dict[int, Page | VendorError] = {}
    failed = False

    async def one_by_one() -> None:
        nonlocal failed
        for place, fetch in left:
            if failed:
                return
            try:
                outcomes[place] = page = await source.adapter.fetch(fetch, source.transport)
            except VendorError as error:
                outcomes[place] = error
                failed = failed or error.code is not Code.NOT_YET
            else:
                on_fetched(page)

    await together(one_by_one() for _ in range(min(SIDE_BY_SIDE, len(fetches))))
    for place, outcome in sorted(outcomes.items()):
        if isinstance(outcome, Page):
            result.pages.append(outcome)
            result.requests += len(outcome.answers)
        else:
            result.requests += len(fetches[place].requests)
            result.failures.append((fetches[place], outcome))
            result.rejected += outcome.answers
    return failed
