"""Dagster runs from the command line: the instance below DAGSTER_HOME, and one run of one of the refresh jobs.

The run is executed in this process, and recorded as any other: the same job, the same asset, the same checks.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ohlcv_pipeline import event_log
from ohlcv_pipeline.cli import console
from ohlcv_pipeline.cli.errors import CliError

if TYPE_CHECKING:
    from dagster import DagsterInstance, Definitions, ExecuteInProcessResult, TableMetadataValue

    from ohlcv_pipeline.settings import Settings

TRIGGER_TAG = "ohlcv/trigger"
_INTERRUPTED = "DagsterExecutionInterruptedError"


@dataclass(frozen=True)
class CheckOutcome:
    """One asset check as a run left it."""

    check: str
    passed: bool
    severity: str
    summary: str
    worst: Sequence[Mapping[str, Any]] = ()

    @property
    def red(self) -> bool:
        """Whether it failed with severity ERROR."""
        return not self.passed and self.severity == "ERROR"


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run. `failed` maps the symbols that could not be accounted for to a code."""

    run_id: str
    success: bool
    seconds: float
    failed: Mapping[str, str] = field(default_factory=dict)
    error: str | None = None
    checks: Sequence[CheckOutcome] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the run as part of a JSON document."""
        return {
            "run_id": self.run_id,
            "success": self.success,
            "seconds": round(self.seconds, 3),
            "failed": self.failed,
            "error": self.error,
            "checks": [
                {"check": c.check, "passed": c.passed, "severity": c.severity, "summary": c.summary}
                for c in self.checks
            ],
        }

    def tell(self, asset: str, command: str) -> None:
        """Tell the person what of a run needs looking at; giving the command again repeats it."""
        if not self.success:
            console.note(f"{asset}: {self.error} (run {self.run_id}); `{command}` tries again")
        for check in self.checks:
            if not check.passed:
                console.note(f"{asset}: check {check.check} is {check.severity}: {check.summary}")


def configuration_file() -> Path:
    """Return the `dagster.yaml` that this release ships: of the repository, or of the installed package."""
    import ohlcv_pipeline

    package = Path(ohlcv_pipeline.__file__).parent
    for path in (package.parent / "dagster.yaml", package / "dagster.yaml"):
        if path.exists():
            return path
    raise CliError(f"dagster.yaml is neither in {package.parent} nor in {package}; install the package again")


def prepare_dagster_home(chosen: Settings) -> Path:
    """Set DAGSTER_HOME unless it is set, create it, and see that it holds this release's `dagster.yaml`.

    A DAGSTER_HOME that the user has set keeps a `dagster.yaml` of its own.
    """
    given = os.environ.get("DAGSTER_HOME")
    home = Path(given) if given else chosen.dagster_home
    if not home.is_absolute():
        raise CliError(f"DAGSTER_HOME={given} must be an absolute path; set it to {home.resolve()} or unset it")
    target, shipped = home / "dagster.yaml", configuration_file()
    try:
        home.mkdir(parents=True, exist_ok=True)
        own = given is not None and home != chosen.dagster_home
        if not target.exists() or (not own and not filecmp.cmp(shipped, target, shallow=False)):
            shutil.copyfile(shipped, target)
    except OSError as error:
        raise CliError(f"DAGSTER_HOME {home} cannot be written: {error.strerror}; choose another OHLCV_HOME") from error
    os.environ["DAGSTER_HOME"] = str(home)
    return home


def quiet() -> None:
    """Keep Dagster's notices of preview features off the terminal; they speak to its developers."""
    warnings.filterwarnings("ignore", module="dagster")
    warnings.filterwarnings("ignore", message=".*dagster.*")


def execute(
    definitions: Definitions,
    instance: DagsterInstance,
    market: str,
    interval: str,
    partitions: Sequence[str],
    symbols: Sequence[str],
    force: bool,
    tags: Mapping[str, str] | None = None,
) -> RunOutcome:
    """Materialise a range of partitions of one table, with its checks, as one run of the table's refresh job.

    Args:
        definitions: of the code location.
        instance: where the run is recorded.
        market: name of the market.
        interval: `minute` or `day`.
        partitions: consecutive keys, oldest first.
        symbols: those to fetch; all enabled ones when empty.
        force: whether to fetch everything again.
        tags: more tags of the run.
    """
    span = {
        "dagster/asset_partition_range_start": partitions[0],
        "dagster/asset_partition_range_end": partitions[-1],
    }
    asked = {"symbols": list(symbols), "force": force, "retry": False}
    return run_job(
        definitions,
        instance,
        f"{market}_{interval}_refresh",
        {**(tags or {}), **span},
        {"ops": {f"{market}__ohlcv_{interval}": {"config": asked}}},
    )


def run_job(
    definitions: Definitions,
    instance: DagsterInstance,
    name: str,
    tags: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
) -> RunOutcome:
    """Run a job of the code location once, in this process."""
    begun, run_id = time.perf_counter(), str(uuid4())
    with event_log.kept_open(instance, run_id):
        result = definitions.resolve_job_def(name).execute_in_process(
            instance=instance,
            run_id=run_id,
            raise_on_error=False,
            tags={**(tags or {}), TRIGGER_TAG: "cli"},
            # The event log keeps every line; on the terminal they would tear the progress bar apart.
            run_config={**(config or {}), "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
        )
    failed, error = _failures(result)
    return RunOutcome(
        run_id=result.run_id,
        success=result.success,
        seconds=time.perf_counter() - begun,
        failed=failed,
        error=error,
        checks=_checks(instance, result.run_id),
    )


def _failures(result: ExecuteInProcessResult) -> tuple[dict[str, str], str | None]:
    failed: dict[str, str] = {}
    error: str | None = None
    for event in result.all_events:
        if event.is_step_failure:
            data = event.step_failure_data
            told = data.user_failure_data
            if told is not None and "failed" in told.metadata:
                shown: Any = told.metadata["failed"]
                failed |= {str(row.data["symbol"]): str(row.data["code"]) for row in shown.records}
                error = error or told.description
            else:
                error = error or _cause(data.error)
        elif event.is_job_failure and error is None and not failed:
            error = _cause(event.job_failure_data.error)
    return failed, error


def _cause(error: Any) -> str:
    """Return the sentence of the innermost error that Dagster wrapped. Raises CliError when a person interrupted."""
    while error is not None and error.cause is not None:
        error = error.cause
    if error is not None and error.cls_name == _INTERRUPTED:
        raise CliError("interrupted; what was published stays, and the same command continues from there")
    return "the run failed; its page in Dagster says why" if error is None else " ".join(error.message.split())


def _checks(instance: DagsterInstance, run_id: str) -> list[CheckOutcome]:
    """Return what each check says of all partitions of a run together; also of a run that failed."""
    from dagster import DagsterEventType

    found = []
    for entry in instance.all_logs(run_id, of_type=DagsterEventType.ASSET_CHECK_EVALUATION):
        if entry.dagster_event is None:
            continue
        each = entry.dagster_event.asset_check_evaluation_data
        if each.partition is not None:
            continue
        shown: Any = each.metadata.get("worst")
        found.append(
            CheckOutcome(
                check=each.check_name,
                passed=each.passed,
                severity=each.severity.value,
                summary=each.description or "",
                worst=[] if shown is None else _rows(shown),
            )
        )
    return found


def _rows(table: TableMetadataValue) -> list[dict[str, Any]]:
    """Return the rows of a table as they were told; the event log keeps the order of the columns in its schema only."""
    return [{column.name: row.data[column.name] for column in table.schema.columns} for row in table.records]
