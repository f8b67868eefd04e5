"""Hooks that torch.compile leaves as they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch._compile import _disable_dynamo

from trajectory_tools.recorder.warning import warn

__all__ = ["uncompiled"]

Hook = Callable[..., Any]


def uncompiled(hook: Hook) -> Hook:
    """The hook, called as it is from a compiled step; not at all where ``fullgraph=True`` leaves it no place.

    There, calling it would end the training with an error of torch.compile's; so the step is not seen, and a warning
    says so.
    """
    as_it_is = _disable_dynamo(hook)  # torch.compiler.disable, but for importing the half of torch that compiles

    def called(optimizer: Any, args: Any, kwargs: Any) -> Any:
        if torch.compiler.is_dynamo_compiling() and _in_one_graph():
            return None
        return as_it_is(optimizer, args, kwargs)

    return called


def _in_one_graph() -> bool:
    """Whether what is being compiled may not be interrupted; asked while it is being compiled."""
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        one_graph = bool(InstructionTranslator.current_tx().one_graph)
    except Exception:  # another version of torch: what can do no harm
        one_graph = True
    if one_graph:
        warn(
            "an optimizer's step is compiled with fullgraph=True and is not recorded, since a hook would interrupt the"
            " graph; compile it without fullgraph"
        )
    return one_graph


_in_one_graph._dynamo_marked_constant = True  # type: ignore[attr-defined]  # torch.compiler.assume_constant_result
