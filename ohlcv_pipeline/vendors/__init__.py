"""Vendors: their wire formats, and how they are asked without being abused.

`transport` sends (deadline, retry, token bucket, breaker), one file per vendor plans requests and reads answers,
`failover` asks the vendors of a market in order. Rules about bars are not here but in `bars/`.
"""
