"""Market data on Dagster in which every bar is accounted for.

The public names are imported on first use, so that `import ohlcv_pipeline` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ohlcv_pipeline.version import __version__

if TYPE_CHECKING:
    from ohlcv_pipeline.bars.access import Lake, open_lake

__all__ = ["Lake", "__version__", "open_lake"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from ohlcv_pipeline.bars import access

        return getattr(access, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
