"""What takes away from a lake what the first release did not keep."""

from __future__ import annotations

FIRST_RELEASE = (
    "CREATE TABLE lake.kept AS SELECT * EXCLUDE (published_at) FROM lake.crypto.ohlcv_minute",
    "DELETE FROM lake.crypto.ohlcv_minute",
    "ALTER TABLE lake.crypto.ohlcv_minute DROP COLUMN published_at",
    "ALTER TABLE lake.crypto.ohlcv_day DROP COLUMN published_at",
    "ALTER TABLE lake.bar_revisions DROP COLUMN cause",
    "ALTER TABLE lake.heads DROP COLUMN published_at",
    "INSERT INTO lake.crypto.ohlcv_minute SELECT * FROM lake.kept",
    "DROP TABLE lake.kept",
    *(f"DROP TABLE lake.{name}" for name in ("looks", "corporate_actions", "action_coverage")),
    *(
        f"ALTER TABLE lake.quarantine DROP COLUMN {name}"
        for name in ("decision", "decided_at", "decided_by", "note", "decision_run_id")
    ),
    "DELETE FROM lake.lake_version",
    "INSERT INTO lake.lake_version VALUES (1)",
)
