"""One pass over a network's values, in which they are subtracted, divided, copied and measured.

Memory is what it costs, so each value is read once: by ``one_pass.c``, or by NumPy where no compiler was there when the
package was installed, which takes several times as long.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.store.stats_rows import MAX, MIN, NONFINITE, SQUARES, ZEROS

try:
    from trajectory_tools.recorder import _one_pass

    _compiled: Callable[..., None] | None = _one_pass.take
except ImportError:
    _compiled = None

__all__ = ["Pieces", "take"]

PIECE_VALUES = 2**20
"""A larger tensor is measured in pieces, so that threads share it."""

ROW_VALUES = 2**10
"""Squares that are summed in the values' own precision at a time."""

TINY = 1e-12
"""Where no float32 is larger, squares lose digits or vanish: they are summed again as float64."""

Floats = NDArray[np.floating]
Numbers = NDArray[np.float64]


class Pieces:
    """Tensors of these sizes, cut into pieces.

    ``table``: (pieces, 4), of each the tensor, where in it it begins, its length, and its place in the flat vector of
    all; ``owner``: (pieces,), its tensor (an empty one has none); ``runs``: neighbouring pieces, first and last + 1,
    that are worth a thread's while.
    """

    def __init__(self, numels: Sequence[int]) -> None:
        self.numels = list(numels)
        self.n_values = sum(numels)
        rows: list[tuple[int, int, int, int]] = []
        self.runs: list[tuple[int, int]] = []
        place = first = 0
        for i, numel in enumerate(numels):
            for offset in range(0, numel, PIECE_VALUES):
                length = min(PIECE_VALUES, numel - offset)
                rows.append((i, offset, length, place))
                place += length
                if place - rows[first][3] >= PIECE_VALUES:
                    self.runs.append((first, len(rows)))
                    first = len(rows)
        if first < len(rows):
            self.runs.append((first, len(rows)))
        self.table = np.array(rows, np.int64).reshape(-1, 4)
        self.owner = self.table[:, 0].astype(np.intp)


def take(
    pieces: Pieces,
    tensors: Sequence[Tensor],
    numbers: Numbers,
    *,
    minus: Floats | None = None,
    divisor: float = 1.0,
    into: Floats | None = None,
) -> None:
    """Write the numbers of each piece, see ``stats_rows``, into ``numbers``: (pieces, 5).

    They are those of the tensors' values less ``minus``, or over ``divisor``; ``into`` receives these values. Tensors
    are contiguous, all float32 or all float64, and in the host's memory; ``minus`` and ``into`` have their dtype, and
    are flat, of all tensors. Squares are summed in the values' own precision, at most 64 in a row: for float32 the
    relative error of a norm is below 2e-6.
    """
    if [tensor.numel() for tensor in tensors] != pieces.numels:
        raise ValueError("a tensor has another size than before")
    if not tensors:
        return
    if _compiled is None:
        _take_slowly(pieces, tensors, numbers, minus=minus, divisor=divisor, into=into)
        return
    addresses, width = [tensor.data_ptr() for tensor in tensors], tensors[0].itemsize
    if len(pieces.runs) < 4:
        _compiled(addresses, pieces.table, 0, len(pieces.table), width, minus, divisor, into, numbers)
        return
    left, compiled = deque(pieces.runs), _compiled

    def go_through() -> None:
        while left:
            try:
                first, last = left.popleft()
            except IndexError:  # another thread was faster
                return
            compiled(addresses, pieces.table, first, last, width, minus, divisor, into, numbers)

    # Each takes the next run when it is done with one: torch's threads, which spin while they wait, hold others up.
    n_threads = min(torch.get_num_threads(), len(left) // 2)
    with ThreadPoolExecutor(n_threads, "trajectory-pass") as pool:
        others = [pool.submit(go_through) for _ in range(n_threads - 1)]
        go_through()
        for other in others:
            other.result()


@np.errstate(all="ignore")  # NaN and Inf are data here
def _take_slowly(
    pieces: Pieces,
    tensors: Sequence[Tensor],
    numbers: Numbers,
    *,
    minus: Floats | None,
    divisor: float,
    into: Floats | None,
) -> None:
    """The same in NumPy."""
    for (i, offset, length, place), out in zip(pieces.table.tolist(), numbers, strict=True):
        values: Floats = tensors[i].detach().view(-1)[offset : offset + length].numpy()
        if minus is not None:
            values = values - minus[place : place + length]
        if divisor != 1:
            values = values / values.dtype.type(divisor)
        if into is not None:
            into[place : place + length] = values
        out[:] = _numbers(values)


def _numbers(values: Floats) -> list[float]:
    found = np.empty(5)
    whole = values.size - values.size % ROW_VALUES
    rows, rest = values[:whole].reshape(-1, ROW_VALUES), values[whole:]
    found[SQUARES] = np.matmul(rows[:, None, :], rows[:, :, None]).sum(dtype=np.float64) + rest.dot(rest)
    found[MIN], found[MAX] = values.min(), values.max()
    found[ZEROS] = values.size - np.count_nonzero(values)
    found[NONFINITE] = 0
    if not TINY**2 < found[SQUARES] < np.inf and found[ZEROS] < values.size:  # NaN is not between them either
        wide = values.astype(np.float64)
        finite = wide[np.isfinite(wide)]
        found[SQUARES] = np.square(wide).sum()
        found[MIN], found[MAX] = (finite.min(), finite.max()) if finite.size else (np.nan, np.nan)
        found[NONFINITE] = wide.size - finite.size
    return found.tolist()
