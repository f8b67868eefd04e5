"""What this package's optimizers share: the step over all parameters, and options checked for each group."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor

from trajectory_tools.errors import BadArgument
from trajectory_tools.optimizers.specs import OptimizerSpec

__all__ = ["Active", "Dense", "Params", "PerParameter"]

Params = Iterable[Tensor] | Iterable[dict[str, Any]]
Active = tuple[Tensor, Tensor, dict[str, Any]]
"""A parameter that has a gradient, that gradient, and the group that it belongs to."""


class Dense(torch.optim.Optimizer):
    """A torch optimizer for dense gradients; subclasses say what happens to the parameters that have one."""

    spec: ClassVar[type[OptimizerSpec]]

    @abstractmethod
    def update_all(self, active: Sequence[Active]) -> None:
        """Change the parameters and their states in place; the gradients stay as they are."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient; with a closure, evaluate it first and return its loss.

        Raises ``BadArgument``, before anything has changed, where a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        active = [(p, p.grad, group) for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(grad.is_sparse for _, grad, _ in active):
            raise BadArgument(f"{self.spec.name} found a sparse gradient; make it dense (nn.Embedding(sparse=False))")
        self.update_all(active)
        return loss


class PerParameter(Dense):
    """An optimizer whose options are those of ``spec``; subclasses say what happens to one parameter."""

    @abstractmethod
    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Change ``param`` and ``state`` in place; ``grad`` stays as it is."""

    def update_all(self, active: Sequence[Active]) -> None:
        """One parameter after the other."""
        for param, grad, group in active:
            self.update(param, grad, self.state[param], group)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with options of their own; raises ``BadArgument`` for options that cannot be used."""
        options = {name: param_group.get(name, default) for name, default in self.defaults.items()}
        super().add_param_group({**param_group, **self.spec(**options).arguments()})
