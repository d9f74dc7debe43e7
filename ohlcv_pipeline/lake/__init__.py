"""The lake: bars, the manifest that accounts for them, and the raw answers they came from.

DuckLake keeps the tables (DuckDB, Parquet, an SQL catalog); `raw` keeps the vendors' bytes beside it. What the rows
mean is decided above, in `bars/`; nothing here judges a bar.
"""
