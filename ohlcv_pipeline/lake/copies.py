"""Second copies of the lake's accounts: manifest, revisions, quarantine, indexes, marks of deletion.

Bars can be made again from the vendors' answers; the accounts that would prove them cannot. They are small, so every
sealed file of theirs is kept twice, the copy named by the file's name and its SHA-256.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ohlcv_pipeline.lake.durable import place


def file_sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Copies:
    """A folder of copies, each `<name of the file>.<its SHA-256>`."""

    path: Path

    def keep(self, file: Path, sha256: str) -> None:
        """Copy a file that has this hash. Durable when it returns."""
        place(self.path / f"{file.name}.{sha256}", partial(shutil.copyfile, file))

    def sound(self, file: Path) -> Path | None:
        """Return the copy of a file, None when there is none that still has the hash in its name."""
        for copy in self.path.glob(f"{file.name}.*"):
            if file_sha256(copy) == copy.suffix[1:]:
                return copy
        return None

    def differs(self, file: Path) -> bool:
        """Return whether a file is gone or is not what its copy says, so that `restore` would bring it back."""
        copy = self.sound(file)
        return copy is not None and (not file.exists() or file_sha256(file) != copy.suffix[1:])

    def restore(self, file: Path) -> bool:
        """Bring a file back byte for byte, if it has a sound copy; return whether it had. Durable then."""
        copy = self.sound(file)
        if copy is not None:
            place(file, partial(shutil.copyfile, copy))
        return copy is not None

    def prune(self, names: Iterable[str]) -> int:
        """Delete the copies of files that have none of these names; return how many."""
        kept = set(names)
        gone = [copy for copy in self.path.glob("*.*") if copy.name.removesuffix(copy.suffix) not in kept]
        for copy in gone:
            copy.unlink()
        return len(gone)
