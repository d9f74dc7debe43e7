"""Dagster's SQLite event log, held open while a run lasts."""

from pathlib import Path
from uuid import uuid4

import dagster as dg

from ohlcv_pipeline import event_log
from ohlcv_pipeline.resources import platform_resource
from ohlcv_pipeline.settings import Settings
from ohlcv_pipeline_tests.integration.installation import dagster_instance


@dg.asset(key="quotes")
def quotes() -> None:
    """Something to materialise."""


JOB = dg.Definitions(assets=[quotes], jobs=[dg.define_asset_job("job")]).resolve_job_def("job")


def test_no_event_writes_the_whole_log_back_while_it_is_kept_open(tmp_path: Path) -> None:
    with dagster_instance(tmp_path) as instance:
        run_id = str(uuid4())
        logs = [tmp_path / f"history/runs/{shard}.db-wal" for shard in ("index", run_id)]
        with event_log.kept_open(instance, run_id):
            assert JOB.execute_in_process(instance=instance, run_id=run_id).success
            assert all(log.stat().st_size > 0 for log in logs), "a connection that left was the last one"
        assert not any(log.exists() for log in logs), "the block's own connections stayed open"
        assert len(instance.fetch_materializations(dg.AssetKey("quotes"), limit=9).records) == 1


def test_without_it_each_event_does(tmp_path: Path) -> None:
    """What makes the module worth having; when this fails, Dagster has learnt to keep its connections."""
    with dagster_instance(tmp_path) as instance:
        assert JOB.execute_in_process(instance=instance).success
        assert not list(tmp_path.glob("history/runs/*-wal"))


def test_a_run_of_the_code_location_keeps_its_log_open(tmp_path: Path) -> None:
    seen: list[bool] = []

    @dg.asset(required_resource_keys={"platform"})
    def looking(context: dg.AssetExecutionContext) -> None:
        seen.extend((tmp_path / f"history/runs/{shard}.db-wal").exists() for shard in ("index", context.run.run_id))

    with dagster_instance(tmp_path) as instance:
        resource = platform_resource(Settings(_env_file=None, home=tmp_path / "home"))  # type: ignore[call-arg]
        assert dg.materialize([looking], instance=instance, resources={"platform": resource}).success
    assert seen == [True, True]
