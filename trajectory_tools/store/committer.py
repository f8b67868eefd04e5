"""The thread that commits parts while others are being encoded: each table's in order, whichever is done first."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import defaultdict, deque
from itertools import takewhile

from trajectory_tools.store.part_file import PartFile

__all__ = ["Committer", "yield_to_training"]

MAX_FINISHED = 3
"""Parts that may wait for the disk alone: where it is slower than the encoders, it holds them up."""


class Committer:
    """Commits a part once it is finished and every part before it is committed: a kill leaves no gap in a trajectory.

    Once one has failed, all that are left are dropped.
    """

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._due: dict[str, deque[PartFile]] = defaultdict(deque)
        self._finished: set[PartFile] = set()
        self._closing = False
        self._changed = threading.Condition()
        # Started now, not when it is first needed: that may be while the interpreter ends, when no thread can start.
        self._thread = threading.Thread(target=self._run, name="trajectory-committer", daemon=True)
        self._thread.start()

    def expect(self, part: PartFile) -> None:
        """Announce the table's next part."""
        with self._changed:
            self._due[part.table].append(part)

    def submit(self, part: PartFile) -> None:
        """Have a finished part committed; waits while the disk is behind. Raises the error of an earlier one."""
        with self._changed:
            self._finished.add(part)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting() <= MAX_FINISHED or self._error)
            self._raise()

    def close(self) -> None:
        """Commit what can be, and drop what was not finished; raises the first error."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        for parts in self._due.values():
            for part in parts:
                part.drop()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _waiting(self) -> int:
        """How many wait for the disk, and not for a part before them that is not finished: who works on it may wait."""
        return sum(1 for due in self._due.values() for _ in takewhile(self._finished.__contains__, due))

    def _next(self) -> PartFile | None:
        """A part that can be committed now."""
        return next((due[0] for due in self._due.values() if due and due[0] in self._finished), None)

    def _run(self) -> None:
        yield_to_training()
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._next() or self._closing)
                part = self._next()
            if part is None:
                return
            try:
                part.commit()
            except Exception as error:  # whatever it is, nobody may be left waiting for this thread
                with self._changed:
                    self._error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._due[part.table].popleft()
                self._finished.discard(part)
                self._changed.notify_all()


def yield_to_training() -> None:
    """Give this thread the lowest priority: where cores are few it would hold up every parallel region of the training.

    Linux alone has a priority for each thread. A starved writer fills the queue, and then the training waits for it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
