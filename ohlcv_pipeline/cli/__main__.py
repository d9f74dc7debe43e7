"""`python -m ohlcv_pipeline.cli`, where the script `ohlcv` is not on the path."""

from ohlcv_pipeline.cli.app import main

main()
