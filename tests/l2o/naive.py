"""The naive twin of a truncation: the whole unrolled computation in one graph, and autograd through all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from trajectory_tools.symmetry import SymmetryGroup

Params = Mapping[str, Tensor]
Penalty = Callable[[Params, Params], Tensor]


class Cells(nn.Module):
    """Two LSTM cells and a linear layer, parameter by parameter as in the paper."""

    def __init__(self, n_inputs: int) -> None:
        super().__init__()
        self.recurs = nn.LSTMCell(n_inputs, 20)
        self.recurs2 = nn.LSTMCell(20, 20)
        self.output = nn.Linear(20, 1)

    def inputs(self, gradient: Tensor) -> Tensor:
        if self.recurs.input_size == 1:
            return gradient.reshape(-1, 1)
        small = gradient.abs() < torch.tensor(-10.0, dtype=gradient.dtype).exp()
        first = torch.where(small, -torch.ones_like(gradient), gradient.abs().log() / 10)
        second = torch.where(small, gradient * torch.tensor(10.0, dtype=gradient.dtype).exp(), gradient.sign())
        return torch.stack([first.flatten(), second.flatten()], dim=1)


def meta_loss(
    cells: Cells,
    params: Params,
    loss: Callable[[Params, int], Tensor],
    n_steps: int,
    *,
    states: dict[str, list[tuple[Tensor, Tensor]]],
    first: int = 0,
    scaling: Params | None = None,
    penalty: Penalty | None = None,
    log: bool = False,
    cap: float = float("inf"),
) -> tuple[Tensor, dict[str, Tensor]]:
    """(the meta-loss, the parameters after it), with everything between in the graph but the gradients.

    ``loss(params, step)`` is the loss of that step's mini-batch. It is trained in φ = θ / c, as the source has it.
    """
    c = scaling or {name: torch.ones_like(value) for name, value in params.items()}
    phi = {name: value / c[name] for name, value in params.items()}
    theta = {name: value * c[name] for name, value in phi.items()}
    total = torch.zeros((), dtype=next(iter(params.values())).dtype)
    for step in range(first, first + n_steps):
        seen = {name: value.detach().requires_grad_() for name, value in phi.items()}
        gradients = torch.autograd.grad(loss({k: v * c[k] for k, v in seen.items()}, step), list(seen.values()))
        updates = {}
        for (name, value), gradient in zip(phi.items(), gradients, strict=True):
            (h1, c1), (h2, c2) = states[name]
            h1, c1 = cells.recurs(cells.inputs(gradient), (h1, c1))
            h2, c2 = cells.recurs2(h1, (h2, c2))
            states[name] = [(h1, c1), (h2, c2)]
            updates[name] = 0.1 * cells.output(h2).view_as(value)
        if penalty is not None:
            total = total + penalty(theta, {name: u * c[name] for name, u in updates.items()})
        phi = {name: value + updates[name] for name, value in phi.items()}
        theta = {name: value * c[name] for name, value in phi.items()}
        total = total + loss(theta, step + 1).clamp(max=cap)
    return (total.log() if log else total), theta


def zero_states(params: Params) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Both cells' states of each parameter, at first."""
    return {
        name: [(torch.zeros(value.numel(), 20, dtype=value.dtype),) * 2 for _ in range(2)]
        for name, value in params.items()
    }


def unit_deviations(groups: Sequence[SymmetryGroup], theta: Params, updates: Params) -> dict[str, list[Tensor]]:
    """⟨−u, ξ_j⟩ of each generator, kind by kind, in loops over the units."""
    found: dict[str, list[Tensor]] = {}
    for group in groups:
        of_kind = found.setdefault(group.kind, [])
        if group.kind == "translation":
            for name, axis in group.inputs:
                moved = updates[name].movedim(axis, -1)
                of_kind += [-column.sum() for column in moved.reshape(-1, moved.shape[-1])]
            continue
        for unit in range(group.units or 0):
            inner = torch.zeros(())
            for axes, sign in ((group.inputs, -1), (group.outputs, 1)):
                for name, axis in axes:
                    inner = inner + sign * (theta[name].select(axis, unit) * updates[name].select(axis, unit)).sum()
            of_kind.append(inner)
    return found
