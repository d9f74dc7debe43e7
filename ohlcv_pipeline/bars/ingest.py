"""Ingestion: from the buckets that should be there to bars in the lake, in batches of cells.

Batches are fetched while those before them are committed. What to fetch is `planning`, which bars are good is
`schema`, what changes is `publication`; the Dagster asset around this is in `assets`.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from ohlcv_pipeline.bars.gaps import common, missing, union
from ohlcv_pipeline.bars.planning import Cells, Order, Quest, batches, quests, wanted
from ohlcv_pipeline.bars.publication import Offer, publish
from ohlcv_pipeline.bars.schema import Delivery, judge
from ohlcv_pipeline.frames import Micros, micros
from ohlcv_pipeline.lake.raw import Asked, RawObject
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.markets import Market, to_us
from ohlcv_pipeline.progress import Progress
from ohlcv_pipeline.vendors.base import Answer, Fetch, Page
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError
from ohlcv_pipeline.vendors.failover import Collected, Source, collect, plan, together

BATCHES_AHEAD = 1
"""How many batches may wait for their commit while the next one is fetched, so that neither waits for the other."""

PATIENCE = 2
"""How many partitions of a symbol may fail one after the other before no more are asked for by themselves."""

_MAY_BE_OF_ONE_ANSWER = {Code.VENDOR_UNAVAILABLE, Code.MALFORMED_RESPONSE, Code.BAD_REQUEST}


@dataclass
class Outcome:
    """What a run did. `failures` and `shifted` name the cells that could not be accounted for: symbol, partition.

    `retries` counts by symbol how often a request was sent again, `retried` names the cells that such a request was
    about. `duplicates` are, by symbol, the buckets that one answer held more than once.
    `drift` says what is new about the vendors' formats; nothing was lost by it.
    """

    cells: int = 0
    rows: int = 0
    requests: int = 0
    duplicates: dict[str, Micros] = field(default_factory=dict)
    retries: Counter[str] = field(default_factory=Counter)
    retried: set[tuple[str, str]] = field(default_factory=set)
    dropped: Counter[str] = field(default_factory=Counter)
    served: Counter[str] = field(default_factory=Counter)
    failures: dict[tuple[str, str], VendorError] = field(default_factory=dict)
    shifted: list[tuple[str, str]] = field(default_factory=list)
    drift: set[str] = field(default_factory=set)

    @property
    def failed_cells(self) -> dict[tuple[str, str], str]:
        """(Symbol, partition) → code, for every cell that was not accounted for."""
        return {c: str(e.code) for c, e in self.failures.items()} | dict.fromkeys(self.shifted, "ratio_shift")

    @property
    def failed(self) -> dict[str, str]:
        """Symbol → code, for every symbol of which some cell was not accounted for."""
        return {symbol: code for (symbol, _), code in self.failed_cells.items()}


@dataclass
class _Answered:
    """What became of a quest: what was collected, and the partitions of it that failed."""

    quest: Quest
    collected: Collected
    failures: dict[str, VendorError]


def planned_requests(
    order: Order, cells: Cells, sources: Mapping[str, Source], batch_rows: int, now_us: int
) -> Counter[str]:
    """Return how many requests each vendor would be sent, if the first one asked delivers: what a dry run shows."""
    counts: Counter[str] = Counter()
    for batch in batches(cells, batch_rows):
        for quest in quests(order, batch, frozenset()):
            for fetch in plan(
                sources, order.market.vendors, quest.instrument, order.interval, quest.windows([]), now_us
            ):
                counts[fetch.vendor] += len(fetch.requests)
    return counts


async def ingest(
    order: Order,
    store: Store,
    sources: Mapping[str, Source],
    clock: Callable[[], datetime],
    batch_rows: int,
    on_progress: Callable[[Progress], None] = lambda progress: None,
) -> Outcome:
    """Account for every cell of the order, as far as the vendors allow, and say what could not be had.

    Symbols that fail do not keep the others from being published. Running it again continues where it ended.
    Raises LakeError when the lake fails.
    """
    now = clock()
    cells = wanted(order, store.reader, now)
    planned = planned_requests(order, cells, sources, batch_rows, to_us(now)).total()
    outcome = Outcome(cells=len(cells))

    def answered(page: Page) -> None:
        outcome.requests += len(page.answers)
        on_progress(Progress(outcome.requests, max(planned, outcome.requests), outcome.rows))

    omitting = frozenset(name for name, source in sources.items() if source.adapter.omits_empty_buckets)
    turn = asyncio.Lock()

    async def commit(batch: Cells, answers: Sequence[_Answered]) -> None:
        async with turn:
            await _commit(order, store, batch, answers, clock(), outcome)

    hopeless: set[str] = set()
    ahead: deque[asyncio.Task[None]] = deque()
    try:
        for batch in batches(cells, batch_rows):
            collected = await together(
                _ask(order, quest, batch, sources, to_us(now), answered, hopeless)
                for quest in quests(order, batch, omitting)
            )
            ahead.append(asyncio.create_task(commit(batch, collected)))
            if len(ahead) > BATCHES_AHEAD:
                await ahead.popleft()
    finally:
        # Whatever ended this, what has been fetched is committed before anyone hears of it.
        if ahead:
            await asyncio.wait(ahead)
        for commit_of_batch in ahead:
            commit_of_batch.result()
    if outcome.rows:
        await asyncio.to_thread(store.writer.seal, clock())
    on_progress(Progress(outcome.requests, outcome.requests, outcome.rows))
    return outcome


async def _ask(
    order: Order,
    quest: Quest,
    batch: Cells,
    sources: Mapping[str, Source],
    now_us: int,
    on_fetched: Callable[[Page], None],
    hopeless: set[str],
) -> _Answered:
    """Ask for what a quest wants; after a failure, partition by partition, for it may be of one answer only.

    A symbol of which `PATIENCE` partitions fail one after the other is `hopeless`: no more is asked of it one by one.
    """
    symbol = quest.instrument.symbol
    cells = {key: buckets for (of, key), buckets in batch.items() if of == symbol}

    async def look(for_what: Quest) -> Collected:
        return await collect(
            sources, order.market.vendors, quest.instrument, order.interval, for_what.windows, now_us, on_fetched
        )

    collected = await look(quest)
    left = _lacking(cells, quest.missing(collected.pages)) if collected.failures else {}
    failures = dict.fromkeys(left, _telling(collected)) if left else {}
    if len(cells) > 1 and symbol not in hopeless and _may_be_of_one_answer(collected):
        in_a_row = 0
        for key, buckets in left.items():
            part = replace(quest, buckets=buckets)
            again = await look(part)
            collected.add(again)
            if again.failures and len(part.missing(again.pages)):
                failures[key] = _telling(again)
                in_a_row += 1
                if in_a_row == PATIENCE:
                    hopeless.add(symbol)
                    break
            else:
                del failures[key]
                in_a_row = 0
    return _Answered(quest, collected, failures)


def _lacking(cells: Mapping[str, Micros], without: Micros) -> dict[str, Micros]:
    """Return those of the missing buckets that each cell wants, for the cells that want any."""
    lacking = {key: common(buckets, without) for key, buckets in cells.items()}
    return {key: buckets for key, buckets in lacking.items() if len(buckets)}


def _may_be_of_one_answer(collected: Collected) -> bool:
    """Return whether a failure may concern the bars that were asked for, not the vendor or the symbol as such."""
    return any(
        error.code in _MAY_BE_OF_ONE_ANSWER and error.remedy is not Remedy.STOP_VENDOR
        for _, error in collected.failures
    )


async def _commit(
    order: Order, store: Store, batch: Cells, answered: Sequence[_Answered], now: datetime, outcome: Outcome
) -> None:
    offers = []
    answers: list[RawObject] = []
    for each in answered:
        offer = _offer(order, each, batch, now)
        offers.append(offer)
        for number, page in enumerate(each.collected.pages):
            outcome.served[page.fetch.vendor] += len(page.bars)
            outcome.drift.update(page.drift)
            answers += [
                _raw(answer, asked=_asked(order, page.fetch, number, place, now))
                for place, answer in enumerate(page.answers)
            ]
        answers += [_raw(answer, note="malformed") for answer in each.collected.rejected]
        outcome.failures |= {(each.quest.instrument.symbol, key): error for key, error in each.failures.items()}
        symbol, twice = each.quest.instrument.symbol, offer.judged.duplicates
        _note_retries(outcome, symbol, batch, each.collected)
        if len(twice):
            outcome.duplicates[symbol] = union(outcome.duplicates.get(symbol, twice), twice)
        outcome.dropped.update(offer.judged.dropped)
    partitions = sorted({key for _, key in batch})
    published = await asyncio.to_thread(publish, order, store, partitions, offers, answers, now)
    outcome.rows += published.rows
    outcome.shifted += [cell for cell in batch if cell[0] in published.shifted]


def _note_retries(outcome: Outcome, symbol: str, batch: Cells, got: Collected) -> None:
    """Note how often the requests for a symbol were sent again, and which of its cells they were about."""
    sent = [(page.fetch, sum(answer.attempt - 1 for answer in page.answers)) for page in got.pages]
    sent += [(fetch, max(error.attempts - 1, 0)) for fetch, error in got.failures]
    for fetch, again in sent:
        if again:
            outcome.retries[symbol] += again
            outcome.retried |= {
                (of, key)
                for (of, key), buckets in batch.items()
                if of == symbol and buckets[0] < fetch.end_us and buckets[-1] >= fetch.start_us
            }


def _telling(got: Collected) -> VendorError:
    """Return the failure that decides what follows: the last that may pass, else the last."""
    errors = [error for _, error in got.failures]
    passing = [error for error in errors if error.remedy is not Remedy.GIVE_UP]
    return (passing or errors)[-1]


def deliveries(pages: Sequence[Page], market: Market, now: datetime) -> list[Delivery]:
    """Return what pages of one symbol delivered, in the order in which the later one counts.

    That is the preferred vendor's last. A page without an answer is held to have come `now`.
    """
    rank = {name: place for place, name in enumerate(market.vendors)}
    ranked = sorted(pages, key=lambda page: rank.get(page.fetch.vendor, len(rank)), reverse=True)
    return [
        Delivery(
            bars=page.bars,
            start_us=page.fetch.start_us,
            end_us=page.fetch.end_us,
            vendor=page.fetch.vendor,
            raw_id=page.answers[-1].id if page.answers else "",
            fetched_at=page.answers[-1].received_at if page.answers else now,
            rejects=[(reject.bucket_start, reject.reason, reject.raw) for reject in page.rejects],
        )
        for page in ranked
    ]


def _offer(order: Order, answered: _Answered, batch: Cells, now: datetime) -> Offer:
    quest, got = answered.quest, answered.collected
    delivered = deliveries(got.pages, order.market, now)
    judged = judge(delivered, order.market, order.interval, to_us(now))
    no_trades = common(quest.no_trades(got.pages), quest.buckets)
    without_bar = missing(quest.buckets, union(micros(judged.bars["bucket_start"]), no_trades), order.interval)
    # A failed vendor says nothing about the buckets it did not deliver.
    failed = [batch[quest.instrument.symbol, key] for key in answered.failures]
    unanswered = missing(without_bar, union(without_bar[:0], *failed), order.interval)
    return Offer(quest.instrument, judged, delivered, no_trades, unanswered)


def _asked(order: Order, fetch: Fetch, page: int, place: int, now: datetime) -> Asked:
    return Asked(
        market=order.market.name,
        interval=str(order.interval),
        symbol=fetch.symbol,
        vendor_symbol=fetch.vendor_symbol,
        start_us=fetch.start_us,
        end_us=fetch.end_us,
        page=page,
        place=place,
        run_id=order.run_id,
        force=order.force,
        published_at=now,
    )


def _raw(answer: Answer, note: str | None = None, asked: Asked | None = None) -> RawObject:
    return RawObject(
        id=answer.id,
        vendor=answer.request.vendor,
        url=answer.url,
        status=answer.status,
        headers=list(answer.headers.items()),
        fetched_at=answer.received_at,
        body=answer.body,
        note=note,
        asked=asked,
    )
