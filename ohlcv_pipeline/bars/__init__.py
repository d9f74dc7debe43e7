"""Day and minute bars: rules, checksum, gaps, ingestion, and the Dagster definitions around them.

`schema`, `checksum`, `gaps`, `rollup`, `merge` and `freshness` are pure: frames and values in, frames and values out.
`ingest` joins them to vendors and lake; `assets`, `checks` and `schedules` are the thin Dagster shell.
"""
