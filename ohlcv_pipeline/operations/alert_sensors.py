"""The sensors of alerting. All are plain sensors: one that fails looks again, where Dagster's own alerts would be lost.

What they see is judged by `freshness` and `failures`; what follows is `evaluation`.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import dagster as dg

from ohlcv_pipeline.lake.accounts import heads
from ohlcv_pipeline.ledger import monitors
from ohlcv_pipeline.operations import failures, freshness
from ohlcv_pipeline.operations.alerts import Circumstances
from ohlcv_pipeline.operations.evaluation import FRESHNESS, Recorded, deliver_due, record
from ohlcv_pipeline.operations.incidents import Incident, Kind, Rules, Sighting, Topic
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.resources import PlatformResource

LOOK_SECONDS = 30
FAILURE_SECONDS = 60

AT_ONCE = Rules(clear_after=1)
"""For what does not flutter: one success ends the failure."""

_Platform = dg.ResourceParam[PlatformResource]


def alert_definitions(status: dg.DefaultScheduleStatus) -> dg.Definitions:
    """Return the sensors; they run from the start where the schedules do."""
    running = status is dg.DefaultScheduleStatus.RUNNING
    on = dg.DefaultSensorStatus.RUNNING if running else dg.DefaultSensorStatus.STOPPED
    return dg.Definitions(
        sensors=[_freshness_monitor(on), _run_monitor(on), _check_monitor(on), _tick_monitor(on), _outbox_sender(on)]
    )


def _freshness_monitor(on: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name="freshness_monitor",
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=on,
        description="Judges every series: every ten minutes, after each publication, and when one becomes late.",
    )
    def freshness_monitor(context: dg.SensorEvaluationContext, platform: _Platform) -> dg.SkipReason:
        home, now = platform.platform, datetime.now(UTC)
        published = sorted(
            [market, interval, version] for (market, interval), version in heads(home.reading.reader).items()
        )
        if not home.reading.catalog.exists:
            return dg.SkipReason("there is no lake yet; the first run makes one")
        seen = json.loads(context.cursor) if context.cursor else {}
        if published == seen.get("published") and not _due(home, seen.get("stale_at"), now):
            return dg.SkipReason("nothing was published, and nothing has become late since the last evaluation")
        found = freshness.monitor(home, now)
        deliver_due(home.ledger, home.settings, datetime.now(UTC))
        late = found.next_stale_at
        context.update_cursor(json.dumps({"published": published, "stale_at": late and late.isoformat()}))
        return dg.SkipReason(told(found.recorded))

    return freshness_monitor


def _due(home: Platform, stale_at: str | None, now: datetime) -> bool:
    """Return whether to evaluate although nothing was published: it is time again, or a series has become late."""
    last = monitors.last_evaluation(home.ledger, FRESHNESS)
    if last is None or now - last >= timedelta(minutes=home.settings.monitor_interval_minutes):
        return True
    return stale_at is not None and now > datetime.fromisoformat(stale_at)


def _run_monitor(on: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name="run_monitor",
        minimum_interval_seconds=FAILURE_SECONDS,
        default_status=on,
        description="Tells of runs that crash or find an error of their own; those that vendors fail are told as late.",
    )
    def run_monitor(context: dg.SensorEvaluationContext, platform: _Platform) -> dg.SkipReason:
        home, now = platform.platform, datetime.now(UTC)
        # What ended before the first look is history.
        since = datetime.fromisoformat(context.cursor) if context.cursor else now
        found = failures.runs(context.instance, since)
        recorded = _record(home, "runs", found.seen, now, [Kind.RUN_FAILED], complete=False)
        context.update_cursor(found.until.isoformat())
        return dg.SkipReason(told(recorded))

    return run_monitor


def _check_monitor(on: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name="check_monitor",
        minimum_interval_seconds=FAILURE_SECONDS,
        default_status=on,
        description="Tells of asset checks that are red, but for gaps and lateness, which have ways of their own.",
    )
    def check_monitor(context: dg.SensorEvaluationContext, platform: _Platform) -> dg.SkipReason:
        home, now = platform.platform, datetime.now(UTC)
        assert context.repository_def is not None, "a sensor of a code location has a repository"
        keys = sorted(context.repository_def.asset_graph.asset_check_keys)
        seen, about = failures.checks(context.instance, keys)
        kinds = [Kind.CHECK_FAILED, Kind.CHECKSUM_MISMATCH]
        return dg.SkipReason(told(_record(home, "checks", seen, now, kinds, about=about)))

    return check_monitor


def _tick_monitor(on: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name="tick_monitor",
        minimum_interval_seconds=FAILURE_SECONDS,
        default_status=on,
        description="Tells of sensors and schedules whose own code fails, for which Dagster has no alert.",
    )
    def tick_monitor(context: dg.SensorEvaluationContext, platform: _Platform) -> dg.SkipReason:
        home, now = platform.platform, datetime.now(UTC)
        return dg.SkipReason(told(_record(home, "ticks", failures.ticks(context.instance), now, [Kind.SENSOR_FAILED])))

    return tick_monitor


def _outbox_sender(on: dg.DefaultSensorStatus) -> dg.SensorDefinition:
    @dg.sensor(
        name="outbox_sender",
        minimum_interval_seconds=LOOK_SECONDS,
        default_status=on,
        description="Sends the alerts that wait: those of other monitors, and those that a channel has not taken yet.",
    )
    def outbox_sender(platform: _Platform) -> dg.SkipReason:
        home = platform.platform
        done = deliver_due(home.ledger, home.settings, datetime.now(UTC))
        if not done.sent and not done.failed:
            return dg.SkipReason("no message is due")
        return dg.SkipReason(f"{done.sent} messages were accepted, {len(done.failed)} not: {', '.join(done.failed)}")

    return outbox_sender


def _record(
    home: Platform,
    monitor: str,
    seen: Sequence[Sighting],
    now: datetime,
    kinds: Sequence[Kind],
    *,
    complete: bool = True,
    about: Mapping[Topic, Circumstances] | None = None,
) -> Recorded:
    def circumstances(_session: object, told: Sequence[Incident]) -> Mapping[UUID, Circumstances]:
        return {incident.id: about[incident.topic] for incident in told if about and incident.topic in about}

    sequence = monitors.next_sequence(home.ledger, monitor)
    return record(
        home.ledger,
        home.settings,
        monitor,
        sequence,
        seen,
        now,
        kinds=kinds,
        rules=AT_ONCE,
        complete=complete,
        circumstances=circumstances,
    )


def told(found: Recorded) -> str:
    """Return what an evaluation came to, for the list of ticks."""
    if found.step is None:
        return "a newer evaluation was recorded already"
    states = Counter(incident.state for incident in found.step.stored)
    over = states["cleared"]
    return f"evaluation {found.sequence}: {states['open']} open, {len(found.step.told)} told now, {over} over"
