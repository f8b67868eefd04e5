"""An optimizer's path for given gradients."""

from __future__ import annotations

import torch


def walk(optimizer, params, grads):
    """Take one step for each list of gradients; a copy of all parameters after each."""
    path = []
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = None if grad is None else grad.clone()
        optimizer.step()
        path.append([param.detach().clone() for param in params])
    return path


def assert_same_path(path, other, **tolerance):
    """Equal to the bit, or within the tolerance of ``torch.testing.assert_close``."""
    for step, other_step in zip(path, other, strict=True):
        for tensor, other_tensor in zip(step, other_step, strict=True):
            if tolerance:
                torch.testing.assert_close(tensor, other_tensor, **tolerance)
            else:
                assert torch.equal(tensor, other_tensor)
