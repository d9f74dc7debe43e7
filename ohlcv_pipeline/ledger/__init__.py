"""Operational state in SQLite or Postgres: symbols, vendor budgets, vendor requests. Bars are the lake's.

`database` opens it, `models` and `migrations` shape it, one small module per aggregate reads and writes it. A
new aggregate is a model, a revision and such a module.
"""
