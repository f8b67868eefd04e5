"""What the recorded parameters are called."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument

__all__ = ["Named", "name_parameters"]


@dataclass(frozen=True)
class Named:
    """A parameter, its name, and the other names by which the model holds the same tensor (tied weights)."""

    name: str
    tensor: Tensor
    aliases: tuple[str, ...] = ()


def name_parameters(model: nn.Module | Iterable[tuple[str, Tensor]] | None, optimizer: Optimizer) -> list[Named]:
    """The optimizer's parameters in its order, under the model's names.

    One that the model does not hold is called after its place in the optimizer, ``group0.3``. Tied weights come once.
    """
    if isinstance(model, nn.Module):
        pairs: Iterable[tuple[str, Tensor]] = model.named_parameters(remove_duplicate=False)
    else:
        pairs = model or ()
    names: dict[int, list[str]] = {}
    for name, tensor in pairs:
        names.setdefault(id(tensor), []).append(name)
    found: dict[int, Named] = {}
    for i, group in enumerate(optimizer.param_groups):
        for j, tensor in enumerate(group["params"]):
            first, *aliases = names.get(id(tensor), [f"group{i}.{j}"])
            found.setdefault(id(tensor), Named(first, tensor, tuple(aliases)))
    by_name: dict[str, Named] = {}
    for named in found.values():
        if by_name.setdefault(named.name, named) is not named:
            raise BadArgument(
                f"two parameters are called {named.name!r}; give each its own name, as pairs (name, tensor)"
            )
    return list(by_name.values())
