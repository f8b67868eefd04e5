"""The tail index of any array, with its interval, its number of samples, and what Gaussian noise would give."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajectory_tools.errors import BadArgument
from trajectory_tools.estimators.block import MIN_BLOCKS, block_length, pooled_block, pooled_block_resampled
from trajectory_tools.estimators.bootstrap import normal_interval, resample_counts
from trajectory_tools.estimators.ecf import MIN_SAMPLES as ECF_SAMPLES
from trajectory_tools.estimators.ecf import ecf_alpha, ecf_resampled
from trajectory_tools.estimators.mcculloch import MIN_SAMPLES as MCCULLOCH_SAMPLES
from trajectory_tools.estimators.mcculloch import mcculloch_alpha, mcculloch_resampled
from trajectory_tools.estimators.null import NullRange, null_range

__all__ = ["ESTIMATORS", "MIN_SAMPLES", "Estimator", "TailIndex", "as_numbers", "fault_of", "tail_index"]

Floats = NDArray[np.float64]
Estimator = Literal["ecf", "mcculloch", "pooled-block"]
Center = Literal["mean", "median", "none"]

ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
MIN_SAMPLES = {"ecf": ECF_SAMPLES, "mcculloch": MCCULLOCH_SAMPLES}

UNKNOWN = (math.nan, math.nan)

PER_COORDINATE = {"ecf": (ecf_alpha, ecf_resampled), "mcculloch": (mcculloch_alpha, mcculloch_resampled)}


@dataclass(frozen=True)
class TailIndex:
    """One estimate of α, the tail index: 2 for Gaussian tails, less for tails that fall as |x|^(−α−1).

    Attributes:
        estimator: its name.
        estimate: α; of several coordinates the median. NaN where there is none, and ``note`` says why.
        low, high: the bootstrap interval, over samples: ± 1.96 standard errors, of ``pooled-block`` around 1/α̂ (its
            ``high`` may be infinite); of the others around the estimate, cut at 2, which leaves their bias at few
            samples (see ``MIN_SAMPLES``) to the null.
        confidence: the part of such intervals that cover.
        n_samples: how many samples it was made of.
        n_coordinates: how many coordinates gave an α, or entered the row.
        spread: the quartiles over coordinates; NaN for one coordinate and for ``pooled-block``.
        zeros: the share of exact zeros among the centred values.
        null: the same estimator on Gaussian noise of the same sample covariance, where asked for.
        note: what to know before trusting it; empty where there is nothing.
    """

    estimator: Estimator
    estimate: float
    low: float = math.nan
    high: float = math.nan
    confidence: float = 0.95
    n_samples: int = 0
    n_coordinates: int = 0
    spread: tuple[float, float] = (math.nan, math.nan)
    zeros: float = math.nan
    null: NullRange | None = None
    note: str = ""


def tail_index(
    x: ArrayLike,
    *,
    estimator: Estimator = "ecf",
    center: Center | None = None,
    resamples: int = 200,
    null_draws: int = 0,
    confidence: float = 0.95,
    seed: int | np.random.Generator = 0,
) -> TailIndex:
    """Estimate how heavy the tails of the samples are.

    - ``ecf``: Koutrouvelis' regression on the characteristic function, see ``ecf_alpha``: the most accurate one;
    - ``mcculloch``: McCulloch's quantile ratio, see ``mcculloch_alpha``; for symmetric laws;
    - ``pooled-block``: the estimator of Sobotka et al. 2023 and Simsekli et al. 2019 (Mohammadi 2014, Corollary 2.4) on
      all coordinates in one row, see ``pooled_block``: of coordinates of different scale it says an α far below 2 even
      where all are Gaussian, so ask for its null.

    The first two take coordinates one by one, and give their median. With fewer than ``MIN_SAMPLES`` samples (50) they
    say "not enough samples" in place of a number, ``pooled-block`` with fewer than 32 blocks. Samples with NaN or Inf,
    and samples that do not vary, have no α either.

    Args:
        x: (samples,) or (samples, coordinates).
        center: what the ``pooled-block`` and the null take from the samples: their ``mean`` (the default of several
            coordinates, as in the paper), their ``median`` (the default of one coordinate; the mean of a heavy tail
            is no centre), or ``none``. The other estimators do not see it.
        resamples: bootstrap resamples for the interval; 0 for none.
        null_draws: draws of the Gaussian null; 0 for none.
        seed: of the resamples and the null.

    >>> cauchy = np.random.default_rng(1).standard_cauchy(2000)
    >>> found = tail_index(cauchy)
    >>> found.low < 1 < found.high
    True
    """
    samples, center = _checked(x, estimator, center, confidence)
    for name, count in (("resamples", resamples), ("null_draws", null_draws)):
        if count < 0:
            raise BadArgument(f"{name} is {count}; give 0 or more")
    n, d = samples.shape
    if fault := fault_of(samples):
        return TailIndex(estimator, math.nan, n_samples=n, confidence=confidence, note=fault)
    centred = _centred(samples, center)
    zeros = float(np.mean(centred == 0))
    if too_few := _too_few(estimator, n, d):
        return TailIndex(estimator, math.nan, n_samples=n, confidence=confidence, zeros=zeros, note=too_few)
    rng = np.random.default_rng(seed)
    measure = _pooled if estimator == "pooled-block" else _by_coordinate
    found = measure(centred, estimator, resamples, confidence, rng)
    null = _null(estimator, _centred(samples, "mean"), null_draws, rng) if null_draws else None
    return replace(found, zeros=zeros, null=null)


def _pooled(
    centred: Floats, estimator: Estimator, resamples: int, confidence: float, rng: np.random.Generator
) -> TailIndex:
    n, d = centred.shape
    value = pooled_block(centred)
    interval = UNKNOWN
    if resamples:
        # 1/α̂ is a mean over blocks, which has a standard error.
        low, high = normal_interval(1 / value, pooled_block_resampled(centred, resamples, rng), confidence)
        interval = 1 / high, math.inf if low <= 0 else 1 / low
    note = ""
    if not math.isfinite(value):
        note = f"the sums of blocks are no larger than single values ({n} × {d} values), which no α gives"
    elif zeros := np.mean(centred == 0):
        note = f"{100 * zeros:.2g} % exact zeros, each of which counts as log 2.2e-16"
    return TailIndex(estimator, value, *interval, confidence, n, d, note=note)


def _by_coordinate(
    centred: Floats, estimator: Estimator, resamples: int, confidence: float, rng: np.random.Generator
) -> TailIndex:
    n, d = centred.shape
    measure, remeasure = PER_COORDINATE[estimator]
    alphas = measure(centred)
    known = np.isfinite(alphas)
    used = int(known.sum())
    if not used:
        note = "no coordinate varies in more than half of its samples"
        return TailIndex(estimator, math.nan, n_samples=n, confidence=confidence, note=note)
    value = float(np.median(alphas[known]))
    interval = spread = UNKNOWN
    if used > 1:
        spread = (float(np.quantile(alphas[known], 0.25)), float(np.quantile(alphas[known], 0.75)))
    if resamples:
        resampled = _median(remeasure(centred[:, known], resample_counts(n, resamples, rng)))
        low, high = normal_interval(value, resampled, confidence)
        interval = max(low, 0.0), min(high, 2.0)
    note = f"{d - used} of {d} coordinates left out: they do not vary in more than half of the samples"
    return TailIndex(estimator, value, *interval, confidence, n, used, spread, note=note if used < d else "")


def _checked(x: ArrayLike, estimator: str, center: Center | None, confidence: float) -> tuple[Floats, Center]:
    if estimator not in ESTIMATORS:
        raise BadArgument(f"estimator is one of {', '.join(ESTIMATORS)}, found {estimator!r}")
    samples = as_numbers(x)
    if samples.ndim not in (1, 2):
        raise BadArgument(f"samples are (samples,) or (samples, coordinates), found the shape {samples.shape}")
    center = center or ("median" if samples.ndim == 1 else "mean")
    if center not in get_args(Center):
        raise BadArgument(f"center is one of {', '.join(get_args(Center))}, found {center!r}")
    if not 0 < confidence < 1:
        raise BadArgument(f"confidence lies between 0 and 1, found {confidence:g}")
    return samples[:, None] if samples.ndim == 1 else samples, center


def as_numbers(x: ArrayLike) -> Floats:
    """The samples as float64, in their shape; ``BadArgument`` where they are no numbers."""
    try:
        return np.asarray(x, np.float64)
    except (TypeError, ValueError) as error:
        raise BadArgument(f"samples are an array of numbers, found {type(x).__name__} ({error})") from error


def fault_of(samples: NDArray[np.floating]) -> str:
    """Why these samples (samples, coordinates) have no noise to measure, in a sentence; empty where they have."""
    if not samples.size:
        return "there are no samples"
    broken = ~np.isfinite(samples).all(axis=1)
    if broken.any():
        return f"{int(broken.sum())} of {len(samples)} samples hold NaN or infinite values"
    if len(samples) == 1:
        return "a single sample has no noise to measure; 2 are the least"
    if (samples == samples[0]).all():
        return "all samples are 0" if not samples[0].any() else "all samples are equal: there is no noise to measure"
    return ""


def _too_few(estimator: Estimator, n: int, d: int) -> str:
    if estimator == "pooled-block":
        length = block_length(n * d)
        if length < 2:
            return f"{n * d} values have no divisor to make blocks of; leave out one"
        if n * d // length < MIN_BLOCKS:
            return f"not enough samples: {n * d // length} blocks, and {estimator} needs {MIN_BLOCKS}"
    elif n < MIN_SAMPLES[estimator]:
        return f"not enough samples: {n}, and {estimator} needs {MIN_SAMPLES[estimator]} for a trustworthy α"
    return ""


def _centred(samples: Floats, center: Center) -> Floats:
    if center == "none":
        return samples
    return samples - (samples.mean(axis=0) if center == "mean" else np.median(samples, axis=0))


def _null(estimator: Estimator, centred: Floats, draws: int, rng: np.random.Generator) -> NullRange:
    if estimator == "pooled-block":
        # A mean of logarithms of normal numbers does not need more digits, and takes a third of the time.
        return null_range(lambda twin: pooled_block(_centred(twin, "mean")), centred.astype(np.float32), draws, rng)
    measure = PER_COORDINATE[estimator][0]
    return null_range(lambda twin: float(_median(measure(twin))), centred, draws, rng)


def _median(found: Floats) -> Floats:
    """Over the last axis, NaN left out; NaN where there is nothing else."""
    known = np.isfinite(found)
    return np.nanmedian(np.where(known.any(axis=-1, keepdims=True), found, 0.0), axis=-1) + np.where(
        known.any(axis=-1), 0.0, np.nan
    )
