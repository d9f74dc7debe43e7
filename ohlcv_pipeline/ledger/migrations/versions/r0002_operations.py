"""The tables of operations: alerts, remediation, vendor health, runs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "idempotency_keys",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("body_sha256", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_idempotency_keys")),
    )
    op.create_table(
        "incidents",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("interval", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("first_breach_at", instant, nullable=False),
        sa.Column("opened_at", instant),
        sa.Column("cleared_at", instant),
        sa.Column("lag_minutes", sa.Double()),
        sa.Column("peak_lag_minutes", sa.Double()),
        sa.Column("alert_lag_minutes", sa.Double()),
        sa.Column("threshold_minutes", sa.Double()),
        sa.Column("breach_count", sa.Integer(), nullable=False),
        sa.Column("healthy_count", sa.Integer(), nullable=False),
        sa.Column("flap_count", sa.Integer(), nullable=False),
        sa.Column("suppressed_by", sa.Text()),
        sa.Column("notified_at", instant),
        sa.Column("run_id", sa.Text()),
        sa.CheckConstraint("state IN ('pending', 'open', 'clearing', 'cleared')", name=op.f("ck_incidents_state")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_incidents")),
    )
    op.create_index(op.f("ix_incidents_first_breach_at"), "incidents", ["first_breach_at"])
    op.create_index(
        "ux_incidents_not_cleared",
        "incidents",
        ["market", "symbol", "interval", "kind", "subject"],
        unique=True,
        sqlite_where=sa.text("state <> 'cleared'"),
        postgresql_where=sa.text("state <> 'cleared'"),
    )
    op.create_table(
        "ingestion_runs",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("parent_id", sa.Uuid()),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("asset_symbol", sa.Text(), nullable=False),
        sa.Column("interval", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("row_count", sa.BigInteger(), nullable=False),
        sa.Column("checksum_sha256", sa.Text(), nullable=False),
        sa.Column("checksum_version", sa.Integer(), nullable=False),
        sa.Column("started_at", instant, nullable=False),
        sa.Column("ended_at", instant),
        sa.Column("trigger", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("backfill_window_start", instant, nullable=False),
        sa.Column("backfill_window_end", instant, nullable=False),
        sa.Column("error_summary", sa.Text()),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("heartbeat_at", instant),
        sa.Column("symbols", sa.JSON()),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("launched_at", instant),
        sa.Column("dagster_run_id", sa.Text()),
        sa.Column("done_units", sa.BigInteger(), nullable=False),
        sa.Column("total_units", sa.BigInteger()),
        sa.Column("report", sa.JSON()),
        sa.CheckConstraint(
            "phase IN ('queued', 'fetching', 'writing', 'verifying', 'done')", name=op.f("ck_ingestion_runs_phase")
        ),
        sa.CheckConstraint(
            "status IN ('running', 'success', 'partial', 'failed')", name=op.f("ck_ingestion_runs_status")
        ),
        sa.ForeignKeyConstraint(
            ["parent_id"],
            ["ingestion_runs.id"],
            name=op.f("fk_ingestion_runs_parent_id_ingestion_runs"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_ingestion_runs")),
    )
    op.create_index(op.f("ix_ingestion_runs_dagster_run_id"), "ingestion_runs", ["dagster_run_id"])
    op.create_index(
        op.f("ix_ingestion_runs_market_interval_started_at"), "ingestion_runs", ["market", "interval", "started_at"]
    )
    op.create_index(
        op.f("ix_ingestion_runs_market_interval_asset_symbol_status_ended_at"),
        "ingestion_runs",
        ["market", "interval", "asset_symbol", "status", "ended_at"],
    )
    op.create_index(op.f("ix_ingestion_runs_parent_id"), "ingestion_runs", ["parent_id"])
    op.create_index(op.f("ix_ingestion_runs_status_phase"), "ingestion_runs", ["status", "phase"])
    op.create_table(
        "maintenance_windows",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("market", sa.Text()),
        sa.Column("starts_at", instant, nullable=False),
        sa.Column("ends_at", instant, nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.CheckConstraint("ends_at > starts_at", name=op.f("ck_maintenance_windows_ends_after_start")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_maintenance_windows")),
    )
    op.create_table(
        "monitors",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("evaluated_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_monitors")),
    )
    op.create_table(
        "outbox",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("incident_ids", sa.JSON(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("payload", sa.JSON(), nullable=False),
        sa.Column("created_at", instant, nullable=False),
        sa.Column("next_attempt_at", instant, nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_until", instant),
        sa.Column("sent_at", instant),
        sa.Column("acknowledged_at", instant),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("last_error", sa.Text()),
        sa.CheckConstraint("status IN ('pending', 'sent', 'given_up')", name=op.f("ck_outbox_status")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sa.UniqueConstraint("message_id", "channel", name=op.f("uq_outbox_message_id_channel")),
    )
    op.create_index(op.f("ix_outbox_status_next_attempt_at"), "outbox", ["status", "next_attempt_at"])
    op.create_table(
        "remediation_log",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("asset_symbol", sa.Text(), nullable=False),
        sa.Column("interval", sa.Text(), nullable=False),
        sa.Column("issue_type", sa.Text(), nullable=False),
        sa.Column("range_start", instant, nullable=False),
        sa.Column("range_end", instant, nullable=False),
        sa.Column("detected_at", instant, nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("notes", sa.Text()),
        sa.Column("resolved", sa.Boolean(), nullable=False),
        sa.Column("resolved_at", instant),
        sa.Column("resolution", sa.Text()),
        sa.Column("supersedes", sa.Uuid()),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", instant),
        sa.Column("escalated_at", instant),
        sa.CheckConstraint(
            "issue_type IN ('gap', 'duplicate', 'checksum_mismatch', 'partial_source')",
            name=op.f("ck_remediation_log_issue_type"),
        ),
        sa.CheckConstraint("range_end >= range_start", name=op.f("ck_remediation_log_range_in_order")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remediation_log")),
    )
    op.create_index(op.f("ix_remediation_log_detected_at_id"), "remediation_log", ["detected_at", "id"])
    op.create_index(
        op.f("ix_remediation_log_resolved_market_asset_symbol_interval"),
        "remediation_log",
        ["resolved", "market", "asset_symbol", "interval"],
    )
    op.create_table(
        "vendor_status",
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("since", instant, nullable=False),
        sa.Column("checked_at", instant, nullable=False),
        sa.Column("data_age_seconds", sa.Double()),
        sa.Column("failed_probes", sa.Integer(), nullable=False),
        sa.Column("details", sa.Text()),
        sa.CheckConstraint(
            "status IN ('up', 'degraded', 'down', 'rate_limited')", name=op.f("ck_vendor_status_status")
        ),
        sa.PrimaryKeyConstraint("vendor", name=op.f("pk_vendor_status")),
    )
    op.create_table(
        "remediation_steps",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("entry_id", sa.Uuid(), nullable=False),
        sa.Column("happened_at", instant, nullable=False),
        sa.Column("step", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Text()),
        sa.Column("notes", sa.Text()),
        sa.ForeignKeyConstraint(
            ["entry_id"],
            ["remediation_log.id"],
            name=op.f("fk_remediation_steps_entry_id_remediation_log"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_remediation_steps")),
    )
    op.create_index(op.f("ix_remediation_steps_entry_id"), "remediation_steps", ["entry_id"])
