"""The call of an optimizer's step that our hooks find themselves in: its frame, its closure, whether it is captured."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trajectory_tools.errors import TrajectoryError

__all__ = ["frame_of_step", "is_below", "refuse_graph_capture", "with_closure"]

OPTIMIZER_FILE = Optimizer.profile_hook_step.__code__.co_filename
"""Where the function lies that calls the hooks."""


def refuse_graph_capture(
    tensors: Sequence[Tensor], capturing: Callable[[], bool] = torch.cuda.is_current_stream_capturing
) -> None:
    """Raise where the step is being captured into a CUDA graph, before anything of ours gets into it."""
    if any(tensor.is_cuda for tensor in tensors) and capturing():
        raise TrajectoryError(
            "the optimizer's step is being captured into a CUDA graph, whose replays call no hook, so none of its steps"
            " can be recorded; capture only the model (forward and backward), or step without a graph"
        )


def frame_of_step() -> FrameType:
    """The frame of ``Optimizer.step``'s wrapper, which has called our hook, be it through torch.compile."""
    frame = caller = sys._getframe(2)
    while frame.f_code.co_filename != OPTIMIZER_FILE:
        if frame.f_back is None:
            return caller
        frame = frame.f_back
    return frame


def is_below(frame: FrameType, top: FrameType | None) -> bool:
    """Whether ``frame`` is ``top`` or one of its callers."""
    while top is not None:
        if top is frame:
            return True
        top = top.f_back
    return False


def with_closure(
    args: tuple[Any, ...], kwargs: dict[str, Any], wrap: Callable[[Callable[[], Any]], Callable[[], Any]]
) -> tuple[Any, Any]:
    """(the closure of this step or None, the step's arguments with the closure wrapped or None)."""
    if callable(kwargs.get("closure")):
        return kwargs["closure"], (args, {**kwargs, "closure": wrap(kwargs["closure"])})
    if len(args) > 1 and callable(args[1]):
        return args[1], ((args[0], wrap(args[1]), *args[2:]), kwargs)
    return None, None
