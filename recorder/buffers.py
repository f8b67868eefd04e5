"""Memory for the values of steps, used again once they are written: fresh memory costs more than what is copied in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Buffers"]


class Buffers:
    """Arrays of one length at a time; those given back, by whichever thread, are handed out again."""

    def __init__(self) -> None:
        self._free: deque[NDArray[np.floating]] = deque()

    def take(self, n_values: int, dtype: DTypeLike) -> tuple[NDArray[np.floating], Callable[[], None]]:
        """An array of so many values, and what to call when nobody looks at it any more."""
        # Looked at once it is ours: meanwhile another thread may give back one of another length.
        buffer = self._free.pop() if self._free else None
        if buffer is None or buffer.size != n_values or buffer.dtype != dtype:
            if buffer is not None:
                self._free = deque()  # memory of a single length is kept
            buffer = np.empty(n_values, dtype)
        free, given = self._free, buffer
        return given, lambda: free.append(given)
