"""Memory for the values of steps, used again once they are written: fresh memory costs more than what is copied in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Buffers"]

LENGTHS_KEPT = 3
"""With tensors of every n-th step, steps of two lengths alternate; a probe has samples, surrogates and a mean."""


class Buffers:
    """Arrays that are handed out again once they are given back, by whichever thread.

    Kept are those of the ``LENGTHS_KEPT`` lengths that were asked for last; what is given back of another is let go.
    """

    def __init__(self) -> None:
        self._free: dict[tuple[int, np.dtype], deque[NDArray[np.floating]]] = {}  # the last asked for stands last

    def take(self, n_values: int, dtype: DTypeLike) -> tuple[NDArray[np.floating], Callable[[], None]]:
        """An array of so many values, and what to call when nobody looks at it any more."""
        length = n_values, np.dtype(dtype)
        free = self._free[length] = self._free.pop(length, deque())
        if len(self._free) > LENGTHS_KEPT:
            del self._free[next(iter(self._free))]
        # Another thread only ever appends: what is there now, stays.
        given = free.pop() if free else np.empty(n_values, dtype)
        return given, lambda: free.append(given)

    def forget(self) -> None:
        """Let go of all of them, and of those that are not given back yet as soon as they are."""
        self._free.clear()
