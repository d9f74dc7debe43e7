"""Brings a ledger to the schema of `models`, at start-up. Alembic is imported only when there is work to do.

A new revision: write `versions/rNNNN_*.py` by hand, set `HEAD`, and run the tests, which compare the outcome
with the models. What the tables mean lives in `models`, when this runs in `database`.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, column, inspect, select, table
from sqlalchemy.exc import SQLAlchemyError

from ohlcv_pipeline.ledger.errors import MigrationError

HEAD = "0002"
"""The newest revision, repeated here because asking Alembic for it costs its import."""

# Dagster keeps its own `alembic_version`, perhaps in the same Postgres database.
VERSION_TABLE = "ledger_version"

FOLDER = Path(__file__).parent

_ADVISORY_LOCK = 0x6F686C6376  # "ohlcv"


def revision(connection: Connection) -> str | None:
    """Return the revision of the ledger's schema, None for a database without one."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str | None = connection.scalar(select(column("version_num")).select_from(table(VERSION_TABLE)))
    return found


def upgrade(connection: Connection, folder: Path = FOLDER) -> None:
    """Run the missing revisions inside the open write transaction of `connection`.

    Of several processes one does the work; the others wait and find nothing to do. Raises MigrationError.
    """
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
    config = Config()
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except (SQLAlchemyError, CommandError) as error:
        raise MigrationError(
            f"the ledger at {connection.engine.url!r} could not be migrated to revision {HEAD}: {error}. "
            "Nothing was changed. If it was written by a newer version of the package, run that version."
        ) from error
