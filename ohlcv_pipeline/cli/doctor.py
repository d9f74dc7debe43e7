"""`ohlcv doctor`: everything the platform stands on, looked at once, with what to do about what is not right."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ohlcv_pipeline.cli import console, errors
from ohlcv_pipeline.cli.options import JsonOption, load_settings

if TYPE_CHECKING:
    from ohlcv_pipeline.platform import Platform
    from ohlcv_pipeline.settings import Settings

State = Literal["ok", "warn", "fail"]

OLDEST_PYTHON = (3, 11)
LOW_DISK, FULL_DISK = 5 << 30, 1 << 30
SKEW_WARN, SKEW_FAIL = 5.0, 60.0
_PATIENCE_SECONDS = 5.0
_CORE = ("dagster", "dagster-webserver", "dagster-graphql", "dagster-dg-cli")
_LIBRARIES = ("dagster-duckdb", "dagster-postgres")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice` says what to do unless it is ok."""

    what: str
    state: State
    found: str
    advice: str = ""


def doctor(as_json: JsonOption = False) -> int:
    """Check the installation: versions, folders, lake, ledger, vendors, disk, clock. Exits 1 on a failure.

    - `ohlcv doctor`
    - `ohlcv doctor --json | jq '.findings[] | select(.state != "ok")'`
    """
    chosen = load_settings()
    from ohlcv_pipeline.platform import Platform

    home = Platform(chosen)
    findings = [
        _python(), *_versions(), *_dagster(chosen), _lake(home), _ledger(home), *_vendors(chosen), _disk(chosen)
    ]  # fmt: skip
    failed = any(finding.state == "fail" for finding in findings)
    if as_json:
        console.write_json({"healthy": not failed, "findings": [asdict(finding) for finding in findings]})
    else:
        console.table("Doctor", ["what", "state", "found", "what to do"], [tuple(vars(f).values()) for f in findings])
        console.note("Something has to be repaired first." if failed else "Nothing stands in the way.")
    return errors.FAILED if failed else errors.SUCCESS


def _python() -> Finding:
    found = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info >= OLDEST_PYTHON:
        return Finding("Python", "ok", found)
    return Finding("Python", "fail", found, "install Python 3.11 or newer")


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    import duckdb

    from ohlcv_pipeline.lake.catalog import LakeError, _extension_file

    yield Finding("DuckDB", "ok", duckdb.__version__)
    for name in ("ducklake", "sqlite_scanner", "postgres_scanner"):
        try:
            _extension_file(name)
        except (LakeError, ModuleNotFoundError):
            package = f"duckdb-extension-{name.replace('_', '-')}"
            advice = f"pip install {package}=={duckdb.__version__}"
            yield Finding(f"DuckDB {name}", "fail", _installed(package) or "missing", advice)
        else:
            yield Finding(f"DuckDB {name}", "ok", duckdb.__version__)
    sqlalchemy = _installed("sqlalchemy")
    good = sqlalchemy is not None and tuple(map(int, sqlalchemy.split(".")[:2])) < (2, 1)
    advice = "" if good else "pip install 'sqlalchemy>=2.0,<2.1': dagster-postgres does not work with 2.1"
    yield Finding("SQLAlchemy", "ok" if good else "fail", sqlalchemy or "missing", advice)


def _dagster(chosen: Settings) -> Iterator[Finding]:
    from ohlcv_pipeline.cli import instance

    releases = {name: _installed(name) for name in (*_CORE, *_LIBRARIES)}
    # Libraries count 0.16 behind the core: 1.13.27 goes with 0.29.27.
    core = releases["dagster"] or ""
    major, minor, patch = ([*map(int, core.split(".")[:3]), 0, 0, 0])[:3]
    library = f"0.{minor + 16}.{patch}" if major == 1 else core
    wrong = [name for name in _CORE if releases[name] != core] + [n for n in _LIBRARIES if releases[n] != library]
    if wrong:
        shown = ", ".join(f"{name} {releases[name]}" for name in wrong)
        yield Finding("Dagster", "fail", f"{core}, but {shown}", "install one release of all of Dagster")
    else:
        yield Finding("Dagster", "ok", core)
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else chosen.dagster_home
    if not home.is_absolute():
        yield Finding("DAGSTER_HOME", "fail", str(home), f"set it to {home.resolve()} or unset it")
        return
    nearest = next(path for path in (home, *home.parents) if path.exists())
    if not os.access(nearest, os.W_OK):
        yield Finding("DAGSTER_HOME", "fail", f"{home} is not writable", "choose another OHLCV_HOME")
        return
    yield Finding("DAGSTER_HOME", "ok", str(home))
    target = home / "dagster.yaml"
    if not target.exists():
        yield Finding("dagster.yaml", "warn", "not there yet", "the first `ohlcv backfill` or `ohlcv up` puts it there")
    elif target.read_bytes() != instance.configuration_file().read_bytes():
        yield Finding("dagster.yaml", "warn", "differs from the one shipped", "fine if you changed it on purpose")
    else:
        yield Finding("dagster.yaml", "ok", str(target))


def _lake(home: Platform) -> Finding:
    from ohlcv_pipeline.lake.catalog import LakeError
    from ohlcv_pipeline.lake.tables import MIGRATIONS

    try:
        if not home.reading.catalog.exists:
            return Finding("lake", "warn", "no lake yet", "`ohlcv backfill` makes one")
        found = home.reading.reader.query("SELECT max(version) AS version FROM lake.lake_version").to_pylist()
    except LakeError as error:
        return Finding("lake", "fail", " ".join(str(error).split()), "check OHLCV_LAKE_CATALOG and its server or file")
    newest, have = 1 + len(MIGRATIONS), found[0]["version"]
    if have > newest:
        return Finding("lake", "fail", f"version {have}", f"this release knows {newest}; upgrade the package")
    return Finding("lake", "ok", f"{home.settings.catalog_path.split(':', 1)[0]} catalog, version {have}")


def _ledger(home: Platform) -> Finding:
    from sqlalchemy.exc import SQLAlchemyError

    from ohlcv_pipeline.ledger.errors import LedgerError

    try:
        kind = home.ledger.engine.dialect.name
    except (LedgerError, SQLAlchemyError) as error:
        return Finding("ledger", "fail", " ".join(str(error).split()), "check OHLCV_LEDGER_URL and its server or file")
    return Finding("ledger", "ok", kind)


def _vendors(chosen: Settings) -> Iterator[Finding]:
    import httpx

    from ohlcv_pipeline.markets import market
    from ohlcv_pipeline.settings import FOLDER_VENDORS

    names = dict.fromkeys(vendor for name in chosen.markets for vendor in market(name).vendors)
    yield from (_folder(name, chosen.vendor(name).folder) for name in names if name in FOLDER_VENDORS)
    if chosen.profile == "sandbox":
        targets = {"sandbox": f"{chosen.sandbox_url}/admin/health"}
    else:
        targets = {name: chosen.vendor(name).base_url for name in names if name not in FOLDER_VENDORS}
    skews = []
    for name, url in targets.items():
        what = name if name == "sandbox" else f"vendor {name}"
        begun = time.perf_counter()
        try:
            answer = httpx.get(url, timeout=_PATIENCE_SECONDS, trust_env=name != "sandbox")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            advice = "start it with `ohlcv up`" if name == "sandbox" else "check the network, a proxy, or its address"
            yield Finding(what, "fail", f"{url} does not answer ({type(error).__name__})", advice)
            continue
        yield Finding(what, "ok", f"{url} answers in {1000 * (time.perf_counter() - begun):.0f} ms")
        if "date" in answer.headers:
            skews.append((parsedate_to_datetime(answer.headers["date"]) - datetime.now(UTC)).total_seconds())
    if skews:
        skew = min(skews, key=abs)
        state: State = "ok" if abs(skew) < SKEW_WARN else "warn" if abs(skew) < SKEW_FAIL else "fail"
        advice = "" if state == "ok" else "set this machine's clock (NTP): which bars are due depends on it"
        yield Finding("clock", state, f"{skew:+.0f} s beside the vendors'", advice)


def _folder(vendor: str, folder: str) -> Finding:
    advice = f"set OHLCV_VENDORS__{vendor.upper()}__FOLDER to the folder of the files"
    if not folder:
        return Finding(f"vendor {vendor}", "fail", "no folder is set", advice)
    if not os.access(folder, os.R_OK | os.X_OK) or not Path(folder).is_dir():
        return Finding(f"vendor {vendor}", "fail", f"{folder} is no folder that can be read", advice)
    return Finding(f"vendor {vendor}", "ok", folder)


def _disk(chosen: Settings) -> Finding:
    nearest = next(path for path in (chosen.root, *chosen.root.parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    state: State = "ok" if free >= LOW_DISK else "warn" if free >= FULL_DISK else "fail"
    return Finding(
        "disk", state, f"{free / (1 << 30):.1f} GiB free", "" if state == "ok" else f"make room at {nearest}"
    )
