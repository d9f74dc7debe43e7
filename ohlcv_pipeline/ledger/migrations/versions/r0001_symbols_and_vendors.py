"""The first tables: symbols, vendor_budgets, vendor_requests."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    instant = sa.DateTime(timezone=True)
    op.create_table(
        "symbols",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("market", sa.Text(), nullable=False),
        sa.Column("symbol", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("base", sa.Text(), nullable=False),
        sa.Column("quote", sa.Text(), nullable=False),
        sa.Column("vendor_symbols", sa.JSON(), nullable=False),
        sa.Column("enabled", sa.Boolean(), nullable=False),
        sa.Column("enabled_at", instant),
        sa.Column("listing_start", instant),
        sa.Column("delisted_at", instant),
        sa.Column("created_at", instant, nullable=False),
        sa.Column("updated_at", instant, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_symbols")),
        sa.UniqueConstraint("market", "symbol", name=op.f("uq_symbols_market_symbol")),
        sa.CheckConstraint("market <> ''", name=op.f("ck_symbols_market_not_empty")),
        sa.CheckConstraint("base <> ''", name=op.f("ck_symbols_base_not_empty")),
        sa.CheckConstraint("quote <> ''", name=op.f("ck_symbols_quote_not_empty")),
        sa.CheckConstraint(
            "length(symbol) <= 16 AND symbol GLOB '[A-Z0-9]*' AND symbol NOT GLOB '*[^A-Z0-9.]*'",
            name=op.f("ck_symbols_symbol_pattern"),
        ).ddl_if(dialect="sqlite"),
        sa.CheckConstraint("symbol ~ '^[A-Z0-9][A-Z0-9.]{0,15}$'", name=op.f("ck_symbols_symbol_pattern")).ddl_if(
            dialect="postgresql"
        ),
    )
    op.create_index(op.f("ix_symbols_enabled"), "symbols", ["enabled"])

    op.create_table(
        "vendor_budgets",
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("request_tokens", sa.Double(), nullable=False),
        sa.Column("weight_tokens", sa.Double(), nullable=False),
        sa.Column("refilled_at", instant, nullable=False),
        sa.Column("blocked_until", instant),
        sa.PrimaryKeyConstraint("vendor", name=op.f("pk_vendor_budgets")),
    )

    op.create_table(
        "vendor_requests",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("vendor", sa.Text(), nullable=False),
        sa.Column("requested_at", instant, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer()),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_vendor_requests")),
    )
    op.create_index(op.f("ix_vendor_requests_vendor_requested_at"), "vendor_requests", ["vendor", "requested_at"])
