"""Measuring a small network's steps some at a time: there a call costs more than the values that it is for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trajectory_tools.recorder.capture import Captured, real
from trajectory_tools.recorder.host_capture import HostCapture, Plan
from trajectory_tools.recorder.names import Named
from trajectory_tools.recorder.sweep import Scratch, measure
from trajectory_tools.store.rows import StepRows
from trajectory_tools.store.stats_rows import StepStats

__all__ = ["SlabCapture", "fits_slab"]

SLAB_VALUES = 2**20
"""4 MB of float32: more would leave the cache that cores share."""

MIN_STEPS, MAX_STEPS = 4, 32
"""How many steps a slab holds: fewer are not worth it, more gain nothing."""

Floats = NDArray[np.floating]


def fits_slab(named: Sequence[Named]) -> bool:
    """Whether the network is small enough."""
    return 3 * MIN_STEPS * sum(real(each.tensor).numel() for each in named) <= SLAB_VALUES


class SlabCapture(HostCapture):
    """``HostCapture`` with stats, of a small network.

    In a step θ_t, g_t and θ_{t+1} are copied next to those of the steps before. Once there are enough of them they are
    measured, one after the other; or before that, when the writer wants to see the numbers. A step of which whole
    tensors are recorded, or projections, goes the usual way.
    """

    def __init__(self, named: Sequence[Named], *args: Any, **kwargs: Any) -> None:
        super().__init__(named, *args, **kwargs)
        self._slabs: dict[bytes, Slab] = {}
        self._slab = self._slab_of([True] * len(self.tensors))

    def before(self, record: bool = True) -> None:
        """Copy θ_t."""
        self._in_slab = not (record and self._save and not self._picked)
        if not self._in_slab:
            super().before(record)
            return
        self._record, self._graded = record, False
        copy(self.tensors, self._slab.param)

    @np.errstate(all="ignore")  # NaN and Inf are data here
    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """Copy g_t, as ``Capture`` does."""
        if not self._in_slab:
            super().gradients(scale, given)
            return
        self._graded = True
        grads = [tensor.grad for tensor in self.tensors] if given is None else given
        there = [grad is not None for grad in grads]
        if there != self._slab.there:
            before, self._slab = self._slab, self._slab_of(there)
            self._slab.theta[:] = before.theta
        copy([grad for grad in grads if grad is not None], self._slab.grad)
        if scale is not None:
            self._slab.gradient /= float(scale)

    def after(self, step: int) -> Captured:
        """Copy θ_{t+1}, and hand over what was chosen of this step, and its numbers, which are yet to be made."""
        if not self._in_slab:
            return super().after(step)
        if not self._graded:
            self.gradients()
        slab = self._slab
        copy(self.tensors, slab.moved)
        rows = self._rows_of(slab, step) if self._record else None
        return Captured(rows, slab.end(step))

    def _rows_of(self, slab: Slab, step: int) -> StepRows:
        """The chosen coordinates."""
        param = slab.theta[slab.chosen]
        values = {"param": param, "update": slab.moved_theta[slab.chosen] - param}
        values["grad"] = slab.gradient[slab.chosen_there]
        values = {kind: found for kind, found in values.items() if kind in self._save}
        self._present = None if all(slab.there) else slab.plan.present
        return StepRows(step, self.layout, values, self._present_rows(values))

    def _slab_of(self, there: list[bool]) -> Slab:
        key = bytes(there)
        if key not in self._slabs:
            shapes = [real(tensor).shape for tensor in self.tensors]
            self._slabs[key] = Slab(self.plan(np.array(there, bool)), shapes, self._picked, self._width)
        return self._slabs[key]


class Slab:
    """Room for θ_t, θ_{t+1} and g_t of some steps, as rows.

    ``there``: which parameters have a gradient. Of the step that is being made, ``theta``, ``moved_theta`` and
    ``gradient`` are its values, ``param``, ``moved`` and ``grad`` the same as tensors of the parameters' shapes.
    ``chosen`` are the places of the recorded coordinates among all values, ``chosen_there`` among those of gradients.
    """

    def __init__(
        self,
        plan: Plan,
        shapes: Sequence[torch.Size],
        picked: Mapping[int, NDArray[np.int64] | None],
        dtype: np.dtype[np.floating],
    ) -> None:
        self.plan, self.there = plan, plan.present.tolist()
        numels = [shape.numel() for shape in shapes]
        n, m = sum(numels), plan.blocks.n_values
        self.chosen = _places(range(len(shapes)), numels, picked)
        self.chosen_there = _places(plan.there, numels, picked)
        steps = max(1, min(SLAB_VALUES // max(3 * n, 1), MAX_STEPS))
        self._values = np.empty((steps, 2 * n + m), dtype)
        self._theta, self._moved = self._values[:, :n], self._values[:, n : 2 * n]
        self._gradient = self._values[:, 2 * n :]
        self._places = [
            [_shaped(values, of) for values, of in ((row[:n], shapes), (row[n : 2 * n], shapes))]
            + [_shaped(row[2 * n :], [shapes[i] for i in plan.there])]
            for row in self._values
        ]
        self._batch = Batch(plan, self._theta, self._moved, self._values)
        self._turn(0)

    def end(self, step: int) -> StepStats:
        """The step is made: its numbers."""
        batch, i = self._batch, self._step
        batch.n_steps = i + 1
        if batch.n_steps == len(self._values):
            batch.measure()
            self._batch = Batch(self.plan, self._theta, self._moved, self._values)
        self._turn(self._batch.n_steps)
        return StepStats(step, self.plan.layout, batch.pieces[i], batch.measure)

    def _turn(self, i: int) -> None:
        """To the next step's row."""
        self._step = i
        self.theta, self.moved_theta, self.gradient = self._theta[i], self._moved[i], self._gradient[i]
        self.param, self.moved, self.grad = self._places[i]


class Batch:
    """The numbers of the first ``n_steps`` of a slab: ``pieces``, (steps, 5, pieces), see ``stats_rows``."""

    def __init__(self, plan: Plan, theta: Floats, moved: Floats, values: Floats) -> None:
        self.n_steps = self._measured = 0
        self.pieces = np.empty((len(values), 5, len(plan.layout.owner)))
        self._plan, self._theta, self._moved, self._values = plan, theta, moved, values
        self._scratch = Scratch(values.shape[1], values.dtype)
        self._lock = threading.Lock()  # the writer may ask while the training goes on

    @np.errstate(all="ignore")  # NaN and Inf are data here, and counted
    def measure(self) -> None:
        """Subtract and measure what was not yet."""
        with self._lock:
            for i in range(self._measured, self.n_steps):
                np.subtract(self._moved[i], self._theta[i], out=self._moved[i])
                if self._plan.starts.size:
                    measure(self._values[i], self._plan.starts, self.pieces[i], self._scratch)
                self._measured = i + 1


@torch.no_grad()
def copy(tensors: Sequence[Tensor], places: list[Tensor]) -> None:
    """Copy each tensor's values to its place; exact, as that is as wide."""
    if places:
        torch._foreach_copy_(places, [real(tensor) for tensor in tensors])


def _shaped(values: Floats, shapes: Sequence[torch.Size]) -> list[Tensor]:
    """Tensors of these shapes, one behind the other, in the memory of ``values``."""
    parts = torch.split(torch.from_numpy(values), [shape.numel() for shape in shapes]) if shapes else ()
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _places(
    there: Sequence[int], numels: Sequence[int], picked: Mapping[int, NDArray[np.int64] | None]
) -> NDArray[np.int64]:
    """Where the picked coordinates are in the parameters ``there``, one behind the other."""
    found, start = [np.empty(0, np.int64)], 0
    for i in there:
        if i in picked:
            places = picked[i]
            found.append(start + (np.arange(numels[i]) if places is None else places))
        start += numels[i]
    return np.concatenate(found)
