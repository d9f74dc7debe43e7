"""`ohlcv alerts`: incidents, the messages about them, and times in which none is sent."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import CliError, UsageError
from ohlcv_pipeline.cli.options import JsonOption, MarketOption, open_platform, tables, usage
from ohlcv_pipeline.wording import many

if TYPE_CHECKING:
    from ohlcv_pipeline.ledger.models import Incident, MaintenanceWindow, Message
    from ohlcv_pipeline.operations.evaluation import Delivery
    from ohlcv_pipeline.platform import Platform

app = typer.Typer(
    no_args_is_help=True,
    help="Incidents and the messages about them: list, test, send, mute. How they are set up: docs/how-to/alerts.md.",
)

_SPAN = re.compile(r"(\d+)(m|h|d)")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}

IncidentArgument = Annotated[str, typer.Argument(help="The beginning of an id is enough.", show_default=False)]


@app.command("list")
def show_all(
    every: Annotated[bool, typer.Option("--all", help="Those that are over, too.")] = False,
    market: MarketOption = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="How many, newest first.")] = 50,
    as_json: JsonOption = False,
) -> int:
    """List the incidents that are open, and the messages that were not accepted yet.

    - `ohlcv alerts list`
    - `ohlcv alerts list --all --market crypto --json`
    """
    home = open_platform()
    from ohlcv_pipeline.ledger import incidents, outbox

    found = incidents.page(home.ledger, "all" if every else "open", market=market, limit=limit)
    unsent = outbox.listed(home.ledger, unsent=True)
    if as_json:
        console.write_json({"incidents": [_incident(row) for row in found], "unsent": [_message(m) for m in unsent]})
        return errors.SUCCESS
    columns = ["id", "kind", "about", "state", "since", "lag", "told"]
    console.table("Incidents", columns, [_line(row) for row in found], {"lag"})
    if unsent:
        waiting = ["id", "channel", "subject", "status", "attempts", "next try", "last error"]
        rows = [
            (
                *(str(m.id)[:8], m.channel, m.payload["subject"], m.status, m.attempts),
                console.instant(m.next_attempt_at) if m.status == "pending" else None,
                m.last_error,
            )
            for m in unsent
        ]
        console.table("Messages that were not accepted yet", waiting, rows, {"attempts"})
    return errors.SUCCESS


@app.command()
def show(incident: IncidentArgument, as_json: JsonOption = False) -> int:
    """Show one incident and the messages about it.

    - `ohlcv alerts show 6b0d1b0e`
    """
    home = open_platform()
    from ohlcv_pipeline.ledger import outbox

    row = _one(home, incident)
    told = outbox.of_incident(home.ledger, row.id)
    if as_json:
        console.write_json({"incident": _incident(row), "messages": [_message(message) for message in told]})
        return errors.SUCCESS
    console.table("Incident", ["field", "value"], list(_incident(row).items()))
    for message in told:
        outcome = f"sent {console.instant(message.sent_at)}" if message.sent_at else message.status
        console.out.print(f"{message.channel} {message.message_id}: {outcome}", markup=False)
        console.out.print(f"\n{message.payload['subject']}\n\n{message.payload['text']}", markup=False)
    return errors.SUCCESS


@app.command("test")
def sample(as_json: JsonOption = False) -> int:
    """Send a sample through every channel; exits 1 if one of them does not take it.

    - `ohlcv alerts test`
    """
    home = open_platform()
    from ohlcv_pipeline.operations.evaluation import deliver_due, enqueue_test

    now = datetime.now(UTC)
    names = enqueue_test(home.ledger, home.settings, now)
    if not names:
        raise CliError(
            "no channel is configured; set OHLCV_SMTP_HOST and OHLCV_ALERT_MAIL_TO, OHLCV_ALERT_APPRISE_URLS"
            " or OHLCV_ALERT_WEBHOOK_URL"
        )
    console.note(f"A sample was stored for {', '.join(names)}.")
    return _delivered(deliver_due(home.ledger, home.settings, now), as_json)


@app.command()
def send(as_json: JsonOption = False) -> int:
    """Send what waits, now, whatever it waits for; exits 1 if something was not accepted.

    The daemon and the service do it by themselves; this is for after a mail server was repaired.

    - `ohlcv alerts send`
    """
    home = open_platform()
    from ohlcv_pipeline.ledger import outbox
    from ohlcv_pipeline.operations.evaluation import deliver_due

    now = datetime.now(UTC)
    outbox.hasten(home.ledger, now)
    return _delivered(deliver_due(home.ledger, home.settings, now), as_json)


@app.command()
def ack(
    identifier: Annotated[
        str | None, typer.Argument(help="Of an incident or a message; the beginning is enough.", show_default=False)
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All messages that were given up.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Acknowledge a message that was given up, or a run that failed and will not be repeated.

    The message leaves the status page, the incident of the run ends. Other incidents end by themselves.

    - `ohlcv alerts ack 1f0c9a2e`
    - `ohlcv alerts ack --all`
    """
    if (identifier is None) is not every:
        raise UsageError("name an incident or a message, or write --all")
    home, now = open_platform(), datetime.now(UTC)
    from ohlcv_pipeline.ledger import incidents, outbox

    lost = [message for message in outbox.listed(home.ledger, unsent=True) if message.status == "given_up"]
    chosen = [m.id for m in lost if identifier is None or m.id.hex.startswith(identifier.replace("-", "").lower())]
    ended: list[UUID] = []
    if identifier is not None and not chosen:
        row = _one(home, identifier)
        if not incidents.end_failed_run(home.ledger, row.id, now):
            raise UsageError(f"incident {identifier} ends by itself; only a failed run can be acknowledged")
        ended = [row.id]
    count = outbox.acknowledge(home.ledger, chosen, now) if chosen else 0
    if as_json:
        console.write_json({"messages": chosen[:count], "incidents": ended})
    else:
        console.out.print(f"Acknowledged {many(count + len(ended), 'entry', 'entries')}.")
    return errors.SUCCESS


@app.command()
def mute(
    span: Annotated[str, typer.Option("--for", help="How long, e.g. 30m, 2h, 1d.")],
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who look.")],
    market: Annotated[str | None, typer.Option("--market", help="Market, e.g. crypto. Default: all.")] = None,
    start: Annotated[str | None, typer.Option("--start", help="An ISO time with zone. Default: now.")] = None,
    as_json: JsonOption = False,
) -> int:
    """Raise no alert for a while. What is still wrong at the end is told then.

    - `ohlcv alerts mute --for 2h --reason 'moving the database'`
    - `ohlcv alerts mute --for 1d --market crypto --start 2026-12-01T00:00Z --reason 'exchange upgrade'`
    """
    matched = _SPAN.fullmatch(span)
    if matched is None or not int(matched[1]):
        raise UsageError(f"--for {span}: write a number with m, h or d, e.g. 30m, 2h, 1d")
    if not reason.strip():
        raise UsageError("--reason is empty; say why nobody is to be told")
    home = open_platform()
    from ohlcv_pipeline.ledger import maintenance

    if market is not None:
        tables(home.settings, market, "day")
    begin = datetime.now(UTC) if start is None else _instant(start)
    with usage():
        window = maintenance.mute(
            home.ledger, market, begin, begin + timedelta(**{_UNITS[matched[2]]: int(matched[1])}), reason
        )
    return _show_windows([window], as_json)


@app.command()
def mutes(as_json: JsonOption = False) -> int:
    """List the times in which no alert is raised, those to come included.

    - `ohlcv alerts mutes`
    """
    home = open_platform()
    from ohlcv_pipeline.ledger import maintenance

    return _show_windows(maintenance.not_ended(home.ledger, datetime.now(UTC)), as_json)


@app.command()
def unmute(
    identifier: Annotated[str, typer.Argument(help="The beginning of an id is enough.", show_default=False)],
    as_json: JsonOption = False,
) -> int:
    """End such a time now, or take back one that has not begun.

    - `ohlcv alerts unmute 2c9be0f1`
    """
    home, now = open_platform(), datetime.now(UTC)
    from ohlcv_pipeline.ledger import maintenance

    windows = maintenance.not_ended(home.ledger, now)
    found = [each for each in windows if each.id.hex.startswith(identifier.replace("-", "").lower())]
    if len(found) != 1:
        raise UsageError(f"{identifier} names {len(found)} windows; `ohlcv alerts mutes` lists them")
    return _show_windows([maintenance.end(home.ledger, found[0].id, now)], as_json)


def _one(home: Platform, identifier: str) -> Incident:
    from ohlcv_pipeline.ledger import incidents

    found = incidents.matching(home.ledger, identifier)
    if len(found) != 1:
        raise UsageError(f"{identifier} names {len(found) or 'no'} incidents; `ohlcv alerts list --all` lists them")
    return found[0]


def _delivered(done: Delivery, as_json: bool) -> int:
    if as_json:
        console.write_json({"sent": done.sent, "failed": done.failed})
    else:
        console.out.print(f"{many(done.sent, 'message')} accepted, {len(done.failed)} not.")
        if done.failed:
            console.note(f"Refused with {', '.join(sorted(set(done.failed)))}; they are tried again by themselves.")
    return errors.FAILED if done.failed else errors.SUCCESS


def _incident(row: Incident) -> dict[str, Any]:
    return {
        "id": row.id,
        "kind": row.kind,
        "market": row.market,
        "asset": row.symbol,
        "interval": row.interval,
        "subject": row.subject,
        "state": row.state,
        "first_breach_at": row.first_breach_at,
        "opened_at": row.opened_at,
        "cleared_at": row.cleared_at,
        "lag_minutes": row.lag_minutes,
        "peak_lag_minutes": row.peak_lag_minutes,
        "threshold_minutes": row.threshold_minutes,
        "flap_count": row.flap_count,
        "suppressed_by": row.suppressed_by,
        "notified_at": row.notified_at,
        "run_id": row.run_id,
    }


def _line(row: Incident) -> list[object]:
    about = " ".join(part for part in (row.market, row.symbol, row.interval) if part != "*")
    told = console.instant(row.notified_at) if row.notified_at else row.suppressed_by or "waits"
    lag = None if row.lag_minutes is None else f"{row.lag_minutes:.1f}"
    return [
        *(str(row.id)[:8], row.kind, " ".join(filter(None, (about, row.subject))), row.state),
        *(console.instant(row.first_breach_at), lag, told),
    ]


def _message(row: Message) -> dict[str, Any]:
    return {
        "id": row.id,
        "channel": row.channel,
        "kind": row.kind,
        "message_id": row.message_id,
        "subject": row.payload["subject"],
        "status": row.status,
        "created_at": row.created_at,
        "sent_at": row.sent_at,
        "attempts": row.attempts,
        "next_attempt_at": row.next_attempt_at if row.status == "pending" else None,
        "last_error": row.last_error,
    }


def _show_windows(windows: list[MaintenanceWindow], as_json: bool) -> int:
    rows = [
        {"id": w.id, "market": w.market, "starts_at": w.starts_at, "ends_at": w.ends_at, "reason": w.reason}
        for w in windows
    ]
    if as_json:
        console.write_json({"windows": rows})
    else:
        shown = [
            (str(w.id)[:8], w.market or "all", console.instant(w.starts_at), console.instant(w.ends_at), w.reason)
            for w in windows
        ]
        console.table("No alerts", ["id", "market", "from", "until", "reason"], shown)
    return errors.SUCCESS


def _instant(text: str) -> datetime:
    from ohlcv_pipeline.bars.access import instant_us
    from ohlcv_pipeline.markets import from_us

    with usage():
        return from_us(instant_us(text))
