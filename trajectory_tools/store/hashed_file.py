"""A new file that is written once, from its beginning to its end, and past the page cache."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import sys
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from trajectory_tools.store.disk_thread import DiskThread

if sys.platform == "linux":
    import fcntl
    import os

__all__ = ["HashedFile"]

BLOCK = 2**20
"""Bytes that are hashed and then written, while they are in the processor's cache."""


class HashedFile:
    """``write``, then ``close``: ``size`` is how many bytes were given, ``sha256`` the hash of those in the file.

    Whole blocks go to the disk past the page cache (Linux's O_DIRECT), where the file system can do it: so a long
    recording does not push out the data that the training reads, and the kernel need not find and fill a page for each
    one written. What is left, less than a block, goes through it. With a ``disk`` thread, a block is written while the
    next is filled and hashed.
    """

    def __init__(self, path: Path, disk: DiskThread | None = None) -> None:
        self.sha256 = hashlib.sha256()
        self.size = 0
        # Whole pages, as O_DIRECT wants them; and shared ones, or a fork during a write could spoil it (open(2)).
        self._block, self._other = np.frombuffer(mmap.mmap(-1, 2 * BLOCK), np.uint8).reshape(2, BLOCK)
        self._filled = 0
        self._disk = disk
        self._pending = False
        self._outcome: SimpleQueue[Exception | None] = SimpleQueue()
        self._file = path.open("wb", buffering=0)  # a forked child has nothing of it to flush
        self._direct = self._set_direct(True)

    def write(self, data: memoryview | bytes) -> None:
        """Append these bytes; an error may be that of the block before."""
        rest = np.frombuffer(data, np.uint8)
        while len(rest):
            room = BLOCK - self._filled
            taken, rest = rest[:room], rest[room:]
            self._block[self._filled : self._filled + len(taken)] = taken
            self._filled += len(taken)
            self.size += len(taken)
            if self._filled == BLOCK:
                self._hand_over()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._wait()
        if self._direct:
            self._direct = self._set_direct(False)
        self._write(self._hashed())
        self._file.close()

    def drop(self) -> None:
        """Close the file without what is left, whatever becomes of it."""
        for close in (self._wait, self._file.close):
            with contextlib.suppress(Exception):
                close()

    def _hand_over(self) -> None:
        """Have the full block written, and fill the other one."""
        block = self._hashed()
        self._wait()
        if self._disk is None:
            self._write(block)
            return
        self._pending = True
        self._disk.do(partial(self._write_behind, block))
        self._block, self._other = self._other, self._block

    def _hashed(self) -> memoryview:
        """What the block holds, which then is empty."""
        block, self._filled = self._block[: self._filled].data, 0
        self.sha256.update(block)
        return block

    def _wait(self) -> None:
        """Wait until the other block is written; raises what kept it from being."""
        if self._pending:
            error, self._pending = self._outcome.get(), False
            if error is not None:
                raise error

    def _write_behind(self, block: memoryview) -> None:
        try:
            self._write(block)
        except Exception as error:
            self._outcome.put(error)
        else:
            self._outcome.put(None)

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
