"""The thread that commits parts, in order, while the next rows are being encoded."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from queue import Queue

__all__ = ["Committer", "yield_to_training"]


class Committer:
    """Commits one part after the other; once one has failed, those behind it are given up."""

    def __init__(self) -> None:
        self._error: Exception | None = None
        self._jobs: Queue[tuple[Callable[[], None], Callable[[], None]] | None] = Queue(2)
        # Started now, not when it is first needed: that may be while the interpreter ends, when no thread can start.
        self._thread = threading.Thread(target=self._run, name="trajectory-committer", daemon=True)
        self._thread.start()

    def submit(self, commit: Callable[[], None], give_up: Callable[[], None]) -> None:
        """Have a part committed, or given up; waits while two others do. Raises the error of an earlier one."""
        self._jobs.put((commit, give_up))
        self._raise()

    def close(self) -> None:
        """Return once nothing is left to commit; raises the first error."""
        self._jobs.put(None)
        self._thread.join()
        self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        yield_to_training()
        while (job := self._jobs.get()) is not None:
            commit, give_up = job
            try:
                if self._error is None:
                    commit()
            except Exception as error:  # whatever it is, nobody may be left waiting for this thread
                self._error = error
            if self._error is not None:
                give_up()


def yield_to_training() -> None:
    """Give this thread the lowest priority: where cores are few it would hold up every parallel region of the training.

    Linux alone has a priority for each thread. A starved writer fills the queue, and then the training waits for it.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
