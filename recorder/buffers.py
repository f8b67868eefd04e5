"""Memory for the values of steps, used again once they are written: fresh memory costs more than what is copied in."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["Buffers"]

LARGE = 2**20
"""Bytes from which on memory comes from the system page by page, each of them a fault at its first use."""


class Buffers:
    """Arrays of one length at a time; those given back are handed out again."""

    def __init__(self) -> None:
        self._free: list[NDArray[np.floating]] = []
        self._lock = threading.Lock()  # the writer's threads give back

    def take(self, n_values: int, dtype: DTypeLike) -> tuple[NDArray[np.floating], Callable[[], None] | None]:
        """An array of so many values, and what to call when nobody looks at it any more."""
        if n_values * np.dtype(dtype).itemsize < LARGE:
            return np.empty(n_values, dtype), None
        with self._lock:
            fitting = [free for free in self._free if free.size == n_values and free.dtype == dtype]
            self._free = fitting[:-1]  # what has another length will not be needed again
        buffer: NDArray[np.floating] = fitting[-1] if fitting else np.empty(n_values, dtype)

        def give_back() -> None:
            with self._lock:
                self._free.append(buffer)

        return buffer, give_back
