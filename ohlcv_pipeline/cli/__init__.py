"""The command line `ohlcv`: one module a command, each importing what is heavy only when it runs.

`app` joins them and turns errors into sentences and exit codes; rules about bars live in `bars/`.
"""

from ohlcv_pipeline.cli.app import main, run

__all__ = ["main", "run"]
