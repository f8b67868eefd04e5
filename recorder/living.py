"""The optimizers and modules that a program holds, found without its help: by asking the garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

__all__ = ["living_names", "living_optimizers"]

ADDS_A_LEVEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
"""What holds a model under another name and is no part of it."""


def living_optimizers() -> list[Optimizer]:
    """Every optimizer there is, once for each set of parameters: a wrapper and what it wraps hold the same ones."""
    found: dict[frozenset[int], Optimizer] = {}
    for optimizer in _instances(Optimizer):
        groups = vars(optimizer).get("param_groups")  # a wrapper may have none of its own
        if groups:
            found.setdefault(frozenset(id(tensor) for group in groups for tensor in group["params"]), optimizer)
    return list(found.values())


def living_names(tensors: Sequence[Tensor]) -> list[tuple[str, Tensor]]:
    """(name, tensor) for those of the tensors that a module holds, tied ones under each of their names.

    The names are those of the outermost module, the one that holds the most of them first. Where it takes several
    modules, as for an encoder and a decoder under one optimizer, each name begins with its module's class.
    """
    wanted = {id(tensor) for tensor in tensors}
    modules = [each for each in _instances(nn.Module) if not isinstance(each, ADDS_A_LEVEL)]
    # Not m.children(): a module that is half made, or a script's own class, may not have its attributes yet.
    inside = {id(child) for module in modules for child in (vars(module).get("_modules") or {}).values()}
    held: list[tuple[nn.Module, list[tuple[str, Tensor]]]] = []
    for module in modules:
        if id(module) not in inside and "_parameters" in vars(module):
            pairs = [pair for pair in module.named_parameters(remove_duplicate=False) if id(pair[1]) in wanted]
            if pairs:
                held.append((module, pairs))
    held.sort(key=lambda each: -len({id(tensor) for _, tensor in each[1]}))
    chosen: list[tuple[nn.Module, list[tuple[str, Tensor]]]] = []
    for module, pairs in held:
        if found := [pair for pair in pairs if id(pair[1]) in wanted]:
            chosen.append((module, found))
            wanted -= {id(tensor) for _, tensor in found}
    if len(chosen) <= 1:
        return [pair for _, pairs in chosen for pair in pairs]
    return [
        (f"{prefix}.{name}", tensor)
        for prefix, (_, pairs) in zip(_prefixes([module for module, _ in chosen]), chosen, strict=True)
        for name, tensor in pairs
    ]


def _prefixes(modules: Sequence[nn.Module]) -> list[str]:
    """``Encoder``, ``Decoder``; ``Linear``, ``Linear1`` where the class does not tell them apart."""
    seen: dict[str, int] = {}
    prefixes = []
    for module in modules:
        name = type(module).__name__
        count = seen[name] = seen.get(name, -1) + 1
        prefixes.append(f"{name}{count}" if count else name)
    return prefixes


def _instances(kind: type) -> list[Any]:
    """Every object of this class. ``type``, not ``isinstance``: a proxy's ``__class__`` may run somebody's code."""
    objects: Iterable[Any] = gc.get_objects()
    return [each for each in objects if issubclass(type(each), kind)]
