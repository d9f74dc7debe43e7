"""Files that are there whole or not at all, and that outlive a power cut."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def place(target: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file beside its place, then move it there. Durable when it returns.

    What a killed process leaves behind is named `<name>.<process id>.partial`.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    write(partial)
    _sync(partial)
    partial.rename(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
