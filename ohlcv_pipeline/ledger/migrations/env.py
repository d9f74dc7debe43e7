"""Alembic's environment: runs revisions on the connection that `migrations.upgrade` hands over."""

from __future__ import annotations

from alembic import context

from ohlcv_pipeline.ledger.migrations import VERSION_TABLE
from ohlcv_pipeline.ledger.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    version_table=VERSION_TABLE,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
