"""`ohlcv serve`: the HTTP service in the foreground: status page, status and lineage API, ingestion requests."""

from __future__ import annotations

import logging
import socket
from typing import Annotated

import typer

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.errors import CliError, UsageError
from ohlcv_pipeline.cli.options import open_platform

_GRACE_SECONDS = 10


def serve(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0 for any free one.")] = 8000,
) -> int:
    """Serve the status page and the HTTP API in the foreground.

    It stops when interrupted, after the answers that are under way.

    - `ohlcv serve`
    - `ohlcv serve --host 0.0.0.0 --port 8080` – for others, too; put a proxy with TLS in front
    """
    home = open_platform()
    import uvicorn

    from ohlcv_pipeline.service.app import UnsafeSettingsError, create_app

    try:
        app = create_app(home)
    except UnsafeSettingsError as error:
        raise UsageError(str(error)) from error
    try:
        listener = socket.create_server((host, port), backlog=1024)
    except OSError as error:
        raise CliError(f"port {port} of {host} cannot be had ({error.strerror}); choose one with --port") from error
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s %(message)s", level=logging.WARNING)
    logging.getLogger("ohlcv_pipeline").setLevel(logging.INFO)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
    )
    # The socket listens already: who connects now is answered as soon as the server accepts.
    console.out.print(f"Serving on http://{host}:{listener.getsockname()[1]}/")
    server.run(sockets=[listener])
    return errors.SUCCESS
