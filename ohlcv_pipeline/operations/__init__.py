"""What keeps watch over the data: freshness, incidents, alerts, remediation, vendor health, metrics.

Decisions are pure functions of values; sensors and schedules ask them, the ledger remembers what they said.
"""
