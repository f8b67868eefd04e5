"""The Gaussian null: what an estimator says of Gaussian noise that has the samples' own covariance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NullRange", "gaussian_twins", "null_range"]

Floats = NDArray[np.float64]

PART = 0.9
"""Of the null's values lies in its range: from 5 to 95 %."""


@dataclass(frozen=True)
class NullRange:
    """What an estimator says where the effect is absent: the 5 %, 50 % and 95 % points over ``draws`` draws."""

    low: float
    median: float
    high: float
    draws: int

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


def gaussian_twins(x: Floats, draws: int, rng: np.random.Generator) -> Iterator[Floats]:
    """Gaussian samples with exactly the covariance of the given ones, each draw (samples, coordinates).

    With the centred samples X (K, d) and independent standard normal G (K, K), the rows of G X / √(K − 1) are
    independent and normal, and their covariance is XᵀX / (K − 1), the sample covariance; no d × d matrix is made. Where
    d < K, the same through the (d, d) covariance's square root, which costs less.

    Args:
        x: (samples, coordinates), centred at their mean, float64 or float32, as the draws then are.
    """
    n, d = x.shape
    if d < n:
        values, vectors = np.linalg.eigh(x.T @ x / (n - 1))
        factor = (vectors * np.sqrt(np.maximum(values, 0))).T
    else:
        factor = x / np.sqrt(n - 1)
    for _ in range(draws):
        yield rng.standard_normal((n, len(factor)), dtype=x.dtype) @ factor


def null_range(estimate: Callable[[Floats], float], x: Floats, draws: int, rng: np.random.Generator) -> NullRange:
    """The range of the estimate over such draws; ``x`` as in ``gaussian_twins``."""
    found = np.array([estimate(twin) for twin in gaussian_twins(x, draws, rng)])
    known = found[np.isfinite(found)]
    if not len(known):
        return NullRange(np.nan, np.nan, np.nan, 0)
    low, median, high = np.quantile(known, [(1 - PART) / 2, 0.5, (1 + PART) / 2])
    return NullRange(float(low), float(median), float(high), len(known))
