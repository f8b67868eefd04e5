"""One set of noise samples on its way to the run's writer: its mean and its surrogates are made along the way."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.flat_space import FlatSpace
from trajectory_tools.recorder.probe_updates import Updates
from trajectory_tools.recorder.sketch import Sketch, inner_products
from trajectory_tools.store.probe_rows import ProbeRows
from trajectory_tools.store.rows import StepRows
from trajectory_tools.store.writer import RunWriter

__all__ = ["SetWriter"]

Present = NDArray[np.bool_] | None
"""Which parameters have a gradient; None: all."""


class SetWriter:
    """Takes the samples of a set in order, and at its end makes what only all of them give.

    With the K gradients g_i and their mean ḡ: the update of ḡ; and S surrogates ḡ + Σ_i ξ_si (g_i − ḡ) / √(K − 1), ξ
    standard Gaussian, which have the gradients' mean and sample covariance; and their updates. Sums are float64 (for ḡ
    over what is taken at a time, each of these in the gradients' own dtype). In memory are S surrogates, and of a
    sketch all samples, for their inner products.
    """

    def __init__(
        self,
        writer: RunWriter,
        space: FlatSpace,
        updates: Updates,
        *,
        step: int,
        batch_size: int | None,
        n_samples: int,
        n_surrogates: int,
        seed: int,
        sketch: Sketch | None,
    ) -> None:
        self._writer, self._space, self._updates, self._sketch = writer, space, updates, sketch
        self._step, self._batch_size, self._n_samples = step, batch_size, n_samples
        self._taken = 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._ever = np.zeros(len(space.numels), bool)  # parameters that had a gradient in some sample
        # On Apple's GPUs there is no float64.
        self._exact = torch.float32 if space.device.type == "mps" else torch.float64
        self._sum = torch.zeros(space.n_values, dtype=self._exact, device=space.device)
        self._factors = np.random.default_rng([seed, step, batch_size or 0]).standard_normal((n_surrogates, n_samples))
        self._combined = torch.zeros(n_surrogates, space.n_values, dtype=self._exact, device=space.device)

    def take(self, grads: Tensor, present: Present, updates: Tensor) -> None:
        """Take samples, as rows: gradients (n, values that are there), updates (n, d)."""
        self._put("batch", self._taken, grads, present, updates)
        self._ever |= True if present is None else present
        whole = self._space.whole(grads, present)
        self._sum += whole.sum(0)
        if len(self._combined):
            exact = whole.to(self._exact)
            factors = torch.from_numpy(self._factors[:, self._taken : self._taken + len(grads)])
            self._combined.addmm_(factors.to(exact), exact)
        self._taken += len(grads)

    def finish(self) -> None:
        """Make surrogates and mean; the set is complete."""
        mean = self._sum / self._n_samples
        if n := len(self._combined):
            sums = torch.from_numpy(self._factors.sum(1, keepdims=True)).to(mean)
            surrogates = self._combined.sub_(sums * mean).div_(math.sqrt(self._n_samples - 1)).add_(mean)
            size = self._updates.stack
            for start in range(0, n, size):
                self._derive("surrogate", start, surrogates[start : start + size])
        self._derive("mean", 0, mean[None])
        if self._sketch is not None:
            grads, updates = (torch.cat(columns) for columns in zip(*self._kept, strict=True))
            self._writer.put_products(inner_products(self._step, self._batch_size, grads, updates))

    def _derive(self, source: str, first: int, flat: Tensor) -> None:
        """What the optimizer makes of these gradients (n, d)."""
        n, space = len(flat), self._space
        shaped = space.shaped(flat, self._ever)
        if n == 1 or space.sparse:
            each = [space.of_one(self._updates.of_one(space.row(shaped, i)))[0] for i in range(n)]
            updates = torch.cat(each)
        else:
            updates, _ = space.of_stack(self._updates.of_stack(shaped, n), n)
        grads, present = space.of_stack(shaped, n)
        self._put(source, first, grads, present, updates)

    def _put(self, source: str, first: int, grads: Tensor, present: Present, updates: Tensor) -> None:
        layout, coordinates = self._space.layout, None
        if self._sketch is not None:
            if source != "surrogate":
                self._kept.append((self._space.whole(grads, present).cpu(), updates.cpu()))
            layout = self._sketch.layout
            coordinates = self._sketch.coordinates if source == "mean" else None
            grads = self._sketch.of(grads, present, self._space.numels)
            updates = self._sketch.of(updates, None, self._space.numels)
        columns = {"grad": grads.cpu().numpy(), "update": updates.cpu().numpy()}
        mask = {} if present is None else {"grad": present}
        for i in range(len(grads)):
            rows = StepRows(self._step, layout, {name: values[i] for name, values in columns.items()}, mask)
            self._writer.put_probe(ProbeRows(rows, source, self._batch_size, first + i, coordinates))
