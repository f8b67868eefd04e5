"""Which parameters a recorder captures: those that the optimizers hold now, one capture for each optimizer."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from trajectory_tools.errors import BadArgument
from trajectory_tools.recorder.capture import Capture
from trajectory_tools.recorder.description import describe_parameters
from trajectory_tools.recorder.host_capture import HostCapture
from trajectory_tools.recorder.names import Named, Names, name_parameters, named_of
from trajectory_tools.store.selection import Selection

__all__ = ["Captures", "checked_optimizers"]


class Captures:
    """``each``: the capture of each optimizer's parameters; ``whole``: of them all, where there is one the same.

    ``parameters`` are described as run.json lists them.
    """

    whole: Capture
    each: list[Capture]
    parameters: list[dict[str, Any]]

    def __init__(
        self,
        model: Names | None,
        optimizers: Sequence[Optimizer],
        save: Collection[str],
        *,
        stats: bool,
        selection: Selection,
    ) -> None:
        self._model = model
        self._optimizers = optimizers
        self._save = save
        self._stats = stats
        self._selection = selection
        self.scan()

    def scan(self) -> None:
        """Find the parameters that the optimizers hold now, or the model where there is none."""
        if self._optimizers:
            self._take(name_parameters(self._model, self._optimizers))
        else:
            self._take(named_of(self._model) if self._model is not None else [])
        self._held = _held(self._optimizers)

    def outdated(self) -> bool:
        """Whether the optimizers hold other parameters than at the last scan."""
        return _held(self._optimizers) != self._held

    def take_block(self, named: Sequence[Named]) -> bool:
        """Capture these from now on, tensors that may be new ones; whether other parameters were captured before."""
        if changed := describe_parameters(named) != self._named:
            self._take(named)
        self.rebind({each.name: each.tensor for each in named})
        return changed

    def rebind(self, tensors: Mapping[str, torch.Tensor]) -> None:
        """Put these tensors in place of those that have their names."""
        self.whole.tensors = [tensors[parameter["name"]] for parameter in self.parameters]

    def release(self) -> None:
        """Let go of the memory that is kept for the steps to come: whoever recorded may be there for long."""
        for capture in (self.whole, *self.each):
            capture.release()

    def _take(self, named: Sequence[Named]) -> None:
        self.whole = self._capture(named)
        self.each = [self.whole]
        if len(self._optimizers) > 1:  # a parameter belongs to the first one that holds it
            left = {id(each.tensor): each for each in named}
            shares = [[left.pop(key) for key in _ids(optimizer) if key in left] for optimizer in self._optimizers]
            self.each = [self._capture(share, self.whole.counts) for share in shares]
        self._named = self.parameters = describe_parameters(named)
        if self._selection:
            self.parameters = [p | {"recorded": self.whole.counts.get(p["name"], 0)} for p in self._named]

    def _capture(self, named: Sequence[Named], counts: Mapping[str, int] | None = None) -> Capture:
        on_host = all(parameter.tensor.device.type == "cpu" for parameter in named)
        kind = HostCapture if on_host else Capture
        return kind(named, self._save, stats=self._stats, selection=self._selection, counts=counts)


def checked_optimizers(given: Any) -> tuple[Optimizer, ...]:
    """One or several, or none for None; ``BadArgument`` for anything else."""
    optimizers = [given] if isinstance(given, Optimizer) else () if given is None else given
    if not isinstance(optimizers, Sequence) or (given is not None and not optimizers):
        raise BadArgument(f"a torch.optim.Optimizer is needed, or several, found {type(given).__name__}")
    for each in optimizers:
        if not isinstance(each, Optimizer):
            raise BadArgument(f"a torch.optim.Optimizer is needed, found {type(each).__name__}")
    return tuple(optimizers)


def _held(optimizers: Sequence[Optimizer]) -> list[tuple[int, torch.Size, torch.dtype, torch.device]]:
    """What tells that the optimizers' parameters are still the same: those named in run.json, as it says."""
    tensors = (tensor for optimizer in optimizers for group in optimizer.param_groups for tensor in group["params"])
    return [(id(tensor), tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]


def _ids(optimizer: Optimizer) -> list[int]:
    return [id(tensor) for group in optimizer.param_groups for tensor in group["params"]]
