"""Measuring a small network's steps some at a time: there a call costs more than the values that it is for."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from functools import cached_property
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

MIN_STEPS, MAX_STEPS = 3, 6
"""How many steps a slab holds: fewer are not worth it, of more every single step that measures them waits longer."""

MAX_PARAMETERS = 128
"""Of more, the tensors that stand for their places in the slab would be the larger part of it."""

Floats = NDArray[np.floating]


def fits_slab(named: Sequence[Named]) -> bool:
    """Whether the network is small enough."""
    n_values = sum(real(each.tensor).numel() for each in named)
    return len(named) <= MAX_PARAMETERS and 3 * MIN_STEPS * n_values <= SLAB_VALUES


class SlabCapture(HostCapture):
    """``HostCapture`` with stats, of a small network.

    In a step θ_t, θ_{t+1} and g_t are copied next to those of the steps before. Once there are enough of them, or other
    parameters have a gradient, they are measured, one after the other; or before that, when the writer wants to see the
    numbers. A step of which whole tensors are recorded, or projections, goes the usual way.
    """

    def __init__(self, named: Sequence[Named], *args: Any, **kwargs: Any) -> None:
        super().__init__(named, *args, **kwargs)
        n = self._all.blocks.n_values
        self._shapes = [real(tensor).shape for tensor in self.tensors]
        self._n_steps = min(SLAB_VALUES // max(3 * n, 1), MAX_STEPS)
        self._places: list[tuple[list[Tensor], list[Tensor]]] = []  # of θ_t and θ_{t+1}, in each row of the slab
        self._grad_places: dict[int, list[Tensor]] = {}  # the same, of the gradients that there are now
        self._chosen_places = _places_of(range(len(self.tensors)), self._numels, self._picked)
        self._turn = 0  # the row of the step that is being made
        self._batch: Batch | None = None
        self._batch_scratch = Scratch(3 * n, self._width)  # for all: a batch is measured before the next one begins

    @cached_property
    def _slab(self) -> Floats:
        """(steps, 3 n_values): θ_t, θ_{t+1}, and the gradients that there are."""
        return np.empty((self._n_steps, 3 * self._all.blocks.n_values), self._width)

    def before(self, record: bool = True) -> None:
        """Copy θ_t."""
        self._in_slab = not (record and self._save and not self._picked)
        if not self._in_slab:
            super().before(record)
            return
        self._record, self._graded = record, False
        if self._turn == len(self._places):
            n, row = self._all.blocks.n_values, self._slab[self._turn]
            self._places.append((_shaped(row[:n], self._shapes), _shaped(row[n : 2 * n], self._shapes)))
        copy(self.tensors, self._places[self._turn][0])

    @np.errstate(all="ignore")  # NaN and Inf are data here
    def gradients(self, scale: Tensor | None = None, given: Sequence[Tensor | None] | None = None) -> None:
        """Copy g_t, as ``Capture`` does."""
        if not self._in_slab:
            super().gradients(scale, given)
            return
        self._graded = True
        grads = [tensor.grad for tensor in self.tensors] if given is None else given
        there = [grad is not None for grad in grads]
        if self._batch is None or there != self._batch.there:
            self._batch, self._grad_places = self._begin(there), {}
        found = [grad for grad in grads if grad is not None]
        if (places := self._grad_places.get(self._turn)) is None:
            shapes = [self._shapes[i] for i in self._batch.plan.there]
            places = self._grad_places[self._turn] = _shaped(self._gradient, shapes)
        if given is not None:  # in any shape
            found = [real(grad).reshape(place.shape) for grad, place in zip(found, places, strict=True)]
        copy(found, places)
        if scale is not None:
            np.divide(self._gradient, float(scale), out=self._gradient)

    @np.errstate(all="ignore")
    def after(self, step: int) -> Captured:
        """Copy θ_{t+1}, and hand over what was chosen of this step, and its numbers, which are yet to be made."""
        if not self._in_slab:
            return super().after(step)
        if not self._graded:
            self.gradients()
        assert self._batch is not None
        copy(self.tensors, self._places[self._turn][1])
        rows = self._rows_of(self._batch.plan, step) if self._record else None
        stats = self._batch.end(step)
        self._turn = (self._turn + 1) % self._n_steps
        if self._turn == 0:
            self._batch = self._begin(self._batch.there)
        return Captured(rows, stats)

    def _begin(self, there: list[bool]) -> Batch:
        """The batch of the steps from this row of the slab on, in which these parameters have a gradient."""
        if self._batch is not None:
            self._batch.measure()
        return Batch(self.plan(np.array(there, bool)), there, self._slab, self._turn, self._batch_scratch)

    @property
    def _gradient(self) -> Floats:
        """The gradients of the step that is being made."""
        assert self._batch is not None
        n, m = self._all.blocks.n_values, self._batch.plan.blocks.n_values
        return self._slab[self._turn, 2 * n : 2 * n + m]

    def _rows_of(self, plan: Plan, step: int) -> StepRows:
        """The chosen coordinates."""
        n, row = self._all.blocks.n_values, self._slab[self._turn]
        theta, moved = row[:n], row[n : 2 * n]
        values = {}
        if "param" in self._save:
            values["param"] = theta[self._chosen_places]
        if "update" in self._save:
            values["update"] = moved[self._chosen_places] - theta[self._chosen_places]
        if "grad" in self._save:
            everywhere = plan is self._all
            chosen = self._chosen_places if everywhere else _places_of(plan.there, self._numels, self._picked)
            values["grad"] = self._gradient[chosen]
        self._present = None if plan.present.all() else plan.present
        return StepRows(step, self.layout, values, self._present_rows(values))


class Batch:
    """Steps in neighbouring rows of a slab, from ``first`` on, that are measured together.

    ``there``: which parameters have a gradient. ``pieces``: (steps, 5, pieces), their numbers, see ``stats_rows``.
    """

    def __init__(self, plan: Plan, there: list[bool], slab: Floats, first: int, scratch: Scratch) -> None:
        self.plan, self.there, self._slab, self._first = plan, there, slab, first
        self._made = self._measured = 0
        self._pieces = np.empty((len(slab) - first, 5, len(plan.layout.owner)))
        self._scratch = scratch
        self._lock = threading.Lock()  # the writer may ask while the training goes on

    def end(self, step: int) -> StepStats:
        """The next step is made: its numbers."""
        stats = StepStats(step, self.plan.layout, self._pieces[self._made], self.measure)
        self._made += 1
        return stats

    @np.errstate(all="ignore")  # NaN and Inf are data here, and counted
    def measure(self) -> None:
        """Subtract and measure what was not yet."""
        n = self._slab.shape[1] // 3
        with self._lock:
            for i in range(self._measured, self._made):
                row = self._slab[self._first + i]
                np.subtract(row[n : 2 * n], row[:n], out=row[n : 2 * n])
                if self.plan.starts.size:
                    values = row[: 2 * n + self.plan.blocks.n_values]
                    measure(values, self.plan.starts, self._pieces[i], self._scratch)
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


def _places_of(
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
