"""Gaussian, Student-t or α-stable: which of them the samples are most likely under."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajectory_tools.errors import BadArgument
from trajectory_tools.estimators.bootstrap import percentile_interval, resample_counts
from trajectory_tools.estimators.estimate import as_numbers, fault_of
from trajectory_tools.estimators.stable_density import stable_table

__all__ = ["MIN_SAMPLES", "TailComparison", "compare_tails"]

Floats = NDArray[np.float64]
Model = Literal["gaussian", "student", "stable"]

MIN_SAMPLES = 20
"""Fewest samples: three parameters of each column are fitted to them."""

ALPHAS = np.round(np.append(np.arange(0.5, 1.99, 0.02), 2.0), 2)
SHAPES = np.arange(0.0, 2.01, 0.02)
"""1/ν of Student's t; 0 is the Gaussian."""

ROUNDS = 200
"""Of EM at most; it stops when no scale moves by more than ``STILL``."""

STILL = 1e-5


@dataclass(frozen=True)
class TailComparison:
    """How much more likely the samples are under heavy tails than under a Gaussian.

    Attributes:
        preferred: the model with the lowest AIC.
        student, stable: (log-likelihood − that of the Gaussian) per sample, less the price of the shape (AIC / 2);
            above 0 the model is preferred to the Gaussian. In nats.
        student_interval, stable_interval: over bootstrap resamples of the samples, the fits held fixed.
        dof: ν of Student's t, infinite for a Gaussian.
        alpha: α of the stable law.
        n_samples, n_columns: how many samples of how many columns.
        note: why there is no number, where there is none.
    """

    preferred: Model | None
    student: float = math.nan
    stable: float = math.nan
    student_interval: tuple[float, float] = (math.nan, math.nan)
    stable_interval: tuple[float, float] = (math.nan, math.nan)
    dof: float = math.nan
    alpha: float = math.nan
    n_samples: int = 0
    n_columns: int = 0
    note: str = ""


def compare_tails(
    x: ArrayLike, *, resamples: int = 200, confidence: float = 0.95, seed: int | np.random.Generator = 0
) -> TailComparison:
    """Fit a Gaussian, Student's t and a symmetric α-stable law by maximum likelihood, and compare by AIC (Akaike 1974).

    Each column (a coordinate or a projection) has its own location and scale, and all share the shape, ν or α; the
    price is one shape *per column*, as columns of one set of samples are not independent. Both laws are scale mixtures
    of normal laws, so location and scale are found by EM, as weighted means and squares with w(z) = −f'(z) / (z f(z));
    the shape by a search over a fine grid (α to 0.02, 1/ν to 0.02). Columns that do not vary are left out.
    So are those of which more than a third of the samples are equal, as under laws with tails as heavy as the grid's
    heaviest (ν or α of 0.5) a scale of 0 at that value is infinitely likely; if they are half of all, there is no
    verdict, but a note.

    Args:
        x: (samples,) or (samples, columns).
    """
    samples = as_numbers(x)
    if samples.ndim not in (1, 2):
        raise BadArgument(f"samples are (samples,) or (samples, columns), found the shape {samples.shape}")
    samples = samples[:, None] if samples.ndim == 1 else samples
    n = len(samples)
    if fault := fault_of(samples):
        return TailComparison(None, n_samples=n, note=fault)
    if n < MIN_SAMPLES:
        return TailComparison(None, n_samples=n, note=f"not enough samples: {n}, and a comparison needs {MIN_SAMPLES}")
    low, high = np.quantile(samples, [0.25, 0.75], axis=0)
    samples = samples[:, high > low]
    if not samples.shape[1]:
        return TailComparison(None, n_samples=n, note="no column varies in more than half of its samples")
    tied = _tied(samples)
    if 2 * tied.sum() >= len(tied):
        note = f"{tied.sum()} of {len(tied)} columns hold one value in a third of their samples: no density to compare"
        return TailComparison(None, n_samples=n, note=note)
    samples, low, high = samples[:, ~tied], low[high > low][~tied], high[high > low][~tied]
    samples = (samples - np.median(samples, axis=0)) / (high - low)
    sd = samples.std(axis=0)
    gaussian = -((samples - samples.mean(axis=0)) ** 2) / (2 * sd**2) - np.log(sd) - math.log(2 * math.pi) / 2
    t, shape = _best(samples, [_Student(float(k)) for k in SHAPES])
    stable, alpha = _best(samples, [_Stable(float(a)) for a in ALPHAS])
    gains = {"student": (t - gaussian).mean(axis=1), "stable": (stable - gaussian).mean(axis=1)}
    weights = resample_counts(n, resamples, np.random.default_rng(seed)) / n
    price = 1 / n
    values = {name: float(gain.mean()) - price for name, gain in gains.items()}
    intervals = {
        name: percentile_interval(weights @ gain - price, confidence) if resamples else (math.nan, math.nan)
        for name, gain in gains.items()
    }
    best: Model = "student" if values["student"] >= values["stable"] else "stable"
    return TailComparison(
        best if values[best] > 0 else "gaussian",
        values["student"],
        values["stable"],
        intervals["student"],
        intervals["stable"],
        float(1 / SHAPES[shape]) if shape else math.inf,
        float(ALPHAS[alpha]),
        n,
        samples.shape[1],
    )


def _tied(samples: Floats) -> NDArray[np.bool_]:
    """The columns of which more than a third of the samples are equal."""
    ordered, third = np.sort(samples, axis=0), len(samples) // 3
    return np.asarray((ordered[third:] == ordered[:-third]).any(axis=0))


@dataclass(frozen=True)
class _Student:
    """Student's t with ν = 1 / inverse degrees of freedom, of scale 1."""

    inverse: float

    def weights(self, z: Floats) -> Floats:
        return (1 + self.inverse) / (1 + self.inverse * z**2)

    def log_pdf(self, z: Floats) -> Floats:
        if self.inverse == 0:
            return -(z**2) / 2 - math.log(2 * math.pi) / 2
        dof = 1 / self.inverse
        constant = math.lgamma((dof + 1) / 2) - math.lgamma(dof / 2) - math.log(dof * math.pi) / 2
        return constant - (dof + 1) / 2 * np.log1p(z**2 / dof)


@dataclass(frozen=True)
class _Stable:
    """The symmetric α-stable law of scale 1; its table is made when it is first asked."""

    alpha: float

    def weights(self, z: Floats) -> Floats:
        return stable_table(self.alpha).weights(z)

    def log_pdf(self, z: Floats) -> Floats:
        return stable_table(self.alpha).log_pdf(z)


def _best(samples: Floats, models: list[_Student] | list[_Stable]) -> tuple[Floats, int]:
    """(Log-likelihood of each sample under the likeliest model, its position), by golden section over the positions."""
    found: dict[int, Floats] = {}
    start = np.median(samples, axis=0), np.full(samples.shape[1], 0.5)

    def mean(position: int) -> float:
        nonlocal start
        if position not in found:
            start = fit(samples, models[position], *start)
            location, scale = start
            found[position] = models[position].log_pdf((samples - location) / scale) - np.log(scale)
        return float(found[position].mean())

    peak = _peak(mean, 0, len(models) - 1)
    return found[peak], peak


def _peak(value: Callable[[int], float], low: int, high: int) -> int:
    """The position of the largest value of a sequence that rises and then falls."""
    while high - low > 2:
        step = round((high - low) * 0.382)
        left, right = low + step, high - step
        if left == right:
            right += 1
        if value(left) < value(right):
            low = left
        else:
            high = right
    return max(range(low, high + 1), key=value)


def fit(samples: Floats, model: _Student | _Stable, location: Floats, scale: Floats) -> tuple[Floats, Floats]:
    """Location and scale of each column by EM: μ ← Σ w x / Σ w, σ² ← Σ w (x − μ)² / n."""
    for _ in range(ROUNDS):
        weights = model.weights((samples - location) / scale)
        location = (weights * samples).sum(axis=0) / weights.sum(axis=0)
        new = np.sqrt((weights * (samples - location) ** 2).mean(axis=0))
        moved = np.abs(np.log(new / scale)).max()
        scale = new
        if moved < STILL:
            break
    return location, scale
