"""The way to a vendor that is a folder: reads one file for one request, in a thread, within the deadline.

What lies in the folder and what a file means is `files`. There are no retries, no budget and no breaker: a disk
that fails is asked again by the next run.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

from ohlcv_pipeline.settings import VendorSettings
from ohlcv_pipeline.vendors.base import Answer, Request
from ohlcv_pipeline.vendors.errors import Code, Remedy, VendorError, bad_symbol
from ohlcv_pipeline.vendors.transport import Outcome

T = TypeVar("T")

KEPT_BYTES = 1 << 28
"""How many bytes of files are kept after reading, with what was made of them: every batch of a run asks again."""

Version = tuple[int, int, int]
"""Inode, size and time of the last change in ns: while they stay, so do the bytes."""


class FolderTransport:
    """Reads the files of one vendor within a process; an async context manager that implements `base.Transport`.

    A request's path names a file below the folder. An answer's `url` is that name, never where the folder lies;
    its status is 200, or 404 without a body. `clock` gives unix seconds, `record` gets every reading.
    """

    def __init__(
        self,
        vendor: str,
        settings: VendorSettings,
        record: Callable[[Outcome], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.vendor = vendor
        self._variable = f"OHLCV_VENDORS__{vendor.upper()}__FOLDER"
        self._folder = Path(settings.folder) if settings.folder else None
        self._deadline = settings.deadline_seconds
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._record = record
        self._clock = clock
        self._kept: OrderedDict[tuple[str, object], tuple[Version, Any, Answer]] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._kept.clear()

    async def get(self, request: Request, decode: Callable[[Answer], T]) -> tuple[T, Answer]:
        """Return what `decode` made of a file, and the file. Unchanged files are neither read nor decoded again.

        `decode` raises VendorError and nothing else; it is shown 404 too. Raises VendorError when there is no
        folder, or when the file cannot be read, in time or at all.
        """
        async with self._slots:
            sent_at, begun = self._clock(), time.perf_counter()

            def note(answer: Answer | None, code: Code | Literal["ok"]) -> None:
                status, size = (None, 0) if answer is None else (answer.status, len(answer.body))
                at, seconds = datetime.fromtimestamp(sent_at, UTC), time.perf_counter() - begun
                self._record(Outcome(self.vendor, at, seconds, status, code, 1, size))

            answer = None
            try:
                kept = self._kept.get((request.path, decode))
                version, body = await self._read(request, None if kept is None else kept[0])
                if kept is not None and version == kept[0]:
                    self._kept.move_to_end((request.path, decode))
                    return kept[1], kept[2]
                answer = self._answer(request, version, body)
                value = decode(answer)
            except VendorError as error:
                if answer is not None and not error.answers:
                    error.answers = (answer,)
                note(answer, error.code)
                raise
            note(answer, "ok")
            if version is not None:
                self._keep((request.path, decode), version, value, answer)
            return value, answer

    async def _read(self, request: Request, known: Version | None) -> tuple[Version | None, bytes | None]:
        """Return version and bytes; no bytes of a file that still is the known one, no version of one that is not."""
        name = request.path
        if self._folder is None:
            message = f"{self.vendor}: {self._variable} is not set; the vendor is not asked without its folder"
            raise VendorError(Code.BAD_REQUEST, Remedy.GIVE_UP, message)
        if ".." in PurePosixPath(name).parts:
            raise bad_symbol(f"{self.vendor}: {name} leads out of its folder")
        try:
            async with asyncio.timeout(self._deadline):
                return await asyncio.to_thread(_load, self._folder, name.lstrip("/"), known)
        except TimeoutError as error:
            raise self._unread(f"no whole file within {self._deadline:g} s", name) from error
        except OSError as error:
            raise self._unread(error.strerror or type(error).__name__, name) from error

    def _unread(self, why: str, name: str) -> VendorError:
        message = f"{self.vendor}: {name.lstrip('/')} below {self._variable} cannot be read: {why}"
        return VendorError(Code.VENDOR_UNAVAILABLE, Remedy.BACK_OFF, message)

    def _answer(self, request: Request, version: Version | None, body: bytes | None) -> Answer:
        name, received_at = request.path.lstrip("/"), datetime.fromtimestamp(self._clock(), UTC)
        if version is None or body is None:
            return Answer(request, name, 404, {}, b"", received_at)
        headers = {"content-length": str(len(body)), "last-modified": formatdate(version[2] // 10**9, usegmt=True)}
        return Answer(request, name, 200, headers, body, received_at)

    def _keep(self, key: tuple[str, object], version: Version, value: object, answer: Answer) -> None:
        self._kept[key] = version, value, answer
        self._kept.move_to_end(key)
        size = sum(len(kept.body) for _, _, kept in self._kept.values())
        while size > KEPT_BYTES:
            size -= len(self._kept.popitem(last=False)[1][2].body)


def _load(folder: Path, name: str, known: Version | None) -> tuple[Version | None, bytes | None]:
    """Return what `_read` returns. Raises OSError, also for a file that changes while it is being read."""
    try:
        status = (folder / name).stat()
    except (FileNotFoundError, NotADirectoryError):
        if not folder.is_dir():
            raise OSError(errno.ENOENT, "the folder is not there") from None
        return None, None
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no file")
    version = _version(status)
    if version == known:
        return version, None
    with (folder / name).open("rb") as file:
        body = file.read()
        if _version(os.fstat(file.fileno())) != version:
            raise OSError(errno.EBUSY, "it changed while it was being read")
    return version, body


def _version(status: os.stat_result) -> Version:
    return status.st_ino, status.st_size, status.st_mtime_ns
