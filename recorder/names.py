"""What the recorded parameters are called."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument

__all__ = ["Named", "Names", "name_parameters", "named_of"]

Names: TypeAlias = (
    nn.Module
    | Mapping[str, Tensor]
    | Iterable[tuple[str, Tensor]]
    | Callable[[Sequence[Tensor]], Iterable[tuple[str, Tensor]]]
)
"""Where names come from: a module, name → tensor, pairs, or what finds pairs for an optimizer's parameters."""

WRAPPERS = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)")
"""What torch.compile, FSDP and checkpointing add to names: the run of the same model without them has the same ones."""


@dataclass(frozen=True)
class Named:
    """A parameter, its name, and the other names by which the model holds the same tensor (tied weights)."""

    name: str
    tensor: Tensor
    aliases: tuple[str, ...] = ()


def name_parameters(model: Names | None, optimizer: Optimizer | Sequence[Optimizer]) -> list[Named]:
    """The optimizer's parameters in its order, under the model's names.

    One that the model does not hold is called as its group's ``param_names`` say, or after its place in the optimizer,
    ``group0.3``. Tied weights come once. With several optimizers their groups are counted on.
    """
    optimizers = [optimizer] if isinstance(optimizer, Optimizer) else optimizer
    groups = [group for each in optimizers for group in each.param_groups]
    given = {id(tensor): _plain(name) for group in groups for name, tensor in _named_in(group)}
    tensors = [tensor for group in groups for tensor in group["params"]]
    names: dict[int, list[str]] = {}
    if not isinstance(model, nn.Module) and callable(model):  # names that have to be found: those given are better
        names = {key: [name] for key, name in given.items()}
        tensors = [tensor for tensor in tensors if id(tensor) not in given]
    for name, tensor in _pairs(model, tensors) if tensors else ():
        names.setdefault(id(tensor), []).append(name)
    found: dict[int, Named] = {}
    for i, group in enumerate(groups):
        for j, tensor in enumerate(group["params"]):
            first, *aliases = names.get(id(tensor)) or [given.get(id(tensor), f"group{i}.{j}")]
            found.setdefault(id(tensor), Named(first, tensor, tuple(aliases)))
    return _distinct(found.values())


def named_of(model: Names) -> list[Named]:
    """What the model itself holds, where no optimizer says which parameters are trained."""
    found: dict[int, tuple[Tensor, list[str]]] = {}
    for name, tensor in _pairs(model, ()):
        found.setdefault(id(tensor), (tensor, []))[1].append(name)
    return _distinct(Named(names[0], tensor, tuple(names[1:])) for tensor, names in found.values())


def _pairs(model: Names | None, tensors: Sequence[Tensor]) -> Iterable[tuple[str, Tensor]]:
    if isinstance(model, nn.Module):
        # Both add a level of their own, and the model is the same without it.
        module: nn.Module = model
        while isinstance(module, nn.DataParallel | nn.parallel.DistributedDataParallel):
            module = module.module
        pairs: Iterable[tuple[str, Tensor]] = module.named_parameters(remove_duplicate=False)
    elif callable(model):
        pairs = model(tensors)
    elif isinstance(model, Mapping):
        return model.items()
    else:
        return model or ()
    return ((_plain(name), tensor) for name, tensor in pairs)


def _named_in(group: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
    names, tensors = group.get("param_names", ()), group["params"]
    return zip(names, tensors, strict=True) if len(names) == len(tensors) else ()


def _plain(name: str) -> str:
    return WRAPPERS.sub("", name).lstrip(".")


def _distinct(found: Iterable[Named]) -> list[Named]:
    by_name: dict[str, Named] = {}
    for named in found:
        if by_name.setdefault(named.name, named) is not named:
            raise BadArgument(
                f"two parameters are called {named.name!r}; give each its own name, as pairs (name, tensor)"
            )
    return list(by_name.values())
