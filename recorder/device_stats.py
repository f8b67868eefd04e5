"""Norms, extrema and counts of tensors on a device, without waiting for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.store.stats_rows import StatsLayout

__all__ = ["DeviceStats"]

PIECE_VALUES = 2**13
"""A device reduces many short pieces at a time faster than a few long ones; the writer adds them up."""

AT_ONCE = 2**24
"""Values whose squares, as float64, are in the device's memory at a time."""


class DeviceStats:
    """The numbers of every piece of param, update and grad, the last of those parameters that have one."""

    def __init__(self, names: Sequence[str], numels: Sequence[int], present: NDArray[np.bool_]) -> None:
        owner: list[int] = []
        lengths: list[int] = []
        n = len(names)
        for kind, there in ((0, np.ones(n, bool)), (1, np.ones(n, bool)), (2, present)):
            for i in np.flatnonzero(there).tolist():
                for start in range(0, numels[i], PIECE_VALUES):
                    owner.append(kind * n + i)
                    lengths.append(min(PIECE_VALUES, numels[i] - start))
        self.layout = StatsLayout(tuple(names), np.array(owner, np.intp), present)
        self._lengths = lengths
        self._cuts: dict[tuple[int, ...], list[tuple[int, int, int, Tensor]]] = {}

    def measure(self, flats: Sequence[Tensor]) -> list[Tensor]:
        """The pieces of these flat tensors, in order: 5 numbers of each, float64, flat, on the tensors' devices.

        Squares are summed as float64; see ``stats_rows`` for the numbers.
        """
        if flats[0].device.type == "mps":  # which has no float64
            flats = [flat.cpu() for flat in flats]
        key = tuple(flat.numel() for flat in flats)
        if key not in self._cuts:
            self._cuts[key] = self._cut(flats)
        found = []
        for which, start, stop, lengths in self._cuts[key]:
            values = flats[which][start:stop]
            finite = torch.isfinite(values)
            wide = values.to(torch.float64)
            numbers = [
                _reduced("sum", wide * wide, lengths),
                _reduced("min", torch.where(finite, wide, torch.inf), lengths),
                _reduced("max", torch.where(finite, wide, -torch.inf), lengths),
                _reduced("sum", (values == 0).to(torch.float64), lengths),
                _reduced("sum", (~finite).to(torch.float64), lengths),
            ]
            for i in (1, 2):
                numbers[i] = torch.where(torch.isinf(numbers[i]), torch.nan, numbers[i])
            found.append(torch.stack(numbers, 1).reshape(-1))
        return found

    def _cut(self, flats: Sequence[Tensor]) -> list[tuple[int, int, int, Tensor]]:
        """(which tensor, its values start:stop, the lengths of the pieces in them), each with whole pieces."""
        cuts = []
        lengths = iter(self._lengths)
        for which, flat in enumerate(flats):
            start = stop = 0
            taken: list[int] = []
            while stop < flat.numel():
                taken.append(next(lengths))
                stop += taken[-1]
                if stop - start >= AT_ONCE or stop == flat.numel():
                    cuts.append((which, start, stop, torch.tensor(taken, device=flat.device)))
                    start, taken = stop, []
        return cuts


def _reduced(how: str, values: Tensor, lengths: Tensor) -> Tensor:
    # "unsafe" leaves out a check of the lengths for which the host would wait.
    return torch.segment_reduce(values, how, lengths=lengths, unsafe=True)
