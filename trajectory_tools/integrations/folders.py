"""Recorders for the optimizers of a trainer: one run, or one for each of several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from trajectory_tools.recorder.recorder import Recorder

__all__ = ["attach_recorders", "plain_optimizer"]


def plain_optimizer(optimizer: Any) -> Any:
    """The optimizer that makes the steps, without what Accelerate or Lightning have put around it."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = inner
    return optimizer


def attach_recorders(
    path: str | Path, model: nn.Module, optimizers: Sequence[Any], options: dict[str, Any]
) -> list[Recorder]:
    """A recorder in the folder; for each of several optimizers one in ``optimizer-0``, ``optimizer-1``, ..."""
    plain = [plain_optimizer(optimizer) for optimizer in optimizers]
    paths = [Path(path)] if len(plain) == 1 else [Path(path) / f"optimizer-{i}" for i in range(len(plain))]
    recorders = [Recorder(each, model, optimizer, **options) for each, optimizer in zip(paths, plain, strict=True)]
    return [recorder.attach() for recorder in recorders]
