"""Lion-SGD: how much of Lion's sign, and how much of SGD's gradient, is in an update."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from trajectory_tools.optimizers.base import Params, PerParameter
from trajectory_tools.optimizers.lion import lion_sign
from trajectory_tools.optimizers.specs import LionSGDSpec

__all__ = ["LionSGD"]


class LionSGD(PerParameter):
    """The update is u = (1 − λ) u_SGD + λ u_Lion, where each keeps its own state and neither knows of the other.

    With gradient g, SGD's momentum b (g + w θ at first), μ, learning rate η, and weight decay w::

        b ← μ b + g + w θ
        u_SGD = −η (g + w θ + μ b) with nesterov, else −η b
        u_Lion = −η_Lion (sign(β₁ m + (1 − β₁) g) + w θ)
        m ← β₂ m + (1 − β₂) g

    So λ = ``mix`` = 0 is torch's SGD and λ = 1 is Lion, weight decay included. Both states are kept up whatever λ is,
    so that it may change along the way.

    Source: the interpolation of Sobotka et al. 2023, arXiv 2312.07174; Lion from Chen et al. 2023, arXiv 2302.06675,
    Algorithm 2. Raises ``BadArgument`` for options out of range.
    """

    spec = LionSGDSpec

    def __init__(
        self,
        params: Params,
        *,
        lr: float = LionSGDSpec.lr,
        momentum: float = LionSGDSpec.momentum,
        nesterov: bool = LionSGDSpec.nesterov,
        lion_lr: float = LionSGDSpec.lion_lr,
        betas: tuple[float, float] = LionSGDSpec.betas,
        mix: float = LionSGDSpec.mix,
        weight_decay: float = LionSGDSpec.weight_decay,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "nesterov": nesterov, "lion_lr": lion_lr, "betas": betas}
        super().__init__(params, {**options, "mix": mix, "weight_decay": weight_decay})

    def update(self, param: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        """Both optimizers' updates for one parameter, mixed."""
        mix, decay = group["mix"], group["weight_decay"]
        sign = lion_sign(param, grad, state, group["betas"])
        direction = sgd_direction(grad.add(param, alpha=decay) if decay else grad, state, group)
        # A share of 0 is left out rather than multiplied, because 0 · inf is NaN.
        if mix > 0:
            param.mul_(1 - mix * group["lion_lr"] * decay).add_(sign, alpha=-mix * group["lion_lr"])
        if mix < 1:
            param.add_(direction, alpha=-(1 - mix) * group["lr"])


def sgd_direction(grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The direction that SGD descends along; moves on the momentum, which ``state["momentum_buffer"]`` holds."""
    momentum = group["momentum"]
    if not momentum:
        return grad
    if "momentum_buffer" in state:
        state["momentum_buffer"].mul_(momentum).add_(grad)
    else:
        state["momentum_buffer"] = grad.clone()
    buffer: Tensor = state["momentum_buffer"]
    return grad.add(buffer, alpha=momentum) if group["nesterov"] else buffer
