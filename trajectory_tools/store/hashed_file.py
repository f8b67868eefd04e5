"""A file that is written, hashed and finished by a thread of its own, while the next bytes are being encoded."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

__all__ = ["HashedFile"]

CHUNKS_IN_FLIGHT = 8  # each at most a Parquet page, about 1 MB


class HashedFile:
    """Takes what ``pyarrow`` writes; ``finish`` syncs it to the disk and hands its sha256 to a callback, in the thread.

    An error of the thread is raised by the next ``write``, or by ``wait``. Then, and after ``abandon``, the file is
    gone.
    """

    closed = False  # asked for by pyarrow

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._path = path
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._error: Exception | None = None
        self._chunks: Queue[bytes | Callable[[str], None] | None] = Queue(CHUNKS_IN_FLIGHT)
        self._thread = Thread(target=self._run, name="trajectory-disk", daemon=True)
        self._thread.start()

    def write(self, data: bytes) -> int:
        """Hand over bytes; waits while too many are in flight."""
        if self._error is not None:
            raise self._error
        self._chunks.put(bytes(data))
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        """Asked for by pyarrow; ``finish`` is what makes the bytes durable."""

    def finish(self, then: Callable[[str], None]) -> None:
        """Sync and close behind what was written, then call ``then`` with the hex digest, all in the thread."""
        self._chunks.put(then)

    def wait(self) -> None:
        """Return once the file is finished."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def abandon(self) -> None:
        """Remove the file, unless it is being finished; returns once the thread has ended."""
        self._chunks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while isinstance(chunk := self._chunks.get(), bytes):
            if self._error is None:  # after a failure, empty the queue so that nobody waits for room
                self._attempt(self._append, chunk)
        if chunk is not None and self._error is None:
            self._attempt(self._complete, chunk)
        if chunk is None or self._error is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _append(self, chunk: bytes) -> None:
        self._file.write(chunk)
        self._digest.update(chunk)

    def _complete(self, then: Callable[[str], None]) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        then(self._digest.hexdigest())

    def _attempt(self, action: Callable[[Any], None], argument: object) -> None:
        try:
            action(argument)
        except Exception as error:  # whatever it is, nobody may be left waiting for this thread
            self._error = error
