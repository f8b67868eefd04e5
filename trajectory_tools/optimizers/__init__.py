"""Optimizers by name, and what each can be told; importing this loads no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from trajectory_tools.errors import UnknownName
from trajectory_tools.optimizers.specs import SPECS, OptimizerSpec
from trajectory_tools.options import Option

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = ["OPTIMIZERS", "OptimizerSpec", "make_optimizer", "optimizer_options"]

OPTIMIZERS: Mapping[str, type[OptimizerSpec]] = {spec.name: spec for spec in SPECS}


def make_optimizer(name: str, params: Iterable[Tensor] | Iterable[dict[str, Any]], **options: Any) -> Optimizer:
    """The optimizer of this name for ``params``: ``make_optimizer("sgd", model.parameters(), momentum=0.9)``.

    Raises ``UnknownName`` for an optimizer or option that does not exist, ``BadArgument`` for a value that cannot be
    used.
    """
    return _spec(name).make(options).build(params)


def optimizer_options(name: str) -> tuple[Option, ...]:
    """What the optimizer of this name can be told: names, types, defaults, help."""
    return _spec(name).listing()


def _spec(name: str) -> type[OptimizerSpec]:
    if name not in OPTIMIZERS:
        raise UnknownName("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]
