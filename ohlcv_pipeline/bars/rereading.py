"""The job that finds late corrections, one a market, and the schedule that says which sessions it reads again.

Thin: what is read and how little of it is `corrections`.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any

import dagster as dg
from pydantic import Field

from ohlcv_pipeline import interrupts
from ohlcv_pipeline.bars.assets import asset_key
from ohlcv_pipeline.bars.corrections import Due, Found, Round, due
from ohlcv_pipeline.bars.planning import Order
from ohlcv_pipeline.bars.schedules import between_sessions
from ohlcv_pipeline.bars.summary import summarise
from ohlcv_pipeline.markets import Instrument, Interval, Market
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

CRON = "30 5 * * *"
"""Early in New York, when yesterday's files of every vendor are out."""


class CorrectionsConfig(dg.Config):
    """Which sessions to read again, by partition key: `look` if they seem to have changed, `whole` in any case."""

    look: list[str] = Field(default_factory=list)
    whole: list[str] = Field(default_factory=list)
    symbols: list[str] = Field(default_factory=list)


def corrections_job(market: Market) -> dg.JobDefinition:
    """Return the job that reads sessions of a market again and publishes what its vendors have corrected."""

    @dg.op(name=f"reread_{market.name}", pool=f"vendor_{market.vendors[0]}")
    def reread(
        context: dg.OpExecutionContext, config: CorrectionsConfig, platform: dg.ResourceParam[PlatformResource]
    ) -> None:
        """Read sessions again; materialise the partitions that changed, and fail naming what could not be read."""
        home = platform.platform
        sessions = Due(config.look, config.whole)
        _refuse_unended(market, sessions)
        instruments = home.instruments(market, config.symbols)
        found = interrupts.run(_run(home, market, instruments, sessions, context.run_id)) if sessions else Found()
        for event in _materializations(home, market, instruments, found):
            context.log_event(event)
        context.add_output_metadata(_metadata(found))
        if found.failed:
            named = ", ".join(f"{symbol} ({code})" for symbol, code in sorted(found.failed.items()))
            raise dg.Failure(
                description=f"{named} could not be read again; the other symbols were, and what changed is published",
                metadata=_metadata(found),
                allow_retries=False,
            )

    @dg.job(
        name=f"{market.name}_corrections",
        description=f"Sessions of {market.name} read again for late corrections; the old bars stay in `bar_revisions`.",
    )
    def corrections() -> None:
        reread()

    return corrections


def corrections_schedule(
    market: Market, job: dg.JobDefinition, status: dg.DefaultScheduleStatus
) -> dg.ScheduleDefinition:
    """Return the schedule: each morning after a session, the last, the third last and the seventh last one."""

    @dg.schedule(
        name=f"{market.name}_corrections",
        job=job,
        cron_schedule=CRON,
        execution_timezone="UTC",
        default_status=status,
    )
    def corrections(context: dg.ScheduleEvaluationContext) -> dg.RunRequest | dg.SkipReason:
        sessions = due(market, context.scheduled_execution_time)
        if not sessions:
            return dg.SkipReason(between_sessions(market, context.scheduled_execution_time))
        config = {"look": list(sessions.look), "whole": list(sessions.whole)}
        return dg.RunRequest(run_key=None, run_config={"ops": {f"reread_{market.name}": {"config": config}}})

    return corrections


def _refuse_unended(market: Market, sessions: Due) -> None:
    """Raise a Failure for a session that has not ended: its bars are the refresh's."""
    now = datetime.now(UTC).timestamp() * 1e6
    early = [key for key in (*sessions.look, *sessions.whole) if market.partition_bounds(Interval.MINUTE, key)[1] > now]
    if early:
        raise dg.Failure(f"{', '.join(early)} has not ended yet; read it again after that", allow_retries=False)


async def _run(home: Platform, market: Market, instruments: Sequence[Instrument], sessions: Due, run_id: str) -> Found:
    async with home.sources(market) as sources:
        return await Round(
            market=market,
            instruments=instruments,
            due=sessions,
            run_id=run_id,
            store=home.store,
            sources=sources,
            clock=lambda: datetime.now(UTC),
            batch_rows=home.settings.batch_rows,
        ).run()


def _materializations(
    home: Platform, market: Market, instruments: Sequence[Instrument], found: Found
) -> list[dg.AssetMaterialization]:
    """Return an event for each partition that changed."""
    events = []
    for name, rows in groupby(found.changed, key=lambda row: str(row["interval"])):
        interval = Interval(name)
        order = Order(market, interval, instruments, sorted({row["partition"] for row in rows}), run_id="")
        events += [
            dg.AssetMaterialization(
                asset_key(market, interval), partition=summary.partition, metadata=summary.metadata()
            )
            for summary in summarise(home.store.reader, order, {}, instruments, datetime.now(UTC))
        ]
    return events


def _metadata(found: Found) -> dict[str, Any]:
    changed = [
        {name: row[name] for name in ("interval", "symbol", "partition", "revision")} for row in found.changed[:100]
    ]
    return {
        "cells": found.cells,
        "read_in_full": found.reread,
        "requests": found.requests,
        "changed": dg.MetadataValue.table([dg.TableRecord(row) for row in changed]) if changed else "nothing",
    }
