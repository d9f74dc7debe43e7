"""`ohlcv up` and `ohlcv down`: sandbox, Dagster and the HTTP service in the background, and how they are ended."""

from __future__ import annotations

import sys
from collections.abc import Callable
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
_STATUS_SECONDS = 30.0

PortOption = Annotated[int, typer.Option("--port", min=1, max=65535, help="Port of the Dagster UI.")]
StatusPortOption = Annotated[int, typer.Option("--status-port", min=1, max=65535, help="Port of the status page.")]


def up(port: PortOption = 3000, status_port: StatusPortOption = 8000, as_json: JsonOption = False) -> int:
    """Start everything in the background: sandbox (in its profile), Dagster's webserver and daemon, status page.

    They outlive the terminal; what is stored outlives them. A second `up` finds them running.

    - `ohlcv up`
    - `ohlcv up --port 3001 --status-port 8001`
    - `ohlcv down` – stop them
    """
    chosen = load_settings()
    services = start(chosen, port, status_port)
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
    services = (_status(chosen), _dagster(chosen), _sandbox(chosen))
    stopped = [service.name for service in services if service.stop()]
    if as_json:
        console.write_json({"stopped": stopped})
    else:
        console.out.print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
    return errors.SUCCESS


def start(chosen: Settings, port: int, status_port: int) -> list[dict[str, str]]:
    """Start what is not running yet and wait until it answers; return each service's name, state and URL."""
    found = [start_sandbox(chosen)] if chosen.profile == "sandbox" else []
    return [*found, _start_dagster(chosen, port), _start_status(chosen, status_port)]


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
    def begin(service: Service) -> None:
        home = instance.prepare_dagster_home(chosen)
        command = [sys.executable, "-m", "dagster", "dev", "-m", "ohlcv_pipeline.definitions"]
        service.start([*command, "-h", "127.0.0.1", "-p", str(port)], {"DAGSTER_HOME": str(home)})

    return _start(_dagster(chosen), "Dagster", begin, port, "--port", "/server_info", _DAGSTER_SECONDS)


def _start_status(chosen: Settings, port: int) -> dict[str, str]:
    def begin(service: Service) -> None:
        service.start([sys.executable, "-m", "ohlcv_pipeline.cli", "serve", "--port", str(port)])

    return _start(_status(chosen), "the status page", begin, port, "--status-port", "/openapi.json", _STATUS_SECONDS)


def _start(
    service: Service, what: str, begin: Callable[[Service], None], port: int, option: str, probe: str, seconds: float
) -> dict[str, str]:
    """Start a service on a port of loopback, unless it answers already; `option` chooses another port."""
    address = service.folder / f"{service.name}.url"
    if service.pid() is not None and address.exists():
        url = address.read_text().strip()
        if processes.answers(f"{url}{probe}"):
            return {"name": service.name, "state": "already running", "url": url}
        service.stop()
    _require_free(port, option)
    url = f"http://127.0.0.1:{port}"
    console.note(f"Starting {what} on {url} …")
    begin(service)
    address.write_text(f"{url}\n")
    try:
        processes.wait_until(lambda: processes.answers(f"{url}{probe}"), service, seconds, url)
    except CliError:
        service.stop()
        raise
    return {"name": service.name, "state": "started", "url": url}


def _require_free(port: int, option: str) -> None:
    if not processes.is_free(port):
        raise CliError(f"port {port} is taken by another program; choose one with {option} {port + 1}")


def _sandbox(chosen: Settings) -> Service:
    return Service("sandbox", processes.run_folder(chosen), "ohlcv_pipeline.sandbox")


def _status(chosen: Settings) -> Service:
    return Service("status", processes.run_folder(chosen), "ohlcv_pipeline.cli serve")


def _dagster(chosen: Settings) -> Service:
    return Service("dagster", processes.run_folder(chosen), "ohlcv_pipeline.definitions")
