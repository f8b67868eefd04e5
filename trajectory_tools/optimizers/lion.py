"""Lion, the optimizer that steps by a sign."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trajectory_tools.optimizers.base import Params, PerParameter
from trajectory_tools.optimizers.specs import LionSpec

__all__ = ["Lion", "lion_sign"]


class Lion(PerParameter):
    """Every parameter moves by exactly ±lr (0 where the momentum is 0), but for weight decay.

    With gradient g, momentum m (0 at first), learning rate η and decoupled weight decay w::

        c ← β₁ m + (1 − β₁) g
        θ ← θ − η (sign(c) + w θ)
        m ← β₂ m + (1 − β₂) g

    Source: Chen et al. 2023, arXiv 2302.06675, Algorithm 2. Raises ``BadArgument`` for options out of range.
    """

    spec = LionSpec

    def __init__(
        self,
        params: Params,
        *,
        lr: float = LionSpec.lr,
        betas: tuple[float, float] = LionSpec.betas,
        weight_decay: float = LionSpec.weight_decay,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Algorithm 2 for one parameter."""
        sign = lion_sign(param, grad, state, group["betas"])
        param.mul_(1 - group["lr"] * group["weight_decay"]).add_(sign, alpha=-group["lr"])


def lion_sign(param: Tensor, grad: Tensor, state: dict[str, Any], betas: tuple[float, float]) -> Tensor:
    """Lion's direction sign(c), in the shape of ``param``; moves on the momentum, which ``state["exp_avg"]`` holds."""
    if "exp_avg" not in state:
        state["exp_avg"] = torch.zeros_like(param)
    momentum: Tensor = state["exp_avg"]
    sign = momentum.lerp(grad, 1 - betas[0]).sign_()
    momentum.lerp_(grad, 1 - betas[1])
    return sign
