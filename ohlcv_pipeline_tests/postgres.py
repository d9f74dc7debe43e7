"""A throw-away Postgres server from the system's binaries, for tests that want the real engine."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from ohlcv_pipeline.cli.processes import free_port

START_SECONDS = 30.0


class PostgresMissing(Exception):  # noqa: N818
    """There is no server to start here. The message is a reason to skip."""


@contextmanager
def running_postgres() -> Iterator[str]:
    """Start a server on a free port of the loopback and yield its `postgresql://` URL.

    The role may create databases. Everything is deleted at the end. Raises PostgresMissing when the
    binaries are not installed, or when only root is here, whom initdb refuses.
    """
    binaries, user = _binaries(), _user()
    # Not below pytest's own folders: the server's user may not enter those of root.
    folder = Path(tempfile.mkdtemp(prefix="ohlcv-postgres-"))
    try:
        if user is not None:
            shutil.chown(folder, user)
        cluster = folder / "cluster"
        subprocess.run(
            [binaries / "initdb", "-D", cluster, "-U", "ohlcv", "-A", "trust", "-E", "UTF8", "--no-sync"],
            user=user, cwd=folder, check=True, capture_output=True, timeout=START_SECONDS,
        )  # fmt: skip
        port = free_port()
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen(
                [
                    binaries / "postgres", "-D", cluster, "-p", str(port), "-k", folder,
                    "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c", "max_connections=100",
                ],
                user=user, cwd=folder, stdout=log, stderr=log,
            )  # fmt: skip
        try:
            url = f"postgresql://ohlcv@127.0.0.1:{port}/postgres"
            _wait(server, url, folder / "log")
            yield url
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(START_SECONDS)
    finally:
        shutil.rmtree(folder)


def _binaries() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parents[1].name))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    if on_path is None:
        raise PostgresMissing("no initdb in /usr/lib/postgresql or on PATH; install the package postgresql")
    return Path(on_path).resolve().parent


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        raise PostgresMissing("initdb refuses root, and there is no user postgres to run it as") from None


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    give_up = time.monotonic() + START_SECONDS
    while True:
        try:
            psycopg2.connect(url).close()
        except psycopg2.OperationalError:
            if server.poll() is not None or time.monotonic() > give_up:
                raise RuntimeError(f"Postgres did not start: {log.read_text()}") from None
            time.sleep(0.02)
        else:
            return
