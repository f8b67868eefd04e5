"""One set of noise samples on its way to the run's writer: its mean and its surrogates are made along the way."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from trajectory_tools.recorder.flat_space import FlatSpace, Rows
from trajectory_tools.recorder.probe_updates import Updates
from trajectory_tools.recorder.sketch import Sketch, inner_products
from trajectory_tools.recorder.warning import warn
from trajectory_tools.store.probe_rows import ProbeRows
from trajectory_tools.store.writer import RunWriter

__all__ = ["SetWriter"]


class SetWriter:
    """Takes the samples of a set in order, and at its end makes what only all of them give.

    With the K gradients g_i and their mean ḡ: the update of ḡ; and S surrogates ḡ + Σ_i ξ_si (g_i − ḡ) / √(K − 1), ξ
    standard Gaussian, which have the gradients' mean and sample covariance; and their updates. Sums are float64 (for ḡ
    over what is taken at a time, each of these in the gradients' own dtype). In memory are S surrogates, of a sketch
    all samples, for their inner products, and of small networks what was made last: the writer's thread would take the
    cores away from what comes next.
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
        self._made: list[ProbeRows] = []
        self.has_begun = False
        """Whether the writer was given some of it."""
        self._ever = np.zeros(len(space.numels), bool)  # parameters that had a gradient in some sample
        # On Apple's GPUs there is no float64.
        self._exact = torch.float32 if space.device.type == "mps" else torch.float64
        self._sum = torch.zeros(space.n_values, dtype=self._exact, device=space.device)
        self._factors = np.random.default_rng([seed, step, batch_size or 0]).standard_normal((n_surrogates, n_samples))
        self._combined = torch.zeros(n_surrogates, space.n_values, dtype=self._exact, device=space.device)

    def take(self, rows: Rows) -> None:
        """Take samples and their updates."""
        self._ever |= True if rows.present is None else rows.present
        whole = self._space.whole(rows.grads, rows.present)
        self._sum += whole.sum(0)
        if len(self._combined):
            exact = whole.to(self._exact)
            factors = torch.from_numpy(self._factors[:, self._taken : self._taken + len(rows)])
            self._combined.addmm_(factors.to(exact), exact)
        self._put("batch", self._taken, rows)
        self._taken += len(rows)

    def finish(self) -> None:
        """Make surrogates and mean; the set is complete."""
        mean = self._sum / self._n_samples
        if not mean.isfinite().all():
            warn(
                f"the gradients of the probe at step {self._step} hold NaN or infinite values; they are recorded, but"
                " no tail index or covariance can be computed from that probe"
            )
        if n := len(self._combined):
            sums = torch.from_numpy(self._factors.sum(1, keepdims=True)).to(mean)
            surrogates = self._combined.sub_(sums * mean).div_(math.sqrt(self._n_samples - 1)).add_(mean)
            size = self._updates.size
            for start in range(0, n, size):
                self._derive("surrogate", start, surrogates[start : start + size])
        self._derive("mean", 0, mean[None])
        self._hand_over()
        if self._sketch is not None:
            grads, updates = (torch.cat(columns) for columns in zip(*self._kept, strict=True))
            self._writer.put_products(inner_products(self._step, self._batch_size, grads, updates))

    def _derive(self, source: str, first: int, flat: Tensor) -> None:
        """What the optimizer makes of these gradients (n, d)."""
        rows = self._space.rows_of_stack(self._space.split(flat, self._ever), len(flat))
        self._updates.make(rows)
        self._put(source, first, rows)

    def _put(self, source: str, first: int, rows: Rows) -> None:
        space, sketch = self._space, self._sketch
        layout, coordinates, release = space.layout, None, rows.release
        grads, updates = rows.grads, rows.updates
        if sketch is not None:
            if source != "surrogate":
                self._kept.append((space.whole(grads, rows.present).cpu(), updates.cpu()))
            layout, release = sketch.layout, None
            coordinates = sketch.coordinates if source == "mean" else None
            grads, updates = sketch.of(grads, rows.present, space.numels), sketch.of(updates, None, space.numels)
        if source != "mean":  # which is small, and soon made
            self._hand_over()
        made = ProbeRows(
            self._step,
            layout,
            grads.cpu().numpy(),
            updates.cpu().numpy(),
            source,
            self._batch_size,
            first,
            rows.present,
            coordinates,
            release,
        )
        self._made.append(made)
        if self._updates.size == 1:  # a large one
            self._hand_over()

    def _hand_over(self) -> None:
        self.has_begun |= bool(self._made)
        self._writer.put_probe(*self._made)
        self._made = []
