"""Background processes of an installation: started in a session of their own, found again by their pid files.

What is started, and when it counts as ready, is decided by the commands.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ohlcv_pipeline.cli.errors import CliError

if TYPE_CHECKING:
    from ohlcv_pipeline.settings import Settings

_PROBE_SECONDS = 2.0
_GRACE_SECONDS = 20.0
_PORTS = range(20_000, 32_000)


@dataclass(frozen=True)
class Service:
    """One background process: its name, the folder of its pid file and log, and a word of its command line."""

    name: str
    folder: Path
    mark: str

    @property
    def log(self) -> Path:
        """Where its output goes."""
        return self.folder / f"{self.name}.log"

    @property
    def pid_file(self) -> Path:
        """Where its process id is kept, which is also the id of its process group."""
        return self.folder / f"{self.name}.pid"

    def pid(self) -> int | None:
        """Return the process id if the process lives and is ours: ids are used again after a restart."""
        try:
            pid = int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None
        shown = subprocess.run(["ps", "-p", str(pid), "-o", "command="], capture_output=True, text=True, check=False)
        return pid if self.mark in shown.stdout else None

    def start(self, command: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
        """Start the process in the background; it outlives this one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, **(environment or {})},
            )
        self.pid_file.write_text(f"{process.pid}\n")
        return process.pid

    def stop(self) -> bool:
        """End the process and its children, kindly first; return whether there was one."""
        pid = self.pid()
        if pid is not None:
            end_group(pid)
        self.pid_file.unlink(missing_ok=True)
        return pid is not None

    def last_words(self) -> str:
        """Return the last line of the log."""
        try:
            lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        except FileNotFoundError:
            return "nothing"
        return lines[-1].strip() if lines else "nothing"


def end_group(pid: int) -> None:
    """End a process group, by force after some seconds."""
    deadline = time.monotonic() + _GRACE_SECONDS
    try:
        os.killpg(pid, signal.SIGTERM)
        while _group_lives(pid):
            if time.monotonic() > deadline:
                os.killpg(pid, signal.SIGKILL)
                return
            time.sleep(0.1)
    except (ProcessLookupError, PermissionError):
        # The group is gone; on macOS a group of zombies answers with a permission error.
        return


def _group_lives(pid: int) -> bool:
    """Return whether a process of the group still runs; one that waits for its parent to notice its end does not."""
    shown = subprocess.run(["ps", "-A", "-o", "pgid=,stat="], capture_output=True, text=True, check=False)
    groups = (line.split() for line in shown.stdout.splitlines())
    return any(group == str(pid) and not state.startswith("Z") for group, state in groups)


def wait_until(ready: Callable[[], bool], service: Service, seconds: float, url: str) -> None:
    """Wait until a service answers. Raises CliError when it ends, or does not answer in time."""
    deadline = time.monotonic() + seconds
    while not ready():
        pid = service.pid()
        if pid is None or _ended(pid):
            raise CliError(f"{service.name} ended at once, saying: {service.last_words()} (log: {service.log})")
        if time.monotonic() > deadline:
            raise CliError(f"{service.name} does not answer at {url} after {seconds:.0f} s; see {service.log}")
        time.sleep(0.1)


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


def is_free(port: int) -> bool:
    """Return whether a port of 127.0.0.1 can be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_port(*beside: int) -> int:
    """Return a port that is free, and so are those that many above it.

    It is none of those from which systems take a port for an outgoing connection (32768 and more): such a one may be
    gone before it is listened on.
    """
    candidates = random.SystemRandom().sample(_PORTS, len(_PORTS))
    return next(port for port in candidates if all(is_free(port + more) for more in (0, *beside)))


def answers(url: str) -> bool:
    """Return whether a GET of this address is answered with success."""
    import httpx

    try:
        return httpx.get(url, timeout=_PROBE_SECONDS, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def sandbox_answers(url: str) -> bool:
    """Return whether a sandbox answers at its base address."""
    return answers(f"{url}/admin/health")


def require_sandbox(chosen: Settings) -> None:
    """Raise CliError when the sandbox profile's sandbox is away: every request would wait for its last retry."""
    if chosen.profile == "sandbox" and not sandbox_answers(chosen.sandbox_url):
        raise CliError(
            f"no sandbox answers at {chosen.sandbox_url}; start one with `ohlcv up` or `ohlcv sandbox`,"
            " or set OHLCV_PROFILE=live"
        )


def sandbox_command(url: str, limits: str = "off", seed: int = 7) -> list[str]:
    """Return the command that serves a sandbox at its base address and takes mail. Raises CliError without a port."""
    parts = urlsplit(url)
    if parts.hostname is None or parts.port is None:
        raise CliError(f"OHLCV_SANDBOX_URL={url} has no host and port; write e.g. http://127.0.0.1:8900")
    from ohlcv_pipeline.settings import sandbox_mail_address

    mail = sandbox_mail_address(url)
    return [
        sys.executable, "-m", "ohlcv_pipeline.sandbox", "--host", parts.hostname, "--port", str(parts.port),
        "--limits", limits, "--seed", str(seed), *(() if mail is None else ("--smtp-port", str(mail[1]))),
    ]  # fmt: skip


def run_folder(chosen: Settings) -> Path:
    """Return where pid files and logs of an installation are kept."""
    return chosen.root / "run"
