"""The updates that an optimizer would make of given gradients, each from the same parameters and the same state."""

from __future__ import annotations

import inspect
from collections import OrderedDict, defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.snapshot import HOOKS, Snapshot, no_hooks

__all__ = ["Gradients", "Updates", "check_optimizer"]

Gradients = Sequence[Tensor | None]
"""The gradient of each parameter, in the order of ``Snapshot.parameters``."""

ELEMENTWISE = {
    f"torch.optim.{kind.lower()}.{kind}"
    for kind in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax")
} | {"trajectory_tools.optimizers.lion.Lion", "trajectory_tools.optimizers.lion_sgd.LionSGD"}
"""Optimizers that treat each element alone, so that one step over stacked samples is a step of each.

Torch's kernels give every element of float32 and float64 the same bits wherever in a tensor it stands (of bfloat16 they
do not); each probe compares its first sample with the optimizer's own step nevertheless.
"""

MAX_STACKED = 2**18
"""Elements in a stack of samples: few enough for a core's cache; beyond, there is no overhead left to be saved."""


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

    def __init__(self, opt: Optimizer, snapshot: Snapshot) -> None:
        self._optimizer = opt
        self._snapshot = snapshot
        self._before = [parameter.detach().clone() for parameter in snapshot.parameters]
        n_values = sum(tensor.numel() for tensor in self._before)
        self.stack = max(1, MAX_STACKED // max(n_values, 1)) if _is_elementwise(opt, self._before) else 1
        """How many samples to hand over at a time."""
        self._stacks: dict[int, _Stack] = {}
        self._checked = False

    def of_stack(self, stacked: Gradients, n: int) -> list[Tensor]:
        """The updates of n samples: for each parameter (n, *shape), as are the gradients; valid until the next call."""
        if self.stack > 1 and n > 1:
            if n not in self._stacks:
                self._stacks[n] = _Stack(self._optimizer, self._snapshot.parameters, n)
            updates = self._stacks[n].of(stacked, self._before)
            if self._checked or self._agree(updates, stacked):
                return updates
        each = [self.of_one([None if g is None else g[i] for g in stacked]) for i in range(n)]
        return [torch.stack(updates) for updates in zip(*each, strict=True)]

    def _agree(self, updates: Sequence[Tensor], stacked: Gradients) -> bool:
        """Whether the first sample's updates are those of the optimizer's own step; from then on the answer stays."""
        own = self.of_one([None if gradient is None else gradient[0] for gradient in stacked])
        self._checked = all(_same_bits(a, b[0]) for a, b in zip(own, updates, strict=True))
        self.stack = self.stack if self._checked else 1
        return self._checked

    def of_one(self, gradients: Gradients) -> list[Tensor]:
        """The updates of one sample, in the shapes of the parameters."""
        parameters = self._snapshot.parameters
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        try:
            with no_hooks(self._optimizer):
                # The class's step: a scheduler has wrapped the instance's, to count its calls.
                type(self._optimizer).step(self._optimizer)
            with torch.no_grad():
                return [new - old for new, old in zip(parameters, self._before, strict=True)]
        finally:
            for parameter in parameters:
                parameter.grad = None
            self._snapshot.restore_optimizer()


class _Stack:
    """A twin of the optimizer whose parameters and states are ``n`` copies, one behind the other."""

    def __init__(self, opt: Optimizer, parameters: Sequence[Tensor], n: int) -> None:
        self._n = n
        self._state = opt.state
        self._parameters = {p: torch.empty(n, *p.shape, dtype=p.dtype, device=p.device) for p in parameters}
        self._states: dict[Tensor, dict[str, Any]] = {}
        self._twin: Optimizer = object.__new__(type(opt))
        vars(self._twin).update(vars(opt))
        vars(self._twin).update({hooks: OrderedDict() for hooks in HOOKS})
        self._twin.param_groups = [
            {**group, "params": [self._parameters[p] for p in group["params"]]} for group in opt.param_groups
        ]

    def of(self, gradients: Gradients, before: Sequence[Tensor]) -> list[Tensor]:
        """The updates of these samples, at parameters ``before``; valid until the next call."""
        state: defaultdict[Tensor, Any] = defaultdict(dict)
        for (parameter, stacked), old, gradient in zip(self._parameters.items(), before, gradients, strict=True):
            stacked.copy_(old)
            stacked.grad = gradient
            if parameter in self._state:
                state[stacked] = self._stacked_state(parameter)
        self._twin.state = state
        with no_hooks(self._twin):
            type(self._twin).step(self._twin)
        for stacked, old in zip(self._parameters.values(), before, strict=True):
            stacked.sub_(old)
            stacked.grad = None
        return list(self._parameters.values())

    def _stacked_state(self, parameter: Tensor) -> dict[str, Any]:
        """The parameter's state, n times; a count of steps is one for all."""
        kept = self._states.setdefault(parameter, {})
        for name, value in self._state[parameter].items():
            if isinstance(value, Tensor) and value.shape == parameter.shape and name != "step":
                if name not in kept:
                    kept[name] = torch.empty(self._n, *value.shape, dtype=value.dtype, device=value.device)
                kept[name].copy_(value)
            else:
                kept[name] = value.clone() if isinstance(value, Tensor) else value
        return dict(kept)


def _is_elementwise(opt: Optimizer, tensors: Sequence[Tensor]) -> bool:
    kind = type(opt)
    options = ("fused", "differentiable", "capturable")
    return (
        f"{kind.__module__}.{kind.__qualname__}" in ELEMENTWISE
        and not any(group.get(option) for group in opt.param_groups for option in options)
        and all(t.dtype in (torch.float32, torch.float64) and t.is_contiguous() for t in tensors)
    )


def _same_bits(a: Tensor, b: Tensor) -> bool:
    bits = torch.int32 if a.dtype == torch.float32 else torch.int64
    return torch.equal(a.contiguous().view(bits), b.contiguous().view(bits))
