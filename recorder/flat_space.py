"""All of an optimizer's parameters as one vector, in recorded order, and the way back to their shapes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.probe_updates import Gradients
from trajectory_tools.store.rows import RowLayout

__all__ = ["FlatSpace"]


class FlatSpace:
    """Vectors of d values, float32, or float64 where a parameter is; a complex element is two, real and imaginary.

    ``numels`` are the values of each parameter, ``layout`` how they stand in rows.
    """

    def __init__(self, named: Sequence[Named]) -> None:
        self.tensors = [each.tensor for each in named]
        self.numels = [_real(tensor).numel() for tensor in self.tensors]
        self.dtype = torch.float64 if any(_real(t).dtype == torch.float64 for t in self.tensors) else torch.float32
        names = (each.name for each in named)
        self.layout = RowLayout.of(dict(zip(names, self.numels, strict=True)), str(self.dtype).removeprefix("torch."))
        self.device = self.tensors[0].device if self.tensors else torch.device("cpu")
        self.sparse: dict[int, int] = {}
        """Parameter → how many of its dimensions are sparse in a gradient; its mean is to be like that, too."""

    @property
    def n_values(self) -> int:
        """d."""
        return sum(self.numels)

    def of_one(self, tensors: Gradients) -> tuple[Tensor, NDArray[np.bool_] | None]:
        """One sample as (1, values that are there), and which parameters are (None: all)."""
        self.sparse |= {i: t.sparse_dim() for i, t in enumerate(tensors) if t is not None and t.is_sparse}
        return self.of_stack([None if tensor is None else _real(tensor).unsqueeze(0) for tensor in tensors], 1)

    def of_stack(self, stacked: Gradients, n: int) -> tuple[Tensor, NDArray[np.bool_] | None]:
        """n samples, (n, *shape) of each parameter, as (n, values that are there), and which parameters are."""
        parts = [
            _real(tensor).reshape(n, numel).to(self.device, self.dtype)
            for tensor, numel in zip(stacked, self.numels, strict=True)
            if tensor is not None
        ]
        flat = torch.cat(parts, 1) if parts else torch.empty(n, 0, dtype=self.dtype, device=self.device)
        return flat, None if len(parts) == len(stacked) else np.array([tensor is not None for tensor in stacked])

    def whole(self, flat: Tensor, present: NDArray[np.bool_] | None) -> Tensor:
        """(n, d), with 0 for the values that are not there."""
        if present is None:
            return flat
        there = torch.from_numpy(np.repeat(present, self.numels)).to(flat.device)
        whole = flat.new_zeros(len(flat), self.n_values)
        whole[:, there] = flat
        return whole

    def shaped(self, flat: Tensor, present: NDArray[np.bool_]) -> Gradients:
        """The rows of (n, d) as the parameters have them, (n, *shape), None for those that are not present."""
        shaped: list[Tensor | None] = []
        for part, tensor, there in zip(torch.split(flat, self.numels, 1), self.tensors, present, strict=True):
            if not there:
                shaped.append(None)
            elif tensor.is_complex():
                pairs = part.reshape(len(flat), *tensor.shape, 2).to(tensor.device, tensor.real.dtype)
                shaped.append(torch.view_as_complex(pairs.contiguous()))
            else:
                shaped.append(part.reshape(len(flat), *tensor.shape).to(tensor.device, tensor.dtype).contiguous())
        return shaped

    def row(self, shaped: Gradients, i: int) -> Gradients:
        """The i-th sample, sparse where the samples' gradients were."""
        rows = [None if tensor is None else tensor[i] for tensor in shaped]
        return [r if r is None or j not in self.sparse else r.to_sparse(self.sparse[j]) for j, r in enumerate(rows)]


def _real(tensor: Tensor) -> Tensor:
    """The tensor's values as a dense real tensor."""
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
