"""Freed memory that the process keeps."""

from __future__ import annotations

import numpy as np

__all__ = ["keep_freed_memory"]

KEPT_BYTES = 31 * 2**20
"""glibc follows blocks up to 32 MB."""


def keep_freed_memory() -> None:
    """Have glibc keep blocks of up to this size, and twice as much at the end of its heap, when they are freed.

    It holds for the whole process, as after any block of this size that a program frees (mallopt(3),
    M_MMAP_THRESHOLD). Until then gradients that are freed at each step, and what a step over rows of samples allocates,
    may go back to the kernel each time, and be taken anew page by page; whether they do depends on which other blocks
    lie behind them, and so on whether a run is recorded. The block itself is never touched, and takes no memory.
    """
    np.empty(KEPT_BYTES, np.uint8)
