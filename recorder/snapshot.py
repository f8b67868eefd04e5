"""What a probe may touch of a training, put back as it was: to the bit, in place, after every sample and at the end."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.grad_mode import _unsafe_preserve_version_counter
from torch.optim import Optimizer, optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.capture import PLAIN

__all__ = ["Snapshot", "no_hooks", "untouched"]

HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
GLOBAL_HOOKS = ("_global_optimizer_pre_hooks", "_global_optimizer_post_hooks")


class Snapshot:
    """Copies of parameters, buffers and the optimizer's state, and the way back to them.

    ``restore_optimizer`` puts back what a step changes: parameters, states, also those that the step made, and whatever
    else the optimizer holds in dicts, lists and attributes. ``restore_buffers`` puts back what a forward pass changes.
    """

    def __init__(self, opt: Optimizer, modules: Sequence[nn.Module]) -> None:
        self.parameters = list(dict.fromkeys(p for group in opt.param_groups for p in group["params"]))
        held = dict.fromkeys(p for module in modules for p in module.parameters())
        self._containers: list[tuple[Any, Any]] = []
        self._seen: set[int] = set()
        found = dict.fromkeys([*self.parameters, *held])
        for each in _optimizers(opt):
            self._walk(vars(each), found)
        self._stepped = _Copies(found)
        self._buffers = _Copies(dict.fromkeys(b for module in modules for b in module.buffers()))

    @property
    def tensors(self) -> list[Tensor]:
        """Every tensor that is put back."""
        return [*self._stepped.tensors, *self._buffers.tensors]

    def restore_optimizer(self) -> None:
        """As before any step."""
        for container, content in self._containers:
            if isinstance(container, dict):
                hooks = {name: container[name] for name in HOOKS if name in container}  # what ``no_hooks`` put there
                container.clear()
                container.update(content)
                container.update(hooks)
            else:
                container[:] = content
        self._stepped.restore()

    def restore_buffers(self) -> None:
        """As before any forward pass."""
        self._buffers.restore()

    def _walk(self, container: Any, found: dict[Tensor, None]) -> None:
        """Note what the container holds, and find the tensors in it and below."""
        if id(container) in self._seen:
            return
        self._seen.add(id(container))
        if isinstance(container, dict):
            self._containers.append((container, dict(container)))
        elif isinstance(container, list):
            self._containers.append((container, list(container)))
        for value in container.values() if isinstance(container, dict) else container:
            if isinstance(value, Tensor):
                found[value] = None
            elif isinstance(value, dict | list | tuple):
                self._walk(value, found)


class _Copies:
    """The values of tensors, and their memory, to which they go back."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.tensors = list(tensors)
        self._memory = [tensor.detach() for tensor in self.tensors]
        self._places = [memory.data_ptr() if memory.layout is torch.strided else None for memory in self._memory]
        pairs = [(memory, memory.clone()) for memory in self._memory]
        is_plain = [type(tensor) in PLAIN and tensor.layout is torch.strided for tensor in self.tensors]
        self._odd = [pair for pair, plain in zip(pairs, is_plain, strict=True) if not plain]
        plain = [pair for pair, plain in zip(pairs, is_plain, strict=True) if plain]
        # These by one call, which classes of their own may not know.
        self._plain, self._plain_values = [memory for memory, _ in plain], [values for _, values in plain]

    def restore(self) -> None:
        """The same values in the same memory."""
        for tensor, memory, place in zip(self.tensors, self._memory, self._places, strict=True):
            if place is not None and tensor.data_ptr() != place:
                tensor.data = memory
        with torch.no_grad():
            for memory, values in self._odd:
                memory.copy_(values)
            if self._plain:
                torch._foreach_copy_(self._plain, self._plain_values)


def _optimizers(opt: Optimizer) -> list[Optimizer]:
    """The optimizer, and those that it wraps."""
    found = [opt]
    for each in found:
        found += [v for v in vars(each).values() if isinstance(v, Optimizer) and not any(v is known for known in found)]
    return found


@contextmanager
def no_hooks(opt: Optimizer, *, refuse: str = "") -> Iterator[None]:
    """Within this, no step hook of the optimizer fires, nor a global one; with ``refuse``, a step raises that."""

    def refusing(*_: Any) -> None:
        raise BadArgument(refuse)

    each = _optimizers(opt)
    own = [(one, name, getattr(one, name)) for one in each for name in HOOKS]
    everyones = [(hooks, OrderedDict(hooks)) for name in GLOBAL_HOOKS if (hooks := getattr(optimizer, name))]
    try:
        for one, name, _ in own:
            setattr(one, name, OrderedDict({0: refusing} if refuse and name == HOOKS[0] else {}))
        for hooks, _ in everyones:
            hooks.clear()
        yield
    finally:
        for one, name, hooks in own:
            setattr(one, name, hooks)
        for hooks, content in everyones:
            hooks.clear()
            hooks.update(content)


@contextmanager
def untouched(opt: Optimizer, modules: Sequence[nn.Module]) -> Iterator[Snapshot]:
    """Whatever is done to optimizer and modules within this, they are afterwards as before.

    Beside what a ``Snapshot`` holds: gradients, train and eval mode, the versions by which autograd tells that a tensor
    has changed, and the global generators of torch (CPU and CUDA), NumPy and Python.
    """
    with ExitStack() as stack:
        stack.callback(_generators())
        stack.callback(_modes(modules))
        snapshot = Snapshot(opt, modules)
        leaves = dict.fromkeys([*snapshot.parameters, *(p for module in modules for p in module.parameters())])
        gradients = _Gradients(leaves)
        for tensor in (*snapshot.tensors, *gradients.copies.tensors):
            # A graph that was built before the probe must still go backward after it.
            stack.enter_context(_unsafe_preserve_version_counter(tensor))
        stack.callback(gradients.restore)
        stack.callback(snapshot.restore_buffers)
        stack.callback(snapshot.restore_optimizer)
        yield snapshot


def _generators() -> Callable[[], None]:
    cpu, python, numpy = torch.get_rng_state(), random.getstate(), np.random.get_state()
    # Where CUDA was not used yet, asking for its state would start it.
    started = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    cuda = torch.cuda.get_rng_state_all() if started else []

    def restore() -> None:
        torch.set_rng_state(cpu)
        random.setstate(python)
        np.random.set_state(numpy)
        if cuda:
            torch.cuda.set_rng_state_all(cuda)

    return restore


def _modes(modules: Sequence[nn.Module]) -> Callable[[], None]:
    modes = [(part, part.training) for module in modules for part in module.modules()]

    def restore() -> None:
        for part, training in modes:
            part.training = training

    return restore


class _Gradients:
    """Takes the gradients away, so that nothing is added to them.

    Their values are kept as well: those of DDP's buckets are overwritten by the next backward pass. Not those of sparse
    and expanded ones, which no such bucket holds, and which cannot all be written in place.
    """

    def __init__(self, leaves: Iterable[Tensor]) -> None:
        self._gradients = [(leaf, leaf.grad) for leaf in leaves]
        self.copies = _Copies(g for _, g in self._gradients if g is not None and _is_dense(g))
        for leaf, _ in self._gradients:
            leaf.grad = None

    def restore(self) -> None:
        """As they were."""
        for leaf, gradient in self._gradients:
            leaf.grad = gradient
        self.copies.restore()


def _is_dense(gradient: Tensor) -> bool:
    """Whether each of its values has a place in memory of its own."""
    return gradient.layout is torch.strided and 0 not in gradient.stride()
