"""The updates that an optimizer would make of given gradients, each from the same parameters and the same state."""

from __future__ import annotations

import inspect

import torch
from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.flat_space import FlatSpace, Gradients, Rows
from trajectory_tools.recorder.row_step import RowStep
from trajectory_tools.recorder.snapshot import Snapshot, no_hooks

__all__ = ["Updates", "check_optimizer"]

MAX_STACKED = 2**20
"""Values in rows that are stepped together: beyond, no overhead is left to be saved."""


def check_optimizer(opt: Optimizer) -> None:
    """Raise ``BadArgument`` for one whose step evaluates the loss itself."""
    closure = inspect.signature(type(opt).step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise BadArgument(
            f"{type(opt).__name__} evaluates the loss several times in a step, so that it makes no update of one given"
            " gradient; probe a run of an optimizer without a closure"
        )


class Updates:
    """Makes the updates of samples; the optimizer itself is afterwards as ``snapshot`` has it."""

    def __init__(self, opt: Optimizer, snapshot: Snapshot, space: FlatSpace) -> None:
        self._optimizer = opt
        self._snapshot = snapshot
        self._space = space
        self._before = space.vector(space.tensors)
        self.size = max(1, MAX_STACKED // max(space.n_values, 1))
        """How many samples to hand over at a time."""
        self._row_step = RowStep.of(opt, space, self._before, self.size)
        self._checked = False
        if self._row_step is None:
            self.size = 1

    def make(self, rows: Rows, gradients: Gradients | None = None) -> None:
        """Make the updates of these rows; ``gradients``: what a single one is made of, where it is known."""
        if self._row_step is not None and not self._space.sparse:
            self._row_step.make(rows)
            if self._checked or self._agree(rows):
                return
        for grad, update in zip(rows.grads, rows.updates, strict=True):
            update.copy_(self._of_one(gradients or self._space.gradients(grad, rows.present)))

    def _agree(self, rows: Rows) -> bool:
        """Whether the first row's update is that of the optimizer's own step; from then on the answer stays."""
        own = self._of_one(self._space.gradients(rows.grads[0], rows.present))
        self._checked = _same_bits(own, rows.updates[0])
        if not self._checked:
            self._row_step, self.size = None, 1
        return self._checked

    def _of_one(self, gradients: Gradients) -> Tensor:
        """The update (d,) that the optimizer itself makes."""
        parameters = self._space.tensors
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        try:
            with no_hooks(self._optimizer):
                # The class's step: a scheduler has wrapped the instance's, to count its calls.
                type(self._optimizer).step(self._optimizer)
            return self._space.vector(parameters).sub_(self._before)
        finally:
            for parameter in parameters:
                parameter.grad = None
            self._snapshot.restore_optimizer()


def _same_bits(a: Tensor, b: Tensor) -> bool:
    bits = torch.int32 if a.dtype == torch.float32 else torch.int64
    return torch.equal(a.view(bits), b.view(bits))
