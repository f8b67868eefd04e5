"""Random projections while the training runs: in the host's memory, or on a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.store.projection import Projection

__all__ = ["DeviceProjector", "Projector"]

Floats = NDArray[np.floating]


class Projector:
    """The projections of the recorded parameters; ``recorded`` are their places among all."""

    def __init__(
        self, names: Sequence[str], numels: Sequence[int], recorded: Sequence[int], dims: int, seed: int
    ) -> None:
        self._of = {i: Projection(seed, names[i], numels[i], dims) for i in recorded}

    def __contains__(self, i: object) -> bool:
        return i in self._of

    def __call__(self, i: int, values: Floats, minus: Floats | None, divisor: float) -> NDArray[np.float64]:
        """P of one parameter's values (flat), less ``minus``, or over ``divisor``: (k,), or all if they are fewer."""
        projection = self._of[i]
        length = projection.block if projection.projects else max(values.size, 1)
        total = np.zeros(projection.count)
        for block, start in enumerate(range(0, values.size, length)):
            part = values[start : start + length]
            if minus is not None:
                part = part - minus[start : start + length]
            if divisor != 1:
                part = part / part.dtype.type(divisor)
            total += projection.sums(part, block) if projection.projects else part
        return total


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
