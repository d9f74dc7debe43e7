"""`ohlcv up` and `ohlcv down`: sandbox, webserver and daemon in the background, and how they are ended."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ohlcv_pipeline.cli import console, errors, instance, processes
from ohlcv_pipeline.cli.errors import CliError
from ohlcv_pipeline.cli.options import JsonOption, load_settings
from ohlcv_pipeline.cli.processes import Service

if TYPE_CHECKING:
    from ohlcv_pipeline.settings import Settings

_SANDBOX_SECONDS = 20.0
_DAGSTER_SECONDS = 90.0

PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the Dagster UI.")]


def up(port: PortOption = 3000, as_json: JsonOption = False) -> int:
    """Start everything in the background: the sandbox (in its profile), Dagster's webserver and daemon.

    They outlive the terminal; what is stored outlives them. A second `up` finds them running.

    - `ohlcv up`
    - `ohlcv up --port 3001`
    - `ohlcv down` – stop them
    """
    chosen = load_settings()
    services = start(chosen, port)
    if as_json:
        console.write_json({"services": services, "logs": processes.run_folder(chosen)})
        return errors.SUCCESS
    console.table("Running", ["what", "state", "address"], [(s["name"], s["state"], s["url"]) for s in services])
    console.note(f"Logs are in {processes.run_folder(chosen)}. `ohlcv down` stops all of it.")
    return errors.SUCCESS


def down(as_json: JsonOption = False) -> int:
    """Stop what `ohlcv up` has started. What is stored stays.

    - `ohlcv down`
    """
    chosen = load_settings()
    stopped = [service.name for service in (_dagster(chosen), _sandbox(chosen)) if service.stop()]
    if as_json:
        console.write_json({"stopped": stopped})
    else:
        console.out.print(f"Stopped {' and '.join(stopped)}." if stopped else "Nothing was running.")
    return errors.SUCCESS


def start(chosen: Settings, port: int) -> list[dict[str, str]]:
    """Start what is not running yet and wait until it answers; return each service's name, state and URL."""
    found = [start_sandbox(chosen)] if chosen.profile == "sandbox" else []
    return [*found, _start_dagster(chosen, port)]


def start_sandbox(chosen: Settings) -> dict[str, str]:
    """Start the sandbox, without request limits, unless one answers already."""
    url, service = chosen.sandbox_url, _sandbox(chosen)
    if processes.sandbox_answers(url):
        return {"name": service.name, "state": "already running", "url": url}
    service.stop()
    console.note(f"Starting the sandbox on {url} …")
    service.start(processes.sandbox_command(url))
    processes.wait_until(lambda: processes.sandbox_answers(url), service, _SANDBOX_SECONDS, url)
    return {"name": service.name, "state": "started", "url": url}


def _start_dagster(chosen: Settings, port: int) -> dict[str, str]:
    service = _dagster(chosen)
    address = service.folder / "dagster.url"
    if service.pid() is not None and address.exists():
        url = address.read_text().strip()
        if processes.answers(f"{url}/server_info"):
            return {"name": service.name, "state": "already running", "url": url}
        service.stop()
    _require_free(port)
    home = instance.prepare_dagster_home(chosen)
    url = f"http://127.0.0.1:{port}"
    console.note(f"Starting Dagster on {url} …")
    command = [sys.executable, "-m", "dagster", "dev", "-m", "ohlcv_pipeline.definitions"]
    service.start([*command, "-h", "127.0.0.1", "-p", str(port)], {"DAGSTER_HOME": str(home)})
    address.write_text(f"{url}\n")
    try:
        processes.wait_until(lambda: processes.answers(f"{url}/server_info"), service, _DAGSTER_SECONDS, url)
    except CliError:
        service.stop()
        raise
    return {"name": service.name, "state": "started", "url": url}


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CliError(f"port {port} is taken by another program; choose one with --port {port + 1}") from error


def _sandbox(chosen: Settings) -> Service:
    return Service("sandbox", processes.run_folder(chosen), "ohlcv_pipeline.sandbox")


def _dagster(chosen: Settings) -> Service:
    return Service("dagster", processes.run_folder(chosen), "ohlcv_pipeline.definitions")
