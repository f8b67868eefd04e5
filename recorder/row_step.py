"""One step of an optimizer for many gradients at a time, where it treats every coordinate alone."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.recorder.flat_space import FlatSpace, Present, Rows
from trajectory_tools.recorder.kept_memory import keep_freed_memory
from trajectory_tools.recorder.snapshot import HOOKS, no_hooks

__all__ = ["RowStep"]

COORDINATEWISE: Mapping[str, tuple[str, ...]] = {
    "torch.optim.sgd.SGD": ("momentum_buffer",),
    "torch.optim.adam.Adam": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "torch.optim.adamw.AdamW": ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"),
    "torch.optim.nadam.NAdam": ("exp_avg", "exp_avg_sq"),
    "torch.optim.radam.RAdam": ("exp_avg", "exp_avg_sq"),
    "torch.optim.adamax.Adamax": ("exp_avg", "exp_inf"),
    "torch.optim.rmsprop.RMSprop": ("square_avg", "momentum_buffer", "grad_avg"),
    "torch.optim.adagrad.Adagrad": ("sum",),
    "torch.optim.adadelta.Adadelta": ("square_avg", "acc_delta"),
    "torch.optim.asgd.ASGD": ("ax",),
    "torch.optim.rprop.Rprop": ("prev", "step_size"),
    "trajectory_tools.optimizers.lion.Lion": ("exp_avg",),
    "trajectory_tools.optimizers.lion_sgd.LionSGD": ("exp_avg", "momentum_buffer"),
}
"""Optimizers → their states that have an element for each of the parameter's; every other one is a single number.

Each of them makes a coordinate's update from this coordinate's parameter, gradient and states alone, and from numbers
that do not depend on the gradient (counts of steps, learning rates and what follows from them). So how coordinates are
put together in tensors makes no difference: one step over rows, in which parameters stand one behind the other, is a
step of each parameter for each row. Torch's kernels give every element of float32 and float64 the same bits wherever
in a tensor it stands; of bfloat16 they do not. Others (Muon, Adafactor, LBFGS, those of other packages, subclasses)
look at a parameter as a whole, or may, and are not in the list.
"""

UNSUITED = ("fused", "differentiable", "capturable")
"""Options with which a step is another computation."""


@dataclass(frozen=True)
class Stretch:
    """Neighbouring parameters of one group whose states differ in nothing but their elements.

    ``columns`` are theirs among all values, ``there`` among those that have a gradient; ``state``, as ``opt.state`` has
    it, with the elements of all of them in vectors.
    """

    group: int
    columns: slice
    there: slice
    state: Mapping[str, Any]


class RowStep:
    """A twin of the optimizer, whose parameters and states are rows: the samples', one behind the other."""

    @classmethod
    def of(cls, opt: Optimizer, space: FlatSpace, before: Tensor, size: int) -> RowStep | None:
        """For at most ``size`` rows at parameters ``before``; None where the optimizer does not allow it."""
        elements = COORDINATEWISE.get(f"{type(opt).__module__}.{type(opt).__qualname__}")
        options = (group.get(option) for group in opt.param_groups for option in UNSUITED)
        if size == 1 or elements is None or any(options):
            return None
        for parameter in space.tensors:
            kind = (space.dtype, space.device, torch.strided)
            tensors = {name: v for name, v in opt.state.get(parameter, {}).items() if isinstance(v, Tensor)}
            alike = [parameter, *(tensors[name] for name in elements if name in tensors)]
            if any((t.dtype, t.device, t.layout) != kind or t.shape != parameter.shape for t in alike):
                return None
            if any(v.ndim for name, v in tensors.items() if name not in elements):
                return None
        return cls(opt, space, before, size, elements)

    def __init__(self, opt: Optimizer, space: FlatSpace, before: Tensor, size: int, elements: Sequence[str]) -> None:
        self._optimizer, self._space, self._before, self._size, self._elements = opt, space, before, size, elements
        keep_freed_memory()  # the step's intermediate values, taken anew page by page, were half of its time
        self._stretches: tuple[bytes, list[Stretch]] | None = None
        self._repeats: dict[tuple[int, int, str], Tensor] = {}
        self._twin: Optimizer = object.__new__(type(opt))
        vars(self._twin).update(vars(opt))
        vars(self._twin).update({hooks: OrderedDict() for hooks in HOOKS})

    def make(self, rows: Rows) -> None:
        """Make the updates of these rows."""
        present = b"" if rows.present is None else rows.present.tobytes()
        if self._stretches is None or self._stretches[0] != present:  # their states are copies: one set of them is kept
            self._stretches = present, list(self._stretches_of(rows.present))
            self._repeats = {}
        twin, after = self._twin, rows.updates.copy_(self._before)
        twin.state = defaultdict(dict)
        twin.param_groups = [{**group, "params": []} for group in self._optimizer.param_groups]
        for stretch in self._stretches[1]:
            parameter = after[:, stretch.columns]
            parameter.grad = rows.grads[:, stretch.there]
            twin.param_groups[stretch.group]["params"].append(parameter)
            if stretch.state:
                twin.state[parameter] = self._repeated(stretch, len(rows))
        with no_hooks(twin):
            type(twin).step(twin)
        after.sub_(self._before)

    def _stretches_of(self, present: Present) -> Iterator[Stretch]:
        tensors, states = self._space.tensors, self._optimizer.state
        groups = {p: i for i, group in enumerate(self._optimizer.param_groups) for p in group["params"]}
        ends = np.cumsum([0, *self._space.numels]).tolist()

        def alike(place: tuple[int, int]) -> tuple[int, dict[str, Any], int]:
            """What the parameters of a stretch have in common; the last says that they are neighbours."""
            position, i = place
            state = states.get(tensors[i], {})
            numbers = {name: v is None if name in self._elements else v for name, v in state.items()}
            return groups[tensors[i]], numbers, i - position

        there = [i for i in range(len(tensors)) if present is None or present[i]]
        start = 0
        for (group, _, _), places in groupby(enumerate(there), alike):
            members = [i for _, i in places]
            columns = slice(ends[members[0]], ends[members[-1] + 1])
            stop = start + columns.stop - columns.start
            state = dict(states.get(tensors[members[0]], {}))
            for name in self._elements:
                if state.get(name) is not None:
                    state[name] = torch.cat([states[tensors[i]][name].reshape(-1) for i in members])
            yield Stretch(group, columns, slice(start, stop), state)
            start = stop

    def _repeated(self, stretch: Stretch, n: int) -> dict[str, Any]:
        """The stretch's state for each of n rows."""
        state = dict(stretch.state)
        for name, value in state.items():
            if isinstance(value, Tensor) and value.ndim:
                place = stretch.columns.start, stretch.columns.stop, name
                if place not in self._repeats:
                    self._repeats[place] = value.new_empty(self._size, len(value))
                state[name] = self._repeats[place][:n].copy_(value)
            elif isinstance(value, Tensor):
                state[name] = value.clone()
        return state
