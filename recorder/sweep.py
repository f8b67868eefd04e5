"""Going through a network's values block by block: each is copied, subtracted and measured in a core's cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import DTypeLike, NDArray

from trajectory_tools.store.stats_rows import MAX, MIN, NONFINITE, SQUARES, ZEROS

__all__ = ["BLOCK_VALUES", "Block", "Blocks", "Scratch", "gather", "measure", "sweep"]

BLOCK_VALUES = 2**18
"""1 MB of float32: the calls of a smaller block cost as much as its values, a larger one leaves the core's caches."""

THREADED_VALUES = 2**19
"""A smaller network is gone through faster than a thread is woken."""

ROW_VALUES = 2**10
"""Squares that are summed in the values' own precision at a time."""

TINY = 1e-12
"""Where no value of a float32 piece is larger, its squares lose digits or vanish: they are summed again as float64."""

INFINITE = float("inf")

Floats = NDArray[np.floating]
Source = NDArray[np.floating] | NDArray[np.uint16]
"""A tensor's values, flat; bfloat16, which NumPy does not have, as its 16 bits."""


@dataclass(frozen=True)
class Block:
    """Neighbouring small tensors ``first:last``, or the part of one large tensor that begins at ``offset``.

    ``start:stop`` is its place in the flat vector of all tensors, ``pieces`` that of its pieces among all, and
    ``starts`` where in the block each piece begins (an empty tensor has none).
    """

    start: int
    stop: int
    first: int
    last: int
    offset: int
    pieces: slice
    starts: NDArray[np.intp]

    def __len__(self) -> int:
        return self.stop - self.start


class Blocks:
    """Tensors of these sizes, in order, cut into blocks. ``owner``: (pieces,), which tensor each piece belongs to."""

    def __init__(self, numels: Sequence[int]) -> None:
        self.n_values = sum(numels)
        self.blocks: list[Block] = []
        owner: list[int] = []
        ends = np.cumsum([0, *numels]).tolist()
        first = 0
        while first < len(numels):
            start, last = ends[first], first + 1
            if numels[first] > BLOCK_VALUES:
                for offset in range(0, numels[first], BLOCK_VALUES):
                    stop = start + min(offset + BLOCK_VALUES, numels[first])
                    pieces = slice(len(owner), len(owner) + 1)
                    self.blocks.append(Block(start + offset, stop, first, last, offset, pieces, np.zeros(1, np.intp)))
                    owner.append(first)
            else:
                while last < len(numels) and ends[last + 1] - start <= BLOCK_VALUES:
                    last += 1
                there = [i for i in range(first, last) if numels[i]]
                starts = np.array([ends[i] - start for i in there], np.intp)
                pieces = slice(len(owner), len(owner) + len(there))
                if there:
                    self.blocks.append(Block(start, ends[last], first, last, 0, pieces, starts))
                owner += there
            first = last
        self.owner = np.array(owner, np.intp)


class Scratch:
    """What one thread needs beside the values."""

    def __init__(self, n_values: int, dtype: DTypeLike) -> None:
        self._n, self._dtype = n_values, dtype

    @cached_property
    def values(self) -> Floats:
        """Room for a block."""
        return np.empty(self._n, self._dtype)

    @cached_property
    def squares(self) -> Floats:
        """Room for its squares."""
        return np.empty(self._n, self._dtype)

    @cached_property
    def flags(self) -> NDArray[np.bool_]:
        """Room for a mask."""
        return np.empty(self._n, np.bool_)


Visit = Callable[[Block, Scratch], None]


def sweep(blocks: Blocks, visit: Visit, scratch: Sequence[Scratch]) -> None:
    """Call ``visit`` with each block, where the network is large on a thread for each ``scratch``."""
    # Each takes the next block when it is done with one: torch's threads, which wait for work by spinning, hold the
    # others up for their first milliseconds.
    left = deque(blocks.blocks)

    def go_through(own: Scratch) -> None:
        with np.errstate(all="ignore"):  # NaN and Inf are data here, and counted
            while left:
                try:
                    block = left.popleft()
                except IndexError:  # another thread was faster
                    return
                visit(block, own)

    if blocks.n_values < THREADED_VALUES or len(scratch) == 1:
        go_through(scratch[0])
        return
    with ThreadPoolExecutor(len(scratch) - 1, "trajectory-sweep") as pool:
        others = [pool.submit(go_through, own) for own in scratch[1 : len(blocks.blocks)]]
        go_through(scratch[0])
        for other in others:
            other.result()


def gather(block: Block, sources: Sequence[Source], out: Floats) -> None:
    """Copy the block's values, out of all tensors', into ``out``: (len(block),)."""
    if block.last - block.first == 1:
        source = sources[block.first][block.offset : block.offset + len(block)]
        copy_values(source, out)
        return
    parts = sources[block.first : block.last]
    if any(part.dtype == np.uint16 for part in parts):
        start = 0
        for part in parts:
            copy_values(part, out[start : start + part.size])
            start += part.size
    else:
        np.concatenate(parts, out=out)


def copy_values(source: Source, out: Floats) -> None:
    """Copy, as ``out``'s dtype; exact, as that is as wide."""
    if source.dtype != np.uint16:
        np.copyto(out, source)
    elif out.dtype == np.float32:
        np.left_shift(source, 16, out=out.view(np.uint32), dtype=np.uint32)
    else:
        np.copyto(out, np.left_shift(source, 16, dtype=np.uint32).view(np.float32))


def measure(values: Floats, starts: NDArray[np.intp], out: NDArray[np.float64], scratch: Scratch) -> None:
    """The numbers of the pieces that begin at ``starts``, into ``out``: (5, pieces), see ``stats_rows``.

    Squares are summed in the values' own precision, at most 128 in a row: for float32 the relative error of a norm is
    below 2e-6. Of a single piece by ``sum_of_squares``, of many pairwise.
    """
    flags = np.equal(values, 0, out=scratch.flags[: values.size])
    if len(starts) == 1:
        out[SQUARES, 0] = sum_of_squares(values)
        out[ZEROS, 0] = np.count_nonzero(flags)
    else:
        squares = np.multiply(values, values, out=scratch.squares[: values.size])
        out[SQUARES] = np.add.reduceat(squares, starts)
        out[ZEROS] = 0
        if flags.any():
            bounds = [*starts.tolist(), values.size]
            out[ZEROS] = [np.count_nonzero(flags[start:stop]) for start, stop in pairwise(bounds)]
    out[MIN] = np.minimum.reduceat(values, starts)
    out[MAX] = np.maximum.reduceat(values, starts)
    out[NONFINITE] = 0
    sums = out[SQUARES].tolist()
    if not all(TINY**2 < total < INFINITE for total in sums):  # NaN is not between them either
        refine(values, starts, out)


def sum_of_squares(values: Floats) -> float:
    """Σx² of (n,): dot products of ``ROW_VALUES`` at a time, put together as float64."""
    whole = values.size - values.size % ROW_VALUES
    rows = values[:whole].reshape(-1, ROW_VALUES)
    total = np.matmul(rows[:, None, :], rows[:, :, None]).sum(dtype=np.float64)
    rest = values[whole:]
    return float(total + rest.dot(rest))


def refine(values: Floats, starts: NDArray[np.intp], out: NDArray[np.float64]) -> None:
    """Once more and slowly, for the pieces that hold NaN or Inf, or whose squares are beyond float32."""
    ends = [*starts[1:], values.size]
    for piece in np.flatnonzero(~((out[SQUARES] > TINY**2) & (out[SQUARES] < np.inf))).tolist():
        start, stop = starts[piece], ends[piece]
        if out[MIN, piece] == out[MAX, piece] == 0:
            continue
        wide = values[start:stop].astype(np.float64)
        finite = wide[np.isfinite(wide)]
        out[SQUARES, piece] = np.square(wide).sum()
        out[MIN, piece] = finite.min() if finite.size else np.nan
        out[MAX, piece] = finite.max() if finite.size else np.nan
        out[NONFINITE, piece] = wide.size - finite.size
