"""The gradient noise scale: the batch size at which the noise of a gradient is as large as the gradient."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = ["NoiseScale", "noise_scale"]

Floats = NDArray[np.float64]
T = TypeVar("T", float, NDArray[np.float64])
Interval = tuple[float, float]


@dataclass(frozen=True)
class NoiseScale:
    """The simple noise scale and what it is made of, each with its interval.

    Attributes:
        value: B_simple = tr(Σ) / |G|², in training samples. NaN where the estimate of |G|² is not positive, which
            happens where the gradient cannot be told from 0; ``interval`` then has a lower end alone.
        gradient_square: |G|², the squared length of the true gradient; may come out below 0.
        trace: tr(Σ), Σ the covariance of the gradient of *one* training sample.
        batch_size: that of the gradients it was made of.
        n_samples: how many of them.
    """

    value: float
    interval: Interval
    gradient_square: float
    gradient_square_interval: Interval
    trace: float
    trace_interval: Interval
    batch_size: int
    n_samples: int


def noise_scale(squares: Floats, row_sums: Floats, *, batch_size: int, confidence: float = 0.95) -> NoiseScale:
    """B_simple = tr(Σ) / |G|² (McCandlish et al. 2018, arXiv 1812.06162: the simple noise scale), both parts unbiased.

    The gradient of a mini-batch of B independent samples has E |G_B|² = |G|² + tr(Σ) / B, so two batch sizes give both
    parts, as in the paper's appendix A.1:
    |G|² ← (B_big |G_big|² − B_small |G_small|²) / (B_big − B_small) and tr(Σ) ← (|G_small|² − |G_big|²) / (1/B_small −
    1/B_big). With B_small = b, the mean square over K mini-batches for |G_small|² and their mean for G_big, B_big = K
    b, this is |G|² = ‖ḡ‖² − t / K, the mean of ⟨g_i, g_j⟩ over i ≠ j, and tr(Σ) = b t, with t the trace of the sample
    covariance of the K gradients. The interval is a jackknife's (leaving out one mini-batch at a time), taken of |G|² /
    tr(Σ), whose noise is nearly normal, and inverted: it reaches to infinity where that may be 0.

    Holds for mini-batches drawn independently; where few training samples are shared out without repeating one, noise
    is underestimated by the sampled part of them.

    Args:
        squares: (K,), ‖g_k‖².
        row_sums: (K,), Σ_j ⟨g_k, g_j⟩.
    """
    from scipy.special import stdtrit

    n = len(squares)
    all_squares, total = float(squares.sum()), float(row_sums.sum())
    gradient, trace = _parts(all_squares, total, n)
    width = float(stdtrit(n - 1, (1 + confidence) / 2))
    leaving = (
        _parts(all_squares - squares, total - 2 * row_sums + squares, n - 1)
        if n > 2
        else (np.full(n, math.nan), np.full(n, math.nan))
    )
    inverse = gradient / trace if trace > 0 else math.nan
    low, high = _jackknife(inverse, leaving[0] / leaving[1], width)
    value = float(batch_size / inverse) if inverse > 0 else math.nan
    interval = (
        batch_size / high if high > 0 else math.inf if math.isfinite(high) else math.nan,
        batch_size / low if low > 0 else math.inf if math.isfinite(low) else math.nan,
    )
    trace_low, trace_high = _jackknife(trace, leaving[1], width)
    return NoiseScale(
        value,
        interval,
        float(gradient),
        _jackknife(gradient, leaving[0], width),
        float(batch_size * trace),
        (batch_size * trace_low, batch_size * trace_high),
        batch_size,
        n,
    )


def _parts(squares: T, total: T, n: int) -> tuple[T, T]:
    """(|G|², t) from Σ‖g_k‖² and ‖Σ g_k‖² of n gradients."""
    return (total - squares) / (n * (n - 1)), (squares - total / n) / (n - 1)


def _jackknife(value: Floats | float, leaving: Floats | float, width: float) -> Interval:
    """The estimate ± width standard errors of the jackknife (Efron & Stein 1981)."""
    n = np.size(leaving)
    error = math.sqrt((n - 1) / n * float(np.square(leaving - np.mean(leaving)).sum()))
    return float(value) - width * error, float(value) + width * error
