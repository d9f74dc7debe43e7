from __future__ import annotations

import multiprocessing
import shutil
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, inspect, text

from ohlcv_pipeline.ledger import migrations
from ohlcv_pipeline.ledger.database import Ledger, open_ledger
from ohlcv_pipeline.ledger.errors import MigrationError
from ohlcv_pipeline.ledger.models import Base

TABLES = {
    "symbols", "vendor_budgets", "vendor_requests", "monitors", "maintenance_windows", "incidents", "outbox",
    "remediation_log", "remediation_steps", "vendor_status", "ingestion_runs", "idempotency_keys",
}  # fmt: skip


def schema(ledger: Ledger) -> dict[str, object]:
    """Everything the engine reports of the tables, check constraints included."""
    look = inspect(ledger.engine)
    return {
        table: {
            "columns": [{**column, "type": str(column["type"])} for column in look.get_columns(table)],
            "primary key": look.get_pk_constraint(table),
            "unique": sorted(look.get_unique_constraints(table), key=str),
            "checks": sorted(look.get_check_constraints(table), key=str),
            "foreign keys": sorted(look.get_foreign_keys(table), key=str),
            "indexes": sorted(
                (
                    {**index, "dialect_options": {k: str(v) for k, v in index.get("dialect_options", {}).items()}}
                    for index in look.get_indexes(table)
                ),
                key=str,
            ),
        }
        for table in sorted(Base.metadata.tables)
    }


def test_upgrade_of_an_empty_database_gives_the_models_schema(new_ledger: Ledger) -> None:
    with new_ledger.engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": migrations.VERSION_TABLE, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []
    assert set(Base.metadata.tables) == TABLES


def test_migrated_schema_is_the_created_one_down_to_the_check_constraints(new_ledger: Ledger) -> None:
    migrated = schema(new_ledger)
    Base.metadata.drop_all(new_ledger.engine)
    Base.metadata.create_all(new_ledger.engine)
    assert schema(new_ledger) == migrated
    assert len(migrated["symbols"]["checks"]) == 4  # type: ignore[index]


def test_second_upgrade_changes_nothing(new_ledger: Ledger) -> None:
    before = schema(new_ledger)
    with new_ledger.write() as session:
        migrations.upgrade(session.connection())
    assert schema(new_ledger) == before
    with new_ledger.engine.connect() as connection:
        assert migrations.revision(connection) == migrations.HEAD


def test_head_is_the_newest_revision() -> None:
    config = Config()
    config.set_main_option("script_location", str(migrations.FOLDER))
    assert ScriptDirectory.from_config(config).get_heads() == [migrations.HEAD]


def open_at_once(urls: list[str], barrier: Barrier) -> None:
    for url in urls:
        barrier.wait()
        open_ledger(url).close()


def start_processes_on(urls: list[str]) -> list[int | None]:
    """Let four processes open each of the ledgers at the same moment and return their exit codes."""
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(4, timeout=30)
    processes = [spawn.Process(target=open_at_once, args=(urls, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def test_processes_that_start_at_once_do_not_collide(ledger_url: str) -> None:
    assert start_processes_on([ledger_url]) == [0, 0, 0, 0]
    opened = open_ledger(ledger_url)
    assert set(inspect(opened.engine).get_table_names()) >= TABLES
    opened.close()


def test_processes_that_turn_a_new_file_to_wal_at_once_do_not_collide(tmp_path: Path) -> None:
    """One time in twenty SQLite says "database is locked" there without waiting, hence so many files."""
    assert start_processes_on([f"sqlite:///{tmp_path / str(i)}.sqlite" for i in range(20)]) == [0, 0, 0, 0]


def test_dagsters_tables_in_the_same_postgres_database_are_left_alone(postgres_database: str) -> None:
    engine = create_engine(postgres_database)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE alembic_version (version_num text)"))
        connection.execute(text("INSERT INTO alembic_version VALUES ('of dagster')"))
    open_ledger(postgres_database).close()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == "of dagster"
    engine.dispose()


def test_failed_migration_stops_the_start_and_changes_nothing(
    ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "migrations"
    shutil.copytree(migrations.FOLDER, folder)
    (folder / "versions" / "r9999_broken.py").write_text(
        "from alembic import op\n"
        f"revision, down_revision = '9999', '{migrations.HEAD}'\n"
        "def upgrade():\n"
        "    op.execute('CREATE TABLE half (a integer)')\n"
        "    op.execute('ALTER TABLE missing ADD COLUMN a integer')\n"
    )
    whole = migrations.upgrade
    monkeypatch.setattr(migrations, "upgrade", lambda connection: whole(connection, folder))
    with pytest.raises(MigrationError, match=r"could not be migrated.*missing"):
        open_ledger(ledger_url)
    engine = create_engine(ledger_url)
    assert inspect(engine).get_table_names() == []
    engine.dispose()


def test_ledger_of_a_newer_version_is_refused(new_ledger: Ledger, ledger_url: str) -> None:
    with new_ledger.write() as session:
        session.execute(text(f"UPDATE {migrations.VERSION_TABLE} SET version_num = '9999'"))
    with pytest.raises(MigrationError, match="newer version"):
        open_ledger(ledger_url)
