"""A running sandbox exchange for tests: `with running_exchange() as exchange: ... exchange.url`.

A real process on a free loopback port. The sandbox's own tests are in `sandbox/`.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import httpx

READY_WITHIN = 30.0


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


class Exchange:
    """A handle on a sandbox process. Vendors live below `url`: `/coinbase`, `/kraken`, `/alpaca` and so on.

    Instants go in as aware datetimes or ISO strings with a zone, and come back as `...Z` strings. A request
    that the sandbox refuses raises ValueError with its sentence.
    """

    def __init__(self, url: str, mail_port: int) -> None:
        self.url = url
        self.mail_port = mail_port
        self.http = httpx.Client(base_url=url, timeout=30.0, trust_env=False)

    def _admin(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        answer = self.http.request(method, f"/admin/{path}", **options)
        if answer.status_code >= 400:
            raise ValueError(answer.json()["error"])
        content: dict[str, Any] = answer.json()
        return content

    def fault(self, **fields: object) -> dict[str, Any]:
        """Switch a fault on, e.g. `fault(kind="outage", vendor="coinbase", times=3)`; return it with its id."""
        posted = {name: _plain(value) for name, value in fields.items()}
        return self._admin("POST", "faults", json=posted)["faults"][0]

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that are on."""
        return self._admin("GET", "faults")["faults"]

    def clear(self) -> None:
        """Switch all faults off."""
        self._admin("DELETE", "faults")

    def requests(self, vendor: str | None = None) -> list[dict[str, Any]]:
        """Return the newest 10,000 requests, oldest first: time, vendor, path (with query), status."""
        return self._admin("GET", "requests", params={"vendor": vendor} if vendor else {})["requests"]

    def counts(self) -> dict[str, dict[str, int]]:
        """Return requests by vendor and status; status "0" is a connection closed without an answer."""
        return self._admin("GET", "requests")["counts"]

    def reset_requests(self) -> None:
        """Forget the requests so far."""
        self._admin("DELETE", "requests")

    def outages(self, vendor: str | None, start: object, end: object) -> list[dict[str, str]]:
        """Return the declared outages that touch [start, end): vendor, start, end (inclusive minutes)."""
        query = {"vendor": vendor, "start": _plain(start), "end": _plain(end)}
        found = self._admin("GET", "outages", params={name: str(value) for name, value in query.items() if value})
        return found["outages"]

    def limits(
        self, vendor: str, *, enabled: bool = True, rate: float | None = None, burst: float | None = None
    ) -> None:
        """Set a vendor's limit, `rate` tokens a second up to `burst`, and refill it."""
        fields = {"vendor": vendor, "enabled": enabled, "rate": rate, "burst": burst}
        self._admin("PUT", "limits", json={name: value for name, value in fields.items() if value is not None})

    def clock(self, now: object = None, *, advance_seconds: float | None = None) -> str:
        """Freeze the clock at `now`, or move it; with neither, only return the sandbox's time."""
        if now is None and advance_seconds is None:
            return str(self._admin("GET", "clock")["now"])
        fields = {"now": _plain(now)} if now is not None else {"advance_seconds": advance_seconds}
        return str(self._admin("PUT", "clock", json=fields)["now"])

    def mails(self) -> list[dict[str, Any]]:
        """Return the mails it took, oldest first: subject, headers, text, recipients."""
        return self._admin("GET", "mail")["mails"]

    def forget_mails(self) -> None:
        """Forget the mails."""
        self._admin("DELETE", "mail")

    def refuse_mail(self, refusing: bool) -> None:
        """Let the mailbox answer every mail with 451, or take them again."""
        self._admin("PUT", "mail", json={"refusing": refusing})

    def wall_clock(self) -> str:
        """Let the clock run with the machine's again."""
        return str(self._admin("PUT", "clock", json={"now": None})["now"])


@contextlib.contextmanager
def running_exchange(seed: int = 7, limits: bool = False, now: datetime | str | None = None) -> Iterator[Exchange]:
    """Start a sandbox on a free port of 127.0.0.1; stop it at the end. `now` freezes its clock."""
    command = [sys.executable, "-m", "ohlcv_pipeline.sandbox", "--port", "0", "--smtp-port", "0", "--seed", str(seed)]
    command += ["--limits", "on" if limits else "off"]
    if now is not None:
        command += ["--now", str(_plain(now))]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    exchange = None
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " ready on " not in line:
            raise RuntimeError(f"the sandbox did not start: {line}{process.stdout.read()}")
        exchange = Exchange(line.split(" ready on ")[1].split()[0], int(line.split("mail ")[1].rstrip(")\n")))
        _await_health(exchange)
        yield exchange
    finally:
        if exchange is not None:
            exchange.http.close()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_health(exchange: Exchange) -> None:
    deadline = time.monotonic() + READY_WITHIN
    while True:
        try:
            exchange.http.get("/admin/health").raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
        else:
            return
