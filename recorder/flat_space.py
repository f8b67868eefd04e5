"""All of an optimizer's parameters as one vector, in recorded order, and the way back to their shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.buffers import Buffers
from trajectory_tools.recorder.capture import PLAIN, real
from trajectory_tools.recorder.names import Named
from trajectory_tools.store.rows import RowLayout

__all__ = ["FlatSpace", "Gradients", "Present", "Rows", "present_in"]

Gradients = Sequence[Tensor | None]
"""The gradient of each parameter."""

Present = NDArray[np.bool_] | None
"""Which parameters have a gradient; None: all."""


@dataclass(frozen=True)
class Rows:
    """Samples, one behind the other: gradients (n, values that are there), updates (n, d), which are yet to be made.

    ``release`` is to be called when nobody looks at them any more.
    """

    grads: Tensor
    present: Present
    updates: Tensor
    release: Callable[[], None] | None

    def __len__(self) -> int:
        return len(self.grads)

    def first(self, n: int) -> Rows:
        """The first n of them."""
        return self if n == len(self) else replace(self, grads=self.grads[:n], updates=self.updates[:n])


class FlatSpace:
    """Vectors of d values, float32, or float64 where a parameter is; a complex element is two, real and imaginary.

    ``numels`` are the values of each parameter, ``layout`` how they stand in rows.
    """

    def __init__(self, named: Sequence[Named], buffers: Buffers) -> None:
        self.tensors = [each.tensor for each in named]
        self._shapes = [real(tensor).shape for tensor in self.tensors]
        self.numels = [shape.numel() for shape in self._shapes]
        self.dtype = torch.float64 if any(real(t).dtype == torch.float64 for t in self.tensors) else torch.float32
        names = (each.name for each in named)
        self.layout = RowLayout.of(dict(zip(names, self.numels, strict=True)), str(self.dtype).removeprefix("torch."))
        self.device = self.tensors[0].device if self.tensors else torch.device("cpu")
        kinds = {(type(tensor) in PLAIN, tensor.layout, tensor.dtype, tensor.device) for tensor in self.tensors}
        # Gradients are then like them, says torch, but for the layout.
        self._plain = kinds == {(True, torch.strided, self.dtype, self.device)}
        self.sparse: dict[int, int] = {}
        """Parameter → how many of its dimensions are sparse in a gradient; its mean is to be like that, too."""
        self._buffers = buffers

    @property
    def n_values(self) -> int:
        """d."""
        return sum(self.numels)

    def rows(self, n: int, present: Present) -> Rows:
        """Room for n samples."""
        d = self.n_values
        there = d if present is None else int(np.dot(present, self.numels))
        release = None
        if self.device.type == "cpu":
            buffer, release = self._buffers.take(2 * n * d, self.layout.dtype)
            values = torch.from_numpy(buffer)
        else:
            values = torch.empty(2 * n * d, dtype=self.dtype, device=self.device)
        return Rows(values[: n * there].view(n, there), present, values[n * d :].view(n, d), release)

    def row_of(self, gradients: Gradients) -> Rows:
        """A sample as a row of its own."""
        self.sparse |= {i: g.sparse_dim() for i, g in enumerate(gradients) if g is not None and g.is_sparse}
        rows = self.rows(1, present_in(gradients))
        self.fill(rows, 0, [None if gradient is None else real(gradient) for gradient in gradients])
        return rows

    def fill(self, rows: Rows, i: int, gradients: Gradients) -> None:
        """Copy a sample's gradients, none of them sparse, into row i."""
        if rows.grads.shape[1]:
            torch.cat(self._flat(gradient for gradient in gradients if gradient is not None), out=rows.grads[i])

    def rows_of_stack(self, stacked: Gradients, n: int) -> Rows:
        """Rows of n samples, (n, *shape) of each parameter."""
        rows = self.rows(n, present_in(stacked))
        there = [gradient for gradient in stacked if gradient is not None]
        for columns, gradient in zip(self._columns(rows.grads, rows.present), there, strict=True):
            columns.copy_(real(gradient).view(columns.shape))
        return rows

    def vector(self, tensors: Iterable[Tensor]) -> Tensor:
        """(d,), the values of the parameters, or of tensors like them."""
        return torch.cat(self._flat(tensors))

    def whole(self, flat: Tensor, present: Present) -> Tensor:
        """(n, d), with 0 for the values that are not there."""
        if present is None:
            return flat
        whole = flat.new_zeros(len(flat), self.n_values)
        whole[:, torch.from_numpy(np.repeat(present, self.numels)).to(self.device)] = flat
        return whole

    def split(self, flat: Tensor, present: NDArray[np.bool_]) -> Gradients:
        """Rows (n, d) as (n, values of the parameter), in its dtype; None for those that are not present."""
        parts = torch.split(flat, self.numels, 1)
        return [
            part.to(real(tensor).dtype) if there else None
            for part, tensor, there in zip(parts, self.tensors, present, strict=True)
        ]

    def gradients(self, row: Tensor, present: Present) -> Gradients:
        """A row (values that are there) as the parameters have it, sparse where samples' gradients were."""
        shaped: list[Tensor | None] = []
        for i, (tensor, numel) in enumerate(zip(self.tensors, self.numels, strict=True)):
            if present is not None and not present[i]:
                shaped.append(None)
                continue
            part, row = row[:numel], row[numel:]
            if tensor.is_complex():
                pairs = part.reshape(*tensor.shape, 2).to(tensor.device, tensor.real.dtype)
                shaped.append(torch.view_as_complex(pairs.contiguous()))
            else:
                dense = part.reshape(tensor.shape).to(tensor.device, tensor.dtype)
                shaped.append(dense.to_sparse(self.sparse[i]) if i in self.sparse else dense)
        return shaped

    def _flat(self, tensors: Iterable[Tensor]) -> list[Tensor]:
        if self._plain:  # the usual case: each call takes as long as the copy of a small tensor
            return [tensor.detach().reshape(-1) for tensor in tensors]
        return [real(tensor.detach()).reshape(-1).to(self.device, self.dtype) for tensor in tensors]

    def _columns(self, grads: Tensor, present: Present) -> Iterator[Tensor]:
        """Rows of gradients as (n, *shape) of each parameter that has one."""
        there = [i for i in range(len(self.numels)) if present is None or present[i]]
        parts = torch.split(grads, [self.numels[i] for i in there], 1) if there else ()
        yield from (part.view(len(grads), *self._shapes[i]) for i, part in zip(there, parts, strict=True))


def present_in(gradients: Gradients) -> Present:
    """Which parameters have a gradient in this sample."""
    present = np.array([gradient is not None for gradient in gradients], bool)
    return None if present.all() else present
