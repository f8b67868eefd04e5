"""The thread that writes blocks while the next ones are made."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

__all__ = ["DiskThread"]


class DiskThread:
    """Does one thing after the other.

    It has the priority of the thread that makes it: little is computed here, and a training that waits for room must
    not depend on a thread of a low one. Started at once, as later the interpreter may be about to end.
    """

    def __init__(self) -> None:
        self._tasks: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="trajectory-disk", daemon=True)
        self._thread.start()

    def do(self, task: Callable[[], None]) -> None:
        """Have this done, which must not raise."""
        self._tasks.put(task)

    def close(self) -> None:
        """Return when all is done."""
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()
            del task  # or its file would stay until the next one comes
