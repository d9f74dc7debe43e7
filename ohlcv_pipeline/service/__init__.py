"""The HTTP service: status page, status and lineage API, ingestion requests.

It reads lake and ledger through snapshots, never computes bars and never writes to the lake.
"""
