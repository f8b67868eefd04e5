"""A new file that is written once, from its beginning to its end, and past the page cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

if sys.platform == "linux":
    import fcntl
    import os

__all__ = ["HashedFile"]

BLOCK = 2**20
"""Bytes that are hashed and then written, while they are in the processor's cache."""


class HashedFile:
    """``write``, then ``close``: ``size`` is how many bytes were written, ``sha256`` the hash of them.

    Whole blocks go to the disk past the page cache (Linux's O_DIRECT), where the file system can do it, while the next
    is filled and hashed. So a long recording does not push out the data that the training reads, and the kernel need
    not find and fill a page for each one written, which takes up to forty times the processor's time. The rest, less
    than a block, is in the page cache until it is synced.
    """

    def __init__(self, path: Path) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        # Whole pages of memory, as O_DIRECT wants them: one block is filled while the other is written.
        self._block, self._other = np.frombuffer(mmap.mmap(-1, 2 * BLOCK), np.uint8).reshape(2, BLOCK)
        self._filled = 0
        self._disk = ThreadPoolExecutor(1, "trajectory-disk")  # has no thread before it is given something
        self._pending: Future[None] | None = None
        self._file = path.open("wb", buffering=0)  # a forked child has nothing of it to flush
        self._direct = self._set_direct(True)

    def write(self, data: memoryview | bytes) -> None:
        """Append these bytes; an error may be that of an earlier call."""
        rest = np.frombuffer(data, np.uint8)
        while len(rest):
            room = BLOCK - self._filled
            taken, rest = rest[:room], rest[room:]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self.size += len(taken)
            if self._filled == BLOCK:
                block = self._hashed()
                self._wait()
                try:
                    self._pending = self._disk.submit(self._write, block)
                except RuntimeError:  # the interpreter ends
                    self._write(block)
                self._block, self._other = self._other, self._block

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._wait()
        if self._direct:
            self._direct = self._set_direct(False)
        self._write(self._hashed())
        self.drop()

    def drop(self) -> None:
        """Close the file without what is left."""
        self._disk.shutdown()
        self._file.close()

    def _hashed(self) -> memoryview:
        """What the block holds, which then is empty."""
        block, self._filled = self._block[: self._filled].data, 0
        self.sha256.update(block)
        return block

    def _wait(self) -> None:
        """Wait for the other block."""
        if self._pending is not None:
            self._pending.result()
            self._pending = None

    def _write(self, block: memoryview) -> None:
        while len(block):
            try:
                block = block[self._file.write(block) :]
            except OSError as error:
                if not self._direct or error.errno != errno.EINVAL:
                    raise
                self._direct = self._set_direct(False)  # a file system that has the flag, and cannot do it

    def _set_direct(self, direct: bool) -> bool:
        """Whether what is written from here on goes past the page cache."""
        if sys.platform == "linux":
            flags = fcntl.fcntl(self._file, fcntl.F_GETFL)
            with contextlib.suppress(OSError):
                fcntl.fcntl(self._file, fcntl.F_SETFL, flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT)
                return direct
        return False
