"""`ohlcv sandbox`: the made-up exchange in the foreground, its faults and its declared outages."""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import CliError, UsageError
from ohlcv_pipeline.cli.options import JsonOption, load_settings

app = typer.Typer()


@app.callback(invoke_without_command=True)
def run(
    context: typer.Context,
    port: Annotated[int | None, typer.Option("--port", help="Default: that of OHLCV_SANDBOX_URL.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bars.")] = 7,
    limits: Annotated[str, typer.Option("--limits", help="on or off: enforce the vendors' request limits.")] = "off",
    now: Annotated[str | None, typer.Option("--now", help="Freeze its clock at an ISO time with zone.")] = None,
) -> int:
    """Run a made-up exchange on loopback in the foreground; switch its faults, list its outages.

    It stops when interrupted.

    - `ohlcv sandbox`
    - `ohlcv sandbox --port 8901 --limits on`
    - `ohlcv sandbox faults --add '{"kind":"outage","vendor":"coinbase","times":3}'`
    - `ohlcv sandbox outages`
    """
    if context.invoked_subcommand is not None:
        return errors.SUCCESS
    if limits not in ("on", "off"):
        raise UsageError(f"--limits {limits}: write on or off")
    from ohlcv_pipeline.cli.processes import sandbox_command

    url = load_settings().sandbox_url
    command = sandbox_command(url if port is None else f"http://127.0.0.1:{port}", limits, seed)
    if now is not None:
        command += ["--now", now]
    sys.stdout.flush()
    return os.execv(sys.executable, command)


@app.command()
def faults(
    add: Annotated[list[str] | None, typer.Option("--add", help="A fault as JSON. Repeatable.")] = None,
    clear: Annotated[bool, typer.Option("--clear", help="Switch all faults off first.")] = False,
    as_json: JsonOption = False,
) -> int:
    """Switch faults on or off, and list those that are on.

    - `ohlcv sandbox faults`
    - `ohlcv sandbox faults --add '{"kind":"rate_limit","vendor":"coinbase","retry_after":2,"times":5}'`
    - `ohlcv sandbox faults --clear`
    """
    url = load_settings().sandbox_url
    if clear:
        ask(url, "DELETE", "/admin/faults")
    if add:
        post_faults(url, add)
    found = ask(url, "GET", "/admin/faults")["faults"]
    if as_json:
        console.write_json({"faults": found})
    elif found:
        console.table(
            "Faults", ["id", "fault"], [(f["id"], json.dumps({k: v for k, v in f.items() if k != "id"})) for f in found]
        )
    else:
        console.out.print("No faults are on.")
    return errors.SUCCESS


@app.command()
def outages(
    days: Annotated[int, typer.Option("--days", min=1, help="How far back.")] = 90, as_json: JsonOption = False
) -> int:
    """List the outages that the sandbox declares: they are the gaps a complete backfill leaves.

    - `ohlcv sandbox outages --days 365`
    """
    now = datetime.now(UTC)
    query = {"start": (now - timedelta(days=days)).isoformat(), "end": now.isoformat()}
    found = ask(load_settings().sandbox_url, "GET", "/admin/outages", query=query)["outages"]
    if as_json:
        console.write_json({"outages": found})
    else:
        rows = [(each["vendor"], each["start"], each["end"]) for each in found]
        console.table("Declared outages", ["vendor", "first missing minute", "last missing minute"], rows)
    return errors.SUCCESS


def post_faults(url: str, faults: list[str]) -> None:
    """Switch faults on, given as JSON texts. Raises UsageError for one that is no fault."""
    try:
        content = [json.loads(text) for text in faults]
    except json.JSONDecodeError as error:
        shape = '{"kind":"empty","vendor":"coinbase"}'
        raise UsageError(f"a fault must be JSON, e.g. {shape}: {error}") from error
    ask(url, "POST", "/admin/faults", content)


def ask(url: str, method: str, path: str, content: object = None, query: dict[str, str] | None = None) -> Any:
    """Return the sandbox's answer to an admin request. Raises CliError, or UsageError where it refuses."""
    import httpx

    try:
        answer = httpx.request(method, f"{url}{path}", json=content, params=query, timeout=10.0, trust_env=False)
    except httpx.HTTPError as error:
        raise CliError(
            f"no sandbox answers at {url} ({type(error).__name__}); start one with `ohlcv sandbox`"
        ) from error
    if answer.is_error:
        raise UsageError(f"the sandbox refused {method} {path}: {answer.json().get('error', answer.status_code)}")
    return answer.json()
