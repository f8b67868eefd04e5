"""Random projections while the training runs: of blocks in a core's cache, or on a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.sweep import Block
from trajectory_tools.store.projection import BLOCK, Projection

__all__ = ["DeviceProjector", "Projected", "Projector"]

Floats = NDArray[np.floating]


class Projector:
    """The projections of the recorded parameters; ``recorded`` are their places among all."""

    def __init__(
        self, names: Sequence[str], numels: Sequence[int], recorded: Sequence[int], dims: int, seed: int
    ) -> None:
        self.numels = numels
        self.of = {i: Projection(seed, names[i], numels[i], dims) for i in recorded}

    def begin(self, there: Sequence[int]) -> Projected:
        """The projection of one column at one step, of these parameters (all, or those that have a gradient)."""
        return Projected(self, there)


class Projected:
    """What the blocks that were seen so far contribute. Blocks may be seen in any order, on any thread."""

    def __init__(self, projector: Projector, there: Sequence[int]) -> None:
        self._projector = projector
        self._there = there
        chosen = ((i, projector.of[i]) for i in there if i in projector.of)
        # A row for each block, so that the order of the sum does not depend on which thread was first.
        self._parts = {i: np.zeros((len(p.shifts) if p.projects else 1, p.count)) for i, p in chosen}

    def see(self, block: Block, values: Floats) -> None:
        """Take one block's values."""
        start = 0
        for place in range(block.first, block.last):
            i = self._there[place]
            stop = start + min(self._projector.numels[i] - block.offset, len(block))
            if i in self._parts:
                projection = self._projector.of[i]
                for first in range(start, stop, BLOCK):
                    which, part = (block.offset + first - start) // BLOCK, values[first : min(first + BLOCK, stop)]
                    self._parts[i][which] = projection.sums(part, which) if projection.projects else part
            start = stop

    def values(self) -> NDArray[np.float64]:
        """All projections, one after the other."""
        return np.concatenate([np.empty(0), *(part.sum(axis=0) for part in self._parts.values())])


class DeviceProjector:
    """The same projection of one parameter, of a tensor on any device."""

    def __init__(self, seed: int, name: str, numel: int, dims: int) -> None:
        projection = Projection(seed, name, numel, dims)
        table, length = projection.table, projection.block
        self._length, self._n_blocks = length, len(projection.shifts)
        ends = np.append(table.starts[1:], length)
        # Bucket by bucket: the places in a block, filled up with one that is always 0.
        places = np.full((dims, int((ends - table.starts).max())), length)
        for bucket, (start, end) in enumerate(zip(table.starts, ends, strict=True)):
            places[bucket, : end - start] = table.order[start:end]
        shifted = (np.arange(dims) - projection.shifts[:, None]) % dims
        self._tables = tuple(
            torch.from_numpy(array) for array in (places, shifted, table.signs, projection.block_signs[:, None])
        )

    def __call__(self, values: Tensor) -> Tensor:
        """P x: (dims,)."""
        if values.device.type == "mps":  # which has no float64
            return self(values.cpu()).to(values.device)
        if self._tables[0].device != values.device:
            self._tables = tuple(table.to(values.device) for table in self._tables)
        places, shifted, signs, block_signs = self._tables
        padded = values.new_zeros(self._n_blocks * self._length)
        padded[: values.numel()] = values
        blocks = padded.view(self._n_blocks, self._length) * signs.to(values.dtype)
        blocks = torch.nn.functional.pad(blocks, (0, 1))
        sums = blocks[:, places].sum(-1).to(torch.float64) * block_signs
        return sums.gather(1, shifted).sum(0).to(values.dtype)
