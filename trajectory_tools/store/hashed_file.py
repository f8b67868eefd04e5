"""A file that is written and hashed by a thread of its own, while the next bytes are being encoded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from queue import Queue
from threading import Thread

__all__ = ["HashedFile"]

CHUNKS_IN_FLIGHT = 8  # each at most a Parquet page, about 1 MB


class HashedFile:
    """Takes what ``pyarrow`` writes; ``finish`` returns the sha256 of it once it is on the disk.

    An error of the thread is raised by the next ``write``, or by ``finish``.
    """

    closed = False  # asked for by pyarrow

    def __init__(self, path: Path) -> None:
        self.size = 0
        self._file = path.open("wb")
        self._digest = hashlib.sha256()
        self._error: Exception | None = None
        self._chunks: Queue[bytes | None] = Queue(CHUNKS_IN_FLIGHT)
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

    def finish(self) -> str:
        """Wait for everything to be written, sync, close; the hex digest of the file's bytes."""
        self.abandon()
        if self._error is not None:
            raise self._error
        return self._digest.hexdigest()

    def abandon(self) -> None:
        """Stop the thread and close the file, whatever state it is in."""
        self._chunks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            if self._error is None:  # after a failure, empty the queue so that nobody waits for room
                self._attempt(chunk)
        self._attempt(None)

    def _attempt(self, chunk: bytes | None) -> None:
        """Write and hash the chunk, or at the end sync and close."""
        try:
            if chunk is not None:
                self._file.write(chunk)
                self._digest.update(chunk)
                return
            with self._file:
                self._file.flush()
                os.fsync(self._file.fileno())
        except Exception as error:  # whatever it is, nobody may be left waiting for this thread
            self._error = self._error or error
