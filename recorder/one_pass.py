"""One pass over a network's values, in which they are subtracted, divided, copied, chosen from and measured.

Memory is what it costs, so each value is read once: by ``one_pass.c``, or by NumPy, more slowly, where no compiler was
there when the package was installed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.capture import PLAIN, real
from trajectory_tools.store.stats_rows import MAX, MIN, NONFINITE, SQUARES, ZEROS

try:
    from trajectory_tools.recorder import _one_pass

    _compiled: Callable[..., None] | None = _one_pass.take if _one_pass.VERSION == 2 else None
except ImportError:
    _compiled = None

__all__ = ["Pieces", "flat", "is_compiled", "take"]

PIECE_VALUES = 2**18
"""A larger tensor is measured in pieces, so that threads share it."""

SHARED_VALUES = 2**18
"""What is worth more than one thread."""

PROCESS = os.getpid()
"""In a child that was forked OpenMP may wait for threads that only its parent has."""

ROW_VALUES = 2**10
"""Squares that are summed in the values' own precision at a time."""

TINY = 1e-12
"""Where no float32 is larger, squares lose digits or vanish: they are summed again as float64."""

NOTHING = np.empty(0, np.int64)

OTHER_SIZE = "a parameter or its gradient has another size than the parameter had before"

Floats = NDArray[np.floating]
Numbers = NDArray[np.float64]


class Pieces:
    """Tensors of these sizes, cut into pieces.

    ``chosen``: tensor → which of its values are to be taken out, their places in ascending order, or None for all.

    ``table``: (pieces, 7), of each the tensor, where in it it begins, its length, and its place in the flat vector of
    all; then of its chosen values the place among all that are chosen (``n_chosen``), how many they are, and where in
    ``picks`` their places in the piece begin (-1: all are). ``owner``: (pieces,), its tensor (an empty one has none).
    """

    def __init__(self, numels: Sequence[int], chosen: Mapping[int, NDArray[np.int64] | None] | None = None) -> None:
        self.numels = list(numels)
        self.n_values = sum(numels)
        rows: list[tuple[int, ...]] = []
        picks = [np.empty(0, np.int32)]
        place = self.n_chosen = n_picks = 0
        for i, numel in enumerate(numels):
            places = (chosen or {}).get(i, NOTHING)
            for offset in range(0, numel, PIECE_VALUES):
                length = min(PIECE_VALUES, numel - offset)
                count, from_pick = length, -1
                if places is not None:
                    here = places[slice(*np.searchsorted(places, (offset, offset + length)))] - offset
                    picks.append(here.astype(np.int32))
                    count, from_pick = len(here), n_picks
                    n_picks += count
                rows.append((i, offset, length, place, self.n_chosen, count, from_pick))
                self.n_chosen += count
                place += length
        self.table = np.array(rows, np.int64).reshape(-1, 7)
        self.picks = np.concatenate(picks)
        self.owner = self.table[:, 0].astype(np.intp)

    def only(self, tensors: Sequence[int]) -> Pieces:
        """The pieces of these tensors alone, in ascending order."""
        some = copy(self)
        some.numels = [self.numels[i] for i in tensors]
        some.n_values = sum(some.numels)
        some.table = self.table[np.isin(self.owner, tensors)]
        some.table[:, 0] = some.owner = np.searchsorted(tensors, some.table[:, 0])
        for first, size in ((3, 2), (4, 5)):
            some.table[:, first] = np.cumsum(some.table[:, size]) - some.table[:, size]
        some.n_chosen = int(some.table[:, 5].sum())
        return some

    def addresses(self, tensors: Sequence[Tensor], dtype: torch.dtype) -> list[int] | None:
        """Where the values of each are, or None where the memory of one does not hold them.

        ``ValueError`` where it does, and one has another size than these.
        """
        found = []
        for tensor in tensors:
            if not is_plain(tensor, dtype):
                return None
            found.append(tensor.data_ptr())
        if [tensor.numel() for tensor in tensors] != self.numels:
            raise ValueError(OTHER_SIZE)
        return found


def is_compiled() -> bool:
    """Whether values on the host are measured by ``one_pass.c``, and not, more slowly, by NumPy."""
    return _compiled is not None


def take(
    pieces: Pieces,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    numbers: Numbers,
    *,
    minus: Floats | None = None,
    divisor: float = 1.0,
    into: Floats | None = None,
    chosen: Floats | None = None,
) -> None:
    """Write the numbers of each piece, see ``stats_rows``, into ``numbers``: (pieces, 5).

    They are those of the tensors' values, as ``dtype`` (float32 or float64), less ``minus``, or over ``divisor``;
    ``into`` receives these values, and ``chosen``, (n_chosen,), those of them that the pieces choose, in the order of
    the tensors. ``minus`` and ``into`` are flat, of all tensors. Squares are summed in this precision (the compiled
    way: at most 64 in a row): for float32 the relative error of a norm is below 2e-6.
    ``ValueError`` where the tensors have other sizes than the pieces.
    """
    addresses = None if _compiled is None else pieces.addresses(tensors, dtype)
    if _compiled is None or addresses is None:
        _take_one_by_one(pieces, tensors, dtype, numbers, minus=minus, divisor=divisor, into=into, chosen=chosen)
        return
    # All of torch's threads or one: OpenMP ends those that a smaller team leaves out, and torch would start them anew.
    shared = pieces.n_values >= SHARED_VALUES and len(pieces.table) > 1 and os.getpid() == PROCESS
    n_threads = torch.get_num_threads() if shared else 1
    picks, width = pieces.picks, dtype.itemsize
    _compiled(addresses, pieces.table, width, minus, divisor, into, picks, chosen, numbers, n_threads)


def is_plain(tensor: Tensor, dtype: torch.dtype) -> bool:
    """Whether its memory holds its values, one behind the other."""
    return (
        tensor.dtype is dtype
        and type(tensor) in PLAIN
        and tensor.layout is torch.strided
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not tensor.is_neg()
        and (tensor.data_ptr() != 0 or tensor.numel() == 0)
    )


def flat(tensor: Tensor, numel: int, dtype: torch.dtype) -> Floats:
    """Its values in C order, as ``dtype``, uncopied where they are so; ``ValueError`` where they are not ``numel``."""
    found = tensor if is_plain(tensor, dtype) else real(tensor.detach()).resolve_neg()
    if not is_plain(found, dtype):  # of another dtype, strided, on a device, or of a class of its own
        own_memory = type(found) in PLAIN and found.is_cpu and not found._is_zerotensor()
        if own_memory and found.numel() and not found.untyped_storage().nbytes():
            raise ValueError("the memory of a parameter or its gradient has been given back")
        found = torch.empty(found.shape, dtype=dtype, device="cpu").copy_(found)
    if found.numel() != numel:
        raise ValueError(OTHER_SIZE)
    values: Floats = found.detach().reshape(-1).numpy()
    return values


@np.errstate(all="ignore")  # NaN and Inf are data here
def _take_one_by_one(
    pieces: Pieces,
    tensors: Sequence[Tensor],
    dtype: torch.dtype,
    numbers: Numbers,
    *,
    minus: Floats | None,
    divisor: float,
    into: Floats | None,
    chosen: Floats | None,
) -> None:
    """The same where a tensor's values have to be copied first, or nothing is compiled."""
    last = -1
    values: Floats = np.empty(0)
    for row, out in zip(pieces.table.tolist(), numbers, strict=True):
        i, offset, length, place, first, count, start = row
        if i != last:
            last, values = i, flat(tensors[i], pieces.numels[i], dtype)
        part, here = values[offset : offset + length], slice(place, place + length)
        old, to = None if minus is None else minus[here], None if into is None else into[here]
        if _compiled is not None:
            alone, address = np.array([[0, 0, length, 0, first, count, start]]), [part.ctypes.data]
            _compiled(address, alone, dtype.itemsize, old, divisor, to, pieces.picks, chosen, out, 1)
            continue
        if old is not None:
            part = part - old
        if divisor != 1:
            part = part / part.dtype.type(divisor)
        if to is not None:
            to[:] = part
        if chosen is not None:
            chosen[first : first + count] = part if start < 0 else part[pieces.picks[start : start + count]]
        out[:] = _numbers(part)


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
