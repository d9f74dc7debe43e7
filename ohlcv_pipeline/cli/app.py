"""The application: every command registered, every expected error told in one sentence, every end an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from ohlcv_pipeline import __version__
from ohlcv_pipeline.cli import (
    actions,
    alerts,
    backfill,
    checks,
    demo,
    doctor,
    explain,
    export,
    gaps,
    maintain,
    quarantine,
    reconcile,
    remedies,
    retention,
    revisions,
    runs,
    sandbox,
    serve,
    services,
    status,
    symbols,
    verify,
)
from ohlcv_pipeline.cli.console import err, out
from ohlcv_pipeline.cli.errors import FAILED, USAGE, CliError, expected_errors, sentence

_TYPER_USAGE = 2
"""The code that typer gives its own usage errors; here 2 means partial."""

_INTERRUPTED = 130
"""What typer makes of a keyboard interrupt, as shells do."""

app = typer.Typer(
    name="ohlcv",
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


@app.callback(invoke_without_command=True)
def ohlcv(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> int:
    """Market data in which every bar is accounted for.

    Settings come from the environment and `.env` (`OHLCV_PROFILE`, `OHLCV_HOME`, `OHLCV_MARKETS` …).
    Exit codes: 0 success, 1 failed, 2 partial, 64 usage error. Begin with `ohlcv demo`.
    """
    if version:
        out.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        out.print(context.get_help())
    return 0


app.command("demo", rich_help_panel="Start")(demo.demo)
app.command("up", rich_help_panel="Start")(services.up)
app.command("down", rich_help_panel="Start")(services.down)
app.command("serve", rich_help_panel="Start")(serve.serve)
app.command("doctor", rich_help_panel="Start")(doctor.doctor)
backfill.app.command("plan")(remedies.plan)
backfill.app.command("run")(remedies.run)
backfill.app.command("status")(runs.status)
app.add_typer(backfill.app, name="backfill", rich_help_panel="Bars")
app.command("report", rich_help_panel="Bars")(runs.report)
app.command("status", rich_help_panel="Bars")(status.status)
app.command("gaps", rich_help_panel="Bars")(gaps.gaps)
app.command("explain", rich_help_panel="Bars")(explain.explain)
app.command("export", rich_help_panel="Bars")(export.export)
app.command("revisions", rich_help_panel="Trust")(revisions.revisions)
app.add_typer(actions.app, name="actions", rich_help_panel="Bars")
app.add_typer(symbols.app, name="symbols", rich_help_panel="Bars")
app.command("verify", rich_help_panel="Trust")(verify.verify)
app.add_typer(quarantine.app, name="quarantine", rich_help_panel="Trust")
app.command("checks", rich_help_panel="Trust")(checks.checks)
app.command("reconcile", rich_help_panel="Trust")(reconcile.reconcile)
app.command("maintain", rich_help_panel="Trust")(maintain.maintain)
app.command("retention", rich_help_panel="Trust")(retention.retention)
app.add_typer(alerts.app, name="alerts", rich_help_panel="Trust")
app.add_typer(sandbox.app, name="sandbox", rich_help_panel="Trust")


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name="ohlcv", standalone_mode=False)
    except typer.TyperException as error:
        _complain(error.format_message())
        return USAGE if error.exit_code == _TYPER_USAGE else FAILED
    except typer.Abort:
        _complain("stopped")
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has what it wanted, e.g. `head`.
        sys.stderr.close()
        return FAILED
    # Evaluated only once something was raised, so that a command that succeeds imports nothing for it.
    except expected_errors() as error:
        _complain(sentence(error))
        return _code_of(error)
    if code == _INTERRUPTED:
        _complain("interrupted")
    return code if isinstance(code, int) else 0


def _code_of(error: Exception) -> int:
    from ohlcv_pipeline.ledger.errors import UnknownSymbolError

    if isinstance(error, CliError):
        return error.exit_code
    return USAGE if isinstance(error, UnknownSymbolError) else FAILED


def _complain(text: str) -> None:
    err.print(f"ohlcv: {text}", markup=False, soft_wrap=True)


def main() -> None:
    """Run the command line of this process."""
    sys.exit(run())
