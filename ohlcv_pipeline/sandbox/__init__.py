"""A stand-in for the exchanges: one process on loopback that speaks the vendors' wire formats.

It knows the instruments of `markets` and nothing else of the package, so that an adapter and its
imitation cannot share a mistake. Start it with `python -m ohlcv_pipeline.sandbox`.
"""
