"""One recorder at a time on a run folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock, Timeout

from trajectory_tools.errors import RunBusy

__all__ = ["lock_run"]


def lock_run(folder: Path) -> FileLock:
    """Take the folder's lock, which the system frees when the process ends; ``RunBusy`` at once where it is held."""
    lock = FileLock(folder / ".lock", timeout=0, thread_local=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise RunBusy(
            f"{folder} is being recorded by another recorder; wait for it, or record into another folder"
        ) from error
    return lock
