"""Dagster as it is deployed: webserver, daemon and code server as processes, spoken to in GraphQL."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from ohlcv_pipeline.cli.processes import free_port
from ohlcv_pipeline.platform import Platform
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.exchange import Exchange, running_exchange
from ohlcv_pipeline_tests.integration.installation import RANGE, ROOT

START_SECONDS = 90.0
RUN_SECONDS = 300.0
END_SECONDS = 5.0
"""How long Dagster may take to end by itself: after runs it waits for servers that have ended long since."""
NEVER_STALE = 1e9
"""Bars of June are behind, which is not what these tests are about."""

_ENDED = {"COMPLETED_SUCCESS", "COMPLETED_FAILED", "FAILED", "CANCELED", "SUCCESS", "FAILURE"}
_SELECTOR = {
    "repositoryName": "__repository__",
    "repositoryLocationName": "ohlcv_pipeline.definitions",
}


@dataclass(frozen=True)
class Services:
    """A running Dagster and the sandbox its runs ask."""

    url: str
    exchange: Exchange
    platform: Platform

    def graphql(self, query: str, **variables: object) -> dict[str, Any]:
        answer = httpx.post(
            f"{self.url}/graphql", json={"query": query, "variables": variables}, timeout=60, trust_env=False
        ).json()
        assert "errors" not in answer, answer["errors"]
        found: dict[str, Any] = answer["data"]
        return found

    def backfill(self, table: str, partitions: Sequence[str], **config: object) -> dict[str, Any]:
        """Launch a backfill as the UI does, and wait for its end."""
        asked = {
            "assetSelection": [{"path": table.split("/")}],
            "partitionNames": list(partitions),
            "title": "test",
            "runConfigData": {"ops": {table.replace("/", "__"): {"config": config}}},
        }
        launched = self.graphql(
            "mutation($p: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $p) { __typename"
            " ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p=asked,
        )["launchPartitionBackfill"]
        return self._backfilled(launched)

    def reexecute(self, backfill: str) -> dict[str, Any]:
        """Launch what a backfill has not filled once more, as the UI's "from failure" does, and wait for its end."""
        launched = self.graphql(
            "mutation($p: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $p) { __typename"
            " ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }",
            p={"parentRunId": backfill, "strategy": "FROM_FAILURE"},
        )["reexecutePartitionBackfill"]
        return self._backfilled(launched)

    def _backfilled(self, launched: Mapping[str, Any]) -> dict[str, Any]:
        assert launched["__typename"] == "LaunchBackfillSuccess", launched
        query = (
            "query($b: String!) { found: partitionBackfillOrError(backfillId: $b) { ... on PartitionBackfill {"
            " id status numPartitions runs(limit: 10) { runId status tags { key value } } assetBackfillData {"
            " assetBackfillStatuses { ... on AssetPartitionsStatusCounts {"
            " numPartitionsMaterialized numPartitionsFailed numPartitionsTargeted } } } } } }"
        )
        return self._ended(query, b=launched["backfillId"])

    def launch(self, job: str, partitions: Sequence[str], config: Mapping[str, object]) -> dict[str, Any]:
        """Launch a run of a job over a range of partitions through the queue, and wait for its end."""
        market, interval = job.split("_")[:2]
        tags = zip(RANGE, (partitions[0], partitions[-1]), strict=True)
        launched = self.graphql(
            "mutation($p: ExecutionParams!) { launchRun(executionParams: $p) { __typename"
            " ... on LaunchRunSuccess { run { runId } } ... on PythonError { message }"
            " ... on RunConfigValidationInvalid { errors { message } } } }",
            p={
                "selector": {**_SELECTOR, "jobName": job},
                "mode": "default",
                "runConfigData": {"ops": {f"{market}__ohlcv_{interval}": {"config": dict(config)}}},
                "executionMetadata": {"tags": [{"key": key, "value": value} for key, value in tags]},
            },
        )["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        query = "query($r: ID!) { found: runOrError(runId: $r) { ... on Run { status runId } } }"
        return self._ended(query, r=launched["run"]["runId"])

    def start_sensor(self, name: str) -> None:
        """Switch a sensor on, as its page in the UI does."""
        query = "mutation($s: SensorSelector!) { startSensor(sensorSelector: $s) { __typename } }"
        started = self.graphql(query, s={**_SELECTOR, "sensorName": name})["startSensor"]
        assert started["__typename"] == "Sensor", started

    def red_partitions(self, table: str) -> dict[str, list[tuple[str, str]]]:
        """The red ranges, first and last, in the Partitions tab of each check of a table."""
        (node,) = self.graphql(
            "query($k: [AssetKeyInput!]) { assetNodes(assetKeys: $k) { assetChecksOrError { ... on AssetChecks {"
            " checks { name partitionStatuses { ... on AssetCheckTimePartitionStatuses {"
            " ranges { status startKey endKey } } } } } } } }",
            k=[{"path": table.split("/")}],
        )["assetNodes"]
        return {
            check["name"]: [
                (each["startKey"], each["endKey"])
                for each in check["partitionStatuses"]["ranges"]
                if each["status"] != "SUCCEEDED"
            ]
            for check in node["assetChecksOrError"]["checks"]
            if check["partitionStatuses"]
        }

    def _ended(self, query: str, **variables: object) -> dict[str, Any]:
        deadline = time.monotonic() + RUN_SECONDS
        while True:
            found: dict[str, Any] = self.graphql(query, **variables)["found"]
            if found["status"] in _ENDED:
                return found
            assert time.monotonic() < deadline, found
            time.sleep(0.5)

    def checks(self, table: str) -> dict[str, str]:
        """The status of each check of a table after its latest materialisation."""
        (node,) = self.graphql(
            "query($k: [AssetKeyInput!]) { assetNodes(assetKeys: $k) { assetChecksOrError { ... on AssetChecks {"
            " checks { name executionForLatestMaterialization { status } } } } } }",
            k=[{"path": table.split("/")}],
        )["assetNodes"]
        return {
            check["name"]: (check["executionForLatestMaterialization"] or {}).get("status", "NEVER")
            for check in node["assetChecksOrError"]["checks"]
        }


@contextmanager
def running_services(home: Path, **environment: str) -> Iterator[Services]:
    """Start a sandbox and `dagster dev` on free ports of the loopback; stop all of it at the end.

    `environment` is what they are started with beside the usual.
    """
    dagster_home = home / "dagster"
    dagster_home.mkdir(parents=True)
    shutil.copyfile(ROOT / "dagster.yaml", dagster_home / "dagster.yaml")
    port = free_port()
    with running_exchange() as exchange, (home / "dagster.log").open("wb") as log:
        clean = {name: value for name, value in os.environ.items() if not name.startswith(("OHLCV_", "DAGSTER_"))}
        process = subprocess.Popen(
            [
                sys.executable, "-m", "dagster", "dev", "-m", "ohlcv_pipeline.definitions",
                "-h", "127.0.0.1", "-p", str(port),
            ],
            cwd=ROOT,
            env={
                **clean,
                "DAGSTER_HOME": str(dagster_home),
                "OHLCV_HOME": str(home / "lake"),
                "OHLCV_SANDBOX_URL": exchange.url,
                "OHLCV_SMTP_HOST": "127.0.0.1",
                "OHLCV_SMTP_PORT": str(exchange.mail_port),
                "OHLCV_SMTP_SECURITY": "none",
                "OHLCV_ALERT_MAIL_TO": "oncall@example.org",
                "OHLCV_SCHEDULES": "false",
                "OHLCV_FRESHNESS_THRESHOLD_MINUTES": str(NEVER_STALE),
                **environment,
            },
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip
        settings = Settings(_env_file=None, home=home / "lake", sandbox_url=exchange.url)  # type: ignore[call-arg]
        services = Services(f"http://127.0.0.1:{port}", exchange, Platform(settings))
        try:
            _wait(services, process, home / "dagster.log")
            yield services
        finally:
            services.platform.store.catalog.close()
            _end(process)


def _wait(services: Services, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    query = "{ repositoriesOrError { ... on RepositoryConnection { nodes { name } } } }"
    while True:
        with suppress(httpx.TransportError):
            if services.graphql(query)["repositoriesOrError"].get("nodes"):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"Dagster did not start: {log.read_text()[-4000:]}")
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process group: dagster dev has a webserver, a daemon and a code server below it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    try:
        process.wait(END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def partition_counts(backfill: dict[str, object]) -> dict[str, int]:
    """How many partitions of the only table of a backfill are in which state."""
    (of_table,) = backfill["assetBackfillData"]["assetBackfillStatuses"]  # type: ignore[index]
    return {name.removeprefix("numPartitions"): n for name, n in of_table.items()}
