"""Drawing samples again: how far an estimate would move with other mini-batches."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["normal_interval", "percentile_interval", "resample_counts"]

Floats = NDArray[np.float64]


def resample_counts(n_samples: int, resamples: int, rng: np.random.Generator) -> Floats:
    """How often each sample stands in each bootstrap resample (Efron 1979): (resamples, samples)."""
    drawn = rng.integers(0, n_samples, (resamples, n_samples))
    drawn += n_samples * np.arange(resamples)[:, None]
    return np.bincount(drawn.ravel(), minlength=n_samples * resamples).reshape(resamples, n_samples).astype(np.float64)


def percentile_interval(values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """(low, high) between which that part of the resampled estimates lies; NaN where more than half of them are NaN."""
    known = values[np.isfinite(values)]
    if len(known) <= len(values) / 2:
        return np.nan, np.nan
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def normal_interval(estimate: float, values: Floats, confidence: float = 0.95) -> tuple[float, float]:
    """The estimate ± so many bootstrap standard errors as a normal law needs for that confidence.

    For estimators with a bias of their own at few samples: resamples have it twice, and percentiles would leave out the
    estimate itself.
    """
    from scipy.special import ndtri

    known = values[np.isfinite(values)]
    if len(known) <= max(len(values) / 2, 1):
        return np.nan, np.nan
    width = float(ndtri((1 + confidence) / 2) * known.std(ddof=1))
    return estimate - width, estimate + width
