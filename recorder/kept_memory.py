"""Freed memory that the process keeps."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["LARGE_BYTES", "keep_freed_memory"]

LARGE_BYTES = 4 * 2**20
"""Of parameters: with smaller ones, little goes back to the kernel, and a thread that gives much memory back at once
could hold up a step that takes no longer than that."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""malloc.h"""


def keep_freed_memory() -> None:
    """Have glibc keep blocks of up to 32 MB when they are freed, until 1 GB lies free at the end of its heap.

    It holds for the whole process (mallopt(3)). Otherwise gradients that are freed at each step, and what a step
    allocates for itself, may go back to the kernel each time, and be taken anew page by page: a tenth of a convnet's
    step. Whether they do depends on which other blocks lie behind them, and so on whether a run is recorded. What the
    environment says of it (MALLOC_..., GLIBC_TUNABLES) is left as it is.
    """
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(M_MMAP_THRESHOLD, 32 * 2**20)
        mallopt(M_TRIM_THRESHOLD, 2**30)
