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
        if self._free and (self._free[-1].size != n_values or self._free[-1].dtype != dtype):
            self._free = deque()  # what has another length will not be needed again
        free = self._free
        buffer = free.pop() if free else np.empty(n_values, dtype)
        return buffer, lambda: free.append(buffer)
