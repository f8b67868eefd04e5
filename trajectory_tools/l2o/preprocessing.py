"""What the learned optimizer sees of a gradient: its size on a log scale, and its sign."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["P", "preprocess"]

P = 10.0
"""Gradients below e^−P in size count as small; Andrychowicz et al. 2016 use 10."""


def preprocess(gradients: Tensor, *, p: float = P, out: Tensor | None = None) -> Tensor:
    """Two inputs for each coordinate: (log|g| / p, sign g) where |g| ≥ e^−p, else (−1, e^p g): (2, n).

    Source: Andrychowicz et al. 2016, arXiv 1606.04474, appendix A. Written without branches: the two cases meet at
    |g| = e^−p, so that clamping gives both. NaN stays NaN, and ±Inf gives (Inf, ±1).

    Args:
        gradients: (n,), any floating dtype.
        p: where the two cases meet.
        out: (2, n), to be filled instead of a new tensor.

    >>> preprocess(torch.tensor([1.0, -math.e, 0.0]))
    tensor([[ 0.0000,  0.1000, -1.0000],
            [ 1.0000, -1.0000,  0.0000]])
    """
    if out is None:
        out = gradients.new_empty(2, len(gradients))
    size, sign = out
    torch.abs(gradients, out=size)
    size.clamp_(min=math.exp(-p)).log_().div_(p)
    torch.mul(gradients, math.exp(p), out=sign)
    sign.clamp_(-1, 1)
    return out
