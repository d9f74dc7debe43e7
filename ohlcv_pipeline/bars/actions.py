"""Corporate actions: asked of their vendor, and published with their history.

The whole history is asked for each time: a vendor corrects old actions without saying so. Bars are adjusted by
`adjust`; the asset is in `actions_assets`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from ohlcv_pipeline.lake.raw import RawObject
from ohlcv_pipeline.lake.store import Store
from ohlcv_pipeline.lake.tables import ACTION_COVERAGE, CORPORATE_ACTIONS
from ohlcv_pipeline.lake.writer import ActionChanges
from ohlcv_pipeline.markets import DAY_US, Instrument, Interval, Market, from_us, to_us
from ohlcv_pipeline.vendors.base import Actions, ActionSource, Answer
from ohlcv_pipeline.vendors.errors import VendorError
from ohlcv_pipeline.vendors.failover import Source, together

NO_SESSIONS = "no_sessions"
"""The code of a symbol whose answer speaks of no session."""


@dataclass(frozen=True)
class Told:
    """What a vendor said of one symbol, and the answer in which it did."""

    symbol: str
    actions: Actions
    answer: Answer


@dataclass
class Gathered:
    """What the vendor told, and of whom it could not be had."""

    told: list[Told] = field(default_factory=list)
    failures: dict[str, VendorError] = field(default_factory=dict)
    silent: list[str] = field(default_factory=list)

    @property
    def failed(self) -> dict[str, str]:
        """Symbol → code, for every symbol of which nothing was learnt."""
        return {s: str(e.code) for s, e in self.failures.items()} | dict.fromkeys(self.silent, NO_SESSIONS)


async def gather(market: Market, instruments: Sequence[Instrument], source: Source, now: datetime) -> Gathered:
    """Ask for the actions of each symbol since the market's history begins.

    An answer without any session teaches nothing and counts as a failure of its symbol.
    Raises TypeError for a vendor that does not tell of actions.
    """
    if not isinstance(source.adapter, ActionSource):
        raise TypeError(f"vendor {source.adapter.name} tells of no corporate actions, and {market.name} names it")
    adapter = source.adapter
    start = market.history_start[Interval.DAY]
    start_us = to_us(datetime(start.year, start.month, start.day, tzinfo=now.tzinfo))
    end_us = to_us(now) // DAY_US * DAY_US + DAY_US
    gathered = Gathered()

    async def ask(instrument: Instrument, spelling: str) -> None:
        try:
            actions, answer = await adapter.actions(spelling, start_us, end_us, source.transport)
        except VendorError as error:
            gathered.failures[instrument.symbol] = error
            return
        if len(actions.sessions):
            gathered.told.append(Told(instrument.symbol, actions, answer))
        else:
            gathered.silent.append(instrument.symbol)

    spelt = [(each, each.vendor_symbols.get(source.adapter.name)) for each in instruments]
    await together(ask(each, spelling) for each, spelling in spelt if spelling is not None)
    gathered.told.sort(key=lambda each: each.symbol)
    return gathered


def publish_actions(store: Store, market: Market, told: Sequence[Told], run_id: str, now: datetime) -> ActionChanges:
    """Commit what changed. An action that the vendor changed or withdrew stays, marked as superseded."""
    answers = [
        RawObject(
            id=each.answer.id,
            vendor=each.answer.request.vendor,
            url=each.answer.url,
            status=each.answer.status,
            headers=list(each.answer.headers.items()),
            fetched_at=each.answer.received_at,
            body=each.answer.body,
        )
        for each in told
    ]
    return store.writer.publish_actions(market.name, decider(market.name, told, run_id, now), answers)


def decider(
    market: str, told: Sequence[Told], run_id: str, now: datetime
) -> Callable[[pa.Table, pa.Table], ActionChanges]:
    """Return what decides, from the actions in force and their coverage, on the changes.

    An action is known by symbol, ex-date and kind. Only what a vendor's answer speaks of, the sessions it lists, can
    be changed or withdrawn by it.
    """

    def decide(in_force: pa.Table, coverage: pa.Table) -> ActionChanges:
        held: dict[str, list[dict[str, Any]]] = {}
        for row in in_force.to_pylist():
            held.setdefault(row["symbol"], []).append(row)
        reach = {row["symbol"]: (row["first_session"], row["last_session"]) for row in coverage.to_pylist()}
        inserted, superseded, covered = [], [], []
        for each in told:
            provenance = {
                "vendor": each.answer.request.vendor,
                "raw_id": each.answer.id,
                "fetched_at": each.answer.received_at,
                "run_id": run_id,
            }
            sessions = set(each.actions.sessions.tolist())
            new = {(row["ex_date"], row["kind"]): row for row in each.actions.table.to_pylist()}
            for row in held.get(each.symbol, []):
                same = new.get((row["ex_date"], row["kind"]))
                if same is not None and same["value"] == row["value"]:
                    del new[row["ex_date"], row["kind"]]
                elif to_us(row["ex_date"]) in sessions:
                    superseded.append({**row, "superseded_at": now, "superseded_by_run": run_id})
            inserted += [{"market": market, "symbol": each.symbol, **row, **provenance} for row in new.values()]
            first, last = (from_us(edge) for edge in (min(sessions), max(sessions)))
            if reach.get(each.symbol) != (first, last):
                ends = {"first_session": first, "last_session": last}
                covered.append({"market": market, "symbol": each.symbol, **ends, **provenance})
        return ActionChanges(
            inserted=pa.Table.from_pylist(inserted, CORPORATE_ACTIONS),
            superseded=pa.Table.from_pylist(superseded, CORPORATE_ACTIONS),
            coverage=pa.Table.from_pylist(covered, ACTION_COVERAGE),
        )

    return decide
