"""A sketch of a probe: some coordinates, and the exact inner products over all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.store.probe_rows import ProductRows
from trajectory_tools.store.rows import RowLayout

__all__ = ["Sketch", "inner_products"]

BLOCK = 2**14
"""Coordinates that are multiplied at a time, in float64."""


class Sketch:
    """A seeded uniform choice of ``size`` of the values of all parameters, without replacement."""

    def __init__(self, layout: RowLayout, size: int, seed: int) -> None:
        numels = np.bincount(layout.codes, layout.lengths, len(layout.names)).astype(np.int64)
        starts = np.cumsum(numels) - numels
        chosen = np.sort(np.random.default_rng(seed).choice(int(numels.sum()), size, replace=False))
        owners = np.searchsorted(starts + numels, chosen, side="right")
        counts = np.bincount(owners, minlength=len(numels))
        self.layout = RowLayout.of(dict(zip(layout.names, counts.tolist(), strict=True)), layout.dtype)
        within = chosen - starts[owners]
        self.coordinates: list[NDArray[np.int64]] = np.split(within, np.cumsum(self.layout.lengths)[:-1])
        """For each row of the layout, which elements of its parameter it holds."""
        self._chosen = torch.from_numpy(chosen)
        self._owners = owners

    def of(self, flat: Tensor, present: NDArray[np.bool_] | None, numels: Sequence[int]) -> Tensor:
        """The chosen columns of (n, values); the values of parameters that are not ``present`` are not in it."""
        chosen = self._chosen
        if present is not None:
            absent = np.cumsum(np.where(present, 0, numels))  # values that are missing up to and with each parameter
            kept = present[self._owners]
            chosen = torch.from_numpy((chosen.numpy() - absent[self._owners])[kept])
        return flat.index_select(1, chosen.to(flat.device))


def inner_products(step: int, batch_size: int | None, grads: Tensor, updates: Tensor) -> ProductRows:
    """The inner products of the rows of two (K + 1, values), summed in float64."""
    grads, updates = grads.cpu(), updates.cpu()
    n = len(grads)
    gg, uu, ug = (np.zeros((n, n)) for _ in range(3))
    for start in range(0, grads.shape[1], BLOCK):
        g, u = (values[:, start : start + BLOCK].double().numpy() for values in (grads, updates))
        gg += g @ g.T  # of a matrix and itself NumPy computes one half
        uu += u @ u.T
        ug += u @ g.T
    return ProductRows(step, batch_size, gg, uu, ug)
