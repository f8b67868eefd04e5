"""The plain training loop, which tuning and recording share."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.problems.base import Optimizee

__all__ = ["train"]


def train(
    optimizee: Optimizee,
    optimizer: Optimizer,
    n_steps: int,
    *,
    on_step: Callable[[Tensor], bool | None] | None = None,
) -> list[Tensor]:
    """The loss of each step's mini-batch, before that step's update, as 0-d tensors that nothing has waited for.

    ``on_step(loss)`` is called after each ``optimizer.step()``; training ends early where it returns True. Takes
    exactly one mini-batch for each step. Raises ``BadArgument`` for fewer than 1 step.
    """
    if n_steps < 1:
        raise BadArgument(f"the number of steps is {n_steps}; give at least 1")
    losses: list[Tensor] = []
    for batch in islice(optimizee.batches, n_steps):
        loss = optimizee.loss(batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.detach())
        if on_step is not None and on_step(losses[-1]):
            break
    return losses
